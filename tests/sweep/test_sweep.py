"""A grid of experiments: validated whole, run once each, summed up over seeds."""

import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from interruptible import heed_sigint
from rich.console import Console
from small_runs import assert_same_tables

from fedray import results
from fedray.__main__ import main as run_one
from fedray.cli.command_line import read_command_line, report_errors
from fedray.core.errors import BadInputError
from fedray.core.lock import hold
from fedray.experiment.composition import compose
from fedray.results import DamagedResultsWarning
from fedray.results.recorder import Recorder
from fedray.run.prepared import Job
from fedray.run.run_columns import grouping_columns, run_row
from fedray.sweep.__main__ import FLAGS, LISTS, VALUES, experiments, main
from fedray.sweep.summary import summary
from fedray.sweep.view import SweepWatch

SETTINGS = """
rounds = 2
clients = 4
cohort = 2
[data]
dataset = "synthetic"
train_examples = 160
test_examples = 100
[model]
name = "logistic"
[algorithm]
batch_size = 10
[cluster]
backend = "{backend}"
clients_per_actor = 2
[output]
root = "{root}"
"""


@pytest.fixture
def file(tmp_path):
    def write(grid, backend="in-process"):
        path = tmp_path / "lr.toml"
        path.write_text(SETTINGS.format(backend=backend, root=tmp_path / "results") + grid)
        return path

    return write


def sweep(*argv):
    return report_errors(lambda: main([str(a) for a in argv]))


GRID = '[grid]\n"algorithm.lr" = [0.01, 0.05]\nseed = [0, 1]\n'


def test_a_sweep_on_ray_skips_what_is_finished_and_ends_in_a_table(file, capsys):
    """One Ray for all, the same actors from run to run; the bits are those of a run alone."""
    path = file(GRID, backend="ray")
    assert sweep(path) == 0
    out = capsys.readouterr().out
    assert "4 runs" in out
    table = [line.split() for line in out.splitlines() if "±" in line]
    assert [row[:2] for row in table] == [["0.01", "2"], ["0.05", "2"]]
    tables = results.load("lr", path.parent / "results")
    assert tables.runs["status"].tolist() == ["finished"] * 4
    assert tables.population["pid"].nunique() == 2
    assert (tables.rounds["cpu_seconds"] > 0).all()
    assert tables.rounds["cpu_seconds"].sum() == pytest.approx(tables.clients["cpu_seconds"].sum())
    mean = tables.runs[tables.runs["lr"] == 0.01]["final_test_accuracy"].agg(["mean", "std"])
    assert " ".join(table[0]).startswith(f"0.01 2 {mean['mean']:.4f} ± {mean['std']:.4f}")

    before = {p: p.stat().st_mtime_ns for p in path.parent.rglob("*.parquet")}
    assert sweep(path) == 0
    assert "4 of them finished before" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in path.parent.rglob("*.parquet")}

    assert sweep(path, "--output.name", "alone", "--cluster.backend", "in-process") == 0
    alone = results.load("alone", path.parent / "results").runs
    assert alone["model_fingerprint"].tolist() == tables.runs["model_fingerprint"].tolist()


def test_dry_run_prints_the_commands_that_make_each_run_alone(file, capsys):
    path = file(GRID)
    assert sweep(path, "--dry-run", "--rounds", "1") == 0
    commands = capsys.readouterr().out.splitlines()
    assert not (path.parent / "results").exists()
    assert commands[1] == f"python -m fedray {path} --rounds 1 --algorithm.lr 0.01 --seed 1"
    assert len(commands) == 5
    assert commands[4] == "# 4 runs left; no run is known yet to estimate their time by"
    subprocess.run([sys.executable, *shlex.split(commands[1])[1:]], check=True, capture_output=True)
    assert sweep(path, "--dry-run", "--rounds", "1") == 0
    *again, estimate = capsys.readouterr().out.splitlines()
    assert again == commands[:4]
    assert re.fullmatch(r"# 3 of 4 runs left, about \d+ seconds? one after another, by 1 known run", estimate)
    assert sweep(path, "--rounds", "1") == 0
    assert "4 runs" in (out := capsys.readouterr().out)
    assert "1 of them finished before" in out
    assert sweep(path, "--dry-run", "--rounds", "1") == 0
    assert capsys.readouterr().out.splitlines() == [*commands[:4], "# none of 4 runs is left"]


