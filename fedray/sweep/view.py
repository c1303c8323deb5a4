"""A sweep on the terminal: the runs in flight, the best so far and the time left; elsewhere a line for each run.

Each run reports from a thread of its own.
"""

import math
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedray import results
from fedray.cli.console import ConsoleWatch, NoticeWatch, clock
from fedray.cli.json_lines import JsonWatch
from fedray.cli.verbosity import Verbosity
from fedray.core.metrics import sign
from fedray.core.settings import flatten
from fedray.run.longer import NOT_KEPT
from fedray.run.prepared import Job
from fedray.run.stopping import recorded_judge
from fedray.run.watch import Watch
from fedray.sweep.estimate import work
from fedray.sweep.reasons import gist

WIDE = 200  # columns of the table where stdout is no terminal, which would set the width
DRAWN_SECONDS = 0.1  # the least time between two refreshes of the live view


class SweepView(Watch):
    """A watcher of a sweep. This class prints errors only; its subclasses show more."""

    def say(self, label: str, text: str) -> None:
        """A labelled line about the whole sweep."""

    def skip(self, job: Job) -> None:
        """A run ended or failed before, and is not played again."""

    def fail(self, job: Job, why: str, how: str = "failed") -> None:
        """A run failed, or another process plays it; `how` says which."""
        print(f"fedray: {why}", file=sys.stderr)

    def complain(self, text: str) -> None:
        """Something beside the runs went wrong, and the sweep goes on."""
        print(f"fedray: {text}", file=sys.stderr)

    @cached_property
    def told(self) -> set[str]:
        """The edited code that was told of, and the setting for want of which runs start from round 1."""
        return set()

    def edited(self, job: Job, what: str, earlier: str) -> None:
        """Tell of an edit with the first of the runs that it makes others."""
        if what not in self.told:
            self.told.add(what)
            super().edited(job, what, earlier)

    def from_round_1(self, job: Job, why: str) -> None:
        """Tell once of all runs that start from round 1 because shorter ones kept no checkpoint."""
        if not why.endswith(NOT_KEPT):
            super().from_round_1(job, why)
        elif NOT_KEPT not in self.told:
            self.told.add(NOT_KEPT)
            super().from_round_1(job, why)

    def halve(self, rung: int, kept: int, stopped: Sequence[Job]) -> None:
        """After round `rung`, `kept` configurations go on, and the runs in `stopped` were stopped."""

    def show(self, table: Table) -> None:
        """The summary of all runs is ready, at the end of the sweep."""


class SweepNotices(NoticeWatch, SweepView):
    """Prints notices and errors only."""

    def say(self, label: str, text: str) -> None:
        if label == "note":
            super().say(label, text)


class SweepLines(JsonWatch, SweepView):
    """Prints the JSON lines of all runs, and errors."""

    def skip(self, job: Job) -> None:
        self.end(job, str(job.status), repeated=True)

    def fail(self, job: Job, why: str, how: str = "failed") -> None:
        super().fail(job, why, how)
        print(f"fedray: {why}", file=sys.stderr)


def view_of(said: Verbosity, jobs: Sequence[Job], left: Sequence[Job], labels: Mapping[str, str]) -> SweepView:
    """The watcher of a sweep for this verbosity; `left` are those of its runs that are to be played."""
    if said.json:
        return SweepLines()
    if said.shows_progress:
        return SweepWatch(jobs, left, labels)
    return SweepNotices() if said.shows_notices else SweepView()


