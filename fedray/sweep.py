"""python -m fedray.sweep experiments/lr.toml      runs a grid of experiments; skips what is finished

The product of the lists in the file's [grid], each axis the dotted name of a setting.
"""

import itertools
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from statistics import mean, stdev
from typing import Any

from rich.table import Table

from fedray import results
from fedray.cluster.resources import local_capacity, plan
from fedray.command_line import CommandLine, options, read_command_line, report_errors
from fedray.console import SweepWatch
from fedray.errors import BadInputError, ClientError, LostActorError
from fedray.experiment import Experiment, compose, flatten, nearest, override
from fedray.job import Job
from fedray.run import open_past, run, shared_session

PROGRAM = "python -m fedray.sweep"
FLAGS = {"dry-run": "print each run as the command that reproduces it alone, and run nothing"}

Point = dict[str, Any]


def points(grid: Mapping[str, Any]) -> list[Point]:
    """The product of the grid's lists, the last axis fastest."""
    for name, values in grid.items():
        if name not in options():
            raise BadInputError(f"grid axis {name!r} is no setting{nearest(name, options())}")
        if not isinstance(values, list) or not values:
            raise BadInputError(f"grid axis {name} must be a list with at least one value, not {values!r}")
        if name.partition(".")[0] in ("cluster", "output"):
            raise BadInputError(f"{name} cannot be a grid axis: it changes no result, so its runs would be the same")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def experiments(line: CommandLine) -> list[tuple[Point, Experiment]]:
    """Every experiment of the grid, all validated; a value given on the command line replaces its axis."""
    if not line.file:
        raise BadInputError(f"name a settings file with a [grid], as in {PROGRAM} experiments/lr.toml")
    if not line.grid:
        raise BadInputError(f"{line.file} has no [grid]; python -m fedray {line.file} runs it")
    composed = []
    for point in points({name: values for name, values in line.grid.items() if name not in line.overrides}):
        tree = copy_tree(line.tree)
        override(tree, point)
        composed.append((point, compose(tree)))
    return composed


def copy_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: copy_tree(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def command(line: CommandLine, point: Point) -> str:
    """The command that makes this run alone."""
    words = ["python", "-m", "fedray", str(line.file)]
    for name, value in {**line.overrides, **point}.items():
        words += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    return shlex.join(words)


def main(argv: list[str]) -> int:
    line = read_command_line(argv, PROGRAM, "Run a grid of experiments, or what is left of it.", FLAGS)
    composed = experiments(line)
    if line.flags["dry-run"]:
        for point, _ in composed:
            print(command(line, point))
        return 0
    watch = SweepWatch()
    jobs = [Job(experiment) for _, experiment in composed]
    ended = [job.ended for job in jobs]
    watch.say("sweep", f"{len(jobs)} runs in {jobs[0].folder}/, {sum(ended)} of them finished before")
    for job, end in zip(jobs, ended, strict=True):
        if not end:
            check(job.experiment)
    failed = 0
    try:
        with nullcontext() if all(ended) else shared_session(jobs[0].experiment.cluster) as session:
            for number, (job, (point, _)) in enumerate(zip(jobs, composed, strict=True), start=1):
                if job.ended:
                    job.tidy()
                    continue
                varied = " ".join(f"{name}={value}" for name, value in point.items())
                watch.label = f"run {number}/{len(jobs)}  {varied}  "
                failed += not completed(job.experiment, watch, session)
    finally:
        watch.close()
    table = summary(jobs, [name for name in line.grid if name not in (*line.overrides, "seed")])
    if not watch.console.is_terminal:
        watch.console.width = 200  # a file has no edge to wrap at
    watch.console.print(table)
    watch.say("results", f"{jobs[0].folder}/")
    return 1 if failed else 0


def check(experiment: Experiment) -> None:
    """Make every check of a run that has not ended, as BadInputError; nothing is on disk or started yet."""
    job = Job(experiment)  # of its own: it holds the model and the shards only as long as it takes
    job.check_split()
    job.check_shards()
    if experiment.cluster.backend == "ray" and experiment.cluster.address == "local":
        plan(
            experiment.cluster,
            experiment.clients,
            local_capacity(experiment.cluster, job.blueprint.torch.gpus),
            job.needs,
        )
    open_past(job)


def completed(experiment: Experiment, watch: SweepWatch, session: Any) -> bool:
    """Whether the run came to its end; an error is shown, and the sweep goes on."""
    try:
        run(experiment, watch, session)
        return True
    except (BadInputError, ClientError, LostActorError) as error:
        watch.close()
        print(f"{watch.label}failed\nfedray: {error}", file=sys.stderr)
        return False


def summary(jobs: Sequence[Job], axes: Sequence[str]) -> Table:
    """What varies, and the accuracies of the completed runs as mean and standard deviation over seeds."""
    groups: dict[tuple[str, ...], list[Any]] = {}
    for job in {job.run: job for job in jobs}.values():
        settings = dict(flatten(job.experiment.settings()))
        (row,) = results.load(job.folder.name, job.folder.parent, job.run).runs.to_dict("records") or [{}]
        groups.setdefault(tuple(str(settings.get(axis)) for axis in axes), []).append(row)
    table = Table(box=None, pad_edge=False)
    shown = [name for name in ACCURACIES if any(is_number(row.get(name)) for rows in groups.values() for row in rows)]
    for heading in (*axes, "runs", *(ACCURACIES[name] for name in shown), "rounds", "seconds"):
        table.add_column(heading, justify="left" if heading in axes else "right")
    for key, rows in groups.items():
        done = [row for row in rows if row.get("status") in results.FINAL_STATUSES]
        runs = str(len(rows)) if len(done) == len(rows) else f"{len(done)} of {len(rows)}"
        spread = [mean_and_std([row[name] for row in done if is_number(row[name])]) for name in shown]
        means = [f"{mean(row[name] for row in done):.4g}" if done else "" for name in ("rounds_done", "seconds")]
        table.add_row(*key, runs, *spread, *means)
    return table


ACCURACIES = {
    "final_test_accuracy": "final accuracy",
    "best_test_accuracy": "best accuracy",
    "final_client_accuracy": "clients' accuracy",
}


def is_number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def mean_and_std(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


if __name__ == "__main__":
    sys.exit(report_errors(lambda: main(sys.argv[1:])))
