"""python -m fedray.sweep experiments/lr.toml      runs a grid of experiments; skips what is finished

grid.py lists the runs. They share one Ray and its warm actors. Several are in flight at a time, and each gives the same
bits as alone. A sweep keeps all its state in the tables of its runs, so it can be killed at any moment and started
again.
"""

import sys

from fedray.cli.short_help import exit_if_bare, show

if __name__ == "__main__":
    exit_if_bare("fedray.sweep")  # before the imports below, which take most of the time

import dataclasses
import shlex
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedray import results
from fedray.cli import verbosity
from fedray.cli.command_line import CommandLine, read_command_line, read_target, run_program
from fedray.cli.verbosity import read_verbosity, speak
from fedray.core.errors import BadInputError, DamagedError
from fedray.core.interrupt import Interrupt
from fedray.core.lock import hold
from fedray.core.settings import flatten
from fedray.experiment.composition import compose, override
from fedray.experiment.experiment import Experiment
from fedray.run.checks import check_split
from fedray.run.played import check_ended
from fedray.run.prepared import Job, preload
from fedray.sweep.estimate import known_runs, outlook
from fedray.sweep.grid import Point, points, varying
from fedray.sweep.halving import read_rungs
from fedray.sweep.longer import rounds_before
from fedray.sweep.on_failure import OnFailure
from fedray.sweep.play import Sweep, done, play_sweep
from fedray.sweep.summary import is_share, summary
from fedray.sweep.view import SweepView, view_of

PROGRAM = "python -m fedray.sweep"
BUSY = "another sweep ({{process}}) is at work in {folder}/; wait for it, or give this one another --output.name"
DESCRIPTION = (
    "Run a grid of experiments, or continue it. The exit status is 0 if every run finished or was halved, 1 if some "
    "failed or have not ended, 3 if some diverged, 2 for bad input, 130 if it was interrupted."
)
FLAGS = {
    "dry-run": "print each run as the command that reproduces it alone, estimate the time, and run nothing",
    "retry-failed": "run again the runs that failed before",
    "fresh": "start all runs over; their earlier files move to the results folder NAME.old-1",
    "yes": "allow more than 10,000 runs",
    **verbosity.FLAGS,
}
VALUES = {
    "max-concurrent": (
        "N",
        "most runs in flight at a time (default: as many as keep the cores busy and fit in memory)",
    ),
    "halve": ("ROUND,...", "after each of these rounds, stop the worse half of the configurations"),
    "on-failure": (
        "COMMAND",
        "have the shell run this command for each run that fails, as it fails; it may take a minute, and finds "
        "FEDRAY_RUN_ID, FEDRAY_RUN_PATH, FEDRAY_LABEL, FEDRAY_REASON and FEDRAY_SETTINGS in its environment",
    ),
    "target": (
        "ACCURACY",
        "count rounds and seconds to this accuracy, a fraction (default: 90 % of the best, in whole percent), or to "
        "this value of what judges instead",
    ),
    **verbosity.VALUES,
}
LISTS = {
    "grid": (
        "SETTING=VALUES",
        "add axes to the grid, or replace the values of its own: algorithm.lr=0.01,0.1 seed=0..4",
    )
}

LEFT_OUT = (results.DamagedResultsWarning, results.NewerResultsWarning)


def main(argv: list[str], interrupt: Interrupt | None = None) -> int:
    if not argv:
        return show("fedray.sweep")
    with warnings.catch_warnings():
        for category in LEFT_OUT:
            warnings.simplefilter("ignore", category)  # shown once, at the end
        return sweep_all(argv, interrupt or Interrupt())