def test_a_dry_run_needs_no_data_and_says_so(file, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert sweep(file(GRID), "--dry-run", "--data.dataset", "cifar10", "--data.root", tmp_path / "empty") == 0
    *commands, last = capsys.readouterr().out.splitlines()
    assert len(commands) == 4
    assert last.startswith("# 4 runs; their time cannot be estimated: there is no CIFAR-10 in the folder")


def test_axes_of_the_command_line_zips_unions_and_samples_are_runs(file, capsys):
    path = file(
        "[search]\nn = 2\nalgorithm.lr = {low = 1e-3, high = 0.1, log = true}\n"
        "[[grid]]\nalgorithm.name = 'fedavg'\nrounds = [1, 2]\n"
        "[[grid]]\nalgorithm = {name = 'fedprox', mu = 0.1}\n[grid.zip]\nclients = [4, 8]\ncohort = [1, 2]\n"
    )
    assert sweep("--grid", "seed=0..1", path, "--dry-run") == 0
    *commands, last = capsys.readouterr().out.splitlines()
    assert last.startswith("# 16 runs left")
    composed = [compose(read_command_line(shlex.split(command)[3:], "", "").tree) for command in commands]
    assert [(e.algorithm.name, e.rounds, e.clients, e.cohort, e.seed) for e in composed] == 2 * [
        *(("fedavg", rounds, 4, 2, seed) for rounds in (1, 2) for seed in (0, 1)),
        *(("fedprox", 2, clients, cohort, seed) for clients, cohort in ((4, 1), (8, 2)) for seed in (0, 1)),
    ]
    assert len({e.algorithm.lr for e in composed}) == 2


def test_a_file_without_a_grid_is_swept_by_axes_of_the_command_line(file, capsys):
    path = file("")
    assert sweep(path, "--dry-run", "--grid", "seed=0..2") == 0
    assert capsys.readouterr().out.count("--seed") == 3


def test_only_the_base_settings_of_a_file_with_a_grid_are_one_run(file, capsys):
    path = file(GRID + "[search]\nn = 1\nrounds = [1]\n")
    assert run_one([str(path), "--rounds", "1"]) == 0
    assert f"python -m fedray.sweep {path} runs its [grid] and [search]" in capsys.readouterr().out


def test_a_value_on_the_command_line_replaces_its_axis(file, capsys):
    path = file(GRID)
    assert sweep(path, "--dry-run", "--seed", "7") == 0
    assert sum(line.startswith("python -m fedray ") for line in capsys.readouterr().out.splitlines()) == 2


def fail_at(rate, monkeypatch):
    """Have clients with this learning rate raise."""
    from fedray.algorithms import fedavg

    def loss(self, output, targets):
        if self.lr == rate:
            raise RuntimeError("too fast")
        return original(self, output, targets)

    original = fedavg.FedAvg.loss
    monkeypatch.setattr(fedavg.FedAvg, "loss", loss)


def load(path):
    return results.load(path.stem, path.parent / "results")


def test_a_run_whose_clients_fail_is_recorded_and_the_rest_goes_on(file, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        fail_at(0.05, patch)
        path = file(GRID)
        assert sweep(path) == 1
        out, err = capsys.readouterr()
        assert err.count("RuntimeError: too fast") == 2
        rows = [line.split() for line in out.splitlines() if line.startswith(("0.01 ", "0.05 "))]
        assert rows[0][1] == "2"
        assert rows[1][1:4] == ["0", "of", "2"]  # the failed ones are in no mean
        assert re.search(r" 2 failed: client \d failed in round 1: RuntimeError: too fast$", " ".join(rows[1]))
        runs = load(path).runs
        assert runs.groupby("lr")["status"].apply(set).to_dict() == {0.01: {"finished"}, 0.05: {"failed"}}
        assert runs[runs["lr"] == 0.05]["error"].str.contains("too fast").all()
        assert runs[runs["lr"] == 0.01]["error"].isna().all()

        assert sweep(path) == 1  # nothing is tried again unasked
        assert "2 of them finished before, 2 failed before (--retry-failed" in capsys.readouterr().out
        pd.testing.assert_frame_equal(load(path).runs, runs)
    assert sweep(path, "--retry-failed") == 0
    assert set(load(path).runs["status"]) == {"finished"}
    assert load(path).runs["error"].isna().all()


def test_a_run_that_never_comes_to_its_rounds_is_recorded_with_its_reason(file, monkeypatch, capsys):
    """What only shows when the clients are set up, here for one seed."""
    from fedray.run import simulation as run_module

    def population(job, *rest, **options):
        if job.experiment.seed == 1:
            raise BadInputError("no actor came up")
        return original(job, *rest, **options)

    original = run_module.population
    monkeypatch.setattr(run_module, "population", population)
    path = file(GRID)
    assert sweep(path) == 1
    assert capsys.readouterr().err.count("fedray: no actor came up\n") == 2
    runs = load(path).runs.set_index("seed")
    assert runs["status"].to_dict() == {0: "finished", 1: "failed"} or set(runs.loc[1, "status"]) == {"failed"}
    assert set(runs.loc[1, "error"]) == {"no actor came up"}
    assert set(runs.loc[1, "rounds_done"]) == {0}
    monkeypatch.undo()
    assert sweep(path, "--retry-failed") == 0
    assert set(load(path).runs["status"]) == {"finished"}


def test_a_run_that_diverges_says_when_and_is_in_no_mean(file, capsys):
    path = file("[grid]\nalgorithm.lr = [0.01, 1e6]\n")
    assert sweep(path, "--model.name", "lenet5") == 3
    out = capsys.readouterr().out
    (row,) = load(path).runs[lambda runs: runs["status"] == "diverged"].to_dict("records")
    assert row["error"] == "2 of 2 updates in round 1 are not finite"
    assert f"diverged: {row['error']}" in out
    (line,) = [line for line in out.splitlines() if line.startswith("1e+06")]
    assert line.split()[1:] == ["0", "of", "1", "1", "diverged"]


def test_a_second_sweep_of_a_folder_is_refused_and_changes_nothing(file, capsys):
    path = file(GRID)
    folder = path.parent / "results" / "lr"
    with hold(folder / ".sweep.lock", ""):
        before = sorted(path.parent.rglob("*"))
        assert sweep(path) == 2
        assert f"another sweep (process {os.getpid()}) is at work in {folder}/" in capsys.readouterr().err
        assert sorted(path.parent.rglob("*")) == before
    assert sweep(path) == 0
    assert not (folder / ".sweep.lock").exists()
    (folder / ".sweep.lock").write_text("1")  # what a killed one leaves
    assert sweep(path, "--rounds", "1") == 0


def test_a_run_at_work_elsewhere_is_left_to_its_recorder(file, capsys):
    path = file(GRID)
    assert sweep(path, "--dry-run") == 0
    mine = job(*shlex.split(capsys.readouterr().out.splitlines()[0])[3:])
    recorder = Recorder(mine.folder.parent, mine.folder.name, mine.run, grouping_columns(mine), run_row(mine))
    with recorder.locked():
        assert sweep(path) == 1
        assert "is being recorded by another process" in capsys.readouterr().err
    assert mine.status is None
    assert len(load(path).runs) == 3


def test_a_killed_run_and_one_at_work_are_told_apart(file, capsys):
    """By a dry run, which writes nothing, and by the table."""
    path = file(GRID)
    assert sweep(path, "--dry-run", "--rounds", "1") == 0
    commands = capsys.readouterr().out.splitlines()
    jobs = [job(*shlex.split(command)[3:]) for command in commands[:2]]
    killed, at_work = (
        Recorder(mine.folder.parent, mine.folder.name, mine.run, grouping_columns(mine), run_row(mine)) for mine in jobs
    )
    killed.start((), ())
    with at_work.locked():
        at_work.start((), ())
        before = {path: path.stat().st_mtime_ns for path in path.parent.rglob("*")}
        assert sweep(path, "--dry-run", "--rounds", "1") == 0
        assert capsys.readouterr().out.splitlines()[-1].endswith("; of these 1 killed, 1 running")
        assert before == {path: path.stat().st_mtime_ns for path in path.parent.rglob("*")}
        runs = results.load("lr", path.parent / "results")
        table = Console(width=200)
        with table.capture() as shown:
            table.print(summary(runs, [each.run for each in jobs], ["seed"]))
    assert sorted(line.split()[-2:] for line in shown.get().splitlines()[1:]) == [["1", "killed"], ["1", "running"]]


def test_results_of_a_newer_version_are_left_alone(file, capsys):
    path = file(GRID)
    assert sweep(path) == 0
    (first, *_) = sorted((path.parent / "results/lr/runs").iterdir())
    table = pq.read_table(first, partitioning=None)
    pq.write_table(table.append_column("virtual_seconds", pa.array([1.5])), first)
    before = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
    capsys.readouterr()
    assert sweep(path, "--rounds", "3") == 2
    assert f"{first} was written by another version of fedray" in capsys.readouterr().err
    assert before == {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}


def test_the_table_tells_the_way_to_a_target(file, capsys):
    path = file(GRID)
    assert sweep(path, "--target", "0.05") == 0
    out = capsys.readouterr().out.splitlines()
    (heading,) = [line for line in out if line.startswith("algorithm.lr ")]
    assert "rounds to 5 %" in heading and "seconds to 5 %" in heading
    tables = load(path)
    first = results.to_target(tables, 0.05).groupby("lr")["rounds"].mean()
    (row,) = [line.split() for line in out if line.startswith("0.01 ")]
    assert row[8] == f"{first[0.01]:.4g}"  # after lr, runs, and two of mean ± std
    assert sweep(path, "--target", "1") == 0
    assert "never" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("--target", "50", "must be a number above 0 and at most 1"),
        ("--target", "much", "must be a number above 0 and at most 1"),
        ("--max-concurrent", "0", "at least 1"),
        ("--max-concurrent", "2", "needs Ray"),
        ("--halve", "x", "--halve 10,30"),
        ("--halve", "2,1", "ascend"),
        ("--halve", "2", "the longest run has 2 rounds"),
    ],
)
def test_wrong_options_are_refused(file, capsys, option, value, part):
    path = file(GRID)
    assert sweep(path, option, value) == 2
    assert part in capsys.readouterr().err
    assert not (path.parent / "results").exists()


