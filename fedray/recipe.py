"""What a client needs to know besides its images."""

from dataclasses import dataclass

from fedray.models import Model, Shape

EVALUATION_BATCH = 500  # images a forward pass; fixed, because the sums of a batch are rounded


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
