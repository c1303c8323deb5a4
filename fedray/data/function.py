"""A data set from the user's own function, `package.module:function`.

The function is called without arguments, once in a process. It returns (train_images, train_labels, test_images,
test_labels), or these and train_users, or a mapping with those names, which may also have classes, mean, std,
vocabulary, padding and targets. In a mapping inputs and targets are other names of images and labels. Arrays are NumPy
arrays or torch tensors; arrays.py tells what they are. Or it returns two torch data sets (items.py).
"""

import importlib
import re
import traceback
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedray.core.errors import BadInputError
from fedray.core.settings import nearest
from fedray.data.arrays import assemble
from fedray.data.dataset import Dataset
from fedray.data.given import Given
from fedray.data.items import are_sets, read_sets

ADDRESS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
ALIKE = {"inputs": "images", "targets": "labels"}
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels", "train_users")
KEYS = (*ARRAYS, "classes", "mean", "std", "vocabulary", "padding", "targets")
OTHER_KEYS = {f"{split}_{new}": f"{split}_{old}" for split in ("train", "test") for new, old in ALIKE.items()}
"""The other names of the arrays, which say nothing of images and labels."""


def read(address: str) -> Dataset:
    """The whole data set that the function returns. Without mean and std from it, both are empty."""
    return _call(_find(address), address)


def _find(address: str) -> Callable[[], Any]:
    module_name, _, name = address.partition(":")
    wrong = f"data.dataset = {address}"
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's module does
        raise BadInputError(
            f"{wrong}: {module_name} cannot be imported, {_say(error)}; python -m fedray also finds modules in the "
            "current folder"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        near = nearest(name, (known for known, value in vars(module).items() if callable(value)))
        raise BadInputError(f"{wrong}: {module_name} has no function {name}{near}")
    return function


@lru_cache(maxsize=1)
def _call(function: Callable[[], Any], address: str) -> Dataset:
    """The data set of the function, cached, because its fingerprint is needed before its arrays."""
    wrong = f"data.dataset = {address}"
    try:
        found = function()
    except (Exception, SystemExit) as error:
        raise BadInputError(f"{wrong} raised {_say(error)}") from error
    if are_sets(found, wrong):
        return assemble(read_sets(found, wrong), address)
    return assemble(_name_parts(wrong, found), address)


def _name_parts(wrong: str, found: Any) -> Given:
    """The parts of the function's result, by name."""
    if isinstance(found, Mapping):
        known = (*KEYS, *OTHER_KEYS)
        if unknown := [key for key in found if key not in known]:
            near = nearest(str(unknown[0]), known)
            raise BadInputError(f"{wrong} returned {unknown[0]!r}, which is none of {', '.join(known)}{near}")
        names = {part: name for name, part in OTHER_KEYS.items() if name in found}
        if twice := next((part for part in names if part in found), None):
            raise BadInputError(f"{wrong} returned both {twice} and {names[twice]}, which are the same")
        parts: dict[str, Any] = {OTHER_KEYS.get(str(key), str(key)): value for key, value in found.items()}
        if missing := [name for name in ARRAYS[:4] if name not in parts]:
            raise BadInputError(f"{wrong} returned no {missing[0]}")
        return Given(wrong, parts, names)
    if not isinstance(found, tuple | list) or len(found) not in (4, 5):
        size = f" of {len(found)}" if isinstance(found, tuple | list) else ""
        raise BadInputError(
            f"{wrong} returned a {type(found).__name__}{size}, not a tuple ({', '.join(ARRAYS[:4])}[, {ARRAYS[4]}]), "
            "a mapping with these names, or two torch data sets"
        )
    return Given(wrong, dict(zip(ARRAYS, found, strict=False)), {})


def _say(error: BaseException) -> str:
    """An exception and the place where it was raised, in short."""
    places = list(traceback.extract_tb(error.__traceback__))
    if isinstance(error, SystemExit):  # trackers put a function of their own in the place of sys.exit
        places = [at for at in places if at.name != "exit"] or places
    last = places[-1]
    ours = last.filename.startswith("<") or last.filename in (__file__, importlib.__file__)
    return f"{type(error).__name__}: {error}" + ("" if ours else f" ({Path(last.filename).name}, line {last.lineno})")