def test_a_finished_run_stays_finished_whatever_fails_after_it(file, monkeypatch, capsys):
    def end(self, job, status, repeated):
        raise OSError("the terminal is gone")

    path = file("[grid]\nseed = [0]\n")
    with monkeypatch.context() as patch:
        patch.setattr(SweepWatch, "end", end)
        assert sweep(path) == 0
        assert "the terminal is gone" in capsys.readouterr().err
    assert load(path).runs["status"].tolist() == ["finished"]
    assert load(path).runs["error"].isna().all()


def test_a_failure_of_the_data_of_a_run_is_recorded_too(file, monkeypatch):
    """What is known of the run without its data is its row."""
    from fedray.sweep import play as playing

    def run_(experiment, *args, **options):
        if experiment.seed == 1:
            monkeypatch.setattr(Job, "dataset", property(lambda self: missing()))
            raise MemoryError("no room for the data")
        return original(experiment, *args, **options)

    def missing():
        raise MemoryError("no room for the data")

    original = playing.play_run
    monkeypatch.setattr(playing, "play_run", run_)
    path = file("[grid]\nseed = [0, 1]\n")
    assert sweep(path) == 1
    runs = load(path).runs.set_index("seed")
    assert runs["status"].to_dict() == {0: "finished", 1: "failed"}
    assert "no room for the data" in runs.loc[1, "error"]
    assert runs.loc[1, "algorithm"] == "fedavg"


