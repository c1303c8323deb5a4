"""--fresh: a run starts over, and what there was of it is another results folder."""

import filecmp
import json
import os
import shutil
import warnings
from pathlib import Path

import pandas as pd
import pytest
from small_runs import assert_same_tables, small, stopped_after

from fedray import results
from fedray.__main__ import main
from fedray.cli.command_line import report_errors
from fedray.core.errors import BadInputError
from fedray.results.recorder import lock_of, mark
from fedray.run import run
from fedray.run.fresh import files, next_folder
from fedray.run.prepared import Job
from fedray.run.watch import Watch
from fedray.sweep.__main__ import main as sweep


def leave(root, how):
    """What there may be of a run when it is started over."""
    if how == "finished":
        run(small(root))
        return
    stopped_after(root, 5)
    job = Job(small(root))
    if how in ("failed", "halved"):
        mark(root, "small", job.run, how, "why", {})
    if how == "damaged":
        for path in files(job.folder, job.run):
            path.write_bytes(b"junk")


@pytest.mark.parametrize("how", ["finished", "interrupted", "failed", "halved", "damaged"])
def test_whatever_there_was_is_moved_whole_and_the_run_starts_over(tmp_path, how):
    run(small(tmp_path, seed=7))  # another run of the same results, which stays
    leave(tmp_path, how)
    (tmp_path / "small/experiment.toml").write_text("# why")
    job = Job(small(tmp_path))
    there = {path.relative_to(job.folder): path.read_bytes() for path in files(job.folder, job.run)}
    other = {path: path.read_bytes() for path in files(job.folder, Job(small(tmp_path, seed=7)).run)}
    before = None if how == "damaged" else results.load("small", tmp_path, job.run)
    notices = []

    class Noting(Watch):
        def notice(self, text):
            notices.append(text)

    tables = run(small(tmp_path), Noting(), fresh=True)
    assert notices == [f"what there was of run {job.run} is in {tmp_path}/small.old-1/ now"]
    assert_same_tables(tables, run(small(tmp_path / "alone")))
    old = tmp_path / "small.old-1"
    assert {path.relative_to(old): path.read_bytes() for path in files(old, job.run)} == there
    assert (old / "experiment.toml").read_text() == "# why"
    assert other.items() <= {path: path.read_bytes() for path in job.folder.rglob("*") if path.is_file()}.items()
    assert sorted(pd.read_parquet(job.folder / "runs")["seed"]) == [0, 7]
    assert len(pd.read_parquet(job.folder / "rounds")) == 12
    assert not list(tmp_path.rglob(".*"))
    if before is not None:
        moved = results.load("small.old-1", tmp_path)
        for name, frame in vars(before).items():
            pd.testing.assert_frame_equal(getattr(moved, name), frame)
        assert len(moved.partitions) == len(before.partitions) > 0
    if how == "interrupted":  # the old one is a run like any other
        assert_same_tables(run(small(tmp_path, output__name="small.old-1")), tables)
    run(small(tmp_path), fresh=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "small", "small.old-1", "small.old-2"]


def test_the_settings_file_goes_along_as_it_was(tmp_path, capsys):
    file = tmp_path / "lr.toml"
    words = [
        str(file),
        "--clients=2",
        "--cohort=1",
        "--rounds=1",
        "--data.dataset=synthetic",
        "--data.train_examples=40",
        "--data.test_examples=20",
    ]
    words += ["--cluster.backend=in-process", f"--output.root={tmp_path}"]
    for number, fresh in enumerate(([], ["--fresh"])):
        file.write_text(f"# {number}\n")
        assert main([*words, *fresh]) == 0
    kept = [(tmp_path / name / "experiment.toml").read_text() for name in ("lr.old-1", "lr")]
    assert kept == ["# 0\n", "# 1\n"]
    assert (
        f"note      what there was of run {results.load('lr', tmp_path).runs['run'][0]} is in"
        in capsys.readouterr().out
    )


def test_of_a_run_that_never_was_nothing_is_moved(tmp_path):
    run(small(tmp_path), fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_where_anything_is_wrong_nothing_is_moved(tmp_path):
    run(small(tmp_path))
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    settings = ["--data.dataset=synthetic", "--data.train_examples=160", "--cluster.backend=in-process", "--fresh"]
    for wrong in (["--clients=4", "--algorithm.batch_size=0"], ["--clients=400", "--cohort=3"]):
        assert report_errors(lambda wrong=wrong: main([*settings, *wrong, f"--output.root={tmp_path}"])) == 2
    job = Job(small(tmp_path))
    with lock_of(job.folder, job.run), pytest.raises(BadInputError, match="is being recorded by another process"):
        run(job.experiment, fresh=True)
    after = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.name != "journal")
    assert after == [(path, when) for path, when in before if path.name != "journal"]