def sweep_all(argv: list[str], interrupt: Interrupt) -> int:
    line = read_command_line(argv, PROGRAM, DESCRIPTION, FLAGS, VALUES, LISTS)
    said = read_verbosity(line)
    composed = experiments(line)
    target = read_target(line.values.get("target"), lambda: is_share(Job(composed[0][1], writes=False).judged))
    rungs = read_rungs(line.values["halve"], [e for _, e in composed]) if "halve" in line.values else []
    most = read_count("max-concurrent", line.values.get("max-concurrent"))
    if line.flags["dry-run"]:
        if said.json:
            raise BadInputError("--json cannot go with --dry-run: no run starts, so none has lines to print")
        for point, experiment in composed:
            print(command(line, point, experiment))
        every = [experiment for _, experiment in composed]
        print(f"# {look_ahead(every, line.flags['retry-failed'], line.flags['fresh'])}")
        return 0
    sweep = make_sweep(line, composed, rungs)
    folder = sweep.jobs[0].folder
    results.check_version(folder.parent, folder.name)
    left = sweep.left
    watch = view_of(said, sweep.jobs, left, sweep.labels)
    interrupt.tell = watch.notice
    return speak(said, watch.detail, lambda: play_and_sum_up(sweep, left, most, target, watch, interrupt))


def play_and_sum_up(
    sweep: Sweep, left: list[Job], most: int | None, target: float | None, watch: SweepView, interrupt: Interrupt
) -> int:
    """Play the runs that are left, show the table of all runs, and return the exit status."""
    folder = sweep.jobs[0].folder
    watch.say("sweep", describe(sweep))
    for sentence in sweep.damaged:
        watch.notice(sentence)
    runs_left = {job.run for job in left}
    for job in sweep.jobs:
        if job.run not in runs_left:
            watch.skip(job)
    if left:
        preload(left)  # imports torch while the data are read and Ray starts
        for job in left:
            check_split(Job(job.asked))
        with hold(folder / ".sweep.lock", BUSY.format(folder=folder)):
            try:
                play_sweep(sweep, most, watch, interrupt)
            finally:
                watch.close()
    for job in sweep.jobs:
        if job.ended:
            job.tidy()
    with warnings.catch_warnings(record=True) as caught:
        for category in LEFT_OUT:
            warnings.simplefilter("always", category)
        found = results.load(folder.name, folder.parent)
    for warning in caught:
        watch.notice(str(warning.message))
    watch.show(summary(found, [job.run for job in sweep.jobs], sweep.axes, target))
    watch.say("results", f"{folder}/, for a page of them python -m fedray.report {folder}")
    return 1 if sweep.damaged else exit_status([job.status for job in sweep.jobs])


def experiments(line: CommandLine) -> list[tuple[Point, Experiment]]:
    """Every point of the grid with its validated experiment. A value given on the command line replaces its axis.

    BadInputError without a settings file or a grid.
    """
    if not line.file:
        raise BadInputError(f"name a settings file with a [grid], as in {PROGRAM} experiments/lr.toml")
    if not (line.sweep or line.lists):
        raise BadInputError(f"{line.file} has no [grid]; python -m fedray {line.file} runs it")
    composed = []
    for point in points(line):
        tree = copy_tree(line.tree)
        override(tree, point)
        composed.append((point, compose(tree)))
    return composed


def make_sweep(line: CommandLine, composed: Sequence[tuple[Point, Experiment]], rungs: Sequence[int]) -> Sweep:
    """The sweep of these experiments, each run once: points with the same resolved settings are one run.

    Where one of them leaves the engine or the blocks on auto and another does not, the other has its way: auto takes
    what there is.
    Runs with unreadable records are left out, with a sentence in `damaged`; BadInputError if no other run is left.
    """
    jobs: dict[str, Job] = {}
    labels: dict[str, str] = {}
    damaged: dict[str, str] = {}
    for point, experiment in composed:
        job = Job(experiment)
        try:
            if not line.flags["fresh"]:
                job.read_status()
            first = jobs.setdefault(job.run, job)
            if (both := asking_for_both(first.asked, experiment)) != first.asked:
                jobs[job.run] = Job(both)
        except DamagedError as error:
            damaged[job.run] = f"{error}; remove it to have this run recorded again, or start all over with --fresh"
        labels.setdefault(job.run, " ".join(f"{name}={as_word(value)}" for name, value in point.items()) or job.run)
    axes = [name for name in varying([point for point, _ in composed]) if name != "seed"]
    file = line.file or Path()
    if not jobs:
        raise BadInputError(next(iter(damaged.values())))
    if not line.flags["fresh"]:
        for job in jobs.values():
            if job.ended:
                check_ended(job)
    runs, sentences = tuple(jobs.values()), tuple(damaged.values())
    flags = line.flags["retry-failed"], line.flags["fresh"]
    return Sweep(file, runs, labels, tuple(axes), tuple(rungs), *flags, sentences, read_on_failure(line))


