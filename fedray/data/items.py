"""Data sets of the user's own that give one example after another, as torch's of map style do, read once into arrays.

An item is (input, target). An input is a Pillow image, which becomes uint8 [c, h, w]; or a tensor or an array: uint8
[c, h, w] stay intensities 0..255, floats, such as ToTensor's in 0..1, become values, integers [length] token ids. A
target is a number, a text, or an array of labels or real numbers. arrays.py says what the arrays mean.

Items are read one by one for a moment, and then by threads. Most of the time goes to files and decoders, which let
other threads run. Processes would each need a copy of the data set, and its modules imported again, torch first.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from fedray.core.errors import BadInputError
from fedray.core.limits import available_memory, cores
from fedray.core.own_code import describe
from fedray.data.decode import CHANNELS, Form
from fedray.data.given import Given

log = logging.getLogger(__name__)
TITLES = {"train": "training set", "test": "test set"}
ALONE_SECONDS = 2.0
MOST_WORKERS = 4
TOGETHER = 64  # items of a thread's turn
SAID_EVERY = 10.0  # seconds
READ_TWICE = 8
"""Items that are read again, to see that they are the same."""

_says: ContextVar[Callable[[str], None]] = ContextVar("says", default=log.info)


@contextmanager
def progress_to(say: Callable[[str], None]) -> Iterator[None]:
    """For the length of a `with`, have `say` told how far a long reading is."""
    token = _says.set(say)
    try:
        yield
    finally:
        _says.reset(token)


def are_sets(found: Any, wrong: str) -> bool:
    """Whether the user's function returned two data sets; BadInputError where they have no length or no items."""
    if not isinstance(found, tuple | list) or len(found) != 2 or not all(map(_gives_items, found)):
        return False
    for split, each in zip(TITLES, found, strict=True):
        kinds = [kind.__name__ for kind in type(each).__mro__]
        if "IterableDataset" in kinds or not (hasattr(each, "__len__") and hasattr(each, "__getitem__")):
            raise BadInputError(
                f"{wrong}: its {TITLES[split]}, a {kinds[0]}, is no data set of map style, with a length and items by "
                "number"
            )
    return True


def _gives_items(each: Any) -> bool:
    plain = isinstance(each, str | bytes | Mapping | tuple | list | np.ndarray) or hasattr(each, "dtype")
    return not plain and (hasattr(each, "__getitem__") or hasattr(each, "__iter__"))


def read_sets(sets: Sequence[Any], wrong: str) -> Given:
    """All items of a training and a test set, as arrays. BadInputError, with the row, where an item is at fault."""
    parts: dict[str, Any] = {}
    form: Form | None = None
    for split, each in zip(TITLES, sets, strict=True):
        reading = _Reading(each, f"{wrong}: {{}} of its {TITLES[split]}", form)
        parts[f"{split}_images"], parts[f"{split}_labels"] = reading.all()
        form = reading.form
    names = {
        f"{split}_{part}": f"the {name} of its {title}"
        for split, title in TITLES.items()
        for part, name in (("images", "inputs"), ("labels", "targets"))
    }
    classes, numbers = _classes(sets[0]), parts["train_labels"]
    if classes and isinstance(numbers, np.ndarray) and numbers.dtype.kind in "biu":
        parts["classes"] = classes
    return Given(wrong, parts, names)


def _classes(each: Any) -> list[str] | None:
    """The names of the classes that a data set, or the one that it is a part of, has as `classes`."""
    while each is not None:
        names = getattr(each, "classes", None)
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            return list(names)
        each = getattr(each, "dataset", None)
    return None


class _Item(NamedTuple):
    input: np.ndarray
    target: Any
    """A text or an array."""


