"""fedray's program in forks of one process that has everything imported, so that hundreds of them can be killed.

Run as a program it does what `Warm` asks of it, a JSON line for each fork.
"""

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from typing import Any, TextIO

F_SETPIPE_SZ = 1031  # of Linux
MOST_PRINTED = 1 << 20  # bytes
FILE_OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.copyfile")


class Warm:
    """For the length of a `with`: `run` runs `python -m fedray` with these words in a fork, and waits for it."""

    def __enter__(self) -> "Warm":
        command = [sys.executable, __file__]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.communicate()

    def run(
        self,
        *words: Any,
        sweep: bool = False,
        inventory: bool = False,
        at: int | None = None,
        under: Any = "",
        after: float | None = None,
        since: str = "",
        limit: int | None = None,
        typed: str = "",
        filling: bool = False,
    ) -> tuple[int, str, str]:
        """The exit status, -9 where it was killed, and what was printed as output and as errors.

        With `sweep` it is `python -m fedray.sweep`, with `inventory` `python -m fedray.results`; it reads what is `typed`; with a `limit` no file can become larger; killed `after` so many seconds, or before the file operation number `at` on what begins with `under`, from 0.
        With `filling` the disk is taken to fill only after it was checked.
        The seconds are counted from the first line of output that begins with `since`, or from the start.
        """
        request = {"words": [*map(str, words)], "sweep": sweep, "at": at, "under": str(under), "after": after}
        request |= {"since": since, "limit": limit, "inventory": inventory, "typed": typed, "filling": filling}
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["status"], answer["output"], answer["errors"]


def kill_at(number: int, under: str) -> None:
    """Have this process killed before its file operation of this number in this folder."""
    left = [number]

    def look(event: str, args: tuple[Any, ...]) -> None:
        paths = [os.fspath(each) for each in args if isinstance(each, str | os.PathLike)]
        if event in FILE_OPERATIONS and any(str(path).startswith(under) for path in paths):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    sys.addaudithook(look)


def read_until(beginning: str, out: TextIO) -> str:
    """All lines up to the first that begins so, or all there are."""
    read = []
    for line in iter(out.readline, ""):
        read.append(line)
        if line.startswith(beginning):
            break
    return "".join(read)


def serve() -> None:
    import fedray.training.trainer  # noqa: F401  and with it torch
    from fedray import algorithms  # noqa: F401
    from fedray.__main__ import main
    from fedray.cli.command_line import report_errors
    from fedray.inventory.__main__ import main as inventory
    from fedray.models import build as networks  # noqa: F401
    from fedray.run import simulation
    from fedray.sweep.__main__ import main as sweep

    for line in sys.stdin:
        request = json.loads(line)
        pipes = [os.pipe(), os.pipe()]
        typed, typing = os.pipe()
        os.write(typing, request["typed"].encode())
        os.close(typing)
        child = os.fork()
        if child == 0:
            status = 70
            try:
                for number, (_, end) in enumerate(pipes, start=1):
                    fcntl.fcntl(end, F_SETPIPE_SZ, MOST_PRINTED)
                    os.dup2(end, number)
                sys.stdin = os.fdopen(typed)
                sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
                if request["limit"]:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
                if request["filling"]:
                    simulation.check_disk = lambda parts: []
                if request["at"] is not None:
                    kill_at(request["at"], request["under"])
                program = sweep if request["sweep"] else inventory if request["inventory"] else main
                status = report_errors(lambda: program(request["words"]))  # noqa: B023
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        for end in (typed, *(end for _, end in pipes)):
            os.close(end)
        with os.fdopen(pipes[0][0]) as out, os.fdopen(pipes[1][0]) as err:
            output = read_until(request["since"], out) if request["since"] else ""
            if request["after"] is not None:
                time.sleep(request["after"])
                os.kill(child, signal.SIGKILL)
            _, waited = os.waitpid(child, 0)
            output, errors = output + out.read(), err.read()
        print(json.dumps({"status": os.waitstatus_to_exitcode(waited), "output": output, "errors": errors}), flush=True)


if __name__ == "__main__":
    serve()
