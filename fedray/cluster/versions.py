"""The check that the nodes of a cluster have the driver's software: results and pickles depend on it."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedray.core import source
from fedray.core.errors import BadInputError
from fedray.core.source import digest_of

# The functions are sent by value to nodes where fedray may be missing or another version.
for module in (sys.modules[__name__], source):
    ray.cloudpickle.register_pickle_by_value(module)


def software() -> dict[str, str]:
    """The versions of the software in this process, imported or not; for fedray also a digest of its source files.

    A missing package has an empty text.
    """
    import importlib.metadata
    import importlib.util
    import platform
    import re
    from pathlib import Path

    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in ("ray", "torch", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    spec = importlib.util.find_spec("fedray")
    found["fedray"] = ""
    if spec and spec.origin:
        folder = Path(spec.origin).parent
        version = folder / "core" / "version.py"
        said = re.search(r'^__version__ = "(.*)"', version.read_text(), re.MULTILINE) if version.is_file() else None
        found["fedray"] = f"{said[1] if said else 'unknown'} (source {digest_of(folder)})"
    return found


def check_nodes(nodes: Sequence[Mapping[str, Any]], seconds: float) -> None:
    """Compare the software of all nodes with this process's, in parallel; BadInputError lists the differences.

    `nodes` are as `ray.nodes()` gives them. A node that does not answer within `seconds` is listed, too. A node that is
    lost meanwhile is left out.
    """
    here = software()
    ask: Any = ray.remote(num_cpus=0, max_retries=0)(software)
    deadline = time.monotonic() + seconds
    asked = [
        (node, ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote())
        for node in nodes
    ]
    findings = []
    for node, ref in asked:
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        try:
            there = ray.get(ref, timeout=max(0.1, deadline - time.monotonic()))
        except ray.exceptions.GetTimeoutError:
            findings.append(f"{name} did not answer within {seconds:g} seconds")
        except RayError as error:
            if node["NodeID"] in {each["NodeID"] for each in ray.nodes() if each["Alive"]}:
                findings.append(f"{name} could not be asked: {str(error).strip().splitlines()[0]}")
        else:
            if different := differences(there, here):
                findings.append(f"{name} has {different}")
    if findings:
        raise BadInputError(
            f"the cluster's nodes must have the same software as this machine, but {'; '.join(findings)}"
        )


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """The differences in words; empty if there are none."""
    return " and ".join(
        f"{name} {there[name]}, not {here[name]}" if there[name] else f"no {name}, which is {here[name]} here"
        for name in here
        if there[name] != here[name]
    )
