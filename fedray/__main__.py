"""python -m fedray experiments/quickstart.toml --rounds 20      runs one experiment"""

import sys
from pathlib import Path

from fedray.command_line import read_command_line, run_program
from fedray.console import ConsoleWatch
from fedray.experiment import compose, set_default_name
from fedray.interrupt import Interrupt
from fedray.job import Job
from fedray.recorder import keep_file
from fedray.run import run

PROGRAM = "python -m fedray"
FLAGS = {"fresh": "start over, and move what there is of the run aside, into a results folder NAME.old-1"}


class KeepingWatch(ConsoleWatch):
    """Prints a run, and keeps its settings file beside its tables once it has begun."""

    def __init__(self, file: Path | None):
        super().__init__()
        self.file = file

    def begin(self, job: Job, where: str) -> None:
        if self.file:
            keep_file(self.file, job.folder)
        super().begin(job, where)


def main(argv: list[str], interrupt: Interrupt | None = None) -> int:
    interrupt = interrupt or Interrupt()
    line = read_command_line(argv, PROGRAM, "Run one federated-learning experiment, or what is left of it.", FLAGS)
    set_default_name(line.tree, "unnamed")
    experiment = compose(line.tree)
    watch = KeepingWatch(line.file)
    interrupt.tell = watch.notice
    if line.sweep:
        tables = " and ".join(f"[{name}]" for name in line.sweep)
        watch.notice(f"only the base settings of {line.file} run; python -m fedray.sweep {line.file} runs its {tables}")
    try:
        found = run(experiment, watch, fresh=line.flags["fresh"], interrupt=interrupt)
    finally:
        watch.close()
    if interrupt.asked and found.runs["status"][0] == "interrupted":
        raise KeyboardInterrupt
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
