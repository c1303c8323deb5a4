"""Declarations of settings. A section is a frozen, validated dataclass whose fields carry their own help.

    @section
    class Server:
        lr: float = setting(1.0, "Step of the server along the mean update.", gt=0)

A setting is declared only there. The declaration validates TOML and the command line, and `--help` is printed from it.
A wrong value raises when the object is made, from Python too.
"""

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from fedray.core.own_classes import see

STRICT_KEYS = ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=True)

T = TypeVar("T")
# Written "auto" in settings and None inside: fedray finds the value itself.
Auto = Annotated[T | None, BeforeValidator(lambda value: None if value == "auto" else value)]
# Written "none" in settings and None inside: the setting is not used.
Maybe = Annotated[T | None, BeforeValidator(lambda value: None if value == "none" else value)]
# Names may be written with capitals, too.
AsLowerCase = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
# Whole numbers of a Literal come as text from a command line.
AsNumber = BeforeValidator(lambda value: int(value) if isinstance(value, str) and value.isdecimal() else value)


def setting(default: Any, help: str, *, unit: str = "", **limits: Any) -> Any:  # noqa: A002
    """One field of a section: its default, a sentence of help, its unit, and pydantic limits (gt, ge, lt, le)."""
    return Field(default=default, description=help, json_schema_extra={"unit": unit}, **limits)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def section(cls: type) -> Any:
    """Make a class a section of the settings: frozen, hashable and keyword-only. Unknown keys are refused."""
    see(cls)
    return dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)(cls)


def undeclared(kind: type) -> str:
    """The reason why a class has settings that are none, since @section is not above it; empty where it has none."""
    for each in kind.__mro__:
        package = each.__module__.partition(".")[0]
        if "__dataclass_fields__" in vars(each) or package in ("fedray", "builtins", "typing"):
            continue
        hints = inspect.get_annotations(each)
        names = [name for name, hint in hints.items() if "ClassVar" not in str(hint)]
        names += [name for name, value in vars(each).items() if isinstance(value, FieldInfo) and name not in names]
        if names:
            return (
                f"class {each.__name__} of {each.__module__} declares {', '.join(names)} without @section above it, so "
                f"that no setting comes of it; write @section there, or {names[0]}: ClassVar for a constant"
            )
    return ""


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested settings."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def nearest(word: str, words: Iterable[str], others: Mapping[str, str] | None = None) -> str:
    """The end of a sentence that proposes the most similar of some words; empty where none is similar.

    Capitals, hyphens and underscores do not count. `others` are other names of some of the words.
    """
    there = {plain(each): each for each in reversed(list(words))}
    match = difflib.get_close_matches(plain(word), there, n=1, cutoff=0.5)
    found = {plain(other): each for other, each in (others or {}).items()}.get(plain(word))
    found = found or (there[match[0]] if match else None)
    return f"; did you mean {found}?" if found else ""


def plain(word: str) -> str:
    """A word without capitals, hyphens, underscores and spaces."""
    return re.sub(r"[-_ ]", "", word.lower())
