"""python -m fedray.sweep experiments/lr.toml      runs a grid of experiments; skips what is finished

The product of the lists in the file's [grid], each axis the dotted name of a setting.
"""

import itertools
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.table import Table

from fedray import results
from fedray.command_line import CommandLine, read_command_line, report_errors
from fedray.errors import BadInputError, ClientError, LostActorError
from fedray.experiment import Experiment, compose, flatten, set_dotted

if TYPE_CHECKING:
    from fedray.console import SweepWatch
    from fedray.job import Job

PROGRAM = "python -m fedray.sweep"
FLAGS = {"dry-run": "print each run as the command that reproduces it alone, and run nothing"}

Point = dict[str, Any]


def points(grid: Mapping[str, Any]) -> list[Point]:
    """The product of the grid's lists, the last axis fastest."""
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise BadInputError(f"grid axis {name} must be a list with at least one value, not {values!r}")
        if name.partition(".")[0] in ("cluster", "output"):
            raise BadInputError(
                f"{name} cannot be a grid axis: it changes no result, so its runs would be one and the same"
            )
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def experiments(line: CommandLine) -> list[tuple[Point, Experiment]]:
    """Every experiment of the grid, all validated; a value given on the command line replaces its axis."""
    if not line.file:
        raise BadInputError(f"name a settings file with a [grid], as in {PROGRAM} experiments/lr.toml")
    if not line.grid:
        raise BadInputError(f"{line.file} has no [grid]; python -m fedray {line.file} runs it")
    grid = {name: values for name, values in line.grid.items() if name not in line.overrides}
    composed = []
    for point in points(grid):
        tree = copy_tree(line.tree)
        for name, value in point.items():
            set_dotted(tree, name, value)
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
    from fedray.console import SweepWatch
    from fedray.job import Job

    watch = SweepWatch()
    jobs = [Job(experiment) for _, experiment in composed]
    left = {
        f"run {number}/{len(jobs)}  {' '.join(f'{name}={value}' for name, value in point.items())}  ": job
        for number, (job, (point, _)) in enumerate(zip(jobs, composed, strict=True), start=1)
        if not job.ended
    }
    watch.say("sweep", f"{len(jobs)} runs in {jobs[0].folder}/, {len(jobs) - len(left)} of them finished before")
    try:
        failed = run_all(left, watch)
    except KeyboardInterrupt:
        watch.close()
        watch.notice("interrupted; run the same command again to continue")
        return 130
    finally:
        watch.close()
    axes = [name for name in line.grid if name not in line.overrides and name != "seed"]
    watch.console.print(summary(jobs, axes))
    watch.say("results", f"{jobs[0].folder}/")
    return 1 if failed else 0


def run_all(jobs: "dict[str, Job]", watch: "SweepWatch") -> int:
    """Run labelled jobs one after another on one Ray; a failing one is shown and counted, and the rest goes on."""
    from fedray.run import check_before_start, run, shared_session

    for job in jobs.values():
        check_before_start(job)
    failed = 0
    with shared_session(list(jobs.values())) as session:
        for label, job in jobs.items():
            watch.label = label
            try:
                run(job.experiment, watch, session)
            except (ClientError, LostActorError) as error:
                watch.close()
                print(f"{label}failed\nfedray: {error}", file=sys.stderr)
                failed += 1
    return failed


def summary(jobs: "list[Job]", axes: Sequence[str]) -> Table:
    """What varies, and the accuracies as mean and standard deviation over seeds."""
    output = jobs[0].experiment.output
    runs = (
        results.load(output.name, output.root).runs.set_index("run").loc[list(dict.fromkeys(job.run for job in jobs))]
    )
    settings = {job.run: dict(flatten(job.experiment.settings())) for job in jobs}
    keys = pd.DataFrame({axis: [str(settings[run][axis]) for run in runs.index] for axis in axes}, index=runs.index)
    runs = runs.drop(columns=[axis for axis in axes if axis in runs]).join(keys)
    table = Table(box=None, pad_edge=False)
    for heading in (*axes, "runs", "final accuracy", "best accuracy", "rounds", "seconds"):
        table.add_column(heading, justify="left" if heading in axes else "right")
    for key, group in runs.groupby(list(axes), sort=False) if axes else [((), runs)]:
        spread = [f"{mean_and_std(group[column])}" for column in ("final_test_accuracy", "best_test_accuracy")]
        mean = [f"{group['rounds_done'].mean():.0f}", f"{group['seconds'].mean():.1f}"]
        table.add_row(*map(str, key), str(len(group)), *spread, *mean)
    return table


def mean_and_std(values: pd.Series) -> str:
    return f"{values.mean():.4f}" + (f" ± {values.std():.4f}" if len(values) > 1 else "")


if __name__ == "__main__":
    sys.exit(report_errors(lambda: main(sys.argv[1:])))
