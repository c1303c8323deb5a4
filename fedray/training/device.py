"""The device that a process trains on, and what it does to be fit for it. No Ray in here.

torch is imported where it is used: the driver only wants to know how much of a GPU a process takes.
"""

import os

from fedray.core.errors import BadInputError

CONTEXT_BYTES = 500 * 2**20
"""What a process takes of its GPU before its first tensor, beside torch's allocator: its CUDA context. People report
300 MB where kernels are loaded as they are needed (since CUDA 11.7), and up to 500 MB where many processes share a GPU
(pytorch/pytorch#20532 and #107667, pytorch/serve#2128). Each has its own. It was not measured by us."""

WORKSPACE = ":4096:8"  # eight buffers of 4096 KiB: one of the two settings with which cuBLAS gives the same bits
WORKSPACE_BYTES = 8 * 4096 * 2**10

LARGEST_KEPT = 2**30
"""Bytes of images up to which they are on the device as a whole: all of CIFAR-100 takes 184 MB, of EMNIST 640. It is a
fixed number so that a run takes the same memory wherever it is, and a small one since each process has images of its
own, of several runs of a sweep even. What is larger stays on the host, and is copied as far as a call needs it."""


def choose_device(wanted: bool) -> str:
    """Say "cuda" where a GPU, or a share of one, is to be used and torch finds one, and "cpu" otherwise.

    Ray may well have reserved what is not there: it is told how many GPUs a machine has.
    """
    import torch

    return "cuda" if wanted and torch.cuda.is_available() else "cpu"


def settle_on(device: str, share: float = 1.0) -> None:
    """Make this process fit for the device: the same bits each time, and on a GPU no more memory than its share.

    To be called before anything is on the GPU. BadInputError where nothing is left of the share.
    """
    if device != "cuda":
        return
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", WORKSPACE)  # which is read when cuBLAS starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Nothing here reads what it has not written, and filling each new tensor would take a kernel.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    if share < 1:
        limit_allocator(share)


def limit_allocator(share: float) -> None:
    """Have torch's allocator give no more than this share of the GPU, less the context, which is outside of it."""
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    left = share * total - CONTEXT_BYTES
    if left <= 0:
        raise BadInputError(
            f"{share:g} of a GPU of {total >> 20} MiB is {share * total / 2**20:.0f} MiB, of which a process's CUDA "
            f"context takes {CONTEXT_BYTES >> 20} MiB; raise cluster.gpus_per_client or cluster.clients_per_actor"
        )
    torch.cuda.set_per_process_memory_fraction(left / total)
