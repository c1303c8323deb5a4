"""The runs that the words of a command line choose: results, ids and settings."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedray.core.errors import BadInputError
from fedray.core.settings import nearest
from fedray.results.frames import Results
from fedray.results.selection import is_condition, read_conditions
from fedray.run.stored import StoredRun, is_results, read_stored


@dataclass(frozen=True)
class Shelf:
    """The runs of one results folder, all of them or those that were chosen."""

    folder: Path
    results: Results
    runs: list[StoredRun]


def choose(words: Sequence[str], root: Path, several: bool) -> list[Shelf]:
    """The runs that the words say, by folder; with none, all runs below `root`.

    An id may be one of `several` runs. BadInputError for a word that says nothing.
    """
    conditions = [word for word in words if is_condition(word)]
    others = [word for word in words if not is_condition(word)]
    places = {word: place for word in others if (place := place_of(root, word))}
    ids = [word for word in others if word not in places]
    named = {place.resolve(): place for place in places.values()}
    shelves = [read_shelf(folder) for folder in named.values()] if places else all_shelves(root)
    wanted = {run for word in ids for run in runs_named(word, shelves, root, several)}
    rows = [each.row for shelf in shelves for each in shelf.runs if each.row]
    asked = read_conditions(conditions, rows)
    for position, shelf in enumerate(shelves):
        runs = [each for each in shelf.runs if not ids or (each.folder, each.run) in wanted]
        # A run without a row has no settings, so that none of them can be what was asked for.
        runs = [each for each in runs if not asked or (each.row and all(one.fits(each.row) for one in asked))]
        shelves[position] = Shelf(shelf.folder, shelf.results, runs)
    return [shelf for shelf in shelves if shelf.runs]


def place_of(root: Path, word: str) -> Path | None:
    """The results folder that a word names: in `root`, or as a path."""
    try:
        return next((path for path in (root / word, Path(word)) if is_results(path)), None)
    except (OSError, ValueError):  # a name too long, a null character
        return None


def read_shelf(folder: Path) -> Shelf:
    return Shelf(folder, *read_stored(folder))


def all_shelves(root: Path) -> list[Shelf]:
    """All results below `root`. Those that cannot be read are told and left out."""
    if not root.is_dir():
        raise BadInputError(f"there is no folder {root} of results; --root names another")
    shelves = []
    for folder in sorted(path for path in root.iterdir() if is_results(path)):
        try:
            shelves.append(read_shelf(folder))
        except BadInputError as error:
            print(f"fedray: {error}", file=sys.stderr)
    return shelves


def runs_named(word: str, shelves: Sequence[Shelf], root: Path, several: bool) -> list[tuple[Path, str]]:
    """The run with this id, or with these parts of its id.

    BadInputError where there is none, and where there are `several` when there must not be.
    """
    every = [(each.folder, each.run) for shelf in shelves for each in shelf.runs]
    found = [(folder, run) for folder, run in every if run == word]
    found = found or [(folder, run) for folder, run in every if f"-{word}-" in f"-{run}-"]
    if not found:
        near = nearest(word, [run for _, run in every] + [shelf.folder.name for shelf in shelves])
        raise BadInputError(f"{word[:200]!r} is no run and no results in {root}{near}")
    if len(found) > 1 and not several:
        some = ", ".join(f"{run} in {folder}" for folder, run in found[:3])
        raise BadInputError(f"{word} may be {len(found)} runs ({some}{', ...' if found[3:] else ''}); say which")
    return found