class _Reading:
    """The reading of one data set."""

    def __init__(self, source: Any, said: str, form: Form | None):
        """`said` is the beginning of sentences, with a place for an item; `form` is that of the images before."""
        self.source, self.said, self.form = source, said, form
        self.first: _Item | None = None
        self.length = 0

    def all(self) -> tuple[np.ndarray, Any]:
        """The inputs [n, ...], and the targets as an array or a list of texts."""
        try:
            self.length = len(self.source)
        except Exception as error:
            raise self.fault("the length", error) from error
        if self.length < 1:
            raise BadInputError(f"{self.said.format('no item')} is there: it is empty")
        self.first = self.item(0)
        size, free = self.length * self.first.input.nbytes, available_memory()
        if size > free:
            raise BadInputError(
                f"{self.said.format(f'the {self.length:,} items')} need {size / 1e9:.3g} GB of memory, and "
                f"{free / 1e9:.3g} GB are free"
            )
        inputs = np.empty((self.length, *self.first.input.shape), self.first.input.dtype)
        targets: list[Any] = [None] * self.length
        done, began = 0, time.monotonic()
        while done < self.length and time.monotonic() < began + ALONE_SECONDS:
            self.put(inputs, targets, range(done, done + 1))
            done += 1
        if done < self.length:
            self.put_together(inputs, targets, done)
        for row in np.unique(np.linspace(0, self.length - 1, READ_TWICE).astype(int)).tolist():
            again = self.item(row)
            if not (_same(again.input, inputs[row]) and _same(again.target, targets[row])):
                raise BadInputError(
                    f"{self.said.format(f'item {row}')} is another one when it is read again, as by a random transform "
                    "or by threads that share a file; items must be the same each time, and data.augment has crops and "
                    "flips"
                )
        return inputs, self.joined(targets)

    def put(self, inputs: np.ndarray, targets: list[Any], rows: range) -> int:
        """Read these rows; returns the last."""
        for row in rows:
            inputs[row], targets[row] = self.item(row)
        return rows[-1]

    def put_together(self, inputs: np.ndarray, targets: list[Any], done: int) -> None:
        """Read the rows from `done` by threads, and say how far that is."""
        turns = [range(row, min(row + TOGETHER, self.length)) for row in range(done, self.length, TOGETHER)]
        said = time.monotonic() + SAID_EVERY
        pool = ThreadPoolExecutor(min(MOST_WORKERS, cores()))
        try:
            for last in pool.map(lambda rows: self.put(inputs, targets, rows), turns):
                if time.monotonic() > said:
                    _says.get()(f"{self.said.format(f'{last + 1:,} of {self.length:,} items')} are read")
                    said = time.monotonic() + SAID_EVERY
        finally:
            pool.shutdown(cancel_futures=True)

    def item(self, row: int) -> _Item:
        """An item, of the type and shape of the first; BadInputError where it is not."""
        name = f"item {row}"
        try:
            found = self.source[row]
        except (Exception, SystemExit) as error:
            raise self.fault(name, error) from error
        if not isinstance(found, tuple | list) or len(found) != 2:
            size = f" of {len(found)}" if isinstance(found, tuple | list) else ""
            raise BadInputError(f"{self.said.format(name)} is a {type(found).__name__}{size}, not (input, target)")
        given, target = found
        made = _Item(self.input(name, given), target if isinstance(target, str) else self.array(name, "target", target))
        if self.first is not None:
            self.compare(name, "input", made.input, self.first.input)
            if not isinstance(made.target, str) and not isinstance(self.first.target, str):
                self.compare(name, "target", made.target, self.first.target)
        return made

    def input(self, name: str, given: Any) -> np.ndarray:
        from PIL.Image import Image

        if not isinstance(given, Image):
            array = self.array(name, "input", given)
            wanted = np.float32 if array.dtype.kind == "f" else np.int64 if array.dtype.kind in "iu" else array.dtype
            return array if array.dtype == np.uint8 else array.astype(wanted)
        if self.form is None:
            channels = CHANNELS.get(given.mode)
            if channels is None:
                raise self.unfit(name, f"of Pillow mode {given.mode}, which has more than 8 bits a channel")
            self.form = Form((channels, given.height, given.width))
        if objection := self.form.objection(given).partition(":")[0]:
            raise self.unfit(name, objection)
        return self.form.convert(given)

    def array(self, name: str, what: str, value: Any) -> np.ndarray:
        try:
            if hasattr(value, "detach"):
                value = value.detach().cpu()
            array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        except Exception as error:
            raise self.fault(f"the {what} of {name}", error) from error
        if array.dtype.kind not in "biuf":
            raise BadInputError(
                f"{self.said.format(f'the {what} of {name}')} is a {type(value).__name__}, not a tensor or an array of "
                f"numbers{', nor a Pillow image' if what == 'input' else ', nor a text'}"
            )
        return array

    def compare(self, name: str, what: str, found: np.ndarray, first: np.ndarray) -> None:
        """BadInputError where an array is not of the first one's shape, or not of its type; targets may be of another
        size of numbers."""
        if found.shape != first.shape or (what == "input" and found.dtype != first.dtype):
            one, other = (f"{each.dtype} {list(each.shape)}" for each in (found, first))
            raise BadInputError(f"{self.said.format(f'the {what} of {name}')} is {one}, not {other} as the first")

    def joined(self, targets: list[Any]) -> Any:
        """All targets as an array, or as a list where any is a text."""
        if any(isinstance(target, str) for target in targets):
            return [target if isinstance(target, str) else target.tolist() for target in targets]
        return np.stack(targets)

    def unfit(self, name: str, why: str) -> BadInputError:
        return BadInputError(f"{self.said.format(name)} is an image {why}")

    def fault(self, name: str, error: BaseException) -> BadInputError:
        return BadInputError(f"{self.said.format(name)} cannot be read: {describe(error)}")


def _same(one: Any, other: Any) -> bool:
    """Whether two inputs or targets are the same; numbers that are none are, too, and are refused later."""
    if isinstance(one, str) or isinstance(other, str):
        return bool(one == other)
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()
