"""The device that a process trains on, and how a process is made fit for it. There is no Ray in here.

torch is imported inside the functions that use it, because the driver reads only the constants.
"""

import os
import warnings

from fedray.core.errors import BadInputError

CONTEXT_BYTES = 500 * 2**20
"""The CUDA context of a process: GPU memory that it takes before its first tensor, outside of torch's allocator. Each
process has its own. People report 300 MB where kernels are loaded as they are needed (since CUDA 11.7), and up to 500
MB where many processes share a GPU (pytorch/pytorch#20532 and #107667, pytorch/serve#2128). It was not measured
here."""

WORKSPACE = ":4096:8"  # eight buffers of 4096 KiB: one of the two settings with which cuBLAS repeats its bits
WORKSPACE_BYTES = 8 * 4096 * 2**10

LARGEST_KEPT = 2**30
"""The most bytes of images that are kept on the device as a whole. CIFAR-100 takes 184 MB, EMNIST 640. The number is
fixed, so that a run takes the same memory everywhere. It is small, because each process has images of its own, even
those of several runs of a sweep. Larger images stay on the host, and each call copies those that it needs."""


def has_own_memory(device: str) -> bool:
    """Whether a device has memory of its own and works on its own. Tests name one that has neither "cpu:0"."""
    return device != "cpu"


def choose_device(wanted: bool) -> str:
    """The device to train on: "cuda" where a GPU, or a share of one, is wanted and torch finds one, otherwise "cpu".

    Ray may have reserved a GPU that does not exist, because Ray is told how many GPUs a machine has.
    """
    import torch

    return "cuda" if wanted and torch.cuda.is_available() else "cpu"


def settle_on(device: str, share: float = 1.0) -> None:
    """Make this process fit for the device: the same bits each time, and on a GPU no more memory than its share.

    The call comes before anything is on the GPU. BadInputError where nothing is left of the share.
    """
    if device != "cuda":
        return
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", WORKSPACE)  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Nothing in fedray reads a tensor before writing it, and filling each new tensor would take a kernel.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # Autograd's own thread makes its context with its first product, which torch says and nobody needs to know.
    warnings.filterwarnings("ignore", "Attempting to run cuBLAS, but there was no current CUDA context")
    if share < 1:
        limit_allocator(share)


def limit_allocator(share: float) -> None:
    """Limit torch's allocator to this share of the GPU, less the CUDA context, which the allocator does not count."""
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    left = share * total - CONTEXT_BYTES
    if left <= 0:
        raise BadInputError(
            f"{share:g} of a GPU of {total >> 20} MiB is {share * total / 2**20:.0f} MiB, of which a process's CUDA "
            f"context takes {CONTEXT_BYTES >> 20} MiB; raise cluster.gpus_per_client or cluster.clients_per_actor"
        )
    torch.cuda.set_per_process_memory_fraction(left / total)
