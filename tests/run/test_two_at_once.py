"""Runs of several processes on one machine, each with a Ray of its own, do not disturb each other."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from fedray import results
from fedray.experiment.composition import compose
from fedray.run import run

SMALL = {"rounds": 3, "clients": 3, "cohort": 2}
DATA = {"dataset": "synthetic", "train_examples": 120, "test_examples": 60}
BESIDE = [("same", 0), ("same", 1)]  # results name and seed
THREE = pytest.param([*BESIDE, ("other", 0)], marks=pytest.mark.slow, id="three")


@pytest.fixture
def temporary():
    """A folder with a short path, since Ray puts sockets there."""
    with tempfile.TemporaryDirectory(prefix="f") as folder:
        yield Path(folder)


def ours(temporary):
    """The processes that work in this temporary folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == str(temporary):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("runs", [pytest.param(BESIDE, id="two"), THREE])
def test_runs_at_the_same_time_give_the_bits_of_each_alone_and_leave_nothing_behind(tmp_path, temporary, runs):
    command = [sys.executable, "-m", "fedray", "--cluster.clients_per_actor", "1", "--output.root", str(tmp_path)]
    for section, settings in (("", SMALL), ("data.", DATA)):
        for name, value in settings.items():
            command += [f"--{section}{name}", str(value)]
    environment = os.environ | {"TMPDIR": str(temporary), "RAY_TMPDIR": str(temporary)}
    running = [
        subprocess.Popen(
            [*command, "--output.name", name, "--seed", str(seed)],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, seed in runs
    ]
    for process in running:
        _, errors = process.communicate(timeout=200)
        assert (process.returncode, errors) == (0, "")
    found = {
        (name, row["seed"]): row["model_fingerprint"]
        for name in {name for name, _ in runs}
        for row in results.load(name, tmp_path).runs.to_dict("records")
    }
    alone = {}
    for seed in (0, 1):
        here = {"cluster": {"backend": "in-process"}, "output": {"root": str(tmp_path), "name": f"alone-{seed}"}}
        alone[seed] = run(compose({**SMALL, "seed": seed, "data": DATA, **here})).runs["model_fingerprint"][0]
    assert found == {(name, seed): alone[seed] for name, seed in runs}
    assert alone[0] != alone[1]
    _, alive = psutil.wait_procs(ours(temporary), timeout=20)
    assert not alive
    assert not [path for path in temporary.rglob("*") if not path.is_dir() and not path.is_symlink()]
    assert not list(temporary.glob("fedray-*"))
    assert {path.name for path in (temporary / "ray").iterdir()} <= {"session_latest"}
