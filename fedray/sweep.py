"""python -m fedray.sweep experiments/lr.toml      runs a grid of experiments; skips what is finished

Which runs there are, grid.py says. They share one Ray and its warm actors, some of them in flight at a time, and each
ends in the same bits as alone. All that a sweep knows is in the tables of its runs, so that it can be killed at any
moment and started again.
"""

import math
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedray import results
from fedray.cluster.resources import Plan, local_capacity, plan, runs_at_once
from fedray.command_line import CommandLine, read_command_line, report_errors
from fedray.errors import BadInputError, BusyError, ClientError, LostActorError
from fedray.estimate import known_runs, outlook
from fedray.experiment import Experiment, compose, flatten, override
from fedray.grid import Point, points, varying
from fedray.halving import configuration, read_rungs, score, worse_half
from fedray.in_flight import play_all
from fedray.job import Job
from fedray.lock import hold
from fedray.recorder import keep_file, mark
from fedray.run import open_past, run, shared_session
from fedray.summary import summary
from fedray.sweep_watch import SweepWatch

if TYPE_CHECKING:
    from fedray.cluster.start import Session

PROGRAM = "python -m fedray.sweep"
BUSY = "another sweep ({{process}}) is at work in {folder}/; wait for it, or give this one another --output.name"
DESCRIPTION = (
    "Run a grid of experiments, or what is left of it. The exit status is 0 when every run came to a good end, 1 when "
    "some failed, 3 when some diverged, 2 for bad input."
)
FLAGS = {
    "dry-run": "print each run as the command that reproduces it alone, estimate the time, and run nothing",
    "retry-failed": "run those again that failed before",
    "yes": "start more than 10,000 runs",
}
VALUES = {
    "max-concurrent": (
        "N",
        "most runs in flight at a time (default: as many as keep the cores busy and fit in memory)",
    ),
    "halve": ("ROUND,...", "after each of these rounds, stop the worse half of the configurations"),
    "target": ("ACCURACY", "the table's target, a fraction (default: 90 %% of the best, in whole percent)"),
}
LISTS = {
    "grid": (
        "SETTING=VALUES",
        "further axes of the grid, or other values of its own: algorithm.lr=0.01,0.1 seed=0..4",
    )
}


@dataclass(frozen=True)
class Sweep:
    """The runs, each once, in order, with what tells them apart; and how they are to be run."""

    file: Path
    jobs: tuple[Job, ...]
    labels: Mapping[str, str]
    axes: tuple[str, ...]
    rungs: tuple[int, ...]
    retry_failed: bool

    @property
    def left(self) -> list[Job]:
        """The runs that have not ended, but for those that failed, unless they are to be tried again."""
        return [job for job in self.jobs if job.status not in done(self.retry_failed)]


def done(retry_failed: bool) -> tuple[str, ...]:
    """The statuses of runs that are not to be played."""
    return results.FINAL_STATUSES if retry_failed else (*results.FINAL_STATUSES, "failed")


def main(argv: list[str]) -> int:
    line = read_command_line(argv, PROGRAM, DESCRIPTION, FLAGS, VALUES, LISTS)
    composed = experiments(line)
    target = read_fraction("target", line.values.get("target"))
    rungs = read_rungs(line.values["halve"], [e for _, e in composed]) if "halve" in line.values else []
    most = read_count("max-concurrent", line.values.get("max-concurrent"))
    if line.flags["dry-run"]:
        for point, _ in composed:
            print(command(line, point))
        print(f"# {look_ahead([experiment for _, experiment in composed], line.flags['retry-failed'])}")
        return 0
    sweep = make_sweep(line, composed, rungs)
    folder = sweep.jobs[0].folder
    results.check_version(folder.parent, folder.name)
    watch = SweepWatch(sweep.jobs, sweep.labels)
    watch.say("sweep", describe(sweep))
    if left := sweep.left:
        left[0].fork_server  # noqa: B018  it imports torch while the data are read and Ray starts
        for job in left:
            Job(job.experiment).check_split()
        with hold(folder / ".sweep.lock", BUSY.format(folder=folder)):
            try:
                play_sweep(sweep, most, watch)
            finally:
                watch.close()
    for job in sweep.jobs:
        if job.ended:
            job.tidy()
    found = results.load(folder.name, folder.parent)
    watch.print_wide(summary(found, [job.run for job in sweep.jobs], sweep.axes, target))
    watch.say("results", f"{folder}/, for a page of them python -m fedray.report {folder}")
    return exit_status([job.status for job in sweep.jobs])


