"""An experiment composed from nested settings, a TOML file or dotted names; each wrong setting gets one sentence."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from fedray.algorithms import own as own_algorithms
from fedray.core.errors import BadInputError
from fedray.core.own_code import is_address
from fedray.core.settings import nearest, plain
from fedray.data.partitions import own as own_partitions
from fedray.experiment import toml
from fedray.experiment.experiment import CHOSEN, DEFAULT_NAMES, Experiment
from fedray.experiment.synonyms import OTHER_NAMES, SECTIONS, choices_with, meant

OWN: dict[str, Callable[[str], type]] = {"algorithm": own_algorithms.find, "partition": own_partitions.find}
"""The sections whose class may be the user's own, and how it is found at its address."""
FIELDS = {field.name: field.type for field in dataclasses.fields(Experiment)}


def section_class(name: str, tree: Mapping[str, Any]) -> type | None:
    """The class of section `name`, as the settings chose it; None for a plain top-level setting."""
    if name in CHOSEN:
        given = tree.get(name, {})
        chosen = given.get("name", DEFAULT_NAMES[name]) if isinstance(given, Mapping) else DEFAULT_NAMES[name]
        if name in OWN and isinstance(chosen, str) and is_address(chosen):
            return OWN[name](chosen)
        if not isinstance(chosen, str) or chosen not in CHOSEN[name]:
            raise BadInputError(
                f"{name}.name = {chosen!r} is not one of {', '.join(CHOSEN[name])}"
                f"{nearest(str(chosen), CHOSEN[name], OTHER_NAMES.get(name))}"
            )
        return CHOSEN[name][chosen]
    kind = FIELDS[name]
    return kind if isinstance(kind, type) and hasattr(kind, "__pydantic_fields__") else None


def pydantic_fields(kind: Any) -> dict[str, Any]:
    return dict(kind.__pydantic_fields__)


