"""TensorBoard and Weights & Biases: each gets a copy of the rounds table, row by row.

Both are extras (extras.py), off by default. A logger that fails gives one notice and no more. The tables do not depend
on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fedray.core.settings import flatten
from fedray.results.output import Output
from fedray.run.prepared import Job
from fedray.run.watch import Watch, Watches


@contextmanager
def logged(job: Job, watch: Watch) -> Iterator[Watch]:
    """`watch` together with the loggers that the settings ask for, for the length of a `with`."""
    loggers = chosen(job.experiment.output, watch.notice)
    try:
        yield Watches([*loggers, watch]) if loggers else watch
    finally:
        for logger in loggers:
            logger.close()


def chosen(output: Output, tell: Callable[[str], None]) -> list[Logger]:
    kinds = {TensorBoard: output.tensorboard, WandB: bool(output.wandb)}
    return [kind(tell) for kind, wanted in kinds.items() if wanted]


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of the rounds table as "group/column", so that loggers show like with like."""
    groups = ("accuracy", "loss", "seconds", "bytes")
    numbers = {name: value for name, value in row.items() if name not in ("round", "finished_at") and value is not None}
    return {f"{next((g for g in groups if g in name), 'round')}/{name}": value for name, value in numbers.items()}


class Logger(Watch):
    """Hands a run's rounds on. `open`, `log` and `shut` may raise anything."""

    name: str

    def __init__(self, tell: Callable[[str], None]):
        self.tell, self.working, self.ended = tell, False, False

    def open(self, job: Job) -> None:
        raise NotImplementedError

    def log(self, t: int, numbers: dict[str, float]) -> None:
        raise NotImplementedError

    def shut(self) -> None:
        """Close the log. `ended` says whether the run came to its end."""
        raise NotImplementedError

    def begin(self, job: Job, where: str) -> None:
        self.working = True
        self.attempt(lambda: self.open(job))

    def round(self, job: Job, row: Mapping[str, Any]) -> None:
        self.attempt(lambda: self.log(row["round"], scalars(row)))

    def took(self, job: Job, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self.round(job, row)

    def end(self, job: Job, status: str, repeated: bool) -> None:
        self.ended = True

    def close(self) -> None:
        self.attempt(self.shut)
        self.working = False

    def attempt(self, act: Callable[[], None]) -> None:
        if not self.working:
            return
        try:
            act()
        except Exception as error:
            self.working = False
            self.tell(f"{self.name} failed, and gets no more of this run: {' '.join(str(error).split())}")


class TensorBoard(Logger):
    """Event files in `results/NAME/tensorboard/RUN/`, by TensorBoard's own writer, which needs no torch.

    A round that is played again, after a kill or a lost node, replaces the one logged before.
    """

    name = "TensorBoard"

    def open(self, job: Job) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.writer = EventFileWriter(str(job.folder / "tensorboard" / job.run))
        self.settings = job.experiment.settings()
        self.last: int | None = None

    def log(self, t: int, numbers: dict[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self.last is None or t != self.last + 1:
            start = SessionLog(status=SessionLog.START)
            self.writer.add_event(Event(wall_time=time.time(), step=t, session_log=start))
        if self.last is None:
            self.writer.add_event(Event(wall_time=time.time(), step=t, summary=Summary(value=[self.text()])))
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self.writer.add_event(Event(wall_time=time.time(), step=t, summary=Summary(value=values)))
        self.writer.flush()
        self.last = t

    def text(self) -> Any:
        """All settings as a table in Markdown."""
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        rows = [f"| {name} | {value} |" for name, value in flatten(self.settings)]
        content = "\n".join(["| setting | value |", "|---|---|", *rows])
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        tensor = TensorProto(dtype=DT_STRING, string_val=[content.encode()])
        return Summary.Value(tag="settings", metadata=plugin, tensor=tensor)

    def shut(self) -> None:
        self.writer.close()


class WandB(Logger):
    """A run of the same id in the project that `output.wandb` names; its own files are in `results/NAME/wandb/`.

    WANDB_MODE decides whether it goes to a server. All other variables of Weights & Biases hold, too.
    """

    name = "Weights & Biases"

    def open(self, job: Job) -> None:
        import wandb

        # Without resume a run of this id there is replaced, as it is here when it starts over.
        goes_on = job.checkpoint.exists() or job.checkpoint_before.exists()
        self.run: Any = wandb.init(
            project=job.experiment.output.wandb,
            id=job.run,
            name=job.run,
            dir=job.folder,
            config=job.experiment.settings(),
            resume="allow" if goes_on else None,
            reinit="create_new",  # a sweep has several at a time
            settings=wandb.Settings(silent=True, console="off"),
        )
        offline = self.run.settings.mode == "offline"
        self.tell(f"{self.name}: {f'{job.folder}/wandb/, for `wandb sync`' if offline else self.run.url or 'disabled'}")

    def log(self, t: int, numbers: dict[str, float]) -> None:
        if t >= self.run.step:  # an earlier one was logged before a kill, with the same bits
            self.run.log(numbers, step=t, commit=True)

    def shut(self) -> None:
        self.run.finish(exit_code=0 if self.ended else 1)
