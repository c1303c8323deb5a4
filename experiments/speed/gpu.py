"""make bench-gpu: a cohort as one program on a GPU, against one client after another and what the GPU could do.

    python experiments/speed/gpu.py [--part NAME ...] [--out FILE]      nine minutes; FILE gets every figure as JSON

It needs one NVIDIA GPU and no network (the data are `synthetic`); without one it says so and stops. Each part is a
process of its own with a time limit and says its lines as it has them, so that one that fails costs its own lines only.
Seconds a round are medians after the first two rounds.

machine       what the GPU reaches: products of large square matrices, the bandwidth of a large copy (the best of
              several), and how long it takes to launch an operation on one element, and to replay one in a CUDA graph.
cnn-*         the workload of rounds.py: 1,000 clients of 50 images, 50 a round, one epoch in batches of 10, lr 0.1.
  eager       one client after another in plain PyTorch, whose settings are left alone but for TF32; images are on the
              GPU, normalised before the clock starts, and nothing is sent, summed or recorded. It is what pfl-research
              does, without its other costs.
  graph       the same with the training step captured in a CUDA graph, which is replayed step by step.
  plain       fedray, engine = plain, in this process: whole rounds as a user's run plays them, but not evaluation.
  fused       fedray, engine = fused, a cohort as one program. To reach: 20 times the rounds of eager; aim: 5 of graph.
  whole       `python -m fedray`, Ray and all, from start to exit: 1,500 rounds, an evaluation every ten, one actor with
              the whole GPU. To reach: 60 s in float32, 45 s in tf32.
resnet-*      resnet18 with GroupNorm and the stem for small images (model.stem = cifar), 500 clients of Dirichlet(0.1),
              10 a round, the same in all parts, one epoch in batches of 20, crop and flip (in eager on the GPU). To
              reach: 3 times the rounds of eager. A fused line says what share of the images computed was padding.
waits         how often the host waits for the GPU in a round of cnn. To reach: once.
book          experiments/book/resnet18.toml, on synthetic images: 5 of 10 clients, 3 epochs of 5,000 images each, in
              one program and by default.
quickstart    experiments/quickstart.toml, on synthetic images.
bits          the fingerprints of the models that two processes train.
tests         the tests that need a GPU.
roofline      for each fused line: the arithmetic of convolutions and matrix products (torch.utils.flop_counter) at the
              measured peak of that precision, and the bytes that must be moved at least, at the measured bandwidth: of
              each step and client, params read and written and gradients written and read, float32; uint8 images read
              once; what the forward pass keeps for the backward pass written and read once, two bytes a number in
              bfloat16. The larger of both times is the bound.
actors        the cnn with 10 clients of 500 images, all of them a round, as 10 actors at 0.1 GPU each, engine = plain,
              beside the same packed into one actor, plain and fused.
conv          forward and backward of one convolution for C clients at once, each with weights of its own, replayed in a
              CUDA graph, deterministic, without bias, the images' own gradient left out where the layer is the first.
              It is timed in each form of the fused engine that its table could choose.

docs/cluster-and-gpu.md has what came out, on an H100 and on an H200.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from on_gpu.bench import PRECISIONS, Bench
from on_gpu.cohorts import measure_fedray, measure_waits
from on_gpu.commands import (
    measure_actors,
    measure_bits,
    measure_book,
    measure_quickstart,
    measure_tests,
    measure_whole,
)
from on_gpu.convolutions import measure_convolutions
from on_gpu.eager import measure_eager
from on_gpu.machine import measure_machine
from on_gpu.roofline import measure_roofline

SECONDS = 540  # for everything
EVERY = (*PRECISIONS, "float32_3xtf32")

PARTS: dict[str, tuple[float, Callable[[Bench], None]]] = {
    "machine": (30, measure_machine),
    "cnn-eager": (40, partial(measure_eager, workload="cnn")),
    "cnn-graph": (35, partial(measure_eager, workload="cnn", captured=True)),
    "cnn-plain": (35, partial(measure_fedray, workload="cnn", engine="plain", precisions=["float32"])),
    "cnn-fused": (60, partial(measure_fedray, workload="cnn", engine="fused", precisions=EVERY)),
    "resnet-eager": (40, partial(measure_eager, workload="resnet")),
    "resnet-plain": (35, partial(measure_fedray, workload="resnet", engine="plain", precisions=["float32"])),
    "resnet-fused": (60, partial(measure_fedray, workload="resnet", engine="fused", precisions=PRECISIONS)),
    "waits": (25, measure_waits),
    "roofline": (30, measure_roofline),
    "cnn-whole": (150, measure_whole),
    "book": (120, measure_book),
    "quickstart": (60, measure_quickstart),
    "bits": (80, measure_bits),
    "tests": (150, measure_tests),
    "actors": (80, measure_actors),
    "conv": (75, measure_convolutions),
}
"""The most seconds that each may take, and what it does; parts refer to the figures of parts before them."""


def play_part(bench: Bench, limit: float) -> None:
    """Run a part in a process of its own, and say in one line if it did not come to its end."""
    words = ["--within", bench.part, "--out", str(bench.file), "--device", bench.device, *["--small"] * bench.small]
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, __file__, *words]
        part = subprocess.Popen(command, stderr=errors, start_new_session=True)
        try:
            part.wait(limit)
        except subprocess.TimeoutExpired:
            bench.tell("ended", f"after its {limit:.0f} s; what it has not said is not measured")
            return
        finally:
            if part.poll() is None:
                os.killpg(part.pid, signal.SIGKILL)  # and whatever it started
                part.wait()
        if part.returncode:
            errors.seek(0)
            said = errors.read().strip().splitlines()
            bench.tell("ended", f"with status {part.returncode}: {said[-1] if said else 'nothing was said'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where to add all figures, as lines of JSON")
    parser.add_argument("--part", choices=list(PARTS), nargs="+", metavar="NAME", help=f"of {', '.join(PARTS)}")
    # For the test of this program, and for its own parts.
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--small", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--within", choices=list(PARTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.within:
        if given.device == "cpu":
            torch.set_num_threads(1)  # a dry run may have company
        PARTS[given.within][1](Bench(given.within, given.device, given.small, given.out))
        return
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no GPU: nothing was measured")
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = given.out or Path(folder, "figures.jsonl")
        file.touch()
        for name, (limit, _) in PARTS.items():
            if given.part and name not in given.part:
                continue
            bench, left = Bench(name, given.device, given.small, file), SECONDS - (time.monotonic() - began)
            if left < 10:
                bench.tell("ended", "before it began: the time was up")
            else:
                play_part(bench, left if given.small else min(limit, left))
    print(f"{time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
