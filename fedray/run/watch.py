"""Who wants to see a run as it goes: on the terminal, as lines for a script, in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedray.run.prepared import Job


class Watch:
    """This one looks away."""

    def prepare(self, job: Job) -> None:
        """The run's data and shards were found to be good, and its actors are about to start."""

    def begin(self, job: Job, where: str) -> None:
        """The run is about to play its rounds; `where` says on what."""

    def round(self, job: Job, row: Mapping[str, Any]) -> None:
        """A round was recorded as this row of the rounds table."""

    def notice(self, text: str) -> None:
        """Something worth a line happened."""

    def detail(self, text: str) -> None:
        """Something that only helps to find a fault."""

    def end(self, job: Job, status: str, repeated: bool) -> None:
        """The run came to its final status now, or had come to it before."""

    def close(self) -> None:
        """Nothing more will come, whether or not a run came to its end."""


class Watches(Watch):
    """Several that see the same, in order."""

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

    def notice(self, text: str) -> None:
        for watch in self.watches:
            watch.notice(text)

    def detail(self, text: str) -> None:
        for watch in self.watches:
            watch.detail(text)

    def end(self, job: Job, status: str, repeated: bool) -> None:
        for watch in self.watches:
            watch.end(job, status, repeated)

    def close(self) -> None:
        for watch in self.watches:
            watch.close()
