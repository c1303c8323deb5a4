"""The search for an existing Ray cluster and its checks before it is joined, so that a fault is one sentence, soon."""

import json
import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ray._private.utils import read_ray_address

from fedray.cluster.knock import use_token
from fedray.core.errors import BadInputError

KNOCK = Path(__file__).with_name("knock.py")
CONNECT_SECONDS = 10.0
KNOCK_SECONDS = 60.0  # knock.py gives up after about 12 s if something else than Ray listens there
PATIENCE = {"RAY_py_gcs_connect_timeout_s": "5", "RAY_gcs_rpc_server_connect_timeout_s": "3"}


def find(address: str) -> str:
    """HOST:PORT of a cluster that can be joined from here; BadInputError with the reason if none can.

    `auto` means the address in RAY_ADDRESS, otherwise the cluster of the last `ray start` on this machine. It is never
    a Ray that a program started for itself. With `auto` and no RAY_ADDRESS this process shows its token to the cluster
    from now on, if it has one.
    """
    told = os.environ.get("RAY_ADDRESS", "")
    named = address if address != "auto" else told if told != "auto" else ""
    what = "cluster.address" if address != "auto" else "cluster.address 'auto': RAY_ADDRESS"
    found = named or read_ray_address()
    if not found:
        raise BadInputError(
            "cluster.address 'auto' finds no cluster: `ray start` was not used on this machine, and RAY_ADDRESS is not "
            "set; start one with `ray start --head`, or give its HOST:PORT"
        )
    host, colon, port = found.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal()) or "/" in found:
        raise BadInputError(f"{what} {found!r} is none of local, auto and HOST:PORT")
    started = f"cluster.address 'auto': the cluster of the last `ray start`, {found!r}, cannot be joined"
    refused = f"no Ray cluster could be joined at {what} {found!r}" if named else started
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise BadInputError(f"{refused}: {getattr(error, 'strerror', None) or error}") from None
    answer = ask(found, unasked=not named)
    if why := objection(answer):
        raise BadInputError(f"{refused}: {why}")
    if answer["mode"] == "token":
        use_token()
    return found


def ask(address: str, unasked: bool) -> dict[str, Any]:
    """The answer of knock.py, run in a process of its own, about the cluster at an address."""
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    env = PATIENCE | os.environ | {"PYTHONPATH": path}
    command = [sys.executable, "-P", str(KNOCK), address, "unasked" if unasked else ""]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=KNOCK_SECONDS, env=env)
        return dict(json.loads(done.stdout))
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return {"trouble": "no answer", "mode": None}


def objection(answer: dict[str, Any]) -> str:
    """The reason why a cluster with this answer cannot be joined; empty if it can."""
    if answer.get("trouble") == "token":
        return refusal_of_token(answer["mode"], answer["has_token"])
    if "trouble" in answer:
        return f"something listens there that does not answer as a Ray cluster does ({answer['trouble'].rstrip('.')})"
    theirs = {"Ray": answer["ray_version"], "Python": answer["python_version"]}
    here = {"Ray": version("ray"), "Python": platform.python_version()}
    different = [f"{name} {theirs[name]}, not {here[name]}" for name in here if theirs[name] != here[name]]
    if different:
        return f"the cluster runs {' and '.join(different)} as this process does; both must be the same"
    if answer["ray_init_cluster"]:
        return "that Ray is another program's own and ends with it; start one with `ray start --head`"
    if not answer["here"]:
        return (
            "this machine is none of its nodes; start the run on one of them, or first use "
            "`ray start --address=HOST:PORT` here"
        )
    return ""


def refusal_of_token(mode: str | None, has_token: bool) -> str:
    """A sentence on a token that is missing or wrong, and on how to get the right one."""
    bring = "copy ~/.ray/auth_token from its head node to this machine, or set RAY_AUTH_TOKEN to the same on both"
    if mode == "token":
        return f"{'the token here is not the one that it wants' if has_token else 'there is no token here'}; {bring}"
    if has_token:
        return f"it wants a token, which Ray shows only when told to; set RAY_AUTH_MODE=token and, if need be, {bring}"
    return f"it wants a token; {bring}, and set RAY_AUTH_MODE=token"
