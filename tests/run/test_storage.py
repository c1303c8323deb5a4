"""A disk that is full, a folder that may not be written: one sentence, nothing lost, and the same command goes on."""

import os
import re
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
from small_runs import assert_same_tables, small

from fedray import results
from fedray.core.errors import StorageError
from fedray.results.journal import read_journal
from fedray.results.recorder import Recorder
from fedray.run import checkpoint, run
from fedray.run.prepared import Job
from fedray.run.watch import Watch

SETTINGS = ["--rounds=8", "--clients=4", "--cohort=3", "--data.dataset=synthetic", "--data.train_examples=160"]
SETTINGS += ["--data.test_examples=120", "--algorithm.batch_size=10", "--cluster.backend=in-process"]
SETTINGS += [
    "--model.name=logistic",
    "--output.name=small",
    "--output.checkpoint_every=3",
    "--output.flush_seconds=0.001",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, warm):
    """The tables of a run that nothing disturbed."""
    root = tmp_path_factory.mktemp("whole")
    assert warm.run(*SETTINGS, "--output.root", root)[0] == 0
    return results.load("small", root)


def assert_one_sentence(err, root, why):
    (line,) = err.splitlines()
    said = re.fullmatch(
        f"fedray: results cannot be written to {root}/small[a-z/]*: {why}; what was reported is kept, and the same "
        r"command goes on from round (\d+)",
        line,
    )
    assert said, err
    return int(said.group(1))


def reported(out):
    return [int(line.split()[1].split("/")[0]) for line in out.splitlines() if line.startswith("round")]


def test_where_a_file_cannot_grow_the_run_ends_in_a_sentence_and_goes_on_later(tmp_path, warm, whole):
    """Limits at which the journal, one table, another and a checkpoint fail first."""
    size = len(whole.rounds)
    assert size == 8
    for number, limit in enumerate((1500, 4000, 6000, 100_000)):
        root = tmp_path / str(number)
        words = [*SETTINGS, "--output.root", root]
        status, out, err = warm.run(*words, limit=limit)
        assert status == 1, (limit, out, err)
        goes_on = assert_one_sentence(err, root, "File too large")
        seen = reported(out)
        assert goes_on <= len(seen) + 1
        if seen:
            assert results.load("small", root).rounds["round"].tolist()[: len(seen)] == seen
        assert not list(root.rglob(".*"))
        status, out, err = warm.run(*words)
        assert (status, err) == (0, "")
        assert reported(out)[0] == goes_on
        assert_same_tables(results.load("small", root), whole)


@contextmanager
def small_disk(path, kilobytes):
    """A file system of its own for the length of a `with`, where that is allowed."""
    path.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(path)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted and mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.parametrize("kilobytes", [60, 150, 250])
def test_on_a_full_disk_the_run_ends_in_a_sentence_and_goes_on_later(tmp_path, warm, whole, kilobytes):
    """A real one, full from the start of the tables, at the first checkpoint, or at the second."""
    root = tmp_path / "disk"
    words = [*SETTINGS, "--output.root", root]
    with small_disk(root, kilobytes):
        status, out, err = warm.run(*words)
        assert (status, list(root.iterdir())) == (2, []), (out, err)  # who sees it before need not run into it
        assert re.match(r"fedray: checkpoints of 1 MiB .* need 1 MiB on the disk of .*, but 0 MiB are free; raise", err)
        status, out, err = warm.run(*words, filling=True)
        assert status == 1, (out, err)
        goes_on = assert_one_sentence(err, root, "No space left on device")
        seen = reported(out)
        if seen:
            assert results.load("small", root).rounds["round"].tolist()[: len(seen)] == seen
        assert not list(root.rglob(".*"))
        subprocess.run(["mount", "-o", "remount,size=20m", str(root)], check=True)
        status, out, err = warm.run(*words)
        assert (status, err) == (0, "")
        assert reported(out)[0] == goes_on
        assert_same_tables(results.load("small", root), whole)


