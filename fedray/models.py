"""The models by name, and what the driver knows of one. The networks themselves are in networks.py, since a driver
with its clients in other processes has no use for torch, which takes seconds to import."""

import dataclasses
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from fedray.settings import Auto, section, setting

Shape = tuple[int, int, int]


@section
class Model:
    """Which network the clients train."""

    name: Literal["lenet5", "cnn", "logistic", "mlp", "resnet18"] = setting(
        "lenet5",
        "The network: lenet5 (62 k parameters), cnn (1.6 M, the CIFAR-10 benchmark of pfl-research), "
        "logistic (multinomial logistic regression), mlp (two hidden layers of 200, McMahan's 2NN), "
        "resnet18 (torchvision's, 11.2 M, with BatchNorm).",
    )
    precision: Literal["float32", "bfloat16"] = setting(
        "float32",
        "Arithmetic of the forward and backward pass. bfloat16 is autocast: parameters and updates stay float32; it is "
        "faster for large convolutions where the processor has it (AVX512-BF16, AMX).",
    )
    channels_last: Auto[bool] = setting(
        None, "Memory format of images inside the network; auto: true for cnn, where it is faster."
    )

    projection: int = setting(
        0, "Width of a projection head in front of the last layer, which MOON's models have (256); 0: none.", ge=0
    )

    def resolved(self) -> "Model":
        """With "auto" replaced by its value: a rule on the model alone, since it changes the bits."""
        if self.channels_last is not None:
            return self
        return dataclasses.replace(self, channels_last=self.name in CHANNELS_LAST)


CHANNELS_LAST = ("cnn",)


FUSED_ON_CPU = ("logistic", "mlp")
"""The models that engine = fused can train, all of them stacks of Linear and ReLU: fused.py writes their gradients."""


@dataclass(frozen=True, eq=False)
class Blueprint:
    """A model as the driver needs it: its initial params [P] and buffers [B], and how they make a state dict."""

    params: np.ndarray
    buffers: np.ndarray
    places: dict[str, tuple[str, tuple[int, ...]]]
    """In the vectors' order, each tensor's name: the vector that holds it ("params" or "buffers") and its shape."""
    others: dict[str, np.ndarray]
    """What is in neither vector and stays as it was built: integer buffers and frozen parameters."""
    names: list[str]
    """The names of all parameters and buffers in the vectors, in the model's own order."""
    norms: list[str]
    """Those of them that belong to BatchNorm layers, with which a training step fails on a batch of one image."""
    torch: "Torch"

    def state_dict(self, params: np.ndarray, buffers: np.ndarray) -> dict[str, np.ndarray]:
        """The module's whole state dict, by torch's names, with `params` [P] and `buffers` [B] in place."""
        vectors, at, tensors = {"params": params, "buffers": buffers}, {"params": 0, "buffers": 0}, dict(self.others)
        for name, (kind, shape) in self.places.items():
            first, at[kind] = at[kind], at[kind] + prod(shape)
            tensors[name] = vectors[kind][first : at[kind]].reshape(shape)
        return tensors


@dataclass(frozen=True)
class Torch:
    """The torch that the clients run on: its version and build, the processor's abilities, the number of GPUs."""

    version: str
    cpu_capability: str
    bfloat16: bool
    """Whether the processor computes in bfloat16, rather than emulate it."""
    gpus: int


PRELOADED = {"resnet18": ("torchvision.models",)}
"""What building a model imports besides torch."""


def blueprint(model: Model, shape: Shape, classes: int, seed: int) -> Blueprint:
    """The blueprint of a model and the torch that it was built with, which this call imports where it runs.

    `shape` is (channels, height, width) of one image.
    """
    from fedray import networks

    return networks.blueprint(model, shape, classes, seed)
