"""One convolution of many clients at once, in each form of the fused engine (fedray/training/fused/convolutions.py)."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from on_gpu.bench import Bench, Figures, float32_as, in_one_line

from fedray.training.fused.convolutions import Convolution, Many, Split, forms_of
from fedray.training.fused.layout import CHANNELS_LAST, CONTIGUOUS, new
from fedray.training.fused.version import FORMS_VERSION

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
                            found |= clock_convolution(bench, form, conv, count, precision)
                    except Exception as error:
                        found[form] = f"failed: {in_one_line(error)}"
                    if bench.is_cuda:
                        torch.cuda.empty_cache()
                each = (f"{f} {s * 1e6:.1f} us" if isinstance(s, float) else f"{f} {s}" for f, s in found.items())
                chosen = forms_of(precision, conv.inputs, (conv.stride, conv.stride))
                text = f"{', '.join(each)}; table: {', '.join(chosen)}"
                bench.tell(what, text, table=chosen, version=FORMS_VERSION, **found)


def clock_convolution(bench: Bench, form: Any, conv: Conv, count: int, precision: str) -> dict[str, float]:
    """The seconds that each direction takes for so many clients, as part of a CUDA graph."""
    return {
        f"{form} {direction}": clock_captured(bench, call)
        for direction, call in directions(form, conv, count, bench.device, precision).items()
    }


def clock_captured(bench: Bench, call: Callable[[], object]) -> float:
    call()
    if (once := bench.clock(call)) > 0.05:
        return once
    times = 10 if once < 1e-3 else 1  # so that the launch of the graph hardly counts

    def often() -> None:
        for _ in range(times):
            call()

    replay = bench.captured(often)
    replay()
    return statistics.median(bench.clock(replay) for _ in range(REPEATS)) / times


class Context(SimpleNamespace):
    """What autograd hands a function, without autograd."""

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors


def directions(form: Any, conv: Conv, count: int, device: str, precision: str) -> dict[str, Callable[[], torch.Tensor]]:
    """The output, the gradient of the images and that of the kernels, for `count` clients.

    Images lie as this form would have them. A first layer's have no gradient. That of the output is all ones. Kernels
    are float32, and images are of the precision.
    """
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    order = CONTIGUOUS if form == "contiguous" else CHANNELS_LAST
    drawn = torch.randn(conv.batch, count, conv.inputs, conv.side, conv.side, device=device)
    x = new(drawn, drawn.shape, order, dtype).copy_(drawn)
    w = torch.randn(count, conv.outputs, conv.inputs, conv.kernel, conv.kernel, device=device)
    stride, padding = (conv.stride, conv.stride), (conv.padding, conv.padding)
    how = Convolution((form, form, form), order, dtype, stride, padding, (1, 1))
    compute = Split if form == "split" else Many
    context = Context(needs_input_grad=(False, False, False))
    slope = torch.ones_like(compute.forward(context, x, w, None, how))

    def gradient(which: int) -> Callable[[], torch.Tensor]:
        mine = Context(**{**vars(context), "needs_input_grad": tuple(i == which for i in range(3))})
        return lambda: compute.backward(mine, slope)[which]

    made = {"output": lambda: compute.forward(Context(needs_input_grad=()), x, w, None, how)}
    return made | ({} if conv.is_first else {"images": gradient(0)}) | {"kernels": gradient(1)}
