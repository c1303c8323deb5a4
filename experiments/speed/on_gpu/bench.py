"""What every part of gpu.py has: its lines and their figures, clocks, CUDA graphs, precisions."""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedray.core.errors import BadInputError

PRECISIONS = ("float32", "tf32", "bfloat16")
WARM_UP = 2  # rounds that do not count
AT_LEAST = 3  # rounds that do
PATIENCE = 8.0  # seconds after which no further round is begun

Figures = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """A part of this program at work: on which device, at what size, and the file where the figures are."""

    part: str
    device: str
    small: bool
    file: Path

    def tell(self, what: str, text: str, **figures: Any) -> None:
        """Say a line, and keep its figures."""
        print(f"{self.part:<14}{what}: {text}", flush=True)
        with self.file.open("a") as file:
            file.write(json.dumps({"part": self.part, "what": what, "text": text, **figures}) + "\n")

    def told(self, part: str, what: str) -> Figures:
        """The figures of a line that a part before this one said; empty where it did not."""
        lines = map(json.loads, self.file.read_text().splitlines())
        return next((line for line in lines if (line["part"], line["what"]) == (part, what)), {})

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Whatever goes wrong is said in the line's place, and the next one is tried."""
        try:
            yield
        except BadInputError as error:
            self.tell(what, f"refused: {error}")
        except Exception as error:
            self.tell(what, f"failed: {in_one_line(error)}")

    @property
    def is_cuda(self) -> bool:
        return self.device == "cuda"

    def wait(self) -> None:
        """Until the GPU has done all that it was given."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def clock(self, call: Callable[[], object]) -> float:
        """The seconds that a call takes, of a GPU's own time."""
        if not self.is_cuda:
            began = time.perf_counter()
            call()
            return time.perf_counter() - began
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        call()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1000

    def clock_often(self, call: Callable[[], object]) -> list[float]:
        """As `clock`, again and again for a fifth of a second, but not the first times."""
        call()
        call()
        once = self.clock(call)
        return [self.clock(call) for _ in range(max(3, min(30, int(0.2 / max(once, 1e-6)))))]

    def captured(self, call: Callable[[], object]) -> Callable[[], object]:
        """The call as a CUDA graph; on a CPU the call itself.

        It is warmed up and captured on one stream, since autograd remembers the stream on which it first saw a tensor.
        """
        if not self.is_cuda:
            return call
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            call()
        return graph.replay

    def rounds(self, play: Callable[[int], object], most: int) -> list[float]:
        """The seconds of each round t that counts."""
        seconds, began = [], time.perf_counter()
        for t in range(1, WARM_UP + most + 1):
            self.wait()
            start = time.perf_counter()
            play(t)
            self.wait()
            seconds.append(time.perf_counter() - start)
            if len(seconds) >= WARM_UP + AT_LEAST and time.perf_counter() - began > PATIENCE:
                break
        return seconds[WARM_UP:]


def in_one_line(error: BaseException) -> str:
    """What went wrong; of a ClientError, what the client's code raised."""
    error = error.__cause__ or error
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


@contextmanager
def float32_as(precision: str) -> Iterator[None]:
    """Have products and convolutions of float32 computed in TF32 where that is the precision, else as IEEE says."""
    settings = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [each.fp32_precision for each in settings]
    for each in settings:
        each.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        for each, value in zip(settings, before, strict=True):
            each.fp32_precision = value


def per_round(seconds: Sequence[float]) -> str:
    middle, least, most = statistics.median(seconds), min(seconds), max(seconds)
    return f"{middle:.5f} s a round (median of {len(seconds)}, {least:.5f} to {most:.5f})"
