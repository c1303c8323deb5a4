"""The points of a sweep, one for each run, from its settings file and the command line.

    [search]                        # n random samples, each of them with every point of the grids
    n = 20
    seed = 0                        # of the search
    algorithm.momentum = [0.0, 0.9]                                 # one of these
    algorithm.weight_decay = {low = 1e-6, high = 1e-2, log = true}  # uniform, here on a log scale

    [[grid]]                        # several are a union; a single one is written [grid]
    algorithm.name = "fedavg"       # a value stands for a list of one
    algorithm.lr = [0.01, 0.1]      # lists are multiplied, the last one fastest

    [[grid]]
    algorithm.name = "fedprox"
    algorithm.mu = [0.01, 0.1]
    [grid.zip]                      # lists walked together, slower than the others; [[grid.zip]] are several such
    clients = [10, 100]
    cohort = [5, 10]

On the command line `--grid algorithm.lr=0.01,0.1 seed=0..4` puts axes into every grid, in place of its own axes of the
same name. `--seed 7` removes the axis `seed` and sets the seed. A point that repeats an earlier one is dropped: 20
samples of one axis with two values are two points.
"""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedray.cli.command_line import CommandLine
from fedray.core.errors import BadInputError
from fedray.sweep.axes import Values, length, read_axes, read_words, to_values
from fedray.sweep.search import Search, read_search

Point = dict[str, Any]
"""The value of each axis, by the dotted name of its setting."""

Group = Mapping[str, Values]
"""Axes of the same length that are walked together; most groups have one axis."""

MANY = 10_000  # more runs than that are probably a mistake in the file, so they need --yes


@dataclass(frozen=True)
class Grid:
    """The points of a sweep, not yet listed: each sample of the search with each point of each table.

    A table is the product of its groups, the last one fastest.
    """

    tables: Sequence[Sequence[Group]]
    search: Search | None = None

    @property
    def count(self) -> int:
        """The number of points, repeated ones included, computed without listing them."""
        return (self.search.n if self.search else 1) * sum(math.prod(map(steps, table)) for table in self.tables)

    def points(self) -> list[Point]:
        """All points, sample by sample, without those that repeat an earlier one."""
        found: dict[Any, Point] = {}
        for k in range(self.search.n if self.search else 1):
            sample = self.search.sample(k) if self.search else {}
            for table in self.tables:
                for parts in itertools.product(*map(walk, table)):
                    point = {name: value for part in (sample, *parts) for name, value in part.items()}
                    found.setdefault(frozenset((name, repr(value)) for name, value in point.items()), point)
        return list(found.values())


def points(line: CommandLine) -> list[Point]:
    """The points of a command line and its file. BadInputError for more than 10,000 without --yes, before any listing.

    It also raises BadInputError where `read_grid` does.
    """
    grid = read_grid(line.sweep, line.lists.get("grid", ()), line.overrides)
    if grid.count > MANY and not line.flags.get("yes"):
        raise BadInputError(f"the sweep has {grid.count:,} runs; add --yes if you mean more than {MANY:,}")
    return grid.points()


def varying(points: Sequence[Point]) -> list[str]:
    """The axes with more than one value over all points, in order of appearance.

    Absence counts as a value: one [[grid]] may have a setting that another lacks.
    """
    names = dict.fromkeys(name for point in points for name in point)
    return [name for name in names if len({repr(point[name]) if name in point else None for point in points}) > 1]


def read_grid(sweep: Mapping[str, Any], words: Sequence[str] = (), overrides: Collection[str] = ()) -> Grid:
    """The grid of a file's tables `sweep` (`read_toml`) and of --grid's `words`, without the axes in `overrides`.

    BadInputError with one sentence for a faulty table or word.
    """
    axes = read_words(words)
    if both := next((name for name in axes if name in overrides), None):
        raise BadInputError(f"{both} is both an axis of --grid and given as --{both}; say one of them")
    tables = read_tables(sweep["grid"]) if "grid" in sweep else [[]]
    search = read_search(sweep["search"]) if "search" in sweep else None
    searched = search.axes if search else {}
    if both := next((name for table in tables for group in table for name in group if name in searched), None):
        raise BadInputError(f"{both} is an axis of [search] and of [grid]; it can be in one of them")
    kept = {name: axis for name, axis in searched.items() if name not in axes and name not in overrides}
    return Grid(
        [put(remove(table, overrides), axes) for table in tables],
        Search(search.n, search.seed, kept) if search and kept else None,
    )


def read_tables(grid: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[list[Group]]:
    """The groups of [grid], or of each [[grid]]."""
    if isinstance(grid, Mapping):
        return [read_table(grid, "[grid]")]
    return [read_table(table, f"[[grid]] number {number}") for number, table in enumerate(grid, start=1)]


def read_table(tree: Mapping[str, Any], where: str) -> list[Group]:
    """The groups of one table: its zips, then each other axis as a group of its own."""
    zips = tree.get("zip", [])
    zips = [zips] if isinstance(zips, Mapping) else zips
    if not isinstance(zips, list) or not all(isinstance(table, Mapping) for table in zips):
        raise BadInputError(f"the zip of {where} must be a table of lists, [grid.zip], not {zips!r}")
    plain = read_group({key: value for key, value in tree.items() if key != "zip"}, where)
    groups = [read_zip(table, f"the zip of {where}") for table in zips] + [{name: plain[name]} for name in plain]
    if not groups:
        raise BadInputError(f"{where} is empty; give it lists of values, as in seed = [0, 1, 2]")
    names = [name for group in groups for name in group]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInputError(f"{twice} is named twice in {where}; an axis is in a zip or by itself")
    return groups


def read_zip(tree: Mapping[str, Any], where: str) -> Group:
    group = read_group(tree, where)
    if not group:
        raise BadInputError(f"{where} is empty; give it lists of values that are walked together")
    first, *others = group
    if other := next((name for name in others if len(group[name]) != len(group[first])), None):
        raise BadInputError(
            f"{where} walks lists together that differ in length: {first} has {len(group[first])} and {other} "
            f"{len(group[other])}"
        )
    return group


def read_group(tree: Mapping[str, Any], where: str) -> Group:
    return {name: to_values(name, written, where) for name, written in read_axes(tree, where).items()}


def remove(table: Sequence[Group], names: Collection[str]) -> list[Group]:
    """A table without these axes."""
    kept = ({name: group[name] for name in group if name not in names} for group in table)
    return [group for group in kept if group]


def put(table: Sequence[Group], axes: Mapping[str, Values]) -> list[Group]:
    """A table with these axes. Each replaces the table's own axis of that name, unless that is in a zip.

    Otherwise it comes last, and a zip loses its axis of that name.
    """
    placed = [{name: axes.get(name, group[name]) for name in group} if len(group) == 1 else group for group in table]
    there = {name for group in placed if len(group) == 1 for name in group}
    others = {name: axes[name] for name in axes if name not in there}
    return remove(placed, others) + [{name: values} for name, values in others.items()]


def steps(group: Group) -> int:
    return length(next(iter(group.values())))


def walk(group: Group) -> list[Point]:
    return [dict(zip(group, values, strict=True)) for values in zip(*group.values(), strict=True)]
