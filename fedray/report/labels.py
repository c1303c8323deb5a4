"""Names of the user's own for configurations: `--label "clients=1: centralised"`."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedray.core.errors import BadInputError
from fedray.report.study import Study
from fedray.report.wording import enumerate_words, is_missing, label
from fedray.results.analysis import settings_columns
from fedray.sweep.summary import written

EXAMPLE = 'as in --label "clients=1: centralised"'


@dataclass(frozen=True)
class Label:
    """A name for the configurations with some settings; `given` is how the user wrote it."""

    settings: Mapping[str, str]
    text: str
    given: str


def read_label(given: str) -> Label:
    """The label of `clients=1, epochs=3: centralised`; BadInputError where it is none."""
    before, colon, text = given.partition(": ")
    pairs = [word.partition("=") for word in before.split(",")]
    if not colon or not text.strip() or not all(name.strip() and sign for name, sign, _ in pairs):
        raise BadInputError(f"--label {given!r} must be settings, a colon, a blank and a name, {EXAMPLE}")
    return Label({name.strip(): value.strip() for name, _, value in pairs}, " ".join(text.split()), given)


def labelled(study: Study, labels: Sequence[Label]) -> Study:
    """The study with these names for its configurations; where several labels fit one, the last counts.

    A name that fits several configurations is followed by the settings that tell these apart. BadInputError where a
    label fits none, or where two configurations would have the same name.
    """
    if not labels:
        return study
    which = {key: each for each in labels for key in fitting(study, each)}
    names = study.labels
    for each in labels:
        keys = [key for key in study.keys if which.get(key) is each]
        names |= {key: ", ".join(filter(None, [each.text, told_apart(study, key, keys)])) for key in keys}
    twice = next((name for name in names.values() if list(names.values()).count(name) > 1), None)
    if twice is not None:
        raise BadInputError(
            f"with these labels two configurations would be called {twice!r}; name more of their settings"
        )
    table = study.configurations.assign(label=[names[key] for key in study.keys])
    return dataclasses.replace(study, configurations=table, named=True)


def fitting(study: Study, given: Label) -> list[str]:
    """The keys of the configurations all of whose runs have the label's settings."""
    runs = study.as_loaded.runs
    fit = runs["run"].notna()
    for name in settings_columns(study.as_loaded, tuple(given.settings)):
        here = runs[name].map(lambda found, text=given.settings[name]: is_written(found, text))
        if not (fit & here).any():
            others = enumerate_words(sorted({written(value) or "none" for value in runs[name][fit]}))
            raise BadInputError(f"--label {given.given!r} fits no run: {name} is {others}")
        fit &= here
    fits = fit.groupby(study.results.runs["series"]).all()
    keys = [key for key in study.keys if fits[key]]
    if not keys:
        raise BadInputError(f"--label {given.given!r} fits some runs of a configuration and not others")
    return keys


def is_written(found: Any, text: str) -> bool:
    """Whether `text` is how a user would write this value of a setting."""
    if isinstance(found, (int, float)) and not isinstance(found, bool) and not is_missing(found):
        try:
            return float(text) == found
        except ValueError:
            return False
    return text == (written(found) or "none")


def told_apart(study: Study, key: str, keys: Sequence[str]) -> str:
    """The settings in words that tell a configuration from the others with these keys; empty where it is alone."""
    table = study.configurations.loc[list(keys)]
    axes = [name for name in study.axes if len(set(map(written, table[name]))) > 1]
    return label({name: table.loc[key, name] for name in axes})
