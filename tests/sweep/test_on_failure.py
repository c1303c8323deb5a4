"""A sweep that nobody watches: --on-failure, and the reason of a failure beside the word."""

import contextlib
import json
import re
import time
from types import SimpleNamespace

import psutil
import pytest
from fuzzing import any_end_of
from test_sweep import GRID, SETTINGS, fail_at, load

from fedray.sweep.__main__ import main
from fedray.sweep.on_failure import LONGEST, OnFailure
from fedray.sweep.reasons import LONGEST as LONGEST_GIST
from fedray.sweep.reasons import gist
from fedray.sweep.view import SweepView


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A sweep of four runs, of which the two with a learning rate of 0.05 fail."""
    fail_at(0.05, monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr.toml").write_text(SETTINGS.format(backend="in-process", root=tmp_path / "results") + GRID)
    return tmp_path / "lr.toml"


TELL = """printf '%s\\n' "$FEDRAY_RUN_ID" "$FEDRAY_RUN_PATH" "$FEDRAY_LABEL" "$FEDRAY_SETTINGS" >> told
printf %s "$FEDRAY_REASON" > "$FEDRAY_RUN_ID.reason"; echo "told of $FEDRAY_LABEL" """


def test_the_command_is_called_once_for_each_run_that_fails_with_what_there_is_to_say(path):
    end = any_end_of(main, path, "--on-failure", TELL)
    assert end.status == 1
    told = path.with_name("told").read_text().splitlines()
    failed = load(path).runs[lambda runs: runs["status"] == "failed"]
    assert told[::4] == failed["run"].tolist() and len(failed) == 2
    assert set(told[1::4]) == {str(path.parent / "results" / "lr")}
    assert told[2::4] == ["algorithm.lr=0.05 seed=0", "algorithm.lr=0.05 seed=1"]
    assert [json.loads(line)["seed"] for line in told[3::4]] == [0, 1]
    assert [json.loads(line)["algorithm"]["lr"] for line in told[3::4]] == [0.05, 0.05]
    for run, error in failed[["run", "error"]].itertuples(index=False):
        assert path.with_name(f"{run}.reason").read_text() == error
    assert "command   told of algorithm.lr=0.05 seed=1\n" in end.out

    assert any_end_of(main, path, "--on-failure", TELL).status == 1  # failed before, and not played again
    assert len(path.with_name("told").read_text().splitlines()) == 8
    end = any_end_of(main, path, "--on-failure", TELL, "--retry-failed", "--json")
    assert len(path.with_name("told").read_text().splitlines()) == 16
    assert {json.loads(line)["event"] for line in end.out.splitlines()} >= {"start", "end"}  # and nothing else


REASON = "failed in round 1: RuntimeError: too fast"


def test_the_reason_stands_beside_failed_in_the_lines_and_in_the_table(path):
    end = any_end_of(main, path)
    failed = [line for line in end.out.splitlines() if "failed" in line]
    assert len(failed) == 3
    for line, seed in zip(failed[:2], (0, 1), strict=True):
        assert re.search(rf"algorithm.lr=0.05 seed={seed}  failed: client \d {REASON}", line), line
    assert re.search(rf"^0\.05 .*  2 failed: client \d {REASON}", failed[2]), failed[2]
    assert "Traceback" not in end.out


def test_a_command_that_fails_is_told_in_a_line_and_the_sweep_goes_on(path):
    command = 'case "$FEDRAY_LABEL" in *seed=0) echo no mail today >&2; exit 3;; *) kill -9 $$;; esac'
    end = any_end_of(main, path, "--on-failure", command)
    assert end.status == 1
    runs = load(path).runs
    one, other = runs[runs["status"] == "failed"]["run"]
    said = [line for line in end.err.splitlines() if "on-failure" in line]
    assert said == [
        f"fedray: --on-failure ended with status 3 for {one}: no mail today",
        f"fedray: --on-failure ended with status -9 for {other}",
    ]
    assert "on-failure" not in end.out
    assert (runs["status"] == "finished").sum() == 2


class Heard(SweepView):
    def __init__(self):
        self.notices, self.said = [], []

    def complain(self, text):
        self.notices.append(text)

    def say(self, label, text):
        self.said.append((label, text))


def called(tmp_path, command, why="no luck", seconds=30.0, settings="{}"):
    job = SimpleNamespace(run="run-1", folder=tmp_path, settings_json=settings)
    OnFailure(command, seconds).call(job, "seed=0", why, heard := Heard())
    return heard


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    heard = called(tmp_path, f"sleep 600 & echo $! > {tmp_path}/pid; echo waiting; wait", seconds=0.5)
    assert heard.notices == ["--on-failure was ended after 0.5 seconds for run-1: waiting"]
    pid = int((tmp_path / "pid").read_text())
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)


def test_what_it_leaves_in_the_background_is_not_waited_for(tmp_path):
    assert called(tmp_path, "sleep 3 & echo sent").said == [("command", "sent")]


def test_any_reason_reaches_the_command(tmp_path):
    called(tmp_path, f'printf %s "$FEDRAY_REASON" > {tmp_path}/reason', "a\0b" + "x" * 10**6 + "the end")
    reason = (tmp_path / "reason").read_text()
    assert reason.startswith("abxxx") and reason.endswith("xxxthe end")
    assert len(reason) <= LONGEST + 5


def test_a_command_that_cannot_be_started_is_told_in_a_line(tmp_path):
    heard = called(tmp_path, "true", settings="x" * 10**6)  # more than the system takes for a variable
    (notice,) = heard.notices
    assert notice.startswith("--on-failure could not be run for run-1: ")
    assert "\n" not in notice
    (notice,) = called(tmp_path, "nowhere-at-all").notices
    assert notice.startswith("--on-failure ended with status 127 for run-1: ")


def test_an_empty_command_is_refused(path):
    end = any_end_of(main, path, "--on-failure", " ")
    assert (end.status, end.out) == (2, "")
    assert "--on-failure needs a command" in end.err


FAILURE = """client 3 failed in round 2:
Traceback (most recent call last):
  File "own.py", line 3, in loss
    raise RuntimeError("too fast")
RuntimeError: too fast
and a second line
"""


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ("no actor came up", "no actor came up"),
        ("no actor came up\nfor a minute", "no actor came up"),
        (FAILURE, "client 3 failed in round 2: RuntimeError: too fast"),
        (FAILURE.partition("\n")[2], "RuntimeError: too fast"),
        (FAILURE.partition("\n")[2] + "\nDuring handling of this:\n\n" + FAILURE.partition("\n")[2].replace("Runtime", "Key"), "KeyError: too fast"),
        ("", ""),
        ("x" * 1000, "x" * (LONGEST_GIST - 3) + "..."),
    ],
)  # fmt: skip
def test_a_reason_on_one_line(why, said):
    assert gist(why) == said
