"""fedray's own rounds, in this process, and how they compare with those of eager.py."""

import shutil
import statistics
import time
from collections.abc import Sequence
from typing import Any

from on_gpu.bench import AT_LEAST, PATIENCE, WARM_UP, Bench, Figures, per_round
from on_gpu.workloads import TO_REACH, most_rounds, settings_of

from fedray.core.interrupt import Interrupt
from fedray.results import Results
from fedray.run import run
from fedray.run.prepared import Job
from fedray.run.watch import Watch


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
