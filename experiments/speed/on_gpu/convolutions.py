"""One convolution of many clients at once, in each form of the fused engine (fedray/training/fused/convolutions.py)."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from on_gpu.bench import Bench, Figures, float32_as, in_one_line

from fedray.training.fused.convolutions import FORMS_VERSION, Convolution, Grouped, Products, Split, form_of
from fedray.training.fused.layout import CHANNELS_LAST, CONTIGUOUS, new

PATIENCE = 55.0  # seconds, after which no other layer is begun
REPEATS = 5


@dataclass(frozen=True)
class Conv:
    """A convolution of a client: channels in and out, side of the images, padding, images of a batch."""

    name: str
    inputs: int
    outputs: int
    side: int
    padding: int
    batch: int
    is_first: bool = False
    kernel: int = 3
    stride: int = 1


CONVS = (
    Conv("cnn 3-32", 3, 32, 32, 0, 10, is_first=True),
    Conv("cnn 32-64", 32, 64, 30, 0, 10),
    Conv("resnet18 64-64", 64, 64, 32, 1, 20),
    Conv("resnet18 128-128", 128, 128, 16, 1, 20),
    Conv("resnet18 256-256", 256, 256, 8, 1, 20),
    Conv("resnet18 512-512", 512, 512, 4, 1, 20),
    Conv("stem 3-64", 3, 64, 32, 1, 20, is_first=True),
    Conv("stride 2, 64-128", 64, 128, 32, 1, 20, stride=2),
    Conv("1 x 1, stride 2, 64-128", 64, 128, 32, 0, 20, kernel=1, stride=2),
    Conv("5 x 5, 6-16", 6, 16, 14, 0, 10, kernel=5),
    Conv("5 x 5, 32-64", 32, 64, 14, 2, 10, kernel=5),
    Conv("resnet20 16-16", 16, 16, 32, 1, 20),
    Conv("side 2, 512-512", 512, 512, 2, 1, 20),
    Conv("side 1, 512-512", 512, 512, 1, 1, 20),
    Conv("7 x 7, stride 2, 3-64", 3, 64, 64, 3, 20, is_first=True, kernel=7, stride=2),
)
FORMS = {
    "float32": ("contiguous", "grouped", "products"),
    "tf32": ("contiguous", "grouped", "products"),
    "bfloat16": ("contiguous", "grouped"),
    "float32_3xtf32": ("split",),
}
"""The forms that are timed in each precision. grouped and split are in channels_last."""


def measure_convolutions(bench: Bench) -> None:
    """Say a line for each layer, number of clients and precision, until the time is up."""
    torch.backends.cudnn.deterministic = True
    began = time.monotonic()
    for count in (2,) if bench.small else (10, 50, 5):
        for conv in CONVS:
            if bench.small:
                inputs, outputs = min(conv.inputs, 32), min(conv.outputs, 32)
                conv = replace(conv, batch=2, side=min(conv.side, 8), inputs=inputs, outputs=outputs)
            for precision, forms in FORMS.items():
                what = f"{conv.name} x {count} {precision}"
                if time.monotonic() - began > PATIENCE and not bench.small:
                    bench.tell(what, "not measured: the time was up")
                    continue
                found: Figures = {}
                for form in forms:
                    try:
                        with float32_as(precision):  # a split convolution turns TF32 on by itself
                            found[form] = clock_convolution(bench, form, conv, count, precision)
                    except Exception as error:
                        found[form] = f"failed: {in_one_line(error)}"
                    if bench.is_cuda:
                        torch.cuda.empty_cache()
                each = (f"{f} {s * 1e6:.1f} us" if isinstance(s, float) else f"{f} {s}" for f, s in found.items())
                chosen = form_of(precision, conv.inputs)
                bench.tell(what, f"{', '.join(each)}; table: {chosen}", table=chosen, version=FORMS_VERSION, **found)


def clock_convolution(bench: Bench, form: str, conv: Conv, count: int, precision: str) -> float:
    """The seconds that one forward and backward takes for so many clients, as part of a CUDA graph."""
    both = convolution(form, conv, count, bench.device, precision)
    both()
    if (once := bench.clock(both)) > 0.05:
        return once
    times = 10 if once < 1e-3 else 1  # so that the launch of the graph hardly counts

    def often() -> None:
        for _ in range(times):
            both()

    replay = bench.captured(often)
    replay()
    return statistics.median(bench.clock(replay) for _ in range(REPEATS)) / times


def convolution(
    form: Any, conv: Conv, count: int, device: str, precision: str
) -> Callable[[], tuple[torch.Tensor, ...]]:
    """Forward and backward for `count` clients, whose images lie as this form would have them.

    It gives the gradients, of weights and, before them, of images; the gradient of the output is all ones. Weights are
    float32, and images are of the precision.
    """
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    order = CONTIGUOUS if form == "contiguous" else CHANNELS_LAST
    drawn = torch.randn(conv.batch, count, conv.inputs, conv.side, conv.side, device=device)
    x = new(drawn, drawn.shape, order, dtype).copy_(drawn)
    w = torch.randn(count, conv.outputs, conv.inputs, conv.kernel, conv.kernel, device=device)
    x.requires_grad_(not conv.is_first)
    w.requires_grad_()
    stride, padding = (conv.stride, conv.stride), (conv.padding, conv.padding)
    how = Convolution(form, order, dtype, stride, padding, (1, 1))
    compute = {"products": Products, "split": Split}.get(form, Grouped)

    def forward() -> torch.Tensor:
        return compute.apply(x, w, None, how)

    with torch.no_grad():
        slope = torch.ones_like(forward())
    wanted = [w] if conv.is_first else [x, w]
    return lambda: torch.autograd.grad(forward(), wanted, slope)
