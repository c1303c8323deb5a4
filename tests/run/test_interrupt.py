"""Ctrl-C and SIGTERM: the first finishes the round, the second stops at once, and nothing is left behind."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest
from interruptible import heed_sigint
from small_runs import assert_same_tables

from fedray import results
from fedray.__main__ import main
from fedray.core.interrupt import SIGNALS, Interrupt, deferred
from fedray.run import checkpoint

SMALL = ["--data.dataset", "synthetic", "--data.train_examples", "400", "--data.test_examples", "100", "--clients", "2"]
SMALL += ["--cohort", "2", "--algorithm.batch_size", "4"]
IN_PROCESS = [*SMALL, "--cluster.backend", "in-process", "--output.checkpoint_every", "100"]
RAY_FOLDER = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray")


def start(*arguments, module="fedray", script=None, **options):
    command = [sys.executable, *([str(script)] if script else ["-m", module]), *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **options}
    return subprocess.Popen(command, preexec_fn=heed_sigint, **options)


def wait_for(process, pattern):
    """The first line that matches, and all before it are read."""
    for line in process.stdout:
        if re.match(pattern, line):
            return line
    raise AssertionError("it ended before")


def family_of(process):
    return psutil.Process(process.pid).children(recursive=True)


def folders_of(process):
    """The session folders that Ray made for this process."""
    return list(RAY_FOLDER.glob(f"session_*_{process.pid}"))


def assert_gone(family, process, seconds=30):
    """None of these processes is there any more, nor what Ray keeps on disk for this one."""
    deadline = time.monotonic() + seconds
    _, alive = psutil.wait_procs(family, timeout=seconds)
    assert not alive
    while folders_of(process) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not folders_of(process)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_first_signal_finishes_the_round_and_saves(tmp_path, number):
    settings = [*IN_PROCESS, "--output.root", tmp_path]
    with start(*settings, "--rounds", "3000") as process:
        wait_for(process, "round +5/")
        process.send_signal(number)
        said = int(
            re.search(r"finishing round (\d+); once more to stop at once", wait_for(process, "note .*finishing")).group(
                1
            )
        )
        rest = process.stdout.read()
    assert process.returncode == 130
    assert rest.rstrip().endswith("interrupted; run the same command again to continue")
    (row,) = results.load("unnamed", tmp_path).runs.to_dict("records")
    assert (row["status"], row["rounds_done"]) == ("interrupted", said)
    (saved,) = tmp_path.glob("unnamed/checkpoints/*")
    assert checkpoint.load(saved)[1]["round"] == said


def test_a_second_signal_stops_at_once_and_any_more_disturb_nothing(tmp_path):
    """In the middle of a round that would take minutes; what was reported stays, with a checkpoint of it."""
    settings = [*IN_PROCESS, "--output.root", tmp_path]
    with start(*settings, "--rounds", "3000", "--clients", "2", "--cohort", "1", "--algorithm.epochs", "10") as process:
        wait_for(process, "round +1/")
        process.send_signal(signal.SIGTERM)
        wait_for(process, "note .*finishing")
        began = time.monotonic()
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.002)
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    assert "KeyboardInterrupt" not in rest
    assert time.monotonic() - began < 60
    (row,) = results.load("unnamed", tmp_path).runs.to_dict("records")
    assert row["status"] == "interrupted"
    assert row["rounds_done"] >= 1
    assert len(list(tmp_path.glob("unnamed/checkpoints/*"))) == 1


def test_a_resume_after_signals_ends_in_the_same_tables(tmp_path):
    settings = [*SMALL, "--cluster.backend", "in-process", "--rounds", "12", "--output.checkpoint_every", "5"]
    settings += ["--model.name", "logistic", "--engine", "plain", "--algorithm.epochs", "3"]
    for number, beginning in ((signal.SIGINT, "round +2/"), (signal.SIGTERM, "round +7/")):
        with start(*settings, "--output.root", tmp_path / "a") as process:
            wait_for(process, beginning)
            process.send_signal(number)
            process.stdout.read()
        assert process.returncode == 130
    for name in "ab":
        assert main([*settings, "--output.root", str(tmp_path / name)]) == 0
    assert_same_tables(*(results.load("unnamed", tmp_path / name) for name in "ab"))


RARER = [pytest.param(how, marks=pytest.mark.slow) for how in ("failing", "once", "at once", "full")]
"""Another test kills, a sweep is stopped with two signals, and test_exits has code that fails."""


@pytest.mark.parametrize("how", ["group", *RARER])
def test_nothing_is_left_of_ray_whatever_ends_a_run(tmp_path, how):
    """A terminal's Ctrl-C, which all of Ray's processes get; SIGTERM once and twice; a disk that is full; bad code."""
    settings = [*SMALL, "--rounds", "3000", "--output.root", tmp_path / "results"]
    script = None
    if how == "failing":
        script = tmp_path / "mine.py"
        script.write_text(FAILING)
        settings += ["--algorithm.name", "failing"]
    with start(*settings, script=script, start_new_session=True) as process:
        wait_for(process, "round +3/")
        family = family_of(process)
        assert any(child.name().endswith("Agent") for child in family)
        assert folders_of(process)
        if how == "group":
            os.killpg(process.pid, signal.SIGINT)
        elif how in ("once", "at once"):
            process.send_signal(signal.SIGTERM)
            if how == "at once":
                process.send_signal(signal.SIGTERM)
        elif how == "full":  # as good as: nothing can be written to what is not there
            (journal,) = tmp_path.glob("results/unnamed/journal/*.jsonl")
            journal.unlink()
        rest = process.stdout.read()
    assert process.returncode == (130 if how in ("group", "once", "at once") else 1), rest
    assert rest.count("Traceback") == (how == "failing")
    assert_gone(family, process)
    if how == "failing":
        assert re.search(r"^fedray: client [01] failed in round 6:\nTraceback", rest, re.MULTILINE)
        assert rest.count("ZeroDivisionError: the mistake") == 1
    elif process.returncode == 130:
        assert rest.rstrip().endswith("interrupted; run the same command again to continue")
        assert list(tmp_path.glob("results/unnamed/checkpoints/*"))


FAILING = """
import sys
from fedray import algorithms, __main__
from fedray.cli import command_line
from fedray.algorithms.fedavg import FedAvg
class Failing(FedAvg):
    name = 'failing'
    def learning_rate(self, t, rounds):
        return self.lr * (2 if t == 6 else 1)
    def correct(self, grad, params, message, memory, lr):
        if lr > self.lr:
            raise ZeroDivisionError('the mistake')
        return grad