def test_a_run_whose_row_is_damaged_is_left_out_by_name_and_the_rest_goes_on(file, capsys):
    path = file(GRID)
    assert sweep(path) == 0
    (first, *_) = sorted((path.parent / "results/lr/runs").iterdir())
    first.write_bytes(first.read_bytes()[:100])
    capsys.readouterr()
    assert sweep(path, "--grid", "seed=0..2") == 1
    out = capsys.readouterr().out
    assert f"{first} cannot be read" in out
    assert "remove it to have this run recorded again" in out
    with pytest.warns(DamagedResultsWarning):
        assert len(load(path).runs) == 5
    first.unlink()
    assert sweep(path, "--grid", "seed=0..2") == 0
    assert set(load(path).runs["status"]) == {"finished"}
    assert len(load(path).runs) == 6


def test_every_command_of_a_dry_run_makes_the_run_that_the_sweep_would(file, capsys):
    """Also where a choice of the point has no use for an override."""
    path = file('[grid]\nalgorithm.name = ["fedprox", "fedavg"]\nalgorithm.drop_last = [true, false]\n')
    path.write_text(path.read_text().replace("batch_size = 10", 'batch_size = 10\nname = "fedprox"'))
    options = ("--algorithm.mu", "0.5", "--rounds", "1")
    assert sweep(path, *options, "--dry-run") == 0
    commands = capsys.readouterr().out.splitlines()[:-1]
    assert sweep(path, *options) == 0
    runs = [job(*shlex.split(command)[3:]).run for command in commands]
    assert sorted(runs) == load(path).runs["run"].tolist()
    assert len(runs) == 4


