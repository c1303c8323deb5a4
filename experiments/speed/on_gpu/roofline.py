"""What a round of the fused engine takes at least, by the machine's measured peaks, and what it took."""

import copy
import statistics
from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from on_gpu.bench import PRECISIONS, Bench
from on_gpu.workloads import TO_REACH, settings_of
from torch import nn

from fedray.models.activations import measure_activations
from fedray.models.build import build
from fedray.models.flat import FlatModel
from fedray.models.model import Shape
from fedray.run.prepared import Job


def measure_roofline(bench: Bench) -> None:
    bandwidth = bench.told("machine", "memory").get("bytes_per_second")
    for workload in TO_REACH:
        with bench.attempt(workload):
            recipe = Job(settings_of(workload, bench.small), writes=False).recipe
            module = build(recipe.model, recipe.shape, recipe.classes, 0)
            for precision in PRECISIONS:
                found = bench.told(f"{workload}-fused", precision)
                peak = bench.told("machine", precision).get("flops_per_second")
                if found.get("seconds") and peak and bandwidth:
                    images, steps = found["num_examples"], found["steps"]
                    flops = images * count_flops(module, recipe.shape)
                    moved = least_bytes(module, recipe.shape, images, steps, halved=precision == "bfloat16")
                    tell_bound(bench, f"{workload} {precision}", flops, moved, peak, bandwidth, found["seconds"])
                else:
                    missing = "the fused rounds, the peak or the bandwidth are missing"
                    bench.tell(f"{workload} {precision}", f"not known: {missing}")


def tell_bound(
    bench: Bench, what: str, flops: float, moved: float, peak: float, bandwidth: float, seconds: Sequence[float]
) -> None:
    """Say what a round's operations and bytes take at these rates, and what share of the larger its time reaches."""
    bounds, taken = {"arithmetic": flops / peak, "bytes": moved / bandwidth}, statistics.median(seconds)
    larger = max(bounds, key=lambda name: bounds[name])
    bench.tell(
        what,
        f"{flops / 1e9:.4g} GFLOP a round take {bounds['arithmetic']:.5f} s at {peak / 1e12:.4g} TFLOP/s, "
        f"{moved / 1e9:.4g} GB {bounds['bytes']:.5f} s at {bandwidth / 1e9:.4g} GB/s; the round took {taken:.5f} s, "
        f"{bounds[larger] / taken:.1%} of the bound by {larger}",
        flops=flops,
        bytes=moved,
        seconds_by_arithmetic=bounds["arithmetic"],
        seconds_by_bytes=bounds["bytes"],
        seconds=taken,
        share=bounds[larger] / taken,
    )


def least_bytes(module: nn.Module, shape: Shape, images: float, steps: float, halved: bool) -> float:
    """What a round must move at least, as the header of gpu.py says; activations may be `halved` by bfloat16."""
    kept, *_ = measure_activations(FlatModel(module), shape)
    params = sum(p.numel() for p in module.parameters())
    return images * (prod(shape) + kept * (1 if halved else 2)) + steps * 4 * 4 * params


def count_flops(module: nn.Module, shape: Shape) -> float:
    """The floating-point operations of a training step for each image of its batch, on no device at all."""
    from torch.utils.flop_counter import FlopCounterMode

    module, images = copy.deepcopy(module).to("meta"), 10
    with FlopCounterMode(display=False) as counter:
        output = module(torch.zeros(images, *shape, device="meta"))
        loss = F.cross_entropy(output, torch.zeros(images, dtype=torch.int64, device="meta"))
        torch.autograd.grad(loss, list(module.parameters()))
    return counter.get_total_flops() / images
