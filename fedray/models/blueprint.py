"""All that the driver knows of a model that was built elsewhere. No torch in here."""

from dataclasses import dataclass
from math import prod

import numpy as np

AROUND, WIDEST = 1.5, 3
"""So that what is counted is 0.95 to 1.5 times the peak that was measured, which depends on how the allocator finds
room: least for resnet20 (256 images, MOON), most for resnet18 (64 images of 224 x 224 pixels)."""


@dataclass(frozen=True, eq=False)
class Blueprint:
    """A model as the driver needs it: its initial params [P] and buffers [B], and how they make a state dict."""

    params: np.ndarray
    buffers: np.ndarray
    places: dict[str, tuple[str, tuple[int, ...]]]
    """In the vectors' order, each tensor's name: the vector that holds it ("params" or "buffers") and its shape."""
    others: dict[str, np.ndarray]
    """What is in neither vector and stays as it was built: integer buffers, and layers that are frozen."""
    names: list[str]
    """The names of all in the vectors that the model's state dict has, in its own order."""
    norms: list[str]
    """Those of them that belong to BatchNorm layers, with which a training step fails on a batch of one image."""
    kept_bytes: int
    """What a forward pass in training keeps of one image for the backward pass."""
    widest_bytes: int
    """The largest tensor that a layer gives for one image."""
    torch: "Torch"
    featureless: str = ""
    """Why a network of the user's own learns no features that its last Linear layer is given; empty if it does."""
    idle: tuple[str, ...] = ()
    """The parameters of a network of the user's own that its output does not depend on."""
    unstackable: str = ""
    """Why many clients' of a network of the user's own cannot be computed as one program; empty if they can."""
    draws: bool = False
    """Whether a forward pass in training draws from torch's own generator, as all that is random does but nn.Dropout,
    whose masks have addresses."""

    def activation_bytes(self, batch: int, evaluated: int) -> int:
        """The most that batches of so many images, in training and in evaluation, take at once.

        What is kept comes to take AROUND times its size, and WIDEST of the largest tensors come and go beside it; of an
        evaluation only these do.
        """
        return int(AROUND * batch * self.kept_bytes) + WIDEST * (batch + evaluated) * self.widest_bytes

    @property
    def unfit_to_fuse(self) -> str:
        """Why engine = fused cannot train it; empty if it can."""
        if self.draws:
            return "it draws random numbers in training other than by nn.Dropout"
        if self.norms:
            return f"its layer {self.norms[0].rpartition('.')[0]} is a BatchNorm, which that engine does not train"
        return f"as many clients' at a time it fails ({self.unstackable})" if self.unstackable else ""

    @property
    def frozen_bytes(self) -> int:
        """The size of what every process holds of the model besides its vectors."""
        return sum(tensor.nbytes for tensor in self.others.values())

    def state_dict(self, params: np.ndarray, buffers: np.ndarray) -> dict[str, np.ndarray]:
        """The module's whole state dict, by torch's names, with `params` [P] and `buffers` [B] in place.

        Buffers that are not persistent are in the vectors, but not in here.
        """
        vectors, at, tensors = {"params": params, "buffers": buffers}, {"params": 0, "buffers": 0}, dict(self.others)
        for name, (kind, shape) in self.places.items():
            first, at[kind] = at[kind], at[kind] + prod(shape)
            if name in self.names:
                tensors[name] = vectors[kind][first : at[kind]].reshape(shape)
        return tensors


@dataclass(frozen=True)
class Torch:
    """The torch that the clients run on: its version and build, and the processor's abilities."""

    version: str
    cpu_capability: str
    bfloat16: bool
    """Whether the processor computes in bfloat16, rather than emulate it."""
