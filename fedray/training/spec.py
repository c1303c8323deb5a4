"""What a client needs to know besides its images."""

from dataclasses import dataclass

import numpy as np

from fedray.data.skew import SHARD, Skew
from fedray.models.model import Model, Shape

EVALUATION_BATCH = 100  # images a forward pass: small enough for the caches; fixed, because sums are rounded
EVALUATION_BATCH_ON_GPU = 1000  # where a forward pass of few images is mostly the time to start its kernels


def evaluation_batch(device: str) -> int:
    """Images a forward pass of an evaluation on this device."""
    return EVALUATION_BATCH if device.startswith("cpu") else EVALUATION_BATCH_ON_GPU


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
    skew: Skew = Skew()  # noqa: RUF009  it is frozen
    clients: int = 1
    """N, the size of the population."""
    fingerprint: str = ""
    """Of what the model is made from, as Model.fingerprint says; a model of anything else is not built."""
    chunk_size: int | None = None
    """The most clients that are trained as one program; None: what suits the device."""

    def seen_by(self, client: int, images: np.ndarray, drawn: int = SHARD) -> np.ndarray:
        """A client's images as feature skew lets it see them, or they themselves; `drawn` as in Skew.apply."""
        return self.skew.apply(images, self.seed, client, self.clients, drawn)