def experiments(line: CommandLine) -> list[tuple[Point, Experiment]]:
    """Every experiment of the grid, all validated; a value given on the command line replaces its axis."""
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
    """Each run once: points that differ only in what fedray works out are one."""
    jobs: dict[str, Job] = {}
    labels: dict[str, str] = {}
    for point, experiment in composed:
        job = Job(experiment)
        jobs.setdefault(job.run, job)
        labels.setdefault(job.run, " ".join(f"{name}={value}" for name, value in point.items()))
    axes = [name for name in varying([point for point, _ in composed]) if name != "seed"]
    file = line.file or Path()
    return Sweep(file, tuple(jobs.values()), labels, tuple(axes), tuple(rungs), line.flags["retry-failed"])


def copy_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: copy_tree(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def read_count(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise BadInputError(f"--{name} {text} must be a whole number of at least 1")
    return int(text)


def read_fraction(name: str, text: str | None) -> float | None:
    try:
        fraction = None if text is None else float(text)
    except ValueError:
        fraction = -1.0
    if fraction is not None and not 0 < fraction <= 1:
        raise BadInputError(f"--{name} {text} must be a fraction between 0 and 1, as 0.5 is for 50 %")
    return fraction


def command(line: CommandLine, point: Point) -> str:
    """The command that makes this run alone."""
    words = ["python", "-m", "fedray", str(line.file)]
    for name, value in {**line.overrides, **point}.items():
        words += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    return shlex.join(words)


def look_ahead(experiments: Sequence[Experiment], retry_failed: bool) -> str:
    """How many of the runs are left and how long they take, as far as that can be known without their data."""
    try:
        jobs = {job.run: job for job in map(Job, experiments)}
        known = known_runs(experiments[0].output.root, experiments[0].output.name)
        left = [job for job in jobs.values() if job.status not in done(retry_failed)]
    except BadInputError as error:
        return f"{len(experiments):,} runs; how long they take cannot be said: {' '.join(str(error).split())}"
    played = {run.run: run.rounds for run in known}
    rounds = [
        (dict(flatten(job.experiment.settings())), job.experiment.rounds - played.get(job.run, 0)) for job in left
    ]
    return outlook(len(jobs), rounds, known)


def describe(sweep: Sweep) -> str:
    """How many runs there are, and how many of them are not to be run."""
    ended = sum(job.ended for job in sweep.jobs)
    text = f"{len(sweep.jobs)} runs in {sweep.jobs[0].folder}/, {ended} of them finished before"
    failed = len(sweep.jobs) - len(sweep.left) - ended
    return text + (f", {failed} failed before (--retry-failed runs them again)" if failed else "")


def check(experiment: Experiment, most: int | None) -> "tuple[Plan | None, int]":
    """Make the other checks of a run that has not ended, as BadInputError; nothing is on disk yet.

    Returns its reservations, where they can be known before its Ray is there, and how many such runs may be in flight.
    """
    job = Job(experiment)  # of its own: it holds the model and the shards only as long as it takes
    job.check_shards()
    open_past(job)
    if experiment.cluster.backend == "in-process":
        if most and most > 1:
            raise BadInputError(f"--max-concurrent {most} needs Ray; cluster.backend = in-process has one process")
        return None, 1
    if experiment.cluster.address != "local":
        return None, most or 2
    capacity = local_capacity(experiment.cluster, job.blueprint.torch.gpus)
    planned = plan(experiment.cluster, experiment.clients, capacity, job.needs)
    return planned, most or runs_at_once(planned, job.needs, capacity)


Plans = Mapping[str, "tuple[Plan | None, int]"]


def play_sweep(sweep: Sweep, most: int | None, watch: SweepWatch) -> None:
    """Play the runs that are left, to each rung and there the worse half out, and then to their ends."""
    with shared_session(sweep.jobs[0].experiment.cluster) as session:
        plans = {job.run: check(job.experiment, most) for job in sweep.left}
        keep_file(sweep.file, sweep.jobs[0].folder)
        out: set[str] = set()
        failed: set[str] = set()  # in this sweep, which tries nothing twice
        for rung in (*sweep.rungs, None):
            alive = [job for job in sweep.left if configuration(job.experiment) not in out and job.run not in failed]
            for jobs, most in together(alive, plans):
                stop = session.pool.dispatcher.stop if session else lambda: None
                play_all(jobs, lambda job: play(job, watch, session, rung), min(most, len(jobs)), stop)  # noqa: B023
            failed |= {job.run for job in alive if job.status == "failed"}
            if rung:
                out |= halve(rung, sweep, out, watch)


def together(jobs: Sequence[Job], plans: Plans) -> list[tuple[list[Job], int]]:
    """The runs that want the same reservations, in order, and how many of them may be in flight."""
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        planned, _ = plans[job.run]
        groups.setdefault(planned and (planned.num_cpus, planned.num_gpus), []).append(job)
    return [(group, min(plans[job.run][1] for job in group)) for group in groups.values()]


def play(job: Job, watch: SweepWatch, session: "Session | None", until: int | None) -> None:
    """Play one run; whatever goes wrong is shown and recorded as its status, and the sweep goes on."""
    try:
        run(job.experiment, watch, session, until)
    except BusyError as error:  # it is another's to record
        watch.fail(job, str(error))
    except Exception as error:
        said = isinstance(error, BadInputError | ClientError | LostActorError)
        why = str(error) if said else traceback.format_exc()
        if job.status != "failed":  # it never came to its rounds
            ready = Job(job.experiment)
            output = job.experiment.output
            mark(output.root, output.name, job.run, "failed", why, {**ready.grouping, **ready.run_row})
        watch.fail(job, why)


def halve(rung: int, sweep: Sweep, out: set[str], watch: SweepWatch) -> set[str]:
    """The configurations that end at this rung; their runs are marked, and keep what they recorded."""
    folder = sweep.jobs[0].folder
    rounds = results.load(folder.name, folder.parent).rounds
    by_run = {
        str(run): rows.astype(object).where(rows.notna(), None).to_dict("records")
        for run, rows in rounds.groupby("run")
    }
    alive = [job for job in sweep.jobs if configuration(job.experiment) not in out]
    scores: dict[str, list[float]] = {}
    for job in alive:
        judged = (
            -math.inf if job.status in ("failed", "diverged") else score(job.experiment, by_run.get(job.run, []), rung)
        )
        scores.setdefault(configuration(job.experiment), []).append(judged)
    losers = set(worse_half(scores))
    for job in alive:
        if configuration(job.experiment) in losers and job.status in ("interrupted", "halved"):
            why = f"--halve stopped it after round {rung}, being in the worse half of {len(scores)} configurations"
            mark(folder.parent, folder.name, job.run, "halved", why, {})
    watch.halve(rung, len(scores) - len(losers), [job for job in alive if configuration(job.experiment) in losers])
    return losers


def exit_status(statuses: Sequence[str | None]) -> int:
    """0 when all came to a good end, or were halved; 1 when some failed or are not done; 3 when some diverged."""
    if any(status not in (*results.FINAL_STATUSES, "halved") for status in statuses):
        return 1
    return 3 if "diverged" in statuses else 0


if __name__ == "__main__":
    sys.exit(report_errors(lambda: main(sys.argv[1:])))
