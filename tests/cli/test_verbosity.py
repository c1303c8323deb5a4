"""What a program says, and to whom: --quiet, --log-level, --json, and who closes the pipe."""

import contextlib
import io
import json
import logging
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from fuzzing import End, end_of, on_disk
from small_runs import assert_same_tables, small

from fedray import algorithms
from fedray.__main__ import main
from fedray.algorithms.fedavg import FedAvg
from fedray.cli.command_line import report_errors
from fedray.cli.json_lines import writable
from fedray.core.settings import flatten
from fedray.results import load
from fedray.results.schema import OWN, TIME
from fedray.run import run
from fedray.run.watch import Watch, Watches
from fedray.sweep import __main__ as sweep

TINY = [
    "--data.dataset=synthetic", "--data.train_examples=60", "--data.test_examples=40", "--model.name=logistic",
    "--clients=3", "--cohort=2", "--cluster.backend=in-process",
]  # fmt: skip


def tiny(root, *words):
    return [*TINY, f"--output.root={root}", *words]


def failure_of(program, *words):
    """How a program ends whose clients' code may fail, with a traceback."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = report_errors(lambda: program([str(word) for word in words]))
    return End(status, out.getvalue(), err.getvalue())


def lines_of(end):
    return [json.loads(line, parse_constant=pytest.fail) for line in end.out.splitlines()]


def assert_row(line, row, table, without=()):
    """The line has what the row of the table has, with null for what is not there."""
    for name in [name for name in OWN[table] if name not in without]:
        value = None if pd.isna(row[name]) else row[name]
        if OWN[table][name] == TIME:
            assert pd.Timestamp(line[name]) == value, name
        else:
            assert line[name] == value, name


def test_json_is_a_start_every_round_as_in_the_table_and_an_end(tmp_path):
    end = end_of(main, *tiny(tmp_path, "--rounds=5", "--evaluation.every=2", "--json"))
    assert (end.status, end.err) == (0, "")
    start, *rounds, last = lines_of(end)
    tables = load("unnamed", tmp_path)
    (run_,) = tables.runs.to_dict("records")
    assert (start["event"], last["event"]) == ("start", "end")
    assert {line["event"] for line in rounds} == {"round"}
    assert {line["run"] for line in (start, *rounds, last)} == {run_["run"]}
    for line, row in zip(rounds, tables.rounds.to_dict("records"), strict=True):
        assert_row(line, row, "rounds")
    assert [line["test_accuracy"] is None for line in rounds] == [True, False, True, False, False]
    assert_row(last, run_, "runs", without=["settings"])
    assert dict(flatten(start["settings"]))["cohort"] == 2
    assert start["data"] == {
        "dataset": "synthetic",
        "format": "generated",
        "train_examples": 60,
        "validation_examples": 0,
        "test_examples": 40,
    }
    assert start["model"] == {"name": "logistic", "num_params": 30_730, "num_buffers": 0}
    assert (start["folder"], start["where"]) == (f"{tmp_path}/unnamed", "this process, no Ray")
    assert last["model_file"] == f"{tmp_path}/unnamed/models/{run_['run']}.safetensors"
    assert last["repeated"] is False
    (only,) = lines_of(end_of(main, *tiny(tmp_path, "--rounds=5", "--evaluation.every=2", "--json")))
    assert only == {**last, "repeated": True}


def test_json_has_null_for_what_is_not_finite(tmp_path):
    end = end_of(main, *tiny(tmp_path, "--model.name=lenet5", "--algorithm.lr=1e6", "--json"))
    *_, before, last = lines_of(end)
    assert last["status"] == "diverged"
    row = load("unnamed", tmp_path).rounds.iloc[-1]
    lost = [name for name in ("test_loss", "train_loss", "update_norm") if not math.isfinite(row[name])]
    assert lost and all(before[name] is None for name in lost)
    assert writable({"a": [float("inf"), 1.5, pd.NaT, float("nan")]}) == {"a": [None, 1.5, None, None]}


class Printing(FedAvg):
    name = "printing"

    def finish(self, start, end, steps, lr, message, memory):
        print("a client prints")
        return super().finish(start, end, steps, lr, message, memory)


def test_what_else_prints_does_not_come_between_the_lines(tmp_path, monkeypatch):
    monkeypatch.setitem(algorithms.ALGORITHMS, "printing", Printing)
    end = end_of(main, *tiny(tmp_path, "--algorithm.name=printing", "--rounds=2", "--json"))
    assert len(lines_of(end)) == 4
    assert end.err == "a client prints\n" * 4


class Failing(FedAvg):
    name = "failing"

    def metrics(self, state, mean, updates):
        raise KeyboardInterrupt

    def finish(self, start, end, steps, lr, message, memory):
        if self.momentum:
            raise ZeroDivisionError("the mistake")
        return super().finish(start, end, steps, lr, message, memory)


def test_json_ends_with_the_status_of_a_run_that_failed_or_was_interrupted(tmp_path, monkeypatch):
    monkeypatch.setitem(algorithms.ALGORITHMS, "failing", Failing)
    words = tiny(tmp_path, "--algorithm.name=failing", "--json")
    failed = failure_of(main, *words, "--algorithm.momentum=0.5")
    start, last = lines_of(failed)
    assert (failed.status, start["event"], last["event"], last["status"]) == (1, "start", "end", "failed")
    assert "the mistake" in last["error"]
    interrupted = end_of(main, *words)
    assert (interrupted.status, interrupted.err) == (130, "")
    assert [line["event"] for line in lines_of(interrupted)] == ["start", "end"]
    assert lines_of(interrupted)[-1]["status"] == "interrupted"


WORDS = [[], pytest.param(["--json"], marks=pytest.mark.slow)]
"""Lines and JSON lines go through one stdout, which is lost with --json below."""


@pytest.mark.parametrize("words", WORDS)
def test_a_closed_pipe_ends_a_run_as_an_interrupt_does_and_without_a_word(tmp_path, words):
    """`| head -1`, and the run goes on from its checkpoint."""
    settings = tiny(tmp_path, "--rounds=3000")
    command = [sys.executable, "-m", "fedray", *settings, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 130
    (row,) = load("unnamed", tmp_path).runs.to_dict("records")
    assert row["status"] == "interrupted"
    if row["rounds_done"]:
        assert list(tmp_path.glob("unnamed/checkpoints/*"))


@pytest.mark.parametrize("words", WORDS)
def test_a_stdout_that_is_full_is_one_sentence_and_the_end(tmp_path, words):
    command = [sys.executable, "-m", "fedray", *tiny(tmp_path, "--rounds=3000"), *words]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    sentence = "fedray: stdout cannot be written (No space left on device), so no further round begins\n"
    assert (done.returncode, done.stderr) == (130, sentence)
    assert load("unnamed", tmp_path).runs["status"].tolist() == ["interrupted"]


def test_a_stdout_that_is_lost_in_mid_run_ends_it_as_an_interrupt_does(tmp_path):
    """Here a terminal that goes away."""
    command = [sys.executable, "-m", "fedray", *tiny(tmp_path, "--rounds=3000"), "--json"]
    mine, theirs = os.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, text=True) as process:
        os.close(theirs)
        shown = b""
        while b'"round"' not in shown:
            shown += os.read(mine, 1 << 16)
        os.close(mine)
        assert "stdout cannot be written (Input/output error)" in process.stderr.read()
        assert process.wait(timeout=60) == 130
    (row,) = load("unnamed", tmp_path).runs.to_dict("records")
    assert row["status"] == "interrupted"
    assert 1 <= row["rounds_done"] < 3000
    assert list(tmp_path.glob("unnamed/checkpoints/*"))


@pytest.mark.parametrize("words", WORDS)
def test_without_a_stdout_a_run_says_nothing_and_ends_well(tmp_path, words):
    command = [sys.executable, "-m", "fedray", *tiny(tmp_path, "--rounds=2"), *words]
    done = subprocess.run(command, preexec_fn=lambda: os.close(1), stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    with Path("/dev/full").open("w") as full:  # there is nothing left to end
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert load("unnamed", tmp_path).runs["status"].tolist() == ["finished"]


def test_quiet_says_nothing_and_leaves_the_same(tmp_path):
    end = end_of(main, *tiny(tmp_path / "a", "--rounds=2", "--quiet"))
    assert (end.status, end.out, end.err) == (0, "", "")
    loud = end_of(main, *tiny(tmp_path / "b", "--rounds=2"))
    assert "round 2/2" in loud.out
    assert_same_tables(load("unnamed", tmp_path / "a"), load("unnamed", tmp_path / "b"))
    again = end_of(main, *tiny(tmp_path / "a", "--rounds=2", "--quiet"))
    assert (again.status, again.out, again.err) == (0, "", "")


def test_quiet_still_says_what_is_wrong_on_stderr_with_the_same_status(tmp_path, monkeypatch):
    monkeypatch.setitem(algorithms.ALGORITHMS, "failing", Failing)
    words = tiny(tmp_path, "--algorithm.name=failing", "--quiet")
    end = failure_of(main, *words, "--algorithm.momentum=0.5")
    assert (end.status, end.out) == (1, "")
    assert "the mistake" in end.err
    assert end_of(main, *words) == End(130, "", "")
    assert "cohort = 9" in end_of(main, *words, "--cohort=9").err


def test_levels_say_more_and_more(tmp_path):
    """error: nothing; warning: that the run starts over; info: its rounds; debug: where their time went."""
    said = {}
    for level in ("error", "warning", "info", "debug"):
        words = tiny(tmp_path / level, "--rounds=2")
        end_of(main, *words)
        said[level] = end_of(main, *words, "--fresh", "--log-level", level).out.splitlines()
    assert said["error"] == []
    assert [line.split()[0] for line in said["warning"]] == ["note"]
    assert "old-1/ now" in said["warning"][0]
    labels = [{line.split()[0] for line in said[level] if line} for level in ("warning", "info", "debug")]
    assert labels[0] < labels[1] < labels[2]
    assert labels[2] - labels[1] == {"debug"}
    details = [line.removeprefix("debug").strip() for line in said["debug"] if line.startswith("debug")]
    assert any(line.startswith("reading the data and dealing them out took ") for line in details)
    (second,) = [line for line in details if line.startswith("round 2 took ")]
    parts = {part.split()[0]: float(part.split()[1]) for part in second.partition(": ")[2].split(", ")}
    row = load("unnamed", tmp_path / "debug").rounds.iloc[-1]
    assert set(parts) == {"train", "transfer", "aggregate", "idle", "evaluate", "record"}
    assert all(abs(row[f"seconds_{name}"] - seconds) < 1e-4 for name, seconds in parts.items())
    assert sum(parts.values()) == pytest.approx(row["seconds"], abs=1e-3)


def test_details_go_beside_the_lines_of_json_and_end_with_the_program(tmp_path):
    end = end_of(main, *tiny(tmp_path, "--rounds=2", "--json", "--log-level", "debug"))
    assert [line["event"] for line in lines_of(end)] == ["start", "round", "round", "end"]
    assert "round 2 took " in end.err
    assert logging.getLogger("fedray").handlers == []
    assert not logging.getLogger("fedray").isEnabledFor(logging.DEBUG)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--log-level", "inf"], "--log-level inf is not one of debug, info, warning, error; did you mean info?"),
        (["--log-level="], "--log-level is not one of"),
        (["--log-level"], "--log-level: expected one argument"),
        (["--quiet", "--log-level", "debug"], "--quiet is --log-level error, and cannot go with --log-level debug"),
        (["--quiet=yes"], "ignored explicit argument 'yes'"),
        (["--json", "yes.json"], "yes.json"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("program", [main, sweep.main])
def test_a_bad_flag_is_one_sentence_and_nothing_on_disk(tmp_path, program, words, sentence):
    file = [tmp_path / "s.toml"] if program is sweep.main else []
    for path in file:
        path.write_text("[grid]\nseed = [0, 1]\n")
    before = on_disk(tmp_path)
    end = end_of(program, *file, *tiny(tmp_path / "results"), *words)
    assert (end.status, end.out) == (2, "")
    assert sentence in end.err
    assert on_disk(tmp_path) == before


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text("rounds = 2\n[grid]\nseed = [0, 1]\nalgorithm.lr = [0.1, 0.2]\n")
    return path


def test_a_sweep_in_json_has_the_run_on_each_line(tmp_path, file):
    end = end_of(sweep.main, file, *tiny(tmp_path), "--json")
    by_run = pd.DataFrame(lines_of(end)).groupby("run")["event"].apply(list)
    runs = load("s", tmp_path).runs
    assert sorted(by_run.index) == sorted(runs["run"])
    assert {tuple(events) for events in by_run} == {("start", "round", "round", "end")}
    rounds = load("s", tmp_path).rounds.sort_values(["run", "round"])
    lines = sorted(
        (line["run"], line["round"], line["train_loss"]) for line in lines_of(end) if line["event"] == "round"
    )
    assert [line[:2] for line in lines] == list(zip(rounds["run"], rounds["round"], strict=True))
    assert end.err == ""
    again = lines_of(end_of(sweep.main, file, *tiny(tmp_path), "--json"))  # there is nothing left to play
    ends = {line["run"]: {**line, "repeated": True} for line in lines_of(end) if line["event"] == "end"}
    assert {line["run"]: line for line in again} == ends
    assert len(again) == 4


def test_a_sweep_says_as_little_as_it_is_told(tmp_path, file):
    loud = end_of(sweep.main, file, *tiny(tmp_path / "loud"))
    assert "sweep " in loud.out and "results " in loud.out
    quiet = end_of(sweep.main, file, *tiny(tmp_path / "quiet"), "--quiet")
    assert (quiet.status, quiet.out, quiet.err) == (loud.status, "", "")
    warned = end_of(sweep.main, file, *tiny(tmp_path / "quiet"), "--fresh", "--log-level", "warning")
    assert [line.split()[0] for line in warned.out.splitlines()] == ["note"]
    debug = end_of(sweep.main, file, *tiny(tmp_path / "debug"), "--log-level", "debug")
    assert "round 1 took" in debug.out


@pytest.mark.parametrize("words", [["--quiet"], ["--log-level", "warning"], ["--json"]])
def test_a_sweep_says_on_stderr_what_failed(tmp_path, file, monkeypatch, words):
    monkeypatch.setitem(algorithms.ALGORITHMS, "failing", Failing)
    settings = ["--algorithm.name=failing", "--algorithm.momentum=0.5"]
    end = failure_of(sweep.main, file, *tiny(tmp_path), *settings, *words)
    assert end.status == 1
    assert end.err.count("ZeroDivisionError: the mistake") == 4
    failed = [("failed", False)] * 4 if "--json" in words else []
    assert [(line["status"], line["repeated"]) for line in lines_of(end) if line["event"] == "end"] == failed
    again = lines_of(failure_of(sweep.main, file, *tiny(tmp_path), *settings, *words))
    assert [(line["event"], line["status"], line["repeated"]) for line in again if line["event"] == "end"] == [
        ("end", "failed", True) for _ in failed
    ]


def test_json_is_refused_where_nothing_runs(file, tmp_path):
    end = end_of(sweep.main, file, *tiny(tmp_path), "--dry-run", "--json")
    assert (end.status, end.out) == (2, "")
    assert "--json" in end.err and "--dry-run" in end.err


def test_several_watches_see_the_same(tmp_path):
    class Keeping(Watch):
        def __init__(self):
            self.seen = []

        def __getattribute__(self, name):
            if not name.startswith("_") and name != "seen":
                self.seen.append(name)
            return super().__getattribute__(name)

    one, other = Keeping(), Keeping()
    watch = Watches([one, other])
    run(small(tmp_path, rounds=1), watch)
    watch.notice("")
    watch.detail("")
    watch.close()
    assert one.seen == other.seen == ["prepare", "begin", "round", "end", "notice", "detail", "close"]


def test_on_ray_debug_shows_all_that_clients_print_beside_the_lines(tmp_path):
    """In another process, since Ray is told whether to speak when it is imported.

    A client prints more at the run's end than Ray's log monitor reads at a time, and ends in the middle of a line.
    """
    code = (
        "import sys\nfrom fedray import algorithms\nfrom fedray.__main__ import main\n"
        "from fedray.algorithms.fedavg import FedAvg\nfrom fedray.cli.command_line import run_program\n"
        "class Printing(FedAvg):\n    name = 'printing'\n"
        "    def finish(self, start, end, steps, lr, message, memory):\n"
        "        for line in range(1500):\n            print(f'a client prints {line}')\n"
        "        print('half a line', end='', file=sys.stderr)\n"
        "        return super().finish(start, end, steps, lr, message, memory)\n"
        "algorithms.ALGORITHMS['printing'] = Printing\nsys.exit(run_program(main))\n"
    )
    words = tiny(
        tmp_path, "--algorithm.name=printing", "--engine=plain", "--cluster.backend=ray", "--rounds=2", "--json"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--log-level=debug"], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["start", "round", "round", "end"]
    # Ray prints a line and its end apart, so that what another thread says may come between.
    printed = Counter(map(int, re.findall(r"\(ClientActor pid=\d+\)\S* a client prints (\d+)", done.stderr)))
    assert printed == dict.fromkeys(range(1500), 4)  # two clients in each of two rounds
    assert done.stderr.count("half a line") == 4
    assert "starting or joining Ray took" in done.stderr
    (kept,) = re.findall("what its processes log stays in (.*)/logs", done.stderr)
    assert Path(kept, "logs").is_dir()
    shutil.rmtree(kept)
