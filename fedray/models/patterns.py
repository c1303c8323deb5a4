"""Names of parameters and layers by patterns, as the settings write them: `layer4.*,fc.*`. No torch is needed."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from fedray.core.errors import BadInputError
from fedray.core.settings import nearest

SHOWN = 4
"""So many names are listed in a sentence. Of more there is the first one and their number."""


def patterns_of(text: str, setting: str) -> list[str]:
    """The patterns of a setting, which commas separate; BadInputError where one is empty."""
    patterns = [pattern.strip() for pattern in text.split(",")] if text.strip() else []
    if "" in patterns:
        raise BadInputError(f"{setting} = {text!r} must be patterns of names, separated by commas: layer4.*,fc.*")
    return patterns


def fitting(pattern: str, names: Sequence[str], setting: str, what: str) -> list[str]:
    """The names that a pattern fits, upper and lower case apart; BadInputError, with the nearest one, where it fits
    none. `what` says what the names are of."""
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        near = nearest(pattern, names) or f"; there are {listed(names)}"
        raise BadInputError(f"{setting}: {pattern!r} is the name of no {what}{near}")
    return found


def all_fitting(text: str, names: Sequence[str], setting: str, what: str) -> set[str]:
    """The names that any of a setting's patterns fits; BadInputError where one fits none."""
    return {name for pattern in patterns_of(text, setting) for name in fitting(pattern, names, setting, what)}


def listed(names: Iterable[str], kind: str = "names") -> str:
    """A few names as they are; of many their number and the first one."""
    found = list(names)
    return ", ".join(found) if len(found) <= SHOWN else f"{len(found)} {kind} ({found[0]} is one)"