def test_on_a_terminal_a_sweep_shows_what_runs_and_comes_to_its_end(file):
    """Sixteen short runs, which once stopped for ever after a few: two locks, taken in two orders."""
    path = file("[grid]\nseed = [0]\n")
    words = ("--grid", "seed=0..15", "--data.train_examples", "80", "--model.name", "logistic", "--rounds", "8")
    command = [sys.executable, "-m", "fedray.sweep", str(path), *words]
    mine, theirs = os.openpty()
    process = subprocess.Popen(
        command, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # what Linux says at the end
        while part := os.read(mine, 1 << 16):
            shown += part
    os.close(mine)
    assert process.wait(timeout=10) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "[16/16] " in text
    assert re.search(r"round \d/8 .*accuracy 0\.\d+", text)
    assert re.search(r"16 runs: \d+ done, 1 running, \d+ left   best 0\.\d+ \(seed=\d+\)   ETA 0:\d\d", text)


HALVED = "[grid]\nalgorithm.lr = [0.001, 0.002, 0.03, 0.3]\nseed = [0, 1]\n"
LEARNABLE = (
    "--data.train_examples",
    "400",
    "--data.test_examples",
    "200",
    "--model.name",
    "logistic",
    "--rounds",
    "6",
    "--output.checkpoint_every",
    "4",
)


def test_halving_stops_the_worse_half_and_keeps_what_it_recorded(file, capsys):
    path = file(HALVED)
    whole = file(HALVED)
    assert sweep(whole, *LEARNABLE, "--output.name", "whole") == 0
    everything = results.load("whole", path.parent / "results")

    def at(t):
        rounds = everything.rounds[everything.rounds["round"] == t]
        return rounds.groupby("lr")["test_accuracy"].mean().sort_values(ascending=False, kind="stable")

    capsys.readouterr()
    assert sweep(path, *LEARNABLE, "--halve", "1,3") == 0
    out = capsys.readouterr().out
    runs = load(path).runs
    after_1 = list(at(1).index[:2])
    after_3 = at(3)[after_1].idxmax()
    assert runs.groupby("lr")["rounds_done"].apply(set).to_dict() == {
        lr: {6} if lr == after_3 else {3} if lr in after_1 else {1} for lr in at(1).index
    }
    assert set(runs[runs["lr"] == after_3]["status"]) == {"finished"}
    halved = runs[runs["lr"] != after_3]
    assert set(halved["status"]) == {"halved"}
    assert set(halved["error"]) == {
        "--halve stopped it after round 1, being in the worse half of 4 configurations",
        "--halve stopped it after round 3, being in the worse half of 2 configurations",
    }
    assert "2 halved" in out

    before = load(path).rounds
    assert sweep(path, *LEARNABLE, "--halve", "1,3") == 0  # decides the same again, and starts nothing
    pd.testing.assert_frame_equal(load(path).rounds, before)
    assert "actors " not in capsys.readouterr().out

    assert sweep(path, *LEARNABLE) == 0  # without it they go on, to the bits of an undisturbed sweep
    again = load(path).runs
    assert set(again["status"]) == {"finished"}
    assert again["error"].isna().all()
    assert again["model_fingerprint"].tolist() == everything.runs["model_fingerprint"].tolist()


@pytest.mark.parametrize(
    ("grid", "parts"),
    [
        ("", ["no [grid]", "python -m fedray"]),
        ("[grid]\nalgorithm.lrr = [1]\n", ["algorithm.lrr", "did you mean algorithm.lr?"]),
        ("[grid]\nalgorithm.lr = [0.1, -1]\n", ["algorithm.lr = -1", "greater than 0"]),
        ("[grid]\nalgorithm.lr = []\n", ["algorithm.lr", "at least one value"]),
        ("[grid]\n", ["[grid] is empty"]),
        ("[grid]\nalgorithm.lr = -0.1\n", ["algorithm.lr = -0.1", "greater than 0"]),
        ("[grid]\nseed = [0]\n[search]\nn = 10001\nrounds = [1, 2]\n", ["10,001 runs", "--yes"]),
        ("[grid]\nclients = [4, 1000]\n", ["1000", "160"]),
        ("[grid]\nalgorithm = [{lr = 0.1}, {lr = 0.2}]\n", ["'algorithm' in [grid] is no setting"]),
        ("[grid]\nalgorithm.name = [3]\n", ["algorithm.name = 3"]),
        ("[grid]\ncluster.cpus = [1, 2]\n", ["cluster.cpus", "changes no result"]),
    ],
)
def test_a_wrong_grid_is_refused_whole_before_the_first_run(file, capsys, grid, parts):
    path = file(grid)
    assert sweep(path) == 2
    err = capsys.readouterr().err
    assert all(part in err for part in parts), err
    assert err.count("\n") == 1
    assert not (path.parent / "results").exists()


def test_a_damaged_checkpoint_of_a_later_run_is_refused_before_the_first(file, capsys):
    path = file(GRID)
    assert sweep(path, "--dry-run") == 0
    last = [str(a) for a in shlex.split(capsys.readouterr().out.splitlines()[-2])[4:]]
    (checkpoint,) = [job(str(path), *last).checkpoint]
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"junk")
    assert sweep(path) == 2
    assert f"{checkpoint} is no checkpoint of fedray, or it is damaged" in capsys.readouterr().err
    assert not (path.parent / "results/lr/runs").exists()


EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").rglob("*.toml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_sweep_in_experiments_is_valid(path):
    line = read_command_line([str(path)], "", "", FLAGS, VALUES, LISTS)
    if line.sweep:
        assert len(experiments(line)) > 1


def test_no_two_experiments_leave_results_of_one_name():
    names = [path.stem for path in EXPERIMENTS]
    assert sorted(set(names)) == sorted(names)


def job(*argv):
    return Job(compose(read_command_line(argv, "", "").tree))


def test_another_partition_takes_the_place_of_the_files_whole(file):
    path = file('[partition]\nname = "dirichlet"\nalpha = 0.1\n[grid]\n"partition.name" = ["iid", "dirichlet"]\n')
    assert sweep(path) == 0
    runs = results.load("lr", path.parent / "results").runs
    assert runs.set_index("partition")["alpha"].dropna().to_dict() == {"dirichlet": 0.1}


def test_a_sweep_without_a_file_says_what_to_name(capsys):
    assert sweep("--rounds", "3") == 2
    assert "experiments/lr.toml" in capsys.readouterr().err


def test_folders_of_a_sweep_are_one_frame(file):
    path = file('[grid]\n"partition.name" = ["iid", "dirichlet"]\n')
    assert sweep(path) == 0
    rounds = pd.read_parquet(path.parent / "results/lr/rounds")
    assert rounds.groupby("partition").size().to_dict() == {"dirichlet": 2, "iid": 2}


