"""Programs run within real limits: cgroups of version 1, as root makes them where /sys is not read-only."""

import os
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedray.core.limits import ROOT, cgroups


@contextmanager
def limited(**limits):
    """New cgroups below those of this process, each with a limit such as cpu="50000"; the test is skipped without."""
    files = {"cpu": "cpu.cfs_quota_us", "memory": "memory.limit_in_bytes"}
    folders = []
    try:
        for controller, limit in limits.items():
            parent = next((each for each in cgroups(ROOT) if (each / files[controller]).exists()), None)
            if parent is None or not os.access(parent, os.W_OK):
                pytest.skip("no cgroup can be made here")
            try:
                folder = parent / f"fedray-test-{os.getpid()}"
                folder.mkdir()
                folders.append(folder)
                (folder / files[controller]).write_text(str(limit))
            except OSError as error:
                pytest.skip(f"no cgroup can be made here: {error}")
        yield folders
    finally:
        deadline = time.monotonic() + 20
        while any((folder / "cgroup.procs").read_text() for folder in folders) and time.monotonic() < deadline:
            time.sleep(0.2)  # what a program started may still be ending
        for folder in folders:
            folder.rmdir()


def run_limited(command: list[str], folders: list[Path], timeout: float, **options) -> subprocess.CompletedProcess[str]:
    """Run a program that is in these cgroups before it begins."""
    join = "".join(f'echo $$ > "{folder}/cgroup.procs" && ' for folder in folders)
    whole = ["bash", "-c", f'{join}exec "$@"', "bash", *command]
    return subprocess.run(whole, capture_output=True, text=True, timeout=timeout, check=False, **options)
