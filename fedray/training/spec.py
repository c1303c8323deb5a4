"""The specification of a client's training: its model, how its images are prepared, and its seed."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedray.core.kinds import CLASSIFIED_IMAGES, Kind
from fedray.data.skew import SHARD, Skew
from fedray.models.loss import Loss
from fedray.models.model import Model, Shape

EVALUATION_BATCH = 100  # images a forward pass; few enough for the caches, and fixed, because sums are rounded
EVALUATION_BATCH_ON_GPU = 1000  # on a GPU a forward pass of few images mostly waits for its kernels to start


def evaluation_batch(device: str) -> int:
    """Images a forward pass of an evaluation on this device."""
    return EVALUATION_BATCH if device.startswith("cpu") else EVALUATION_BATCH_ON_GPU


@dataclass(frozen=True)
class Recipe:
    """The specification of a client's model, of its images' preparation and of its random draws; actors are sent it."""

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
    """The fingerprint of what the model is made from, as Model.fingerprint gives it. Nothing else is built."""
    own_classes: tuple[tuple[str, str, str], ...] = ()
    """Of the user's own classes, and of those that they inherit from, those first: the setting that has one, its
    address, and the fingerprint of its module, which no other file is to stand for."""
    kind: Kind = CLASSIFIED_IMAGES
    """What the inputs and the targets are."""
    loss: Loss = Loss()  # noqa: RUF009  it is frozen
    class_weights: tuple[float, ...] = ()
    """The weights of classes in the loss, or of each label's positives, as Loss.weights gives them; () without."""
    loss_source: str = ""
    """The fingerprint of the user's own loss, as Loss.fingerprint gives it."""
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    """How an epoch is drawn, as the setting data.sampling says it."""
    tested_on_own: bool = False
    """Whether clients are evaluated on training examples of their own that are held out, and not on the test set."""
    chunk_size: int | None = None
    """The most clients that are trained as one program. None: as many as suit the device."""

    def seen_by(self, client: int, images: np.ndarray, drawn: int = SHARD) -> np.ndarray:
        """A client's images under feature skew, or the images themselves without skew; `drawn` is as in Skew.apply."""
        return self.skew.apply(images, self.seed, client, self.clients, drawn)