TWELVE = "[grid]\nalgorithm.lr = [0.01, 0.05, 0.1]\nseed = [0, 1, 2, 3]\n"
LONG = ("--data.train_examples", "600", "--model.name", "logistic", "--rounds", "40", "--output.checkpoint_every", "3")


def start(*argv):
    """A sweep in a process of its own, with Ray, four runs in flight."""
    command = [
        sys.executable,
        "-m",
        "fedray.sweep",
        *map(str, argv),
        "--cluster.backend",
        "ray",
        "--max-concurrent",
        "4",
    ]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, preexec_fn=heed_sigint, start_new_session=True, **streams)


def wait_for_rounds(path, count, process):
    """Wait until the sweep has recorded so many rounds, or has ended."""
    while process.poll() is None:
        journals = list((path.parent / "results/lr/journal").glob("[!.]*.jsonl"))
        ended = len(list((path.parent / "results/lr/models").glob("[!.]*")))
        if 40 * ended + sum(max(0, journal.read_bytes().count(b"\n") - 1) for journal in journals) >= count:
            return
        time.sleep(0.01)


@pytest.mark.slow
def test_a_sweep_killed_three_times_ends_in_the_tables_of_an_undisturbed_one(file):
    path = file(TWELVE)
    undisturbed = start(path, *LONG, "--output.name", "whole")
    assert "12 runs" in undisturbed.communicate()[0]
    random.seed(11)
    for count in sorted(random.sample(range(20, 440), 3)):
        process = start(path, *LONG)
        wait_for_rounds(path, count, process)
        process.kill()
        process.communicate()
    assert set(load(path).runs["status"]) > {"killed"}
    process = start(path, *LONG)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    assert_same_tables(load(path), results.load("whole", path.parent / "results"))
    assert not list((path.parent / "results/lr/journal").glob("*"))


@pytest.mark.slow
def test_an_interrupt_stops_all_runs_in_flight_at_a_checkpoint(file):
    """With four runs in flight; with three it is in test_interrupt.py."""
    path = file(TWELVE)
    process = start(path, *LONG)
    wait_for_rounds(path, 30, process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert "run the same command again to continue" in out
    assert "Traceback" not in out
    runs = load(path).runs
    stopped = runs[runs["status"] == "interrupted"]
    assert len(stopped) >= 2
    assert set(runs["status"]) <= {"interrupted", "finished"}
    checkpoints = {path.stem for path in (path.parent / "results/lr/checkpoints").iterdir()}
    assert set(stopped[stopped["rounds_done"] > 0]["run"]) <= checkpoints
