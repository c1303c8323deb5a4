"""Checkpoints of clients' memories write what changed, and nothing of it is lost."""

import dataclasses
import shutil

import pytest
from small_runs import Remembering, assert_same_tables, small, stopped_after

from fedray.core.errors import BadInputError
from fedray.run import resume, run
from fedray.run.disk import parts_of
from fedray.run.prepared import Job
from fedray.run.segments import path_of, paths_of
from fedray.run.watch import Watch

CLIENTS, COHORT, ROUNDS = 12, 2, 24
MANY = {"clients": CLIENTS, "cohort": COHORT, "rounds": ROUNDS, "data__test_examples": 20, "data__train_examples": 120}


def experiment(root, **changes):
    e = small(root, **MANY, output__checkpoint_every=1, **changes)
    return dataclasses.replace(e, algorithm=Remembering(batch_size=10))


def memory_of(job):
    """The bytes of what a client remembers: a vector and a number."""
    return job.vectors[0].nbytes + 4


class Weighing(Watch):
    """After each round, the segments of the checkpoint of the round before, by their rounds."""

    def __init__(self):
        self.found = []

    def round(self, job, row):
        folder = job.checkpoint.parent
        sizes = {path.name: path.stat().st_size for path in paths_of(job.checkpoint)}
        whole = sum(path.stat().st_size for path in folder.glob("*")) if folder.exists() else 0
        self.found.append((row["round"] - 1, sizes, whole, resume.read_past(job)))


@pytest.fixture(scope="module")
def weighed(tmp_path_factory):
    root, watch = tmp_path_factory.mktemp("weighed"), Weighing()
    job = Job(experiment(root))
    return job, run(job.experiment, watch), watch.found


def test_a_checkpoint_writes_what_changed_and_begins_anew_once_half_of_it_is_replaced(weighed):
    job, _, found = weighed
    memory, written, anew = memory_of(job), [], 0
    for t, sizes, _, past in found[1:]:
        (newest,) = [segment for segment in past.segments if segment.t == t]
        size = sizes[path_of(job.checkpoint, t).name]
        assert 0 <= size - newest.clients * memory < 1000 + 400 * newest.clients  # the header
        everyone = len(dict(past.memories))
        assert sum(segment.clients for segment in past.segments) <= 2 * everyone
        assert newest.clients == COHORT or (past.segments == (newest,) and newest.clients == everyone)
        anew += newest.clients > COHORT
        written.append(newest.clients)
    assert 1 <= anew <= ROUNDS * COHORT / CLIENTS
    assert sum(written) < 2.5 * ROUNDS * COHORT  # of everyone's each time, it would be more than 200


def test_no_segment_stays_that_no_checkpoint_needs(weighed):
    job, _, found = weighed
    before = ()
    for t, sizes, _, past in found[1:]:
        listed = {path_of(job.checkpoint, segment.t).name for segment in (*before, *past.segments)}
        assert sizes.keys() == listed, t
        before = past.segments
    assert not list(job.checkpoint.parent.iterdir())


def test_what_is_on_disk_is_within_what_the_plan_says(weighed):
    job, _, found = weighed
    (part,) = [part for part in parts_of(job) if part.kind == "checkpoints"]
    largest = max(whole for *_, whole, _ in found)
    assert 0.4 * part.size < largest < part.size + 20_000  # with the headers


@pytest.mark.parametrize("rounds", [1, 7, 15])
def test_a_run_that_goes_on_is_one_that_was_not_stopped(weighed, tmp_path, rounds):
    class Stopping(Watch):
        def round(self, job, row):
            if row["round"] == rounds:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(experiment(tmp_path), Stopping())
    assert_same_tables(run(experiment(tmp_path)), weighed[1])


class Copying(Watch):
    def __init__(self, root, copy):
        self.root, self.copy = root, copy

    def round(self, job, row):
        if row["round"] == 8:
            shutil.copytree(self.root, self.copy, ignore=shutil.ignore_patterns(".*"))


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The files of a run that was killed after round 8, before the checkpoint of it."""
    root = tmp_path_factory.mktemp("killed")
    run(experiment(root / "whole"), Copying(root / "whole", root / "left"))
    return root / "left"


@pytest.mark.parametrize("harm", ["flipped", "gone", "another", "folder"])
@pytest.mark.parametrize("which", ["newest", "oldest"])
def test_where_a_segment_is_damaged_the_checkpoint_before_is_used_if_it_does_not_need_it(
    weighed, killed, tmp_path, harm, which
):
    root = tmp_path / "results"
    shutil.copytree(killed, root)
    job = Job(experiment(root))
    segments = resume.read_past(job).segments
    path = path_of(job.checkpoint, segments[-1 if which == "newest" else 0].t)
    content = bytearray(path.read_bytes())
    path.unlink()
    if harm == "flipped":
        content[-3] ^= 1
        path.write_bytes(content)
    elif harm == "another":
        shutil.copy(path_of(job.checkpoint, segments[1].t), path)
    elif harm == "folder":
        path.mkdir()
    if which == "newest":
        past = resume.read_past(job)
        assert past.t == 6 and path.name in past.notice and "going on from the one before it" in past.notice
        if harm != "folder":
            assert_same_tables(run(job.experiment), weighed[1])
        return
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(BadInputError, match=f"{path.name}.*; --fresh starts this run over"):
        run(job.experiment)
    assert before == {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_fresh_moves_segments_aside_with_the_checkpoint(tmp_path):
    stopped_after(tmp_path, 5, algorithm__name="scaffold", algorithm__momentum=0.0)
    job = Job(small(tmp_path, algorithm__name="scaffold", algorithm__momentum=0.0))
    names = {path.name for path in job.checkpoint.parent.iterdir()}
    assert len(names) > 3
    run(job.experiment, fresh=True)
    assert {path.name for path in (tmp_path / "small.old-1" / "checkpoints").iterdir()} == names
    assert not list(job.checkpoint.parent.iterdir())
