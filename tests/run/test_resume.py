"""What a run goes on from: the last checkpoint, or the one before it, and never code."""

import dataclasses
import os
import pickle
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from small_runs import Remembering, assert_same_tables, small, stopped_after

from fedray import results
from fedray.__main__ import main
from fedray.cli.command_line import report_errors
from fedray.cli.console import ConsoleWatch
from fedray.core import source
from fedray.core.errors import BadInputError
from fedray.report.__main__ import main as report
from fedray.run import checkpoint, resume, run
from fedray.run.prepared import Job
from fedray.run.watch import Watch
from fedray.sweep.__main__ import main as sweep


class Noting(Watch):
    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


def damage(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def round_of(path):
    return checkpoint.load(path)[1]["round"]


def test_the_last_two_checkpoints_are_kept_and_none_at_the_end(tmp_path):
    stopped_after(tmp_path, 5)
    job = Job(small(tmp_path))
    assert (round_of(job.checkpoint_before), round_of(job.checkpoint)) == (4, 5)
    run(job.experiment)
    assert not list(job.checkpoint.parent.iterdir())


def test_it_is_said_where_a_run_goes_on_on_another_device(tmp_path, monkeypatch):
    stopped_after(tmp_path, 3)
    job, watch = Job(small(tmp_path)), Noting()
    past = resume.read_past(job)
    assert [each.device for each in past.played] == ["cpu"] and past.notice_by(past.played[0]) == past.notice
    read = resume.read_checkpoint
    there = (dataclasses.replace(past.played[0], device="cuda"),)
    monkeypatch.setattr(resume, "read_checkpoint", lambda *given: dataclasses.replace(read(*given), played=there))
    run(job.experiment, watch)
    assert watch.notices == [
        f"continuing run {job.run} after round 3; it was trained on cuda and now is on cpu, so the bits differ from an "
        "undisturbed run"
    ]


def test_an_edit_of_fedray_itself_is_one_line_and_no_refusal(tmp_path, monkeypatch):
    """Where a run goes on from a checkpoint of other source, and where it was finished by other source."""
    stopped_after(tmp_path, 3)
    watch, here = Noting(), source.fedray_source()
    assert (
        re.fullmatch("[0-9a-f]{8}", here)
        and checkpoint.load(Job(small(tmp_path)).checkpoint)[1]["fedray_source"] == here
    )
    monkeypatch.setattr(resume, "fedray_source", lambda: "0123abcd")
    tables = run(small(tmp_path), watch)
    changed = f"fedray's source {here} -> 0123abcd"
    run_id = tables.runs["run"][0]
    assert watch.notices == [
        f"continuing run {run_id} after round 3; software changed since ({changed}), so the bits may differ from an "
        "undisturbed run"
    ]
    assert tables.runs["fedray_source"].tolist() == [here]  # run_columns.py has it from the source itself
    watch.notices.clear()
    run(small(tmp_path), watch)
    assert watch.notices == [f"it was played before an edit ({changed}); --fresh plays it again"]


def test_the_digest_of_source_changes_with_it(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    before = source.digest_of(tmp_path)
    (tmp_path / "a.py").write_text("x = 2")
    after = source.digest_of(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({before, after, source.digest_of(tmp_path)}) == 3


def test_of_a_damaged_checkpoint_the_one_before_is_used_and_kept(tmp_path):
    stopped_after(tmp_path / "a", 5)
    job = Job(small(tmp_path / "a"))
    damage(job.checkpoint)

    class Stopping(Noting):
        def round(self, job, row):
            assert row["round"] == 5
            raise KeyboardInterrupt

    stopping = Stopping()
    with pytest.raises(KeyboardInterrupt):
        run(job.experiment, stopping)
    assert re.fullmatch(
        f"the checkpoint {job.checkpoint} is damaged: its bytes do not match the digest in its header; going on from "
        f"the one before it: continuing run {job.run} after round 4",
        stopping.notices[0],
    )
    assert (round_of(job.checkpoint_before), round_of(job.checkpoint)) == (4, 5)  # and not the damaged one
    assert_same_tables(run(job.experiment), run(small(tmp_path / "b")))


def test_where_both_checkpoints_are_damaged_the_way_out_is_named_and_nothing_is_changed(tmp_path):
    stopped_after(tmp_path, 5)
    job = Job(small(tmp_path))
    damage(job.checkpoint)
    damage(job.checkpoint_before)
    before = contents(tmp_path)
    with pytest.raises(
        BadInputError, match="previous.safetensors is damaged: .*; --fresh starts this run over"
    ) as raised:
        run(job.experiment)
    assert "\n" not in str(raised.value)
    assert contents(tmp_path) == before
    assert run(job.experiment, fresh=True).runs["status"].tolist() == ["finished"]


def contents(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


class Stopped(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("call", range(6))
def test_a_kill_at_each_step_of_a_save_leaves_a_good_checkpoint(tmp_path, monkeypatch, call):
    """The steps are the renames, since what they rename is whole. Memory goes back with the parameters."""

    def experiment(root):
        return dataclasses.replace(small(root, output__checkpoint_every=1), algorithm=Remembering(batch_size=10))

    left = [call]

    def rename(path, target):
        if path.parent.name == "checkpoints":
            if left[0] == 0:
                raise Stopped
            left[0] -= 1
        return replace(path, target)

    def unlink(path, missing_ok=False):
        if left[0] or path.parent.name != "checkpoints":  # who was killed removes nothing
            remove(path, missing_ok)

    replace, remove = Path.replace, Path.unlink
    monkeypatch.setattr(Path, "replace", rename)
    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(Stopped):
        run(experiment(tmp_path / "a"))
    monkeypatch.undo()
    job = Job(experiment(tmp_path / "a"))
    past = resume.read_past(job)
    # The renames are: memories of 1, 1 | memories of 2, 1 to before, 2 | memories of 3, ...
    assert (past.t if past else 0) == [0, 0, 1, 1, 1, 2][call]
    assert_same_tables(run(job.experiment), run(experiment(tmp_path / "b")))


def test_a_journal_damaged_in_its_middle_is_one_sentence(tmp_path, capsys):
    settings = ["--rounds=6", "--clients=4", "--cohort=3", "--data.dataset=synthetic", "--data.train_examples=160"]
    settings += ["--data.test_examples=120", "--cluster.backend=in-process", f"--output.root={tmp_path}"]
    stopped_after(tmp_path, 5)
    (journal,) = tmp_path.glob("small/journal/*")
    lines = journal.read_bytes().split(b"\n")
    lines[2] = lines[2][:50]
    journal.write_bytes(b"\n".join(lines))
    with pytest.raises(BadInputError, match=f"the journal {journal} is damaged: .*; --fresh starts this run over"):
        run(small(tmp_path))
    notes = Noting()
    assert run(small(tmp_path), notes, fresh=True).runs["rounds_done"].tolist() == [6]
    assert "small.old-1/ now" in notes.notices[0]
    assert capsys.readouterr().err == ""


class Effect:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


KINDS = (
    "runs/*", "rounds/*", "clients/*", "population/*", "metrics/*", "evaluations/*", "confusion/*", "events/*", "partitions/*",
    "journal/*", "checkpoints/*", "models/*", "experiment.toml",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Results with every kind of file: of a finished run, and of one that was interrupted after round 2."""
    folder = tmp_path_factory.mktemp("whole")
    file = folder / "lr.toml"
    file.write_text(
        "rounds = 3\nclients = 2\ncohort = 1\n[data]\ndataset = 'synthetic'\ntrain_examples = 40\ntest_examples = 40\n"
        "[cluster]\nbackend = 'in-process'\n[model]\nname = 'logistic'\n[output]\ncheckpoint_every = 1\n[grid]\nseed = [0, 1]\n"
    )
    assert main([str(file), "--output.root", str(folder)]) == 0
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ConsoleWatch, "round", interrupt_in_round_2)
        main([str(file), "--output.root", str(folder), "--seed", "1"])
    return folder


def interrupt_in_round_2(self, job, row):
    if row["round"] == 2:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("write", "kinds"),
    [(pickle.dump, KINDS), (torch.save, ["checkpoints/*", "models/*"])],
    ids=["pickle", "torch"],
)
def test_nothing_in_a_results_folder_can_run_code(whole, tmp_path, capsys, write, kinds):
    """All files of a kind become pickles that would leave a trace; the programs say what is wrong or go on."""
    effect = tmp_path / "effect"
    for number, kind in enumerate(kinds):
        root = tmp_path / str(number)
        shutil.copytree(whole, root)
        found = [path for path in root.glob(f"lr/{kind}") if not path.name.startswith(".")]
        assert found or kind == "events/*"
        for path in found:
            with path.open("wb") as target:
                write(Effect(effect), target)
        one = [str(root / "lr.toml"), "--output.root", str(root)]
        capsys.readouterr()
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always", results.DamagedResultsWarning)
            results.load("lr", root)
            statuses = [
                report_errors(lambda one=one: main([*one, "--seed", "1"])),
                report_errors(lambda one=one: sweep(one)),
            ]
            if write is pickle.dump and kind == "runs/*":  # a report loads them as `load` does
                statuses.append(report_errors(lambda root=root: report([str(root / "lr")])))
        assert set(statuses) <= {0, 1, 2}, kind
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert not effect.exists(), kind
    with (tmp_path / "one").open("wb") as target:
        write(Effect(effect), target)
    with (tmp_path / "one").open("rb") as source:  # it would have shown
        pickle.load(source) if write is pickle.dump else torch.load(source, weights_only=False)
    assert effect.exists()
