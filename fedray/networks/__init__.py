"""The networks behind the names in models.py, how one is built from a seed, and what the driver is told of it."""

import threading
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from fedray import own_models
from fedray.errors import BadInputError
from fedray.models import Blueprint, Model, Shape, Torch
from fedray.networks import imagenet
from fedray.networks.activations import measure_activations
from fedray.networks.parts import add_projection, freeze_backbone, last_linear, take_images, use_group_norm
from fedray.networks.resnets import resnet20, resnet56
from fedray.networks.small import cnn, lenet5, logistic, mcmahan_cnn, mlp, vgg11
from fedray.randomness import torch_seed
from fedray.vector import FlatModel, frozen_layers

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


def build(model: Model, shape: Shape, classes: int, seed: int) -> nn.Module:
    """The module with torch's default initialisation, the same for the same seed; torch's own generator is left alone.

    `shape` is (channels, height, width) of one image.
    """
    with ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "model"))
        module = make(model, shape, classes)
        if model.norm == "group":
            use_group_norm(module, model.groups)
        head = last_linear(module) if model.freeze == "backbone" else ""
        if model.projection:
            add_projection(module, model.projection)
    if head:
        freeze_backbone(module, head)
    take_images(module, model, shape)
    return module


def make(model: Model, shape: Shape, classes: int) -> nn.Module:
    """The network itself, for images of the size to which they are resized."""
    side = model.side(shape)
    shape = (shape[0], side, side) if side else shape
    if model.is_torchvisions:
        return imagenet.make(model, classes)
    if model.is_known:
        return BUILDERS[model.name](shape, classes)
    made = own_models.call(model.name, shape, classes)
    if not isinstance(made, nn.Module):
        raise BadInputError(f"model.name = {model.name} gives a {type(made).__name__}, not a torch.nn.Module")
    return made


def initial_vectors(module: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """The module's params [P] and buffers [B] as float32 arrays: what the server starts from."""
    flat = FlatModel(module)
    return flat.params.numpy(), flat.buffers.numpy()


def names_of(module: nn.Module) -> tuple[list[str], list[str]]:
    """The names of all trainable parameters and floating-point buffers, in the module's order; those in BatchNorm.

    Layers that are frozen whole are left out.
    """
    frozen, whole = {name for name, p in module.named_parameters() if not p.requires_grad}, frozen_layers(module)
    names = [
        name
        for name, x in module.state_dict().items()
        if x.is_floating_point() and name not in frozen and name.rpartition(".")[0] not in whole
    ]
    norms = [name for name, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return names, [name for name in names if name.rpartition(".")[0] in norms]


def blueprint(model: Model, shape: Shape, classes: int, seed: int) -> Blueprint:
    """What the driver needs to know of the model that `build` gives; BadInputError where it cannot be trained."""
    module = build(model, shape, classes, seed)
    if not model.is_known:
        check(module, model, shape, classes)
    tensors = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    names, norms = names_of(module)
    flat = FlatModel(module)
    layouts = {"params": flat.layout, "buffers": flat.buffer_layout}
    places = {
        name: (kind, tuple(shape))
        for kind, layout in layouts.items()
        for name, shape in zip(layout.names, layout.shapes, strict=True)
    }
    kept, widest = measure(module, model, shape)
    return Blueprint(
        params=flat.params.numpy(),
        buffers=flat.buffers.numpy(),
        places=places,
        others={name: value for name, value in tensors.items() if name not in places},
        names=names,
        norms=norms,
        kept_bytes=kept,
        widest_bytes=widest,
        torch=Torch(
            version=str(torch.__version__),
            cpu_capability=torch.backends.cpu.get_cpu_capability(),
            bfloat16=computes_in_bfloat16(),
            gpus=torch.cuda.device_count(),
        ),
    )


def check(module: nn.Module, model: Model, shape: Shape, classes: int) -> None:
    """Refuse a network of the user's that has nothing to train, or whose output is not [batch, classes]."""
    tensors = [*module.named_parameters(remove_duplicate=False)]
    if len({id(tensor) for _, tensor in tensors}) < len(tensors):
        raise BadInputError(f"model.name = {model.name} gives a network with parameters that have two names")
    if not any(tensor.requires_grad for _, tensor in tensors):
        raise BadInputError(f"model.name = {model.name} gives a network without parameters to train")
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            output = module.eval()(torch.zeros(2, *shape))
    except Exception as error:
        said = own_models.describe(error)
        raise BadInputError(f"model.name = {model.name} fails for images {shape} ({said})") from error
    found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if found != (2, classes):
        raise BadInputError(f"model.name = {model.name} gives {found} for 2 images, not an output {(2, classes)}")


def measure(module: nn.Module, model: Model, shape: Shape) -> tuple[int, int]:
    """What measure_activations gives; BadInputError where a network of the user's fails in training mode."""
    try:
        return measure_activations(module, shape)
    except Exception as error:
        if model.is_known:
            raise
        said = own_models.describe(error)
        raise BadInputError(f"model.name = {model.name} fails in training for images {shape} ({said})") from error


def computes_in_bfloat16() -> bool:
    """Whether this processor does (AVX512-BF16, AMX or Arm's BF16); where torch can't tell, yes."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return True
    return any(value is True and "bf16" in name for name, value in torch.cpu.get_capabilities().items())
