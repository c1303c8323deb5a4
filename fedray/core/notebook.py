"""Whether this process is the kernel of a notebook."""

import sys


def in_kernel() -> bool:
    """Whether this is a notebook's kernel. IPython in a terminal is none."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None
