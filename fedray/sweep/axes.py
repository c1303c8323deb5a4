"""The axes of a sweep, settings with their values, read from TOML and from the words of --grid."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from fedray.cli.command_line import options
from fedray.core.errors import BadInputError
from fedray.experiment import toml
from fedray.experiment.synonyms import meant

Values = list[Any] | range


def length(values: Values) -> int:
    """The number of values; `len` fails on a range as long as all seeds."""
    return values.stop - values.start if isinstance(values, range) else len(values)


def read_axes(tree: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of each axis of nested tables as written, by the setting's dotted name.

    BadInputError, which names the table `where`, for a name that is no axis or is there twice.
    """
    axes: dict[str, Any] = {}
    for name, written in dotted(tree, options()):
        if name in axes:
            raise BadInputError(f"{name} is named twice in {where}")
        check_name(name, where)
        axes[name] = written
    return axes


def dotted(tree: Mapping[str, Any], known: Collection[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each dotted name of nested tables with its value: a list, a single value or the table of a range."""
    for key, value in tree.items():
        name = prefix + key
        is_section = isinstance(value, Mapping) and value and name not in known and not value.keys() & {"low", "high"}
        if is_section:
            yield from dotted(value, known, f"{name}.")
        else:
            yield name, value


def check_name(name: str, where: str) -> None:
    """BadInputError if `name` is no setting, or a setting that changes no result."""
    known = options()
    if name not in known:
        raise BadInputError(f"the axis {name!r} in {where} is no setting{meant(name, known)}")
    if name.partition(".")[0] in ("cluster", "output"):
        raise BadInputError(f"{name} in {where} cannot be an axis: it changes no result, so its runs would be the same")


def to_values(name: str, written: Any, where: str) -> Values:
    """The values of an axis: a list as it is, a single value as a list of one. BadInputError for a table or []."""
    if isinstance(written, Mapping):
        raise BadInputError(f"{name} in {where} must be a list of values; a table with low and high is for [search]")
    if written == []:
        raise BadInputError(f"{name} in {where} must have at least one value")
    return written if isinstance(written, list) else [written]


def read_words(words: Sequence[str]) -> dict[str, Values]:
    """The axes of `--grid algorithm.lr=0.01,0.1 seed=0..4`."""
    axes: dict[str, Values] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign:
            raise BadInputError(f"--grid takes NAME=VALUES, as in seed=0..4, not {word!r}")
        check_name(name, "--grid")
        if name in axes:
            raise BadInputError(f"{name} is named twice in --grid")
        axes[name] = read_text(name, text)
    return axes


def read_text(name: str, text: str) -> Values:
    """The values of one word: `0.1,0.2`, or `0..4` for whole numbers with both ends, or a TOML list `["a,b"]`."""
    if ends := re.fullmatch(r"(-?[0-9]{1,19})\.\.(-?[0-9]{1,19})", text):
        low, high = map(int, ends.groups())
        if low > high:
            raise BadInputError(f"{name}={text} in --grid runs backwards; write {name}={high}..{low}")
        return range(low, high + 1)
    if text.startswith("["):
        try:
            values = toml.parse(f"values = {text}")["values"]
        except ValueError as error:
            raise BadInputError(f"{name}={text} in --grid is no TOML list: {error}") from None
        return to_values(name, values, "--grid")
    values = text.split(",")
    if "" in values:
        raise BadInputError(f'{name}={text} in --grid lacks a value; an empty text is written {name}=[""]')
    return [read_value(value) for value in values]


def read_value(text: str) -> Any:
    """The number, or the true or false, that the text is; otherwise the text itself."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)
