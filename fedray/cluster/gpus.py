"""The memory of GPUs: its size, an actor's need of it, and a refusal with the arithmetic where it does not fit.

The size comes from nvidia-smi and not from CUDA, which must not be touched where processes are forked."""

import math
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from fedray.cluster.shares import round_up
from fedray.core.errors import BadInputError
from fedray.training.device import CONTEXT_BYTES, LARGEST_KEPT, WORKSPACE_BYTES

if TYPE_CHECKING:
    from fedray.cluster.needs import Needs
    from fedray.cluster.settings import Cluster

MIB = 2**20
QUERY = ["--query-gpu=index,uuid,memory.total,mig.mode.current", "--format=csv,noheader,nounits"]
QUERY_SECONDS = 30.0  # the GPU's driver may have to wake first


def memory_of_each(gpus: float) -> int | None:
    """Bytes of the smallest GPU that a process of this machine sees, by nvidia-smi.

    None where nvidia-smi does not say it, where a GPU is cut into instances (MIG), or where there are fewer than
    `gpus`: Ray was then told of GPUs that do not exist.
    """
    found = visible(installed())
    if len(found) < gpus or not all(found.values()):
        return None
    return min(found.values(), default=None)


def installed() -> dict[tuple[str, str], int]:
    """Bytes of memory of each GPU, by its index and its UUID, both as text; 0 where unknown."""
    program = shutil.which("nvidia-smi")
    if not program:
        return {}
    try:
        asked = subprocess.run([program, *QUERY], capture_output=True, text=True, timeout=QUERY_SECONDS, check=True)
        rows = [[word.strip() for word in line.split(",")] for line in asked.stdout.splitlines()]
        return {
            (index, uuid): int(total) * MIB if total.isdecimal() and mig != "Enabled" else 0
            for index, uuid, total, mig in rows
        }
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}


def visible(found: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """The GPUs that CUDA_VISIBLE_DEVICES names, or all that it may mean.

    CUDA numbers the fastest GPU first, unless CUDA_DEVICE_ORDER has it number as nvidia-smi does.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return found
    names = [name.strip() for name in named.split(",")]
    if all(name.isdecimal() for name in names):
        alike = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        return {key: size for key, size in found.items() if key[0] in names} if alike else found
    return {key: size for key, size in found.items() if any(name and key[1].startswith(name) for name in names)}


def mib(size: float) -> int:
    """Bytes as whole MiB, rounded up."""
    return math.ceil(size / MIB)


def needed_parts(needs: "Needs", packed: bool) -> dict[str, int]:
    """The bytes that an actor needs of its GPU, by purpose.

    A packed actor has every client's images there, up to LARGEST_KEPT. Beyond that they stay on the host.
    """
    at_once = needs.at_once_on_gpu
    count, each = at_once * needs.vectors, needs.model
    shards = min(needs.shards if packed else needs.largest_shard, LARGEST_KEPT)
    evaluated = min(needs.evaluated, 2 * LARGEST_KEPT)  # of two splits
    return {
        "its CUDA context": CONTEXT_BYTES,
        "cuBLAS": WORKSPACE_BYTES,
        f"{count} vectors of {each / MIB:.3g} MiB": count * each,
        "what is frozen": needs.frozen,
        "batches of images": needs.activations_on_gpu,
        "data": shards + at_once * needs.largest_shard + evaluated,  # with a client's own, shuffled
    }


def needed(needs: "Needs", packed: bool) -> int:
    """The bytes that an actor needs of its GPU."""
    return sum(needed_parts(needs, packed).values())


def least_share(memory: int | None, needs: "Needs", packed: bool) -> float:
    """The smallest share that holds an actor on a GPU of `memory` bytes; above 1 if none does, 0 where unknown."""
    return round_up(needed(needs, packed) / memory) if memory else 0.0


def check_gpu_memory(
    cluster: "Cluster", actors: int, num_gpus: float, memory: int | None, needs: "Needs", packed: bool
) -> None:
    """Refuse actors whose share of a GPU's memory is too small, with the arithmetic."""
    least = least_share(memory, needs, packed)
    if not num_gpus or min(1.0, num_gpus) + 1e-9 >= least:
        return
    assert memory
    parts = [(what, size) for what, size in needed_parts(needs, packed).items() if size >= MIB]
    *others, last = [f"{mib(size)} for {what}" for what, size in parts]
    if least > 1:
        advice = "choose a smaller model or algorithm.batch_size, or cluster.gpus_per_client = 0 to train on the CPU"
    else:
        raised = "cluster.gpus_per_client or " if cluster.gpus_per_client else ""
        advice = f"raise {raised}cluster.clients_per_actor, or choose a smaller model or algorithm.batch_size"
    raise BadInputError(
        f"{actors} actor{'' if actors == 1 else 's'} x {num_gpus:g} GPU: of a GPU's {memory // MIB} MiB each has "
        f"{int(min(1.0, num_gpus) * memory / MIB)}, but a process needs {mib(needed(needs, packed))} there, "
        f"{', '.join(others)} and {last}; {advice}"
    )


def runs_on_share(memory: int | None, needs: "Needs", packed: bool) -> float:
    """The number of such runs that an actor can take part in with `memory` bytes of a GPU; infinite where unknown.

    An actor trains for one run at a time, but CUDA graphs keep the memory of their batches.
    """
    if memory is None:
        return math.inf
    alike = needed_parts(needs, packed)
    shared = alike["its CUDA context"] + alike["cuBLAS"]
    return max(1, (memory - shared) // max(1, needed(needs, packed) - shared))
