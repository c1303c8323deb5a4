"""fedray's own rounds, in this process, and how they compare with those of eager.py."""

import shutil
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from on_gpu.bench import AT_LEAST, PATIENCE, WARM_UP, Bench, Figures, per_round
from on_gpu.workloads import TO_REACH, most_rounds, settings_of

from fedray.core.interrupt import Interrupt
from fedray.results import Results
from fedray.run import run
from fedray.run.prepared import Job
from fedray.run.watch import Watch
from fedray.training import outgoing


class Until(Watch):
    """Has a run end after so many rounds, or once it took long enough."""

    def __init__(self, interrupt: Interrupt, most: int):
        self.interrupt, self.most, self.began = interrupt, most, 0.0

    def begin(self, job: Job, where: str) -> None:
        self.began = time.perf_counter()

    def round(self, job: Job, row: Figures) -> None:
        t, patient = row["round"], time.perf_counter() - self.began < PATIENCE
        self.interrupt.asked = t >= WARM_UP + self.most or (t >= WARM_UP + AT_LEAST and not patient)


def measure_fedray(bench: Bench, workload: str, engine: str, precisions: Sequence[str]) -> None:
    for precision in precisions:
        with bench.attempt(precision):
            tables = play(bench, workload, {"engine": engine, "blocks": 1, "model.precision": precision})
            rounds, device = tables.rounds.iloc[WARM_UP:], tables.runs["device"][0]
            if bench.is_cuda and device == "cpu":
                raise RuntimeError("it ran on the CPU")
            if len(rounds) < AT_LEAST:
                raise RuntimeError(f"it was {tables.runs['status'][0]} after {len(tables.rounds)} rounds")
            work = tables.clients.groupby("round")[["steps", "num_examples"]].sum().iloc[WARM_UP:]
            figures: Figures = {"seconds": rounds["seconds"].tolist(), **work.median().to_dict()}
            text = per_round(figures["seconds"])
            for other, wanted in TO_REACH[workload].items() if engine == "fused" else ():
                if theirs := bench.told(f"{workload}-{other}", precision).get("seconds"):
                    figures[f"times_{other}"] = times = how_often(figures["seconds"], theirs)
                    text += f", {times:.2f} times the rounds of {other} ({wanted})"
            if engine == "fused":
                figures["padding"] = padding = share_of_padding(rounds)
                text += f", {padding:.1%} of the images that it computed were padding"
            bench.tell(precision, text, **figures)


def play(bench: Bench, workload: str, others: Figures) -> Results:
    """The tables of a run in this process, which is ended once there are rounds enough."""
    settings, interrupt = settings_of(workload, bench.small, **others), Interrupt()
    try:
        return run(settings, Until(interrupt, most_rounds(bench)), interrupt=interrupt)
    finally:
        shutil.rmtree(settings.output.root)


def share_of_padding(rounds: Any) -> float:
    """What share of the images that were computed in these rounds was padding, from rows of the rounds table."""
    images, padding = (float(rounds[name].sum()) for name in ("images", "padding"))
    return padding / (images + padding)


def how_often(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many rounds we play in the time of one of theirs, of the rounds that both have played."""
    count = min(len(ours), len(theirs))
    return statistics.median(theirs[:count]) / statistics.median(ours[:count])


def measure_waits(bench: Bench) -> None:
    """How often the host waits for the GPU in a round after the first two, as torch sees it.

    torch.cuda.set_sync_debug_mode counts what waits without being asked to. The copies that are asked to wait are
    counted at their one place, fedray.training.transfer.
    """
    for engine in ("fused", "plain"):
        with bench.attempt(engine):
            counts: list[tuple[int, int]] = []
            with counted_waits(bench, counts) as watch:
                settings = settings_of("cnn", bench.small, engine=engine, blocks=1)
                try:
                    run(settings, watch, interrupt=watch.interrupt)
                finally:
                    shutil.rmtree(settings.output.root)
            unasked, asked = (max(each) for each in zip(*counts[WARM_UP:], strict=True))
            text = f"at most {unasked} waits that nobody asked for and {asked} for results in a round"
            bench.tell(engine, text, unasked=unasked, asked=asked)


class Waits(Until):
    """Notes after each round how often the host has waited in it."""

    def __init__(self, counts: list[tuple[int, int]]):
        super().__init__(Interrupt(), AT_LEAST)
        self.counts, self.asked, self.warned = counts, 0, list[Any]()

    def round(self, job: Job, row: Figures) -> None:
        super().round(job, row)
        self.counts.append((len(self.warned), self.asked))
        self.warned.clear()
        self.asked = 0


@contextmanager
def counted_waits(bench: Bench, counts: list[tuple[int, int]]) -> Iterator[Waits]:
    watch, real = Waits(counts), outgoing.to_host

    def to_host(tensors: Any) -> Any:
        watch.asked += 1
        return quietly(bench, real, tensors)

    with warnings.catch_warnings(record=True) as watch.warned:
        warnings.simplefilter("always")
        outgoing.to_host = to_host
        quietly_set(bench, "warn")
        try:
            yield watch
        finally:
            quietly_set(bench, "default")
            outgoing.to_host = real


def quietly(bench: Bench, call: Any, *words: Any) -> Any:
    """Call what is meant to wait."""
    quietly_set(bench, "default")
    try:
        return call(*words)
    finally:
        quietly_set(bench, "warn")


def quietly_set(bench: Bench, mode: str) -> None:
    if bench.is_cuda:
        torch.cuda.set_sync_debug_mode(mode)
