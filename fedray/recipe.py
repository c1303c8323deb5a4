"""What a client needs to know besides its images."""

from dataclasses import dataclass

from fedray.models import Model, Shape

EVALUATION_BATCH = 100  # images a forward pass: small enough for the caches; fixed, because sums are rounded


@dataclass(frozen=True)
class Recipe:
    """How a client's model is built, its images prepared, its randomness addressed; it travels with the enrolment."""

    model: Model
    shape: Shape
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str
    seed: int
    engine: str
    cutout: int = 16
    """The side of the square that `augment` = cutout blanks, in pixels."""
