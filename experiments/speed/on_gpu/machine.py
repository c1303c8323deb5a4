"""What the GPU reaches: arithmetic, bandwidth, launches."""

import os
import platform
import statistics
from functools import partial

import torch
from on_gpu.bench import PRECISIONS, Bench, float32_as


def measure_machine(bench: Bench) -> None:
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    if bench.is_cuda:
        found = torch.cuda.get_device_properties(0)
        text = f"{found.name}, {found.total_memory / 2**30:.0f} GiB, {found.multi_processor_count} multiprocessors"
        versions += f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        bench.tell("gpu", f"{text}, {os.cpu_count()} CPU cores, {versions}", name=found.name, memory=found.total_memory)
    else:
        bench.tell("gpu", f"none, this is a dry run; {os.cpu_count()} CPU cores, {versions}")
    count, side = (2, 64) if bench.small else (2, 8192)
    for precision in PRECISIONS:
        with bench.attempt(precision), float32_as(precision):
            dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
            one, other = (torch.randn(count, side, side, device=bench.device, dtype=dtype) for _ in range(2))
            out = torch.empty_like(one)
            seconds = min(bench.clock_often(partial(torch.bmm, one, other, out=out)))
            peak = 2 * count * side**3 / seconds
            bench.tell(precision, f"{peak / 1e12:.4g} TFLOP/s in products of {side} x {side}", flops_per_second=peak)
    with bench.attempt("memory"):
        source = torch.zeros(2**20 if bench.small else 2**30, dtype=torch.uint8, device=bench.device)
        target = torch.empty_like(source)
        rate = 2 * source.nbytes / min(bench.clock_often(partial(target.copy_, source)))
        bench.tell("memory", f"{rate / 1e9:.4g} GB/s, read and written", bytes_per_second=rate)
    with bench.attempt("launch"):
        times, tiny = 1000, torch.zeros(1, device=bench.device)

        def launch() -> None:
            for _ in range(times):
                tiny.add_(1)

        replay = bench.captured(launch)
        eager, graph = (statistics.median(bench.clock_often(each)) / times for each in (launch, replay))
        text = f"{eager * 1e6:.2f} us for an operation on one element, {graph * 1e6:.2f} us in a CUDA graph of {times}"
        bench.tell("launch", text, seconds=eager, seconds_in_graph=graph)