algorithms.ALGORITHMS['failing'] = Failing
sys.exit(command_line.run_program(__main__.main))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the fork server is for Linux")
def test_nothing_is_left_of_ray_after_kill_9_and_the_run_goes_on_elsewhere(tmp_path):
    """Neither its agents, which by themselves take a minute, nor its session folder, nor where workers are forked.

    Continued in this process it has the model and the rounds of a run that nothing disturbed.
    """
    settings = [*SMALL, "--algorithm.batch_size", "2", "--rounds", "40", "--output.root", str(tmp_path)]
    settings += ["--model.name", "logistic", "--engine", "plain"]
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a short name: Ray makes sockets in it
        environment = {**os.environ, "TMPDIR": folder, "RAY_TMPDIR": folder}
        with start(*settings, env=environment) as process:
            wait_for(process, "round +3/")
            family = family_of(process)
            temporary = {path.name.split("_")[0].split("-")[0] for path in Path(folder).glob("*")}
            (session,) = Path(folder).glob(f"ray/session_*_{process.pid}")
            process.kill()
        assert any(child.name().endswith("Agent") for child in family)
        assert temporary == {"ray", "fedray"}
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive
        deadline = time.monotonic() + 20
        while (left := left_in(folder)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left
    assert not [p.pid for p in psutil.process_iter() if any(session.name in word for word in command_of(p))]
    assert 3 <= results.load("unnamed", tmp_path).rounds["round"].max() < 40
    here = [*settings, "--cluster.backend", "in-process"]
    assert main(here) == 0
    assert main([*here, "--output.name", "undisturbed"]) == 0
    one, other = (results.load(name, tmp_path) for name in ("unnamed", "undisturbed"))
    assert one.runs["model_fingerprint"][0] == other.runs["model_fingerprint"][0]
    same = ["round", "test_loss", "test_accuracy", "train_loss", "update_norm", "bytes_down", "bytes_up"]
    pd.testing.assert_frame_equal(one.rounds[same], other.rounds[same])


def left_in(folder):
    """What is left in a temporary folder, but for Ray's note of its last session."""
    return [path for path in Path(folder).rglob("*") if path.name not in ("ray", "session_latest")]


def command_of(process):
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def test_a_signal_before_the_first_round_stops_at_once_and_leaves_nothing(tmp_path):
    with start(*SMALL, "--rounds", "3000", "--output.root", tmp_path) as process:
        wait_for(process, "actors +starting")
        time.sleep(1)  # Ray is coming up
        family = family_of(process)
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    assert "finishing" not in rest
    assert not list(tmp_path.iterdir())
    assert_gone(family, process)


INTERRUPTED_IMPORT = """
import sys
from fedray.cli import command_line
def main(words, interrupt):
    exec("raise KeyboardInterrupt")  # as dataclasses do while a module is imported
sys.exit(command_line.run_program(main))
"""


def test_an_interrupted_import_ends_the_program_with_130_too(tmp_path):
    (tmp_path / "interrupted_import.py").write_text(INTERRUPTED_IMPORT)
    with start(module="interrupted_import", env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}) as process:
        assert process.stdout.read() == "interrupted; run the same command again to continue\n"
    assert process.returncode == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_what_forks_and_a_second_does_not(number):
    """What is raised around a fork is lost: a program is told afterwards, by its own handler."""
    steps = []

    def handle(number, frame):
        steps.append("told")
        raise KeyboardInterrupt

    before = {n: signal.signal(n, handle) for n in SIGNALS}
    try:
        with pytest.raises(KeyboardInterrupt), deferred():
            signal.raise_signal(number)
            steps.append("forked")
        assert steps == ["forked", "told"]
        with pytest.raises(KeyboardInterrupt), deferred():
            signal.raise_signal(number)
            signal.raise_signal(signal.SIGINT)
            steps.append("not reached")
        assert steps == ["forked", "told"]
        assert all(signal.getsignal(n) == handle for n in SIGNALS)
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


