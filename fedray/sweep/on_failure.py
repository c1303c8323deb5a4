"""--on-failure: a command of the user's, run by the shell for each run of a sweep that fails, as it fails."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from fedray.run.prepared import Job
from fedray.sweep.view import SweepView

SECONDS = 60.0
LONGEST = 30_000  # characters of the reason; Linux takes 128 KiB for a variable
LAST = 2_000  # bytes of what the command printed that are read


@dataclass(frozen=True)
class OnFailure:
    """The command, and how many seconds it may take."""

    command: str
    seconds: float = SECONDS

    def call(self, job: Job, label: str, why: str, watch: SweepView) -> None:
        """Run the command for a run that failed. Where that goes wrong `watch` tells it in a line."""
        environment = {**os.environ, **variables(job, label, why)}
        try:
            with tempfile.TemporaryFile() as output:
                ended = self.run(environment, output)
                said = last_line(output)
        except (OSError, ValueError) as error:  # no shell, no room for its output, an environment too large
            watch.complain(f"--on-failure could not be run for {job.run}: {error}")
            return
        if ended:
            watch.complain(f"--on-failure {ended} for {job.run}{f': {said}' if said else ''}")
        elif said:
            watch.say("command", said)

    def run(self, environment: Mapping[str, str], output: IO[bytes]) -> str:
        """Run the command, with its output in a file. Returns how it failed in words, empty if it did not."""
        process = subprocess.Popen(
            self.command,
            shell=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the sweep, and what the shell started is ended with the shell
        )
        try:
            status = process.wait(self.seconds)
        except subprocess.TimeoutExpired:
            return f"was ended after {self.seconds:g} seconds"
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return f"ended with status {status}" if status else ""


def variables(job: Job, label: str, why: str) -> dict[str, str]:
    """What the command finds in its environment."""
    half = LONGEST // 2
    reason = why if len(why) <= LONGEST else f"{why[:half]}\n...\n{why[-half:]}"
    return {
        "FEDRAY_RUN_ID": job.run,
        "FEDRAY_RUN_PATH": str(job.folder.resolve()),
        "FEDRAY_LABEL": label,
        "FEDRAY_REASON": reason.replace("\0", ""),
        "FEDRAY_SETTINGS": job.settings_json,
    }


def last_line(output: IO[bytes]) -> str:
    """The last line that the command printed."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - LAST))
    lines = output.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
