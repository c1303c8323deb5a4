"""The networks behind the names in models.py, how one is built from a seed, and what the driver is told of it."""

import threading
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from fedray.core.errors import BadInputError
from fedray.core.randomness import torch_seed
from fedray.models import imagenet, own_models
from fedray.models.dropout import use_keyed_dropout
from fedray.models.flat import FlatModel
from fedray.models.model import Model, Shape
from fedray.models.parts import add_projection, freeze_backbone, last_linear, take_images, use_group_norm
from fedray.models.resnets import resnet20, resnet56
from fedray.models.small import cnn, lenet5, logistic, mcmahan_cnn, mlp, vgg11

BUILDERS: dict[str, Callable[[Shape, int], nn.Module]] = {
    "lenet5": lenet5,
    "cnn": cnn,
    "logistic": logistic,
    "mlp": mlp,
    "mcmahan_cnn": mcmahan_cnn,
    "vgg11": vgg11,
    "resnet20": resnet20,
    "resnet56": resnet56,
}
"""The networks that are fedray's own."""


ONE_AT_A_TIME = threading.Lock()  # torch has one generator, also for the runs of a sweep that begin at once


def build(model: Model, shape: Shape, classes: int, seed: int, fingerprint: str = "") -> nn.Module:
    """The module with torch's default initialisation, the same for the same seed; torch's own generator is left alone.

    `shape` is (channels, height, width) of one image. BadInputError where a `fingerprint` is given and that of what
    the model is made from, Model.fingerprint, is another.
    """
    with ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "model"))
        module = make(model, shape, classes, fingerprint)
        if model.norm == "group":
            use_group_norm(module, model.groups)
        head = last_linear(module) if model.freeze == "backbone" else ""
        if model.projection:
            add_projection(module, model.projection)
    if head:
        freeze_backbone(module, head)
    use_keyed_dropout(module)
    take_images(module, model, shape)
    return module


def make(model: Model, shape: Shape, classes: int, fingerprint: str = "") -> nn.Module:
    """The network itself, for images of the size to which they are resized."""
    side = model.side(shape)
    shape = (shape[0], side, side) if side else shape
    if model.is_torchvisions:
        return imagenet.make(model, classes, fingerprint)
    if model.is_known:
        return BUILDERS[model.name](shape, classes)
    made = own_models.call(model.name, shape, classes, fingerprint)
    if not isinstance(made, nn.Module):
        raise BadInputError(f"model.name = {model.name} gives a {type(made).__name__}, not a torch.nn.Module")
    tensors = [*made.named_parameters(), *made.named_buffers()]
    if lazy := [name for name, tensor in tensors if nn.parameter.is_lazy(tensor)]:
        raise BadInputError(
            f"model.name = {model.name} gives a network whose {lazy[0]} has no size yet: no lazy layers"
        )
    return made.train()


def initial_vectors(module: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """The module's params [P] and buffers [B] as float32 arrays: what the server starts from."""
    flat = FlatModel(module)
    return flat.params.numpy(), flat.buffers.numpy()


def names_of(flat: FlatModel) -> tuple[list[str], list[str]]:
    """The names of all that is in a model's vectors and in its state dict, in the order of that; those in BatchNorm."""
    own = {*flat.layout.names, *flat.buffer_layout.names}
    names = [name for name in flat.module.state_dict() if name in own]
    norms = [name for name, m in flat.module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return names, [name for name in names if name.rpartition(".")[0] in norms]
