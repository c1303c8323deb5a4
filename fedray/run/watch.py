"""The observers of a run: each method is called when something happens; the base class ignores it all."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedray.run.prepared import Job

log = logging.getLogger(__name__)


class Watch:
    """An observer that ignores everything. Subclasses override the methods they need."""

    def prepare(self, job: Job) -> None:
        """The run's data and shards passed their checks. Its actors start next."""

    def begin(self, job: Job, where: str) -> None:
        """The run plays its rounds next. `where` is a sentence on the processes that train."""

    def round(self, job: Job, row: Mapping[str, Any]) -> None:
        """A round was recorded. `row` is its row of the rounds table."""

    def took(self, job: Job, rows: Sequence[Mapping[str, Any]]) -> None:
        """The run took over the first rounds of a shorter one. `rows` are their rows of the rounds table."""

    def from_round_1(self, job: Job, why: str) -> None:
        """There is a shorter run, and this one cannot go on from it."""
        self.notice(f"{why}, so that run {job.run} starts from round 1")

    def notice(self, text: str) -> None:
        """Something happened that the user should read."""

    def edited(self, job: Job, what: str, earlier: str) -> None:
        """The run is another one than `earlier`, because the code at the addresses `what` was edited since."""
        were = "were" if " and " in what else "was"
        self.notice(f"{what} {were} edited since run {earlier}, so that run {job.run} is another one")

    def detail(self, text: str) -> None:
        """Something happened that helps to find a fault, and is of no other interest."""

    def end(self, job: Job, status: str, repeated: bool) -> None:
        """The run has its final status. `repeated`: it had it before this process began."""

    def close(self) -> None:
        """No more calls follow. The run need not have ended."""


class LoggedWatch(Watch):
    """Logs notices as warnings, which Python shows where nobody set up logging. `run` has it where it is given none."""

    def notice(self, text: str) -> None:
        log.warning(text)

    def end(self, job: Job, status: str, repeated: bool) -> None:
        if repeated:
            log.warning("run %s was %s before and is not repeated", job.run, status)


class Watches(Watch):
    """Several observers, called in order."""

    def __init__(self, watches: Sequence[Watch]):
        self.watches = watches

    def prepare(self, job: Job) -> None:
        for watch in self.watches:
            watch.prepare(job)

    def begin(self, job: Job, where: str) -> None:
        for watch in self.watches:
            watch.begin(job, where)

    def round(self, job: Job, row: Mapping[str, Any]) -> None:
        for watch in self.watches:
            watch.round(job, row)

    def took(self, job: Job, rows: Sequence[Mapping[str, Any]]) -> None:
        for watch in self.watches:
            watch.took(job, rows)

    def from_round_1(self, job: Job, why: str) -> None:
        for watch in self.watches:
            watch.from_round_1(job, why)

    def notice(self, text: str) -> None:
        for watch in self.watches:
            watch.notice(text)

    def edited(self, job: Job, what: str, earlier: str) -> None:
        for watch in self.watches:
            watch.edited(job, what, earlier)

    def detail(self, text: str) -> None:
        for watch in self.watches:
            watch.detail(text)

    def end(self, job: Job, status: str, repeated: bool) -> None:
        for watch in self.watches:
            watch.end(job, status, repeated)

    def close(self) -> None:
        for watch in self.watches:
            watch.close()