class SweepWatch(ConsoleWatch, SweepView):
    """Prints a sweep: the set-up of the first run, then a line for each run when it ends."""

    def __init__(
        self, jobs: Sequence[Job], left: Sequence[Job], labels: Mapping[str, str], console: Console | None = None
    ) -> None:
        """`left` are those of the jobs that are to be played; `labels` name all of them, by run."""
        super().__init__(console)
        self.labels, self.lock = labels, threading.RLock()
        self.shown = ""  # the run whose set-up was shown
        self.ended, self.total = len(jobs) - len(left), len(jobs)
        self.running: dict[str, tuple[Job, Mapping[str, Any]]] = {}
        self.best: tuple[float, str] | None = None
        self.round_work = {job.run: work(dict(flatten(job.experiment.settings()))) for job in left}
        self.left = {job.run: job.experiment.rounds for job in left}  # rounds left of each run
        self.played = 0.0  # work of the rounds played since the start
        self.began_at = time.monotonic()
        self.live: Live | None = None  # its own lock is taken only while self.lock is held
        self.drawn_at = 0.0

    def say(self, label: str, text: str) -> None:
        with self.lock:
            super().say(label, text)

    def prepare(self, job: Job) -> None:
        with self.lock:
            if not self.shown:
                self.shown = job.run
                self.say_setting(job)

    def begin(self, job: Job, where: str) -> None:
        with self.lock:
            if self.shown == job.run:
                self.say_model(job)
                self.say("actors", where)
                self.began_at = time.monotonic()
            self.running[job.run] = job, {}
            if self.console.is_terminal and not self.live:
                self.live = Live(get_renderable=self.render, console=self.console, transient=True, auto_refresh=False)
                self.live.start()

    def round(self, job: Job, row: Mapping[str, Any]) -> None:
        with self.lock:
            self.running[job.run] = job, row
            self.left[job.run] = job.experiment.rounds - row["round"]
            self.played += self.round_work[job.run]
            if self.live and time.monotonic() > self.drawn_at + DRAWN_SECONDS:
                self.live.refresh()
                self.drawn_at = time.monotonic()

    def notice(self, text: str) -> None:
        self.say("note", text)

    def end(self, job: Job, status: str, repeated: bool) -> None:
        with self.lock:
            self.running.pop(job.run, None)
            if status == "interrupted":
                return
            self.count(job)
            text = f"{status}: {self.sum_up(job)}"
            self.console.print(f"{self.place()}{self.labels[job.run]}  {text}  {self.outlook()}", markup=False)

    def fail(self, job: Job, why: str, how: str = "failed") -> None:
        with self.lock:
            self.running.pop(job.run, None)
            self.count(job)
            said = f"{how}: {gist(why)}" if how == "failed" and gist(why) else how
            self.console.print(f"{self.place()}{self.labels[job.run]}  {said}  {self.outlook()}", markup=False)
            super().fail(job, why, how)

    def complain(self, text: str) -> None:
        with self.lock:
            super().complain(text)

    def halve(self, rung: int, kept: int, stopped: Sequence[Job]) -> None:
        with self.lock:
            for job in stopped:
                self.count(job)
            self.say("halving", f"after round {rung} the better {kept} of the configurations go on")

    def count(self, job: Job) -> None:
        """Count a run as ended: no more of it is played."""
        if self.left.pop(job.run, None) is not None:
            self.ended += 1

    def sum_up(self, job: Job) -> str:
        """The result of an ended run in words; the best of all is kept for the live view."""
        output = job.experiment.output
        ended = results.load(output.name, output.root, job.run, tables=()).runs.iloc[0]
        if ended["status"] == "diverged":
            return str(ended["error"])
        said = []
        if not math.isnan(ended["final_test_accuracy"]):
            said.append(f"accuracy {ended['final_test_accuracy']:.4f}, best {ended['best_test_accuracy']:.4f}")
        if not math.isnan(ended["final_client_accuracy"]):
            said.append(f"clients {ended['final_client_accuracy']:.4f}")
        judge = recorded_judge(ended["judged_by"], job.experiment)
        reached = ended[f"final_{judge}"]
        if not judge.endswith("_accuracy") and not math.isnan(reached):
            said.insert(0, f"{judge.replace('_', ' ')} {reached:.4g}")
        if not math.isnan(reached) and (not self.best or sign(judge) * (reached - self.best[0]) > 0):
            self.best = reached, self.labels[job.run]
        return ", ".join([*said, f"{ended['rounds_done']} rounds in {ended['seconds']:.1f} s"])

    def place(self) -> str:
        return f"[{self.ended:>{len(str(self.total))}}/{self.total}] "

    def outlook(self) -> str:
        """The time left, in proportion to the work of the rounds left."""
        left = sum(rounds * self.round_work[run] for run, rounds in self.left.items())
        if not self.played or not left:
            return ""
        return f"ETA {clock((time.monotonic() - self.began_at) * left / self.played)}"

    def render(self) -> Group:
        with self.lock:
            counts = f"{self.ended} done, {len(self.running)} running, {len(self.left) - len(self.running)} left"
            best = f"   best {self.best[0]:.4f} ({self.best[1]})" if self.best else ""
            rows = Table.grid(padding=(0, 2))
            for job, row in self.running.values():
                t, rounds = row.get("round", 0), job.experiment.rounds
                reached = row.get(job.judged)
                measure = job.judged.partition("_")[2]
                said = "" if reached is None else f"{measure.replace('_', ' ')} {reached:.4f}"
                bar = ProgressBar(total=rounds, completed=t, width=24)
                rows.add_row(self.labels[job.run], f"round {t}/{rounds}", bar, said)
            return Group(rows, Text(f"{self.total} runs: {counts}{best}   {self.outlook()}"))

    def close(self) -> None:
        with self.lock:
            if self.live:
                self.live.stop()
                self.live = None

    def show(self, table: Table) -> None:
        if not self.console.is_terminal:
            self.console.width = WIDE
        self.console.print(table)
