"""Modules from their settings and a seed: the networks behind the names in model.py, and a user's own."""

import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import nn

from fedray.core.errors import BadInputError
from fedray.core.kinds import CLASSIFIED_IMAGES, Kind
from fedray.core.own_code import describe, load
from fedray.core.randomness import torch_seed
from fedray.core.settings import nearest
from fedray.models import imagenet
from fedray.models.dropout import use_keyed_dropout
from fedray.models.flat import FlatModel
from fedray.models.model import AND, Model, Shape
from fedray.models.parts import add_projection, freeze_backbone, last_linear, take_images, use_group_norm
from fedray.models.resnets import resnet20, resnet56
from fedray.models.sequences import cnn1d, lstm, transformer
from fedray.models.small import cnn, lenet5, logistic, mcmahan_cnn, mlp, vgg11
from fedray.models.trainable import prepare

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": lenet5,
    "cnn": cnn,
    "logistic": logistic,
    "mlp": mlp,
    "mcmahan_cnn": mcmahan_cnn,
    "vgg11": vgg11,
    "resnet20": resnet20,
    "resnet56": resnet56,
    "cnn1d": cnn1d,
    "lstm": lstm,
    "transformer": transformer,
}
"""The builders of fedray's own networks, by name."""


ONE_AT_A_TIME = threading.Lock()  # torch has one generator for all threads, in which runs of a sweep begin together


def build(
    model: Model,
    shape: Shape,
    classes: int,
    seed: int,
    fingerprint: str = "",
    kind: Kind = CLASSIFIED_IMAGES,
) -> nn.Module:
    """The module with torch's default initialisation, the same for the same seed. Torch's own generator is not changed.

    `shape` is that of one input of this kind. BadInputError where the network does not take it, or where `fingerprint`
    is given and differs from Model.fingerprint, that of the user's file or the weights.
    """
    source, _, start = fingerprint.partition(AND)
    with ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "model"))
        module = make(model, shape, classes, source, kind)
        if model.norm == "group":
            use_group_norm(module, model.groups)
        head = last_linear(module) if model.freeze == "backbone" or (model.pretrained and model.freezes) else ""
        if model.projection:
            add_projection(module, model.projection)
        if model.freeze == "backbone":
            freeze_backbone(module, head)
        if model.transfers:
            prepare(module, model, head, start)
    use_keyed_dropout(module)
    take_images(module, model, shape)
    return module


def make(model: Model, shape: Shape, classes: int, fingerprint: str, kind: Kind) -> nn.Module:
    """The network for images after resizing, without what `build` adds to it."""
    model.check_inputs(kind, shape)
    side = model.side(shape)
    shape = (shape[0], side, side) if side else shape
    if model.is_torchvisions:
        return imagenet.make(model, classes, fingerprint)
    if model.is_known:
        return BUILDERS[model.name](shape, classes, **told(BUILDERS[model.name], kind))
    made = call(model.name, shape, classes, fingerprint, kind)
    if not isinstance(made, nn.Module):
        raise BadInputError(f"model.name = {model.name} gives a {type(made).__name__}, not a torch.nn.Module")
    tensors = [*made.named_parameters(), *made.named_buffers()]
    if lazy := [name for name, tensor in tensors if nn.parameter.is_lazy(tensor)]:
        raise BadInputError(
            f"model.name = {model.name} gives a network whose {lazy[0]} has no size yet: lazy layers are not supported"
        )
    return made.train()


def initial_vectors(module: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """The module's params [P] and buffers [B] as float32 arrays, from which the server starts."""
    flat = FlatModel(module)
    return flat.params.numpy(), flat.buffers.numpy()


def names_of(flat: FlatModel) -> tuple[list[str], list[str]]:
    """The names of the tensors in both a model's vectors and its state dict, in the latter's order; and the names of
    those in BatchNorm layers."""
    own = {*flat.layout.names, *flat.buffer_layout.names}
    names = [name for name in flat.module.state_dict() if name in own]
    norms = [name for name, m in flat.module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return names, [name for name in names if name.rpartition(".")[0] in norms]


def told(function: Callable[..., Any], kind: Kind) -> dict[str, Any]:
    """The vocabulary and the padding of token ids, by the names of those that the function takes."""
    if kind.inputs != "tokens":
        return {}
    with suppress(ValueError, TypeError):  # some callables have no signature
        names = inspect.signature(function).parameters
        return {name: getattr(kind, name) for name in ("vocabulary", "padding") if name in names}
    return {}


def call(name: str, shape: Shape, classes: int, wanted: str, kind: Kind) -> Any:
    """The value that the user's function returns; BadInputError where the call fails. `wanted` is as in `load`."""
    (module, _, function), found = name.partition(":"), load(name, "model.name", wanted)
    build = getattr(found, function, None)
    if not callable(build):
        near = nearest(function, [key for key, value in vars(found).items() if callable(value)])
        raise BadInputError(f"model.name = {name}: {module} has no function {function}{near}")
    try:
        return build(shape, classes, **told(build, kind))
    except (Exception, SystemExit) as error:
        raise BadInputError(f"model.name = {name} failed for {kind.inputs} {shape} ({describe(error)})") from error
