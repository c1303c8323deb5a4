"""The output of clients, which is shown whole on request (output.client_output, --log-level debug), even if Ray ends
soon after.

Ray shows it in three steps. A worker writes to a log file of its own. The log monitor, a process on each node, looks
for new lines every tenth of a second and publishes up to a thousand of each file. A thread of the driver prints the
lines that it receives. `ray.shutdown` waits for none of these steps. This module therefore counts the output shown so
far. It reads the rest from the files of a local Ray, or waits for it if the files are on other machines.
"""

import logging
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, worker
from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher
from ray._private.ray_logging import stderr_deduplicator, stdout_deduplicator
from ray._private.worker import print_worker_logs

from fedray.cluster.dispatch import look
from fedray.cluster.tickets import Slot

WAIT_SECONDS = 10.0  # the longest wait for output from a joined cluster; Ray takes a few tenths of a second
ACTOR = ray_constants.LOG_PREFIX_ACTOR_NAME
UNSHOWN = (ACTOR, ray_constants.LOG_PREFIX_TASK_NAME, ray_constants.LOG_PREFIX_JOB_ID)
"""The beginnings of lines that Ray itself writes into the log files and does not show."""
FILE = re.compile(r"worker-.*-(\d+)\.(out|err)")
HANDLER = "fedray_printed"

log = logging.getLogger(__name__)


class Text:
    """The number of characters of a worker's output, and a digest of them.

    Line ends do not count: Ray may read half a line and then shows the other half as a line of its own.
    """

    def __init__(self) -> None:
        self.length, self.digest = 0, blake2b()

    def add(self, line: str, most: int | None = None) -> None:
        """Add the next line, of which at most `most` characters count."""
        counted = plain(line)[:most]
        self.length += len(counted)
        self.digest.update(counted.encode())

    def begins(self, path: Path) -> bool:
        """Whether a log file begins with this text. It does not where Ray lost something in between."""
        found = Text()
        for _, line in lines_of(path):
            found.add(line, self.length - found.length)
        return found.digest.digest() == self.digest.digest()


class Printed:
    """The output of each worker that this process has shown, from now until `close`.

    It is kept by the address of the worker's node, its process id, and whether it went to stderr.
    """

    def __init__(self) -> None:
        self.shown: defaultdict[tuple[str, str, bool], Text] = defaultdict(Text)
        show_every_line()
        dispatcher.add_handler(HANDLER, self.note)

    def note(self, data: Mapping[str, Any]) -> None:
        """Count lines of a worker that Ray shows."""
        for line in data["lines"]:
            self.shown[data["ip"], str(data["pid"]), bool(data["is_err"])].add(line)

    def close(self, logs: Path | None) -> None:
        """Stop counting after Ray was shut down. If it was a local one, show the rest of its log files, in `logs`."""
        dispatcher.remove_handler(HANDLER)
        if logs is None:
            return
        shown = {(pid, is_err): text for (_, pid, is_err), text in self.shown.items()}
        for path in sorted([*logs.glob("worker-*"), *logs.glob("old/worker-*")]):  # Ray moves files of ended workers
            if found := FILE.fullmatch(path.name):
                pid, is_err = found[1], found[2] == "err"
                text = shown.get((pid, is_err), Text())
                if whole := not text.begins(path):
                    log.debug("some of what process %s printed was lost on its way here; this is all of it", pid)
                show(pid, is_err, unshown(path, 0 if whole else text.length))

    def wait(self, slots: Sequence[Slot]) -> None:
        """Wait until the whole output of these slots' actors was shown; after WAIT_SECONDS log what is missing.

        The actors are those of a joined cluster, with log files on other machines.
        """
        until = time.monotonic() + WAIT_SECONDS
        asked = {slot.handle.printed.remote(): slot.where for slot in slots if slot.where and not slot.gone}
        if not asked:
            return
        answered, _ = ray.wait([*asked], num_returns=len(asked), timeout=WAIT_SECONDS)
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        late, missing = [], len(asked) - len(answered)
        for ref in answered:
            lengths, error = look(ref)
            if error is None:
                late.append((addresses.get(asked[ref]["node"], ""), str(asked[ref]["pid"]), lengths))
            missing += error is not None
        while (late := [each for each in late if not self.has(*each)]) and time.monotonic() < until:
            time.sleep(0.05)
        if missing := missing + len(late):
            log.debug("the last output of %d of %d actors is in their nodes' log files only", missing, len(asked))

    def has(self, ip: str, pid: str, lengths: tuple[int, int]) -> bool:
        """Whether at least `lengths` characters of a worker's stdout and stderr were shown."""
        return self.shown[ip, pid, False].length >= lengths[0] and self.shown[ip, pid, True].length >= lengths[1]


@contextmanager
def silent_raylets() -> Iterator[None]:
    """Keep what Ray says of its nodes and workers off the console, unless details are logged.

    Ray prints it in a thread of its own, whatever `ray.init` was told. What matters of it fedray says itself.
    """
    printing = worker.print_to_stdstream

    def print_others(data: Mapping[str, Any], *args: Any, **options: Any) -> None:
        if data.get("pid") != "raylet" or log.isEnabledFor(logging.DEBUG):
            printing(data, *args, **options)

    worker.print_to_stdstream = print_others
    try:
        yield
    finally:
        worker.print_to_stdstream = printing


def show_every_line() -> None:
    """Have Ray show each line that it does not skip, unless the user has set otherwise.

    Otherwise it takes lines of several clients that differ in numbers only for the same line, and shows the last one.
    """
    for each in (stdout_deduplicator, stderr_deduplicator):
        if "RAY_DEDUP_LOGS" not in os.environ and "RAY_DEDUP_LOGS_ALLOW_REGEX" not in os.environ:
            each.allow_re = re.compile(f"^(?!.*({each.skip_re.pattern}))" if each.skip_re else "")


def plain(line: str) -> str:
    """The line without line ends."""
    return line.replace("\r", "").replace("\n", "")


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """The lines that a worker printed, each with the name of its actor."""
    name = ""
    with path.open("rb") as file:
        for each in file:
            line = each.decode("utf-8", "replace").rstrip("\r\n")
            if line.startswith(ACTOR):
                name = line.removeprefix(ACTOR)
            elif not line.startswith(UNSHOWN):
                yield name, line


def unshown(path: Path, shown: int) -> Iterator[tuple[str, str]]:
    """The lines of `lines_of` after the first `shown` characters. Empty lines just after these are left out, too."""
    reached = False
    for name, line in lines_of(path):
        reached = reached or len(plain(line)) > shown
        if reached:
            yield name, line[shown:]
        shown = max(0, shown - len(plain(line)))


def show(pid: str, is_err: bool, lines: Iterator[tuple[str, str]]) -> None:
    """Print a worker's lines in Ray's format."""
    stream, plain = sys.stderr if is_err else sys.stdout, ray_constants.RAY_DISABLE_WORKER_LOG_PREFIX
    for name, line in lines:
        print_worker_logs({"pid": pid, "actor_name": name, "lines": [line]}, stream, plain)  # type: ignore[dict-item]


def printed_here() -> tuple[int, int]:
    """The numbers of characters that this worker has printed so far, to stdout and to stderr."""
    files = (Path("/proc/self/fd", str(stream.fileno())) for stream in (sys.stdout, sys.stderr))
    out, err = (sum(len(plain(line)) for _, line in lines_of(file)) for file in files)
    return out, err