def asking_for_both(one: Experiment, other: Experiment) -> Experiment:
    """The first of two experiments with the same id, with the engine and the blocks that either asks for."""
    return dataclasses.replace(one, engine=one.engine or other.engine, blocks=one.blocks or other.blocks)


def copy_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: copy_tree(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def read_count(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise BadInputError(f"--{name} {text} must be a whole number of at least 1")
    return int(text)


def read_on_failure(line: CommandLine) -> OnFailure | None:
    """The command of --on-failure; None without one, BadInputError for an empty one."""
    written = line.values.get("on-failure")
    if written is not None and not written.strip():
        raise BadInputError("--on-failure needs a command, as in --on-failure 'echo \"$FEDRAY_RUN_ID\" >> failed.txt'")
    return OnFailure(written) if written else None


def command(line: CommandLine, point: Point, experiment: Experiment) -> str:
    """The command for this run alone, without overrides of settings that its experiment does not have."""
    words = ["python", "-m", "fedray", str(line.file)]
    there = dict(flatten(experiment.settings()))
    for name, value in {**line.overrides, **point}.items():
        if name in there:
            words += [f"--{name}", as_word(value)]
    return shlex.join(words)


def as_word(value: Any) -> str:
    """A setting's value as on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def look_ahead(experiments: Sequence[Experiment], retry_failed: bool, fresh: bool) -> str:
    """A sentence with the number of runs left and an estimate of their time, or why the time cannot be estimated."""
    try:
        if away := next((e.model.name for e in experiments if not e.model.is_here), None):
            raise BadInputError(f"the weights of {away} are not here yet, and a dry run fetches nothing")
        jobs = {job.run: job for job in map(Job, experiments)}
        known = known_runs(experiments[0].output.root, experiments[0].output.name)
        left = [job for job in jobs.values() if fresh or job.status not in done(retry_failed)]
    except BadInputError as error:
        return f"{len(experiments):,} runs; their time cannot be estimated: {' '.join(str(error).split())}"
    played = {} if fresh else {run.run: run.rounds for run in known}
    taken = rounds_before(left, fresh)
    rounds = [
        (dict(flatten(job.experiment.settings())), job.experiment.rounds - (played.get(job.run, 0) or taken[job.run]))
        for job in left
    ]
    return outlook(len(jobs), rounds, known) + describe_statuses([job.status for job in left if not fresh])


def describe_statuses(statuses: Sequence[str | None]) -> str:
    """The end of a sentence on runs left, with how many have begun and stand how; empty where none has."""
    found = [f"{count} {status}" for status, count in Counter(statuses).items() if status]
    return f"; of these {', '.join(found)}" if found else ""


def describe(sweep: Sweep) -> str:
    """The number of runs and their folder, and how many of them finished or failed before."""
    if sweep.fresh:
        return f"{len(sweep.jobs)} runs in {sweep.jobs[0].folder}/, all started over"
    ended = sum(job.ended for job in sweep.jobs)
    text = f"{len(sweep.jobs)} runs in {sweep.jobs[0].folder}/, {ended} of them finished before"
    failed = len(sweep.jobs) - len(sweep.left) - ended
    return text + (f", {failed} failed before (--retry-failed runs them again)" if failed else "")


def exit_status(statuses: Sequence[str | None]) -> int:
    """0 if all runs finished or were halved, 1 if some failed or have not ended, otherwise 3: some diverged."""
    if any(status not in (*results.FINAL_STATUSES, "halved") for status in statuses):
        return 1
    return 3 if "diverged" in statuses else 0


def program() -> int:
    """The console script fedray-sweep; returns the exit status."""
    return run_program(main)


if __name__ == "__main__":
    sys.exit(program())
