"""kill -9 at any moment: a run that was killed again and again ends in the tables and the model of one that was not.

Law 5. Minutes of kills; the one of a few seconds is in test_run.py.
"""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from safetensors.numpy import load_file
from small_runs import assert_same_tables
from warm import Warm

from fedray import results

pytestmark = pytest.mark.slow

SETTINGS = ["--clients=4", "--cohort=3", "--data.dataset=synthetic", "--data.train_examples=80", "--output.name=small"]
SETTINGS += ["--data.test_examples=60", "--model.name=logistic", "--algorithm.batch_size=10"]
SETTINGS += ["--output.checkpoint_every=1", "--output.flush_seconds=0.000001"]
KILLS = 50


def assert_same_results(one, other):
    assert_same_tables(results.load("small", one), results.load("small", other))
    (mine,), (theirs,) = (list(root.glob("small/models/*")) for root in (one, other))
    mine, theirs = load_file(mine), load_file(theirs)
    assert mine.keys() == theirs.keys()
    assert all(mine[name].tobytes() == theirs[name].tobytes() for name in mine)


def longest_reported(output):
    """The last round that was printed, which so was on disk."""
    rounds = [line.split()[1] for line in output.splitlines() if line.startswith("round")]
    return int(rounds[-1].split("/")[0]) if rounds else 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize("algorithm", ["fedavg", "scaffold"])
def test_killed_at_fifty_moments_a_run_ends_as_if_it_had_not_been(tmp_path, algorithm):
    """In a fork of a process that has everything imported: of its life nearly all is setting up, rounds and writes.

    One life of three ends after a time drawn from all of what a whole run takes, so some end before the first file is
    there; two end after a round was reported, and a time drawn from what the rounds after the first one take. A run
    that comes to its end is compared and another begun.
    """
    words = [*SETTINGS, "--rounds=20", "--cluster.backend=in-process", f"--algorithm.name={algorithm}"]
    chance = random.Random(algorithm)
    whole, kills, killed_runs, in_rounds, gone_on = tmp_path / "whole", 0, 0, 0, 0
    with Warm() as warm:
        for root in (tmp_path / "first", whole):
            began = time.monotonic()
            assert warm.run(*words, "--output.root", root)[0] == 0
            life = time.monotonic() - began
        began = time.monotonic()
        assert warm.run(*words, "--output.root", tmp_path / "begun", since="round", after=0)[0] == -signal.SIGKILL
        rounds = max(0.1 * life, life - (time.monotonic() - began))
        moments = itertools.cycle([("", life), ("round", rounds), ("round", rounds)])
        while kills < KILLS:
            root, seen, own = tmp_path / str(killed_runs), 0, 0
            while True:
                since, seconds = next(moments)
                after = chance.uniform(0, 0.8 * seconds)
                status, output, errors = warm.run(*words, "--output.root", root, since=since, after=after)
                assert status in (0, -signal.SIGKILL), (output, errors)
                assert errors == ""
                seen = max(seen, longest_reported(output))
                in_rounds += status != 0 and longest_reported(output) > 0
                gone_on += "continuing run" in output
                if seen:
                    assert results.load("small", root).rounds["round"].max() >= seen
                if status == 0:
                    break
                kills, own = kills + 1, own + 1
                if own > 12:  # lives too short to come to an end
                    assert warm.run(*words, "--output.root", root)[0] == 0
                    break
            assert_same_results(root, whole)
            shutil.rmtree(root)
            killed_runs += 1
    assert min(in_rounds, gone_on) > KILLS / 3


@pytest.mark.timeout(900)
@pytest.mark.parametrize("algorithm", ["fedavg", "scaffold"])
def test_killed_before_each_file_operation_a_run_ends_as_if_it_had_not_been(tmp_path, algorithm):
    """Every moment at which the files on disk change, one after another, and after each the same command."""
    words = [*SETTINGS, "--rounds=3", "--cluster.backend=in-process", f"--algorithm.name={algorithm}"]
    whole = tmp_path / "whole"
    with Warm() as warm:
        assert warm.run(*words, "--output.root", whole)[0] == 0
        for point in itertools.count():
            root = tmp_path / "killed"
            status, output, errors = warm.run(*words, "--output.root", root, at=point, under=root)
            if status == 0:
                break
            assert (status, errors) == (-signal.SIGKILL, "")
            if seen := longest_reported(output):
                assert results.load("small", root).rounds["round"].max() >= seen
            status, output, errors = warm.run(*words, "--output.root", root)
            assert (status, errors) == (0, ""), output
            assert_same_results(root, whole)
            shutil.rmtree(root)
    assert point > 50


@pytest.mark.timeout(600)
def test_killed_on_ray_a_run_ends_as_if_it_had_not_been_and_no_process_stays(tmp_path):
    words = [*SETTINGS, "--rounds=60", "--algorithm.name=scaffold", "--cluster.clients_per_actor=2"]
    chance = random.Random(5)
    family = []

    def start(root):
        command = [sys.executable, "-m", "fedray", *words, f"--output.root={root}"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    for _ in range(5):
        with start(tmp_path / "a") as process:
            for line in process.stdout:
                if line.startswith("round"):
                    break
            family += psutil.Process(process.pid).children(recursive=True)
            time.sleep(chance.uniform(0, 0.5))
            process.kill()
    for root in "ab":
        with start(tmp_path / root) as process:
            output, _ = process.communicate()
        assert process.returncode == 0, output
    assert_same_results(tmp_path / "a", tmp_path / "b")
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert os.listdir(tmp_path / "a" / "small" / "checkpoints") == []  # noqa: PTH208
