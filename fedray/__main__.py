"""python -m fedray experiments/quickstart.toml --rounds 20      runs one experiment"""

import sys

from fedray.cli.short_help import exit_if_bare, show

if __name__ == "__main__":
    exit_if_bare("fedray")  # before the imports below, which take most of the time

from pathlib import Path

from fedray.cli import verbosity
from fedray.cli.command_line import read_command_line, run_program
from fedray.cli.console import ConsoleWatch, NoticeWatch
from fedray.cli.dry_run import plan_of
from fedray.cli.json_lines import JsonWatch
from fedray.cli.verbosity import Verbosity, read_verbosity, speak
from fedray.core.errors import BadInputError
from fedray.core.interrupt import Interrupt
from fedray.core.settings import flatten
from fedray.experiment.composition import compose, set_default_name
from fedray.experiment.experiment import Experiment
from fedray.results.recorder import keep_file
from fedray.run.longer import rounds_taken
from fedray.run.prepared import Job
from fedray.run.simulation import play_run
from fedray.run.watch import Watch, Watches
from fedray.sweep.estimate import known_runs, time_of_one

PROGRAM = "python -m fedray"
DESCRIPTION = (
    "Run one federated-learning experiment, or continue it. The exit status is 0 if it finished or diverged, 1 if it "
    "failed, 2 for bad input, 130 if it was interrupted."
)
FLAGS = {
    "dry-run": "print what the run would take (actors, memory, disk, traffic, time), or its refusal, and play nothing",
    "fresh": "start over; the run's earlier files move to the results folder NAME.old-1",
    **verbosity.FLAGS,
}
VALUES = verbosity.VALUES


class KeepFile(Watch):
    """Copies the settings file into the results folder when the run begins."""

    def __init__(self, file: Path | None):
        self.file = file

    def begin(self, job: Job, where: str) -> None:
        if self.file:
            keep_file(self.file, job.folder)


def watch_of(said: Verbosity) -> Watch:
    if said.json:
        return JsonWatch()
    if said.shows_progress:
        return ConsoleWatch()
    return NoticeWatch() if said.shows_notices else Watch()


def show_plan(experiment: Experiment, fresh: bool) -> None:
    """Print the plan of a run, and the seconds that it will take where a run like it is known."""
    job, say = Job(experiment), NoticeWatch().say
    for label, sentence in plan_of(job, fresh):
        say(label, sentence)
    known = known_runs(experiment.output.root, experiment.output.name)
    done = 0 if fresh else next((run.rounds for run in known if run.run == job.run), 0) or rounds_taken(job)
    settings = dict(flatten(job.experiment.settings()))
    say("time", time_of_one(settings, job.experiment.rounds - done, known))


def main(argv: list[str], interrupt: Interrupt | None = None) -> int:
    interrupt = interrupt or Interrupt()
    line = read_command_line(argv, PROGRAM, DESCRIPTION, FLAGS, VALUES)
    said = read_verbosity(line)
    if not (line.file or line.overrides):
        return show("fedray")
    set_default_name(line.tree, "unnamed")
    experiment = compose(line.tree)
    if line.flags["dry-run"]:
        if said.json:
            raise BadInputError("--json cannot go with --dry-run: no run starts, so none has lines to print")
        show_plan(experiment, line.flags["fresh"])
        return 0
    watch = watch_of(said)
    interrupt.tell = watch.notice

    def play() -> int:
        if line.sweep:
            names, file = " and ".join(f"[{name}]" for name in line.sweep), line.file
            watch.notice(f"only the base settings of {file} run; python -m fedray.sweep {file} runs its {names}")
        try:
            both = Watches([KeepFile(line.file), watch])
            _, status = play_run(experiment, both, fresh=line.flags["fresh"], interrupt=interrupt)
        finally:
            watch.close()
        if interrupt.asked and status == "interrupted":
            raise KeyboardInterrupt
        return 0

    return speak(said, watch.detail, play)


def program() -> int:
    """The console script fedray; returns the exit status."""
    return run_program(main)


if __name__ == "__main__":
    sys.exit(program())
