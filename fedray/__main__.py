"""python -m fedray experiments/quickstart.toml --rounds 20      runs one experiment"""

import sys
from pathlib import Path

from fedray.command_line import read_command_line, report_errors
from fedray.console import ConsoleWatch
from fedray.experiment import compose, set_default_name
from fedray.job import Job
from fedray.recorder import keep_file
from fedray.run import run

PROGRAM = "python -m fedray"


class KeepingWatch(ConsoleWatch):
    """Prints a run, and keeps its settings file beside its tables once it has begun."""

    def __init__(self, file: Path | None):
        super().__init__()
        self.file = file

    def begin(self, job: Job, where: str) -> None:
        if self.file:
            keep_file(self.file, job.folder)
        super().begin(job, where)


def main(argv: list[str]) -> int:
    line = read_command_line(argv, PROGRAM, "Run one federated-learning experiment, or what is left of it.")
    set_default_name(line.tree, "unnamed")
    experiment = compose(line.tree)
    watch = KeepingWatch(line.file)
    if line.sweep:
        tables = " and ".join(f"[{name}]" for name in line.sweep)
        watch.notice(f"only the base settings of {line.file} run; python -m fedray.sweep {line.file} runs its {tables}")
    try:
        run(experiment, watch)
    finally:
        watch.close()
    return 0


if __name__ == "__main__":
    sys.exit(report_errors(lambda: main(sys.argv[1:])))
