"""Blueprints: all that the driver knows of a model that another process built. They need no torch."""

from dataclasses import dataclass
from math import prod

import numpy as np

AROUND, WIDEST = 1.5, 3
"""Factors of `activation_bytes`. With them the estimate is 0.95 to 1.5 times the measured peak, which depends on the
allocator: least for resnet20 (256 images, MOON), most for resnet18 (64 images of 224 x 224 pixels)."""


@dataclass(frozen=True, eq=False)
class Blueprint:
    """A model as the driver needs it: its initial params [P] and buffers [B], its state dict's layout, its memory."""

    params: np.ndarray
    buffers: np.ndarray
    places: dict[str, tuple[str, tuple[int, ...]]]
    """For each tensor's name, in the vectors' order: the vector that holds it ("params" or "buffers") and its shape."""
    others: dict[str, np.ndarray]
    """The tensors in neither vector, which stay as they were built: integer buffers and frozen layers."""
    names: list[str]
    """The names in the model's state dict of all tensors in the vectors, in the state dict's order."""
    norms: list[str]
    """The `names` of BatchNorm layers. With such layers a training step fails on a batch of one image."""
    kept_bytes: int
    """The bytes that a forward pass in training keeps of one image for the backward pass."""
    widest_bytes: int
    """The bytes of the largest output of a layer for one image."""
    torch: "Torch"
    featureless: str = ""
    """The reason why a user's network has no trained features before its last Linear layer; empty if it has."""
    idle: tuple[str, ...] = ()
    """The parameters of a user's network that its output does not depend on."""
    unstackable: str = ""
    """The reason why many clients' copies of a user's network cannot be one program; empty if they can."""
    start: str = ""
    """A sentence on what of model.init's file the model starts with; empty without one."""
    draws: bool = False
    """Whether a forward pass in training draws from torch's own generator. nn.Dropout does not: its masks have
    addresses."""

    def activation_bytes(self, batch: int, evaluated: int) -> int:
        """The peak memory of a training batch of `batch` images together with an evaluation batch of `evaluated`.

        The tensors kept for the backward pass take AROUND times their size. Beside them WIDEST tensors of the largest
        size come and go. Evaluation has only the latter.
        """
        return int(AROUND * batch * self.kept_bytes) + WIDEST * (batch + evaluated) * self.widest_bytes

    @property
    def unfit_to_fuse(self) -> str:
        """The reason why engine = fused cannot train the model; empty if it can."""
        if self.draws:
            return "it draws random numbers in training other than by nn.Dropout"
        return f"it fails for many clients at a time ({self.unstackable})" if self.unstackable else ""

    @property
    def frozen_bytes(self) -> int:
        """The bytes of the tensors that every process holds besides the model's vectors."""
        return sum(tensor.nbytes for tensor in self.others.values())

    def state_dict(self, params: np.ndarray, buffers: np.ndarray) -> dict[str, np.ndarray]:
        """The module's whole state dict, by torch's names, with `params` [P] and `buffers` [B] in place.

        Buffers that are not persistent are in the vectors, but not in the state dict.
        """
        vectors, at, tensors = {"params": params, "buffers": buffers}, {"params": 0, "buffers": 0}, dict(self.others)
        for name, (kind, shape) in self.places.items():
            first, at[kind] = at[kind], at[kind] + prod(shape)
            if name in self.names:
                tensors[name] = vectors[kind][first : at[kind]].reshape(shape)
        return tensors


@dataclass(frozen=True)
class Torch:
    """The torch that the clients use: its version and build, and the abilities of the processor."""

    version: str
    cpu_capability: str
    bfloat16: bool
    """Whether the processor computes in bfloat16 without emulation."""