def all_settings(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every dotted setting with its pydantic field, for the algorithm and partition that `tree` chose."""
    for name, field in pydantic_fields(Experiment).items():
        kind = section_class(name, tree)
        if kind is None:
            yield name, field
            continue
        if name in CHOSEN:
            yield f"{name}.name", None
        for key, inner in pydantic_fields(kind).items():
            yield f"{name}.{key}", inner


def compose(tree: Mapping[str, Any]) -> Experiment:
    """The experiment of nested settings; BadInputError with one sentence for each mistake."""
    known = dict(all_settings(tree))
    wrong, values = [], {}
    for name, value in tree.items():
        kind = section_class(name, tree) if name in FIELDS else None
        if name not in FIELDS:
            wrong += unknown_entry(name, value, [*FIELDS, *known])
        elif kind is None:
            wrong += not_a_truth(name, value, known)
            values[name] = value
        elif not isinstance(value, Mapping):
            wrong.append(no_value(name, f"{SECTIONS[name]} = {value!r}"))
        else:
            given = {key: v for key, v in value.items() if not (name in CHOSEN and key == "name")}
            inner = {key: v for key, v in given.items() if f"{name}.{key}" in known}
            wrong += [unknown(f"{name}.{key}", known) for key in given if key not in inner]
            wrong += [text for key, v in inner.items() for text in not_a_truth(f"{name}.{key}", v, known)]
            try:
                values[name] = TypeAdapter(kind).validate_python(inner)
            except ValidationError as error:
                wrong += sentences(error, f"{name}.")
    if wrong:
        raise BadInputError("; ".join(wrong))
    try:
        return TypeAdapter(Experiment).validate_python(values)
    except ValidationError as error:
        raise BadInputError("; ".join(sentences(error, ""))) from None


def not_a_truth(name: str, value: Any, known: Mapping[str, Any]) -> list[str]:
    """A sentence where true or false was given for something else, which pydantic would take for 1 or 0."""
    kind = known[name].annotation
    if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
        return [f"{name} = {str(value).lower()} is neither a number nor a text"]
    return []


def sentences(error: ValidationError, prefix: str) -> list[str]:
    """The errors that pydantic found, each as a sentence that names the dotted setting."""
    found = []
    for detail in error.errors():
        name = prefix + ".".join(str(part) for part in detail["loc"] if isinstance(part, str) and part.isidentifier())
        message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        given = detail["input"]
        if detail["type"] == "value_error":
            found.append(message)
        elif detail["type"] == "literal_error":
            options = detail["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            found.append(f"{name} = {given!r} {message}{nearest(str(given), options)}")
        else:
            found.append(f"{name} = {given!r} {message}")
    return found


def unknown(name: str, known: Iterable[str]) -> str:
    """The sentence on a setting that there is not, with the one that was probably meant."""
    if having := choices_with(name):
        section = name.partition(".")[0]
        return f"{name} is a setting of {section}.name = {', '.join(having)}, not of the one that was chosen"
    return f"unknown setting {name!r}{meant(name, known)}"


def unknown_entry(name: str, value: Any, known: Iterable[str]) -> list[str]:
    """The sentences on a top-level name that is none; of a table that is like no section, on each of its settings."""
    if isinstance(value, Mapping) and value and not get_close_matches(plain(name), SECTIONS, cutoff=0.8):
        return [unknown(f"{name}.{key}", known) for key in value]
    return [unknown(name, known)]


def no_value(section: str, written: str) -> str:
    """The sentence on a section that was given a value; `written` is what was probably meant."""
    return f"{section} is a section of settings, not a setting of its own; did you mean {written}?"


def set_dotted(tree: dict[str, Any], name: str, value: Any) -> None:
    """Put a value at its dotted name into nested settings."""
    *sections, key = name.split(".")
    for part in sections:
        inner = tree.setdefault(part, {})
        if not isinstance(inner, dict):
            written = f"{SECTIONS.get(part, f'{part}.KEY')} = {inner!r}"
            raise BadInputError(no_value(part, written))
        tree = inner
    tree[key] = value


def override(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put settings by dotted name into nested settings, choices of a class first.

    Another algorithm or partition takes the place of the tree's own whole: settings that only the old one has go.
    """
    for name in sorted(changes, key=lambda name: not name.endswith(".name")):
        section = name.removesuffix(".name")
        choosing = section in CHOSEN and name.endswith(".name") and isinstance(tree.get(section), dict)
        before = dict(all_settings({section: dict(tree[section])})) if choosing else {}
        set_dotted(tree, name, changes[name])
        if choosing:
            gone = before.keys() - dict(all_settings({section: tree[section]})).keys()
            tree[section] = {key: value for key, value in tree[section].items() if f"{section}.{key}" not in gone}


def read_toml(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A settings file as nested settings, and its tables "grid" and "search" as written, for sweep/grid.py.

    "grid" is one table or a list of them, and "search" is one table. A table that the file does not have is absent.
    """
    try:
        tree = toml.read(path)
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else [])
        raise BadInputError(f"there is no settings file {path}{near}") from None
    sweep: dict[str, Any] = {name: tree.pop(name) for name in ("grid", "search") if name in tree}
    grid = sweep.get("grid", {})
    tables = grid if isinstance(grid, list) and grid else [grid]
    if not all(isinstance(table, dict) for table in tables):
        raise BadInputError(f"[grid] in {path} must be a table of lists, or several, each under [[grid]]")
    if not isinstance(sweep.get("search", {}), dict):
        raise BadInputError(f"[search] in {path} must be one table")
    set_default_name(tree, path.stem)
    return tree, sweep


def set_default_name(tree: dict[str, Any], name: str) -> None:
    """Give the results this name where the settings give none."""
    output = tree.setdefault("output", {})
    if isinstance(output, dict):
        output.setdefault("name", name)


def read_experiment(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment of a settings file, with settings overridden by dotted name: {"algorithm.lr": 0.1}."""
    tree, _ = read_toml(Path(path))
    override(tree, overrides or {})
    return compose(tree)
