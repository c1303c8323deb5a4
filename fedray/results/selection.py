"""Runs chosen by their settings, in words such as `lr=0.1`, `status=failed` and `accuracy<0.5`."""

import json
import math
import operator
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fedray.core.errors import BadInputError
from fedray.core.settings import nearest
from fedray.results.comparison import varied
from fedray.results.folder import settings_of
from fedray.results.schema import SCHEMAS, judging_column

if TYPE_CHECKING:
    from fedray.results.frames import Results

Row = Mapping[str, Any]
"""A run as plain Python values: its columns of `runs`, `accuracy`, `judged`, and every setting by dotted name."""

CONDITION = re.compile(r"([A-Za-z][\w.]*)(<=|>=|!=|==|=|<|>)(.*)", re.DOTALL)
INTEGERS = {field.name for field in SCHEMAS["runs"] if pa.types.is_integer(field.type)}
ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def rows_of(results: "Results") -> list[Row]:
    """The runs of some results, a row each. A value that is missing is None.

    `accuracy` is the last one: of the server's model, or of the clients' where none of the server's was measured.
    `judged` is the last value of the measure that the run is judged by.
    """
    columns = [results.runs[name].tolist() for name in SCHEMAS["runs"].names]
    rows: list[Row] = []
    for values in zip(*columns, strict=True):
        row = {name: _plain(name, value) for name, value in zip(SCHEMAS["runs"].names, values, strict=True)}
        text = row.pop("settings")
        if text is not None:
            row |= {name: value for name, value in settings_of(text).items() if name not in SCHEMAS["runs"].names}
        measured = (row["final_test_accuracy"], row["final_client_accuracy"])
        accuracy = next((value for value in measured if value is not None), None)
        rows.append(row | {"accuracy": accuracy, "judged": row[f"final_{judging_column(row['judged_by'])}"]})
    return rows


def _plain(name: str, value: Any) -> Any:
    if value is None or value != value:  # NaN and NaT
        return None
    return int(value) if name in INTEGERS else value  # pandas turns integers with nulls into floats


def differing(results: "Results") -> list[str]:
    """The settings in which the runs differ, the seed last."""
    return [*varied(results), *(["seed"] if results.runs["seed"].nunique() > 1 else [])]


@dataclass(frozen=True)
class Condition:
    """A question to a run: how its value of the column or setting `name` compares with a text."""

    name: str
    sign: str
    text: str

    def fits(self, row: Row) -> bool:
        """Whether the run has such a value. One that lacks the setting fits `NAME=none` alone."""
        value = row.get(self.name)
        if self.sign == "=":
            return any(is_written(value, word) for word in self.words)
        if value is None:
            return False
        if self.sign == "!=":
            return not any(is_written(value, word) for word in self.words)
        return bool(ORDERS[self.sign](value, self.bound(value)))

    @property
    def words(self) -> list[str]:
        return [self.text] if self.text.startswith("[") else self.text.split(",")

    def bound(self, value: Any) -> Any:
        """The text as what the value can be compared with; BadInputError where it is none."""
        asked = f"{self.name}{self.sign}{self.text}"
        try:
            if isinstance(value, datetime):
                bound = datetime.fromisoformat(self.text)
                return bound if bound.tzinfo else bound.replace(tzinfo=UTC)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise BadInputError(f"{asked} cannot be asked: {self.name} is no number, as in {written(value)}")
            return float(self.text)
        except BadInputError:
            raise
        except ValueError:
            kind = "a time such as 2026-01-31" if isinstance(value, datetime) else "a number"
            raise BadInputError(f"{asked} must compare with {kind}") from None


def is_condition(word: str) -> bool:
    return CONDITION.fullmatch(word) is not None


def read_conditions(words: Sequence[str], rows: Sequence[Row]) -> list[Condition]:
    """The conditions that these words say of these runs; BadInputError where a name is none of their settings."""
    known = {name for row in rows for name in row}
    found = []
    for word in words:
        match = CONDITION.fullmatch(word)
        if not match:
            raise BadInputError(f"{word!r} is no condition such as lr=0.1")
        name, sign, text = match.groups()
        found.append(Condition(full_name(name, known), "=" if sign == "==" else sign, text))
    return found


def full_name(name: str, known: Collection[str]) -> str:
    """The setting that a name means, which may be without its section where only one setting ends so."""
    if name in known:
        return name
    ending = sorted(full for full in known if full.rpartition(".")[2] == name)
    if len(ending) > 1:
        raise BadInputError(f"{name} may be {' or '.join(ending)}; give it with its section")
    if not ending:
        raise BadInputError(f"no run has a setting {name!r}{nearest(name, known)}")
    return ending[0]


def short_name(name: str, known: Collection[str]) -> str:
    """The shortest name that means the setting."""
    leaf = name.rpartition(".")[2]
    alone = leaf not in known and sum(full.rpartition(".")[2] == leaf for full in known) == 1
    return leaf if alone else name


def is_written(value: Any, text: str) -> bool:
    """Whether a value is what the text says: 0.1 is also 1e-1, and 1.0 is also 1."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return bool(value == float(text))
        except ValueError:
            return False
    if isinstance(value, datetime):
        raise BadInputError(f"a time such as {written(value)} is compared with <, <=, > or >=")
    return text == written(value) or (isinstance(value, tuple) and text.replace(" ", "") == written(value))


def written(value: Any) -> str:
    """A value as a condition has it."""
    if value is None:
        return "none"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return json.dumps(value, separators=(",", ":")) if isinstance(value, tuple) else str(value)