def test_a_sweep_stops_with_that_sentence_and_goes_on_later(tmp_path, warm):
    file = tmp_path / "small.toml"
    file.write_text("[grid]\nseed = [0, 1, 2]\n")
    words = [file, *SETTINGS]
    status, out, err = warm.run(*words, "--output.root", tmp_path / "a", sweep=True, limit=6000)
    assert status == 1, (out, err)
    assert_one_sentence(err, tmp_path / "a", "File too large")
    assert len(results.load("small", tmp_path / "a").runs) <= 1  # the others were not begun
    for root in "ab":
        status, out, err = warm.run(*words, "--output.root", tmp_path / root, sweep=True)
        assert (status, err) == (0, "")
    assert_same_tables(*(results.load("small", tmp_path / root) for root in "ab"))


class Meddling(Watch):
    """After round 3 something becomes of a folder of the results."""

    def __init__(self, meddle):
        self.meddle, self.rounds = meddle, []

    def round(self, job, row):
        self.rounds.append(row["round"])
        if row["round"] == 3:
            self.meddle(job)


@pytest.mark.parametrize("table", ["rounds", "checkpoints", "models", "journal"])
def test_a_folder_that_is_gone_is_a_sentence_and_what_is_there_stays(tmp_path, table):
    """A file in its place: nobody, not even root, can write there."""

    def meddle(job):
        (job.folder / table).rename(tmp_path / "kept")
        (job.folder / table).touch()

    (tmp_path / "a" / "small" / "models").mkdir(parents=True)
    watch = Meddling(meddle)
    with pytest.raises(
        StorageError,
        match=f"{tmp_path}/a/small: (Not a directory|File exists); what was reported is kept, and the same",
    ):
        run(small(tmp_path / "a", output__flush_seconds=0.001), watch)
    folder = tmp_path / "a" / "small"
    (folder / table).unlink()
    (tmp_path / "kept").rename(folder / table)
    assert results.load("small", tmp_path / "a").rounds["round"].tolist()[: len(watch.rounds)] == watch.rounds
    assert not list((tmp_path / "a").rglob(".*.tmp-*"))
    assert_same_tables(run(small(tmp_path / "a")), run(small(tmp_path / "b")))


def test_who_may_not_write_is_told_so_in_mid_run(tmp_path):
    """The mode of a folder changes while the run goes on; root has to be kept from passing over it."""
    code = (
        "import os, sys\nfrom fedray.console import ConsoleWatch\nfrom fedray.__main__ import main\n"
        "from fedray.cli.command_line import report_errors\n"
        "def close(self, job, row):\n"
        "    if row['round'] == 4: os.chmod(job.folder / 'checkpoints', 0o555)\n"
        "ConsoleWatch.round = close\nsys.exit(report_errors(lambda: main(sys.argv[1:])))\n"
    )
    command = [sys.executable, "-c", code, *SETTINGS, f"--output.root={tmp_path}"]
    if not os.getuid():
        if not shutil.which("setpriv"):
            pytest.skip("there is no setpriv here, and root may write anywhere")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert assert_one_sentence(done.stderr, tmp_path, "Permission denied") == 4
    assert results.load("small", tmp_path).rounds["round"].tolist() == [1, 2, 3, 4, 5, 6]


def test_half_a_line_of_the_journal_is_taken_back(tmp_path, monkeypatch):
    """The disk is full in the middle of a line: nothing may ever be appended behind it."""
    job = Job(small(tmp_path))
    stopping = Meddling(lambda job: monkeypatch.setattr(Recorder, "_append", cut_short))
    original = Recorder._append

    def cut_short(self, line):
        before = self._journal.stat().st_size
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (before + len(line) // 2, limit[1]))
        try:
            original(self, line)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            sizes.append((before, self._journal.stat().st_size))

    sizes = []
    with pytest.raises(StorageError, match="File too large"):
        run(job.experiment, stopping)
    assert sizes and sizes[0][0] == sizes[0][1]
    lines = read_journal(job.folder / "journal" / f"{job.run}.jsonl").lines
    assert list(lines) == [1, 2, 3]


def test_a_checkpoint_that_cannot_be_written_leaves_both_as_they_are(tmp_path):
    path, before = tmp_path / "c", tmp_path / "c.previous"
    for t in (1, 2):
        checkpoint.save(path, {}, {"round": t}, keep=before)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.save(path, {}, {"round": 3, "long": "x" * 1000}, keep=before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [checkpoint.load(each)[1]["round"] for each in (before, path)] == [1, 2]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["c", "c.previous"]
