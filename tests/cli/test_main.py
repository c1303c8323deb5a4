"""The programs as a user starts them."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import psutil
import pytest
from interruptible import heed_sigint

from fedray.__main__ import main
from fedray.cli.command_line import report_errors
from fedray.results import load

ROOT = Path(__file__).parents[2]
SMALL = [
    "--data.dataset",
    "synthetic",
    "--data.train_examples",
    "400",
    "--data.test_examples",
    "200",
    "--cohort",
    "2",
    "--clients",
    "2",
]


def start(*arguments, module="fedray", **options):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, preexec_fn=heed_sigint, **streams, **options)


def wait_for(process, beginning):
    for line in process.stdout:
        if line.startswith(beginning):
            return
    raise AssertionError("it ended before")


def finish(process):
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


@pytest.mark.parametrize("short", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["short", "whole"])
def test_quickstart_learns_and_prints_only_what_it_should(tmp_path, short):
    """Ten clients in ten processes; whole, at least 60 % on the synthetic data (`make run` says how long it takes)."""
    environment = os.environ | {"FEDRAY_DATA": str(tmp_path)}
    fewer = ["--data.train_examples", "5000", "--data.test_examples", "1000", "--rounds", "3"] if short else []
    words = ["experiments/quickstart.toml", *fewer, "--output.root", tmp_path / "results"]
    status, out, err = finish(start(*words, env=environment))
    assert (status, err) == (0, "")
    kept = tmp_path / "results/quickstart/experiment.toml"
    assert kept.read_text() == (ROOT / "experiments/quickstart.toml").read_text()
    lines = out.splitlines()
    assert lines[0].startswith(
        f"data      synthetic (generated), {'5,000 training and 1,000' if short else '50,000 training and 10,000'} test images"
    )
    assert any(line.startswith("actors    10 Ray actors, one for each client, ") for line in lines)
    known = (
        r"(data|clients|model|run|actors|status|accuracy|loss|classes|best|time|results) |round +\d+/\d+  accuracy |$"
    )
    assert all(re.match(known, line) for line in lines), out
    rounds = pd.read_parquet(tmp_path / "results/quickstart/rounds")
    assert rounds["test_accuracy"].iloc[-1] >= (0.1 if short else 0.6)
    population = pd.read_parquet(tmp_path / "results/quickstart/population")
    assert population["actor"].nunique() == population["pid"].nunique() == 10


def test_an_actor_killed_in_mid_run_costs_a_retry_and_is_told_in_a_line(tmp_path):
    words = ["--model.name", "mlp", "--engine", "plain", "--rounds", "25", "--algorithm.batch_size", "4"]
    process = start(*SMALL, *words, "--output.root", tmp_path)
    wait_for(process, "round  3")
    actors = [p for p in psutil.Process(process.pid).children(recursive=True) if p.name().startswith("ray::Client")]
    os.kill(actors[0].pid, signal.SIGKILL)
    status, out, err = finish(process)
    assert (status, err) == (0, "")
    said = [line for line in out.split("\n") if line and not line.startswith(("round", "best"))]
    labels = ["note", "status", "data", "accuracy", "loss", "classes", "time", "faults", "results", "model"]
    assert [line.split()[0] for line in said] == labels
    assert f"actor lost (process {actors[0].pid})" in said[0]
    assert "1 x actor lost" in said[7]
    tables = load("unnamed", tmp_path)
    assert tables.rounds["retries"].sum() >= 1
    assert tables.clients["pid"].nunique() == 3


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--algorithm.lrr", "1"], ["did you mean algorithm.lr?"]),
        (["--clients", "500"], ["500", "400"]),
        (["--cohort", "3"], ["cohort = 3", "clients = 2"]),
        (["--cluster.gpus", "1", "--cluster.gpus_per_client", "0.6", "--cluster.clients_per_actor", "1"], ["2 actors x 0.6 GPU", "1 GPU"]),
        (["--data.dataset", "cifar10", "--data.root", "/nowhere"], ["/nowhere"]),
        (["--model.name", "resnet20", "--algorithm.batch_size", "1", "--cluster.backend", "in-process"], ["BatchNorm"]),
        (["--model.name", "nowhere:net"], ["there is no module nowhere"]),
        (["--model.name", "fedray.models.small:vgg12"], ["no function vgg12; did you mean vgg11?"]),  # found where torch is
        (["--output.root", __file__], ["test_main.py"]),
        (["--output.root", "/proc/results"], ["/proc"]),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_exit_2_and_nothing_on_disk(tmp_path, monkeypatch, capsys, arguments, parts):
    monkeypatch.chdir(tmp_path)
    assert report_errors(lambda: main([*SMALL, *arguments])) == 2
    out, err = capsys.readouterr()
    assert err.startswith("fedray: ")
    assert err.count("\n") == 1
    assert all(part in err for part in parts), err
    assert not list(tmp_path.iterdir())
    assert "round 1" not in out


def test_the_sweeps_help_names_its_own_options_too():
    status, out, _ = finish(start("--help", module="fedray.sweep"))
    assert status == 0
    assert "--algorithm.lr FLOAT" in out
    assert "--dry-run" in out


@pytest.mark.parametrize("name", ["train-00000-of-00001.parquet", "cifar-10-batches-py/data_batch_1"])
def test_a_damaged_data_file_is_named(tmp_path, monkeypatch, capsys, name):
    damaged = tmp_path / "data" / name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"junk")
    monkeypatch.chdir(tmp_path)
    assert report_errors(lambda: main(["--data.dataset", "cifar10", "--data.root", str(tmp_path / "data")])) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert str(damaged.parent) in err
    assert not (tmp_path / "results").exists()
