"""The kind of a data set: what one input is, and what its target is."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Kind:
    """What the inputs and the targets of a data set are. The default is what fedray 0.3.0 knew."""

    inputs: Literal["images", "values", "tokens"] = "images"
    """Images are uint8 [n, c, h, w]; values are float32 [n, ...]; tokens are int64 [n, length]."""
    targets: Literal["classes", "labels", "values"] = "classes"
    """Classes are int64 [n] in 0..K-1; labels are float32 [n, K] of 0 and 1, of which an example may have any number;
    values are float32 [n, d], real numbers."""
    vocabulary: int = 0
    """Tokens: their number; ids are less than it."""
    padding: int | None = None
    """Tokens: the id that fills an input up to its length; None where there is none."""


CLASSIFIED_IMAGES = Kind()