@pytest.mark.parametrize(
    ("under", "step"), [("killed/small.old-1", 31), pytest.param("killed", 1, marks=pytest.mark.slow)]
)
def test_a_kill_at_any_step_loses_nothing_and_the_same_command_ends_well(tmp_path, warm, under, step):
    """Killed before every thirty-first file operation on what is moved, or each in all of the run, until none is left."""
    settings = ["--rounds=2", "--clients=2", "--cohort=1", "--data.dataset=synthetic", "--data.train_examples=40"]
    settings += [
        "--data.test_examples=40",
        "--model.name=logistic",
        "--cluster.backend=in-process",
        "--output.name=small",
    ]
    whole = tmp_path / "whole"
    points = 0
    assert warm.run(*settings, "--output.root", whole)[0] == 0
    once = results.load("small", whole)
    (model,) = whole.glob("small/models/*")
    while True:
        root = tmp_path / "killed"
        shutil.copytree(whole, root)
        (root / "small/experiment.toml").write_text(f"# killed at {points}")
        words = [*settings, "--output.root", root]
        status, *said = warm.run(*words, "--fresh", at=points, under=tmp_path / under)
        if status == 0:
            break
        assert status == -9, said
        # with the same command, or without --fresh, which then is meant still
        begun = bool(list(root.glob("small.old-1/.*.moving")))
        again = [*words, *(["--fresh"] if points % 2 or not begun else [])]
        status, *said = warm.run(*again)
        assert status == 0, said
        assert_same_tables(results.load("small", root), once)
        olds = sorted(root.glob("small.old-*"))
        assert olds
        assert_same_tables(results.load(olds[0].name, root), once)
        assert filecmp.cmp(model, olds[0] / "models" / model.name, shallow=False)
        assert (olds[0] / "experiment.toml").exists()
        assert not list(olds[0].rglob(".*"))
        shutil.rmtree(root)
        points += step
    assert points > 25


def test_results_on_a_file_system_of_their_own_are_copied(tmp_path):
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    elsewhere = shared / f"fedray-test-{os.getpid()}"
    elsewhere.mkdir()
    try:
        (tmp_path / "small").symlink_to(elsewhere)
        before = run(small(tmp_path))
        run(small(tmp_path), fresh=True)
        assert (tmp_path / "small.old-1").stat().st_dev != elsewhere.stat().st_dev
        assert_same_tables(results.load("small.old-1", tmp_path), before)
        leave_wandb(elsewhere, Job(small(tmp_path)).run)
        run(small(tmp_path), fresh=True)
        assert wandb_in(tmp_path / "small.old-2") == [Job(small(tmp_path)).run]
        assert wandb_in(elsewhere) == ["another"]
    finally:
        shutil.rmtree(elsewhere)


def leave_wandb(folder, run):
    """What Weights & Biases keeps of this run, and of another one."""
    for each in (run, "another"):
        files = folder / f"wandb/offline-run-20260102_030405-{each}/files"
        files.mkdir(parents=True)
        (files / "output.log").write_text(each)


def wandb_in(folder):
    return [path.read_text() for path in folder.glob("wandb/*/files/*")]


def test_what_weights_and_biases_keep_of_a_run_goes_along(tmp_path):
    run(small(tmp_path))
    leave_wandb(tmp_path / "small", Job(small(tmp_path)).run)
    run(small(tmp_path), fresh=True)
    assert wandb_in(tmp_path / "small.old-1") == [Job(small(tmp_path)).run]
    assert wandb_in(tmp_path / "small") == ["another"]


def test_a_long_name_is_cut_so_that_the_new_one_is_a_results_name(tmp_path):
    name = "n" * 100
    run(small(tmp_path, output__name=name))
    run(small(tmp_path, output__name=name), fresh=True)
    (old,) = tmp_path.glob("*.old-1")
    assert len(old.name) == 100
    assert run(small(tmp_path, output__name=old.name), Watch()).runs["status"].tolist() == ["finished"]
    for number in range(2, 10):
        old.with_name(f"{name[:94]}.old-{number}").touch()
    assert next_folder(tmp_path / name).name == f"{name[:93]}.old-10"


def test_a_sweep_starts_over_into_one_folder_and_once(tmp_path, capsys):
    """With --halve, which plays some runs in two stretches: the second goes on from the first."""
    path = tmp_path / "lr.toml"
    path.write_text(
        "rounds = 4\nclients = 4\ncohort = 2\n[data]\ndataset = 'synthetic'\ntrain_examples = 160\ntest_examples = 100\n"
        "[model]\nname = 'logistic'\n"
        "[cluster]\nbackend = 'in-process'\n[grid]\nalgorithm.lr = [0.001, 0.03]\nseed = [0, 1]\n"
        f"[output]\nroot = {json.dumps(str(tmp_path / 'results'))}\n"
    )
    words = [str(path), "--halve", "2"]
    assert report_errors(lambda: sweep(words)) == 0
    before = results.load("lr", tmp_path / "results")
    capsys.readouterr()
    assert report_errors(lambda: sweep([*words, "--fresh"])) == 0
    out = capsys.readouterr().out
    assert "4 runs in" in out and "all started over" in out
    assert out.count(f"the earlier files of these runs are now in {tmp_path}/results/lr.old-1/") == 1
    assert sorted(folder.name for folder in (tmp_path / "results").iterdir()) == ["lr", "lr.old-1"]
    for name in ("lr", "lr.old-1"):
        assert_same_tables(results.load(name, tmp_path / "results"), before)
    runs = results.load("lr", tmp_path / "results").runs
    assert sorted(runs["status"]) == ["finished", "finished", "halved", "halved"]

    ended = runs.loc[runs["status"] == "finished", "run"].iloc[0]  # one without a journal, of which nothing else tells
    (tmp_path / "results/lr/runs" / f"{ended}.parquet").write_bytes(b"junk")  # a damaged row is no hindrance
    assert report_errors(lambda: sweep([*words, "--fresh"])) == 0
    assert_same_tables(results.load("lr", tmp_path / "results"), before)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", results.DamagedResultsWarning)
        assert len(results.load("lr.old-2", tmp_path / "results").runs) == 3
