"""MKL on processors that are not Intel's. torch's products on a CPU are MKL's."""

import os
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def steady_products(cpuinfo: Path = CPUINFO) -> None:
    """Switch MKL's conditional numerical reproducibility on, unless MKL_CBWR is set or the processor is Intel's.

    Without it a client's bits depend on the block that it is trained in, on an AMD EPYC of family 25:
    test_a_clients_bits_do_not_depend_on_whom_it_is_trained_with fails there. Which product is to blame was not found.
    MKL reads the variable at its first product. On Intel's processors the test holds as it is, and nothing is set.
    """
    try:
        intel = "GenuineIntel" in cpuinfo.read_text()[:1000]
    except OSError:  # not Linux
        intel = True
    if not intel:
        os.environ.setdefault("MKL_CBWR", "AUTO")
