"""The networks behind the names in models.py, how one is built from a seed, and what the driver is told of it."""

import threading
from collections.abc import Callable
from math import prod

import numpy as np
import torch
from torch import nn

from fedray.models import Blueprint, Model, Shape, Torch
from fedray.randomness import torch_seed
from fedray.vector import FlatModel


def lenet5(shape: Shape, classes: int) -> nn.Module:
    """LeCun et al. 1998, with ReLU and max-pooling as in NIID-Bench (arXiv 2102.02079); 62,006 parameters."""
    channels, height, width = shape
    flat = 16 * (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(flat, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes),
    )  # fmt: skip


def cnn(shape: Shape, classes: int) -> nn.Module:
    """The CIFAR-10 benchmark model of pfl-research (arXiv 2404.06430): 1,626,442 parameters on CIFAR-10."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
        nn.Flatten(), nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(128, classes),
    )  # fmt: skip


def logistic(shape: Shape, classes: int) -> nn.Module:
    """Multinomial logistic regression on the pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes))


def mlp(shape: Shape, classes: int) -> nn.Module:
    """McMahan et al. 2017's 2NN: two hidden layers of 200 units with ReLU; 199,210 parameters on MNIST."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(prod(shape), 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, classes)
    )


def resnet18(shape: Shape, classes: int) -> nn.Module:
    """torchvision's resnet18 with its own stem (He et al. 2015, arXiv 1512.03385), randomly initialised."""
    from torchvision.models import resnet18  # 2 s to import, so only where it is used

    return resnet18(num_classes=classes)


BUILDERS: dict[str, Callable[[Shape, int], nn.Module]] = {
    "lenet5": lenet5,
    "cnn": cnn,
    "logistic": logistic,
    "mlp": mlp,
    "resnet18": resnet18,
}


ONE_AT_A_TIME = threading.Lock()  # torch has one generator, also for the runs of a sweep that begin at once


def build(model: Model, shape: Shape, classes: int, seed: int) -> nn.Module:
    """The module with torch's default initialisation, the same for the same seed; torch's own generator is left alone.

    `shape` is (channels, height, width) of one image.
    """
    with ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "model"))
        module = BUILDERS[model.name](shape, classes)
        return with_projection(module, model.projection) if model.projection else module


def with_projection(module: nn.Module, width: int) -> nn.Module:
    """The module with MOON's projection head (Li, He, Song 2021, section 3.3) in front of its last Linear layer."""
    name, last = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear)][-1]
    head, size = (nn.Linear(last.in_features, last.in_features), nn.ReLU()), last.out_features
    owner, _, leaf = name.rpartition(".")
    layers = nn.Sequential(*head, nn.Linear(last.in_features, width), nn.Linear(width, size))
    setattr(module.get_submodule(owner), leaf, layers)
    return module


def initial_vectors(module: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """The module's params [P] and buffers [B] as float32 arrays: what the server starts from."""
    flat = FlatModel(module)
    return flat.params.numpy(), flat.buffers.numpy()


def names_of(module: nn.Module) -> tuple[list[str], list[str]]:
    """The names of all trainable parameters and floating-point buffers, in the module's order; those in BatchNorm."""
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    names = [name for name, x in module.state_dict().items() if x.is_floating_point() and name not in frozen]
    norms = [name for name, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return names, [name for name in names if name.rpartition(".")[0] in norms]


def blueprint(model: Model, shape: Shape, classes: int, seed: int) -> Blueprint:
    """What the driver needs to know of the model that `build` gives."""
    module = build(model, shape, classes, seed)
    tensors = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    names, norms = names_of(module)
    flat = FlatModel(module)
    layouts = {"params": flat.layout, "buffers": flat.buffer_layout}
    places = {
        name: (kind, tuple(shape))
        for kind, layout in layouts.items()
        for name, shape in zip(layout.names, layout.shapes, strict=True)
    }
    return Blueprint(
        params=flat.params.numpy(),
        buffers=flat.buffers.numpy(),
        places=places,
        others={name: value for name, value in tensors.items() if name not in places},
        names=names,
        norms=norms,
        torch=Torch(
            version=str(torch.__version__),
            cpu_capability=torch.backends.cpu.get_cpu_capability(),
            bfloat16=computes_in_bfloat16(),
            gpus=torch.cuda.device_count(),
        ),
    )


def computes_in_bfloat16() -> bool:
    """Whether this processor does (AVX512-BF16, AMX or Arm's BF16); where torch can't tell, yes."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return True
    return any(value is True and "bf16" in name for name, value in torch.cpu.get_capabilities().items())
