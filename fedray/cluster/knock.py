"""A program that asks the Ray cluster at an address for its facts and prints them as JSON.

It is a process of its own because Ray ends a process that lacks a token which it needs. Its arguments are the address
and "unasked" or an empty text. With "unasked" this machine's token is shown although RAY_AUTH_MODE does not ask for it,
as Ray itself does for a cluster on the same machine.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from ray._private.ray_constants import KV_NAMESPACE_CLUSTER
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError

ANSWER_SECONDS = 10.0


def use_token() -> None:
    """Make this process, and those that it starts, show its token to Ray clusters."""
    os.environ["RAY_AUTH_MODE"] = "token"
    Config.initialize("")  # Ray has read the environment already


def knock(address: str, unasked: bool) -> dict[str, Any]:
    """The facts of the cluster at the address: its metadata, and `here`, whether it has a node on this machine.

    `mode` and `has_token` describe this process's own token. `trouble` is there instead if the cluster gave no answer:
    "token" if a token is missing or refused, otherwise the error.
    """
    has_token = bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))
    mode = os.environ.get("RAY_AUTH_MODE")
    if unasked and mode is None and has_token:
        use_token()
        mode = "token"
    known = {"mode": mode, "has_token": has_token}
    if mode == "token" and not has_token:
        return {**known, "trouble": "token"}
    try:
        client = GcsClient(address=address)
        told = client.internal_kv_get(b"CLUSTER_METADATA", KV_NAMESPACE_CLUSTER, ANSWER_SECONDS)
        nodes = client.get_all_node_info(timeout=ANSWER_SECONDS).values()
    except AuthenticationError:
        return {**known, "trouble": "token"}
    except RayError as error:
        return {**known, "trouble": str(error)}
    here = any(node.state == 0 and Path(node.raylet_socket_name).exists() for node in nodes)
    return {**known, "here": here, **json.loads(told)}


if __name__ == "__main__":
    print(json.dumps(knock(sys.argv[1], sys.argv[2] == "unasked")))
