"""A grid of experiments: validated whole, run once each, summed up over seeds."""

import shlex
import subprocess
import sys

import pandas as pd
import pytest

from fedray import results
from fedray.command_line import read_command_line, report_errors
from fedray.experiment import compose
from fedray.job import Job
from fedray.sweep import main, points

SETTINGS = """
rounds = 2
clients = 4
cohort = 2
[data]
dataset = "synthetic"
train_examples = 160
test_examples = 100
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


def test_points_are_the_product_with_the_last_axis_fastest():
    grid = {"seed": [1, 2], "model.name": ["cnn"], "algorithm.lr": [3, 4]}
    assert points(grid) == [{"seed": s, "model.name": "cnn", "algorithm.lr": lr} for s in (1, 2) for lr in (3, 4)]


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
    assert len(commands) == 4
    subprocess.run([sys.executable, *shlex.split(commands[1])[1:]], check=True, capture_output=True)
    assert sweep(path, "--rounds", "1") == 0
    assert "4 runs" in (out := capsys.readouterr().out)
    assert "1 of them finished before" in out


def test_a_value_on_the_command_line_replaces_its_axis(file, capsys):
    path = file(GRID)
    assert sweep(path, "--dry-run", "--seed", "7") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_run_whose_clients_fail_is_recorded_and_the_rest_goes_on(file, monkeypatch, capsys):
    from fedray.algorithms import fedavg

    def loss(self, output, targets):
        if self.lr == 0.05:
            raise RuntimeError("too fast")
        return original(self, output, targets)

    original = fedavg.FedAvg.loss
    monkeypatch.setattr(fedavg.FedAvg, "loss", loss)
    path = file(GRID)
    assert sweep(path) == 1
    out, err = capsys.readouterr()
    assert err.count("RuntimeError: too fast") == 2
    rows = [line.split() for line in out.splitlines() if line.startswith(("0.01 ", "0.05 "))]
    assert [row[1] for row in rows] == ["2", "0"]
    assert rows[1][1:4] == ["0", "of", "2"]  # the failed ones are in no mean
    runs = results.load("lr", path.parent / "results").runs
    assert runs.groupby("lr")["status"].apply(set).to_dict() == {0.01: {"finished"}, 0.05: {"failed"}}


@pytest.mark.parametrize(
    ("grid", "parts"),
    [
        ("", ["no [grid]", "python -m fedray"]),
        ("[grid]\nalgorithm.lrr = [1]\n", ["algorithm.lrr", "did you mean algorithm.lr?"]),
        ("[grid]\nalgorithm.lr = [0.1, -1]\n", ["algorithm.lr = -1", "greater than 0"]),
        ("[grid]\nalgorithm.lr = []\n", ["algorithm.lr", "at least one value"]),
        ("[grid]\nalgorithm.lr = 0.1\n", ["algorithm.lr", "list"]),
        ("[grid]\nclients = [4, 1000]\n", ["1000", "160"]),
        ("[grid]\nalgorithm = [{lr = 0.1}, {lr = 0.2}]\n", ["'algorithm' is no setting"]),
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
    last = [str(a) for a in shlex.split(capsys.readouterr().out.splitlines()[-1])[4:]]
    (checkpoint,) = [job(str(path), *last).checkpoint]
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"junk")
    assert sweep(path) == 2
    assert f"{checkpoint} is no checkpoint of fedray, or it is damaged" in capsys.readouterr().err
    assert not (path.parent / "results/lr/runs").exists()


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
