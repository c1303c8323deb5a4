"""Random search: samples of settings from lists and ranges, as [search] in a settings file asks for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeGuard

import numpy as np

from fedray.cli.command_line import kind, options
from fedray.core.errors import BadInputError
from fedray.core.randomness import MAX_SEED, generator
from fedray.core.settings import nearest
from fedray.sweep.axes import Values, length, read_axes, to_values


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included. With `log` their logarithms are uniform, otherwise they are."""

    low: float
    high: float
    log: bool
    whole: bool

    def draw(self, rng: np.random.Generator) -> float:
        """One number: an int if `whole`, otherwise a float of six digits, which a printed command repeats exactly."""
        if self.whole and not self.log:
            return int(rng.integers(int(self.low), int(self.high), endpoint=True))
        u = rng.random()
        if self.log:
            margin = 0.5 if self.whole else 0.0  # without it rounding would halve the chance of either end
            value = math.exp((1 - u) * math.log(self.low - margin) + u * math.log(self.high + margin))
        else:
            value = (1 - u) * self.low + u * self.high
        return min(max(round(value) if self.whole else float(f"{value:.6g}"), self.low), self.high)


@dataclass(frozen=True)
class Search:
    """`n` samples, each with a value of every axis."""

    n: int
    seed: int
    axes: Mapping[str, Values | Range]

    def sample(self, k: int) -> dict[str, Any]:
        """Sample k, from 0. A value depends on (seed, k, name of the axis) alone.

        A larger n therefore extends a smaller one, and a further axis changes no value of the others.
        """
        return {name: draw(axis, self.seed, k, name) for name, axis in self.axes.items()}


def draw(axis: Values | Range, seed: int, k: int, name: str) -> Any:
    address = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
    rng = generator(seed, "search", t=k, client=address)
    return axis.draw(rng) if isinstance(axis, Range) else axis[int(rng.integers(length(axis)))]


def read_search(tree: Mapping[str, Any]) -> Search:
    """The search of the table [search]: n, seed, and a list or range for each axis. BadInputError for a faulty one."""
    n, seed = tree.get("n"), tree.get("seed", 0)
    if not is_int(n) or n < 1:
        raise BadInputError(f"[search] needs n, its number of samples, from 1{'' if n is None else f', not {n!r}'}")
    if not is_int(seed) or not 0 <= seed <= MAX_SEED:
        raise BadInputError(
            f"seed in [search] is that of the search, a number from 0, not {seed!r}; seeds of runs are for [grid]"
        )
    written = read_axes({key: value for key, value in tree.items() if key not in ("n", "seed")}, "[search]")
    if not written:
        raise BadInputError(
            "[search] has no axis; give it one, as in algorithm.lr = {low = 0.001, high = 1.0, log = true}"
        )
    axes = {
        name: read_range(name, value) if isinstance(value, Mapping) else to_values(name, value, "[search]")
        for name, value in written.items()
    }
    return Search(n, seed, axes)


def read_range(name: str, table: Mapping[str, Any]) -> Range:
    """The range of `{low = 1e-4, high = 1.0, log = true}`. It is whole if its ends are and the setting is no FLOAT."""
    known = ("low", "high", "log")
    if wrong := next((key for key in table if key not in known), None):
        raise BadInputError(f"{name} in [search] has low, high and log, not {wrong!r}{nearest(wrong, known)}")
    low, high, log = table.get("low"), table.get("high"), table.get("log", False)
    if not (is_number(low) and is_number(high)):
        raise BadInputError(f"{name} in [search] needs two numbers, low and high, not {low!r} and {high!r}")
    if not isinstance(log, bool):
        raise BadInputError(f"log of {name} in [search] must be true or false, not {log!r}")
    if low >= high:
        raise BadInputError(f"{name} in [search] needs a low below its high, not {low} and {high}")
    if log and low <= 0:
        raise BadInputError(f"{name} in [search] needs a low above 0 for log = true, not {low}")
    _, field = options()[name]
    if field is not None and kind(field) != "FLOAT" and low == int(low) and high == int(high):
        return Range(int(low), int(high), log, whole=True)
    return Range(float(low), float(high), log, whole=False)


def is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether the value is a number that both a 64-bit integer and a float can hold."""
    return (is_int(value) or isinstance(value, float)) and abs(value) <= MAX_SEED