GRID = "[grid]\nseed = [0, 1, 2, 3, 4, 5]\n[cluster]\nclients_per_actor = 2\n[output]\ncheckpoint_every = 1000\n"


@pytest.mark.parametrize("signals", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_every_run_of_a_sweep_finishes_its_round_or_stops_at_once(tmp_path, signals):
    (tmp_path / "lr.toml").write_text(GRID)
    words = [
        tmp_path / "lr.toml",
        *SMALL,
        "--rounds",
        "3000",
        "--model.name",
        "logistic",
        "--output.root",
        tmp_path / "results",
    ]
    with start(*words, "--max-concurrent", "3", module="fedray.sweep") as process:
        deadline = time.monotonic() + 100
        while (
            len(playing := [j for j in tmp_path.glob("results/lr/journal/[!.]*") if j.read_bytes().count(b"\n") > 3])
            < 3
        ):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        family = family_of(process)
        process.send_signal(signal.SIGINT)
        said = wait_for(process, "note .*finishing")
        assert "finishing the rounds of 3 runs; once more to stop at once" in said
        for _ in range(signals - 1):
            process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    assert rest.rstrip().endswith("interrupted; run the same command again to continue")
    runs = results.load("lr", tmp_path / "results").runs
    assert runs["status"].tolist() == ["interrupted"] * 3
    assert set(runs["run"]) == {journal.stem for journal in playing}
    saved = {path.stem for path in tmp_path.glob("results/lr/checkpoints/*")}
    assert saved == set(runs["run"])
    assert_gone(family, process)


def test_on_a_terminal_the_sentence_does_not_garble_the_bar(tmp_path):
    mine, theirs = os.openpty()
    settings = [*SMALL, "--cluster.backend", "in-process", "--rounds", "3000", "--output.root", tmp_path]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    with start(*settings, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown, sent = b"", False
        with suppress(OSError):  # what Linux says at the end
            while part := os.read(mine, 1 << 16):
                shown += part
                if b"round    5/3000" in shown and not sent:
                    process.send_signal(signal.SIGINT)
                    sent = True
        os.close(mine)
    assert process.returncode == 130
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "\n").split("\n")
    assert (
        sum(bool(re.fullmatch(r"note      finishing round \d+; once more to stop at once *", line)) for line in lines)
        == 1
    )


def test_from_python_a_run_installs_no_handlers(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert main([*SMALL, "--cluster.backend", "in-process", "--rounds", "1", "--output.root", str(tmp_path)]) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_what_a_signal_does_depends_on_what_goes_on():
    interrupt = Interrupt()
    with pytest.raises(KeyboardInterrupt):
        interrupt.handle(signal.SIGINT, None)
    interrupt.handle(signal.SIGINT, None)  # it is being cleaned up
    interrupt = Interrupt()
    interrupt.rounds["a"] = 3
    interrupt.handle(signal.SIGINT, None)
    assert interrupt.asked
    with pytest.raises(KeyboardInterrupt):
        interrupt.handle(signal.SIGTERM, None)
    interrupt.handle(signal.SIGTERM, None)
    interrupt = Interrupt()
    interrupt.rounds["a"] = 3
    interrupt.handle(signal.SIGINT, None)
    interrupt.rounds.clear()
    interrupt.handle(signal.SIGINT, None)  # its last round has ended, and it is saved
    assert interrupt.sentences.get() == "finishing round 3; once more to stop at once"
    assert interrupt.sentences.empty()
