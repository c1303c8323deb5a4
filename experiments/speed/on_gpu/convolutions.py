"""One convolution of many clients at once, in each form that a batched engine can give it."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from on_gpu.bench import PRECISIONS, Bench, Figures, float32_as, in_one_line


@dataclass(frozen=True)
class Conv:
    """A 3 x 3 convolution of a client: channels in and out, side of the images, padding, images of a batch."""

    name: str
    inputs: int
    outputs: int
    side: int
    padding: int
    batch: int
    is_first: bool = False


CONVS = (
    Conv("cnn 3-32", 3, 32, 32, 0, 10, is_first=True),
    Conv("cnn 32-64", 32, 64, 30, 0, 10),
    Conv("resnet18 64-64", 64, 64, 32, 1, 20),
    Conv("resnet18 128-128", 128, 128, 16, 1, 20),
    Conv("resnet18 512-512", 512, 512, 4, 1, 20),
)
FORMS = ("grouped", "channels_last", "unfold", "vmap")


def measure_convolutions(bench: Bench) -> None:
    torch.backends.cudnn.deterministic = True
    for conv in CONVS:
        conv = replace(conv, batch=2, side=4) if bench.small else conv
        for count in (2,) if bench.small else (10, 50):
            for precision in PRECISIONS:
                found: Figures = {}
                for form in FORMS:
                    try:
                        with float32_as(precision):
                            found[form] = clock_convolution(bench, form, conv, count, precision)
                    except Exception as error:
                        found[form] = f"failed: {in_one_line(error)}"
                    if bench.is_cuda:
                        torch.cuda.empty_cache()
                each = (f"{f} {s * 1e6:.1f} us" if isinstance(s, float) else f"{f} {s}" for f, s in found.items())
                bench.tell(f"{conv.name} x {count} {precision}", ", ".join(each), **found)


def clock_convolution(bench: Bench, form: str, conv: Conv, count: int, precision: str) -> float:
    """The seconds that one forward and backward takes for so many clients."""
    both = convolution(form, conv, count, bench.device, torch.bfloat16 if precision == "bfloat16" else torch.float32)
    both()
    if (once := bench.clock(both)) > 0.1:
        return once
    times = 10 if once < 1e-3 else 1  # so that the launch of the graph hardly counts

    def often() -> None:
        for _ in range(times):
            both()

    return statistics.median(bench.clock_often(bench.captured(often))) / times


def convolution(form: str, conv: Conv, count: int, device: str, dtype: torch.dtype) -> Callable[[], object]:
    """Forward and backward for `count` clients, whose images and weights lie as this form would have them.

    It gives the gradients, of weights and, before them, of images; the gradient of the output is all ones.
    """
    x = torch.randn(count, conv.batch, conv.inputs, conv.side, conv.side, device=device, dtype=dtype)
    w = torch.randn(count, conv.outputs, conv.inputs, 3, 3, device=device, dtype=dtype)
    if form in ("grouped", "channels_last"):  # [batch, clients * channels, h, w]
        order = torch.channels_last if form == "channels_last" else torch.contiguous_format
        x = x.transpose(0, 1).flatten(1, 2).contiguous(memory_format=order)
        w = w.flatten(0, 1).contiguous(memory_format=order)
    elif form == "unfold":
        w = w.flatten(2)
    x.requires_grad_(not conv.is_first)
    w.requires_grad_()

    def forward() -> torch.Tensor:
        if form == "vmap":
            return torch.func.vmap(partial(F.conv2d, padding=conv.padding))(x, w)
        if form != "unfold":
            return F.conv2d(x, w, padding=conv.padding, groups=count)
        # Every image's channels as those of one: F.unfold launches a kernel for each image.
        columns = F.unfold(x.flatten(0, 2)[None], 3, padding=conv.padding)  # [1, clients * batch * in * 9, places]
        columns = columns.view(count, conv.batch, conv.inputs * 9, -1).transpose(1, 2).flatten(2)
        return torch.bmm(w, columns)  # [clients, out, batch * places]

    with torch.no_grad():
        slope = torch.ones_like(forward())
    wanted = [w] if conv.is_first else [x, w]
    return lambda: torch.autograd.grad(forward(), wanted, slope)
