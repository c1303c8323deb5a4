"""The section of the settings that says where a run runs."""

import re
from typing import Literal

from fedray.cluster.shares import SMALLEST_SHARE
from fedray.core.errors import BadInputError
from fedray.core.settings import Auto, section, setting


@section
class Cluster:
    """Where a run runs. Nothing in this section changes a result, so none of it is in the run id."""

    backend: Literal["ray", "in-process"] = setting(
        "ray", "ray: every client a Ray actor (or packed into some); in-process: no Ray, one client after another."
    )
    address: str = setting(
        "local",
        "A Ray of the run's own (local), or an existing cluster that this machine is part of: its host:port, or auto "
        "for that of RAY_ADDRESS or of the last `ray start` here.",
    )
    clients_per_actor: Auto[int] = setting(
        None,
        "1: an actor for each client; more: clients packed into actors; auto: 1 for up to 100 that fit, in memory and "
        "on the GPUs.",
        ge=1,
    )
    cpus: Auto[int] = setting(None, "CPUs of the local Ray; auto: the cores of this machine.", unit="cores", ge=1)
    gpus: Auto[int] = setting(
        None, "GPUs of the local Ray; 0: train on the CPU; auto: those of this machine.", unit="GPUs", ge=0
    )
    cpus_per_actor: Auto[float] = setting(
        None, "CPU share that each actor reserves; auto: one, or what makes them fit.", unit="cores", ge=SMALLEST_SHARE
    )
    gpus_per_client: Auto[float] = setting(
        None,
        "Share of a GPU reserved for each client: 0.25 has four at a time on a GPU; 0: train on the CPU; auto: what "
        "makes the actors fit. Without a GPU nothing is reserved, and clients train on the CPU.",
        unit="GPUs",
        ge=0,
    )
    gpu_memory: Auto[int] = setting(
        None,
        "Memory of each GPU, in which the actors that share it have to fit; auto: the least that nvidia-smi reports of "
        "this machine's, with a Ray of the run's own; otherwise unknown, and only the shares are checked.",
        unit="MiB",
        ge=1,
    )
    forked: Auto[bool] = setting(
        None,
        "Whether actors are forked from one process that has torch imported, which takes a sixth of the memory and "
        "time; auto: on Linux, with a Ray of the run's own.",
    )
    object_store: Auto[int] = setting(
        None, "Most shared memory of the local Ray; auto: 40 % of what is free, taken as needed.", unit="MiB", ge=80
    )
    start_timeout: float = setting(180.0, "How long all actors may take to start.", unit="seconds", gt=0)
    deadline_factor: float = setting(
        10.0,
        "A call that takes so many times as long as the slowest before it did for its size is taken to hang: its "
        "process is ended, and the call made again. 0: it may take as long as it likes.",
        ge=0,
    )
    deadline_seconds: float = setting(
        60.0, "But no call is taken to hang sooner than this, nor before one like it ended.", unit="seconds", gt=0
    )

    def __post_init__(self) -> None:
        if self.address not in ("local", "auto") and not re.fullmatch(r"[^\s/]+:[0-9]{1,5}", self.address):
            raise BadInputError(f"cluster.address {self.address!r} is none of local, auto and HOST:PORT")
        asked = self.gpus_per_client or 0.0
        if 0 < asked < SMALLEST_SHARE:
            raise BadInputError(f"cluster.gpus_per_client = {asked:g}: a share of a GPU is at least {SMALLEST_SHARE:g}")
        if asked > 1 and asked != int(asked):
            raise BadInputError(f"cluster.gpus_per_client = {asked:g}: more than one GPU is a whole number of them")


OF_ITS_RAY = ("address", "cpus", "gpus", "object_store", "forked", "start_timeout")
"""The settings of a Ray and its actors, by which a session starts it. The others are each run's own."""
