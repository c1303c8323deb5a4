"""Whether the answer in an experiment's header was measured for these runs.

A header names the settings that its answer was measured for by their digest: `Measured for settings 1a2b3c4d.` A copy
of the file with another setting has another digest, and so has a file that was changed after its answer was written.
"""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedray.cli.command_line import absent, options, read_command_line
from fedray.core.errors import BadInputError
from fedray.core.newer import with_neutral
from fedray.core.settings import flatten
from fedray.experiment.composition import compose, override
from fedray.experiment.experiment import Experiment
from fedray.report.header import EXPERIMENT, Header, read_header
from fedray.report.wording import count
from fedray.run.resume import identifying
from fedray.sweep.grid import points

if TYPE_CHECKING:
    import pandas as pd

MEASURED = re.compile(r"\bmeasured for settings ([0-9a-f]{8}(?:(?:,| and|, and) [0-9a-f]{8})*)\b", re.IGNORECASE)


@dataclass(frozen=True)
class FileSettings:
    """The settings of all runs of a settings file, and their digest."""

    experiments: tuple[Experiment, ...]

    @property
    def digest(self) -> str:
        """8 hex digits. They depend on the settings that the runs' ids depend on: not on [cluster] or [output], nor on
        newer settings that are neutral, nor on how the file is written."""
        each = {json.dumps(identity(one.stored_settings()), sort_keys=True) for one in self.experiments}
        return blake2b("\n".join(sorted(each)).encode(), digest_size=4).hexdigest()

    def has(self, runs: "pd.DataFrame") -> list[bool]:
        """Whether each run is one of the file's. A setting that the file leaves on auto may be anything in the run."""
        known, wanted = options(), dict[tuple[str, ...], set[str]]()
        for experiment in self.experiments:
            settings = identity(experiment.settings())
            left_open = tuple(name for name, value in settings.items() if is_auto(value, known.get(name)))
            wanted.setdefault(left_open, set()).add(without(settings, left_open))
        found = [
            identity(with_neutral(dict(flatten(json.loads(text))))) if isinstance(text, str) else None
            for text in runs["settings"]
        ]
        return [
            run is not None and any(without(run, left_open) in keys for left_open, keys in wanted.items())
            for run in found
        ]


def read_settings(path: Path) -> FileSettings:
    """The settings of a file's runs; BadInputError where they cannot be read here."""
    line = read_command_line([str(path)], "", "")
    found = []
    for point in points(line) if line.sweep else [{}]:
        tree = copy.deepcopy(line.tree)
        override(tree, point)
        found.append(compose(tree))
    return FileSettings(tuple(found))


def identity(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that say what a run is, by dotted name, of nested ones."""
    return identifying(tree)


def without(settings: Mapping[str, Any], names: Sequence[str]) -> str:
    return json.dumps({name: value for name, value in settings.items() if name not in names}, sort_keys=True)


def is_auto(value: Any, option: tuple[str, Any] | None) -> bool:
    """Whether fedray decides the value of a setting. `auto` is None inside, but for the data set."""
    return value == "auto" or (value is None and option is not None and absent(option[1]) == "auto")


def named_in(text: str) -> list[str]:
    """The digests of the settings that a header's answer was measured for."""
    return [digest for found in MEASURED.findall(text) for digest in re.findall("[0-9a-f]{8}", found.lower())]


def measured_header(folder: Path, runs: "pd.DataFrame") -> Header:
    """The header of the results in `folder`, without an answer that was not measured for the settings of these runs.

    `note` then says why it is not shown.
    """
    header = read_header(folder)
    try:
        settings = read_settings(folder / EXPERIMENT) if (folder / EXPERIMENT).exists() else None
    except BadInputError as error:
        note = f"The file's answer is not shown, because its settings cannot be read here: {error}."
        return replace(header, answer=(), note=note if header.answer else "")
    if settings is None:
        return header
    header, digest = replace(header, settings=settings.digest), settings.digest
    if not header.answer:
        return header
    named = named_in(" ".join(block.text for block in header.answer))
    if not named:
        note = (
            "The file's answer does not say which settings it was measured for, and is not shown. If it was measured "
            f"for these, let the header say: Measured for settings {digest}."
        )
        return replace(header, answer=(), note=note)
    if digest not in named:
        return replace(header, answer=(), note="The file's answer was measured for other settings and is not shown.")
    own = settings.has(runs)
    if not any(own):
        note = "The file's answer is not shown: it was measured for the file's settings, and no run here has these."
        return replace(header, answer=(), note=note)
    others = f"Of {count(len(own), 'run')} on this page {sum(own)} have the settings that this answer was measured for."
    return header if all(own) else replace(header, note=others)
