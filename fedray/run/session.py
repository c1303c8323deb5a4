"""A session: the runs of a process share one Ray and its warm actors until it is closed."""

import atexit
import threading
from contextlib import ExitStack
from dataclasses import fields
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fedray.cluster.settings import OF_ITS_RAY, Cluster
from fedray.core.errors import BadInputError

if TYPE_CHECKING:
    from fedray.cluster.start import Session


class KeptRay:
    """The Ray of a session. The first run that needs one starts or joins it, by the run's `cluster` settings.

    It ends with the `with`, by `close`, or with the process.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.stack = ExitStack()
        self.closed = False
        self.started_by: Cluster | None = None
        self.shows = False  # what clients print
        self.connection: Session | None = None

    def connect(self, cluster: Cluster, client_output: bool = False) -> "Session":
        """The connection to this Ray. BadInputError as from `check`, or where Ray cannot be started or joined."""
        with self.lock:
            self.check(cluster, client_output)
            if self.connection is None:
                from fedray.cluster.start import connected

                self.connection = self.stack.enter_context(connected(cluster, client_output))
                self.started_by, self.shows = cluster, client_output
                atexit.register(self.close)  # here, so that it comes before the end of the fork server
            return self.connection

    def check(self, cluster: Cluster, client_output: bool = False) -> None:
        """BadInputError where a run asks for another Ray than the one that is there, or the session is closed."""
        with self.lock:
            if self.closed:
                raise BadInputError("this session is closed; fedray.session() opens another one")
            if self.connection and not self.connection.is_up:
                self.disconnect()
            other = difference(cluster, self.started_by) if self.started_by else ""
            if self.started_by and client_output and not self.shows:
                other = "output.client_output = true, but the session's Ray was started without it"
            if other:
                raise BadInputError(f"{other}; close the session and open another one, or leave this setting")

    def disconnect(self) -> None:
        self.connection = self.started_by = None
        atexit.unregister(self.close)
        self.stack.close()

    def close(self) -> None:
        """End the Ray that this session started, or leave the cluster that it joined. A second call does nothing."""
        with self.lock:
            self.closed = True
            if _open and _open[-1] is self:
                _open.clear()
            self.disconnect()

    def __enter__(self) -> "KeptRay":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_open: list[KeptRay] = []  # one at most


def session() -> KeptRay:
    """Keep Ray and its warm actors from run to run, for the length of a `with` or until `close`.

    The runs of this process are played there. The first one starts Ray, and those after it take their actors anew only
    where they reserve other shares. A run with other settings of Ray itself (`cluster.cpus`, ...) is refused. Runs with
    `cluster.backend = in-process` do not use it. BadInputError where a session is open already.
    """
    if _open:
        raise BadInputError("a session is open in this process already, and its runs share one Ray; close it first")
    _open.append(KeptRay())
    return _open[0]


def open_session() -> KeptRay | None:
    """The session that is open in this process."""
    return _open[0] if _open else None


def difference(cluster: Cluster, started_by: Cluster) -> str:
    """The first setting that asks for another Ray than the one that is there, in words; empty if there is none."""
    for name in (field.name for field in fields(Cluster) if field.name in OF_ITS_RAY):
        wanted, there = getattr(cluster, name), getattr(started_by, name)
        if wanted != there:
            return f"cluster.{name} = {said(wanted)}, but the session's Ray has {said(there)}"
    return ""


def said(value: Any) -> str:
    if value is None:
        return "auto"
    return str(value).lower() if isinstance(value, bool) else str(value)
