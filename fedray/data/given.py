"""The parts of a data set that the user's code gave, and the sentences about them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedray.core.errors import BadInputError

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Given:
    """What the user's code gave, by the names of the parts of a data set."""

    wrong: str
    """The beginning of each sentence about it."""
    parts: Mapping[str, Any]
    """train_images, train_labels, test_images, test_labels; and train_users, classes, mean, std, vocabulary, padding
    and targets where there are any."""
    names: Mapping[str, str]
    """The user's names of the parts that have another one."""

    @property
    def splits(self) -> list[str]:
        """The splits that there are. Without a test split, examples are held out for it later."""
        return [split for split in SPLITS if f"{split}_images" in self.parts]

    def name(self, part: str) -> str:
        return self.names.get(part, part)

    def refuse(self, part: str, why: str) -> BadInputError:
        return BadInputError(f"{self.wrong}: {self.name(part)} {why}")

    def array(self, part: str) -> np.ndarray:
        """A part as an array of at least one example."""
        value = self.parts[part]
        try:
            if hasattr(value, "detach"):  # a tensor, perhaps of a GPU
                value = value.detach().cpu()
            array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        except Exception as error:
            raise self.refuse(part, f"is no array, {type(error).__name__}: {error}") from error
        if array.ndim == 0 or len(array) == 0:
            raise self.refuse(part, f"is {'no array' if array.ndim == 0 else 'empty'}")
        return array


def real(given: Given, part: str, array: np.ndarray) -> np.ndarray:
    """Floats as finite float32, C-contiguous, with at least two dimensions."""
    if array.ndim < 2 or 0 in array.shape:
        one = "; return [n, 1] where an example is one number" if array.ndim == 1 else ""
        raise given.refuse(part, f"are {array.dtype} {list(array.shape)}, not [n, ...]{one}")
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(array, np.float32)
    wrong = ~np.isfinite(found.reshape(len(found), -1)).all(1)
    if wrong.any():
        row = int(wrong.argmax())
        values = array[row].ravel()
        odd = values[~np.isfinite(found[row].ravel())][0]
        raise given.refuse(part, f"have {odd} in row {row}; float32 has no such number, and nothing fills it in")
    return found
