"""Changes to a network after it was built: normalisation layers, projection head, frozen layers, image sizes."""

import torch
import torch.nn.functional as F
from torch import nn

from fedray.core.errors import BadInputError
from fedray.models.model import Model, Shape


def last_linear(module: nn.Module) -> str:
    """The name of the last Linear layer, which gives the output; BadInputError where there is none."""
    names = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if not names:
        raise BadInputError("model.freeze and model.projection need a last Linear layer, and the model has none")
    return names[-1]


def replace(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` in the place of the layer called `name`."""
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, layer)


def add_projection(module: nn.Module, width: int) -> None:
    """Put MOON's projection head (Li, He, Song 2021, section 3.3) in front of the last Linear layer."""
    name = last_linear(module)
    last: nn.Linear = module.get_submodule(name)  # type: ignore[assignment]
    head, size = (nn.Linear(last.in_features, last.in_features), nn.ReLU()), last.out_features
    replace(module, name, nn.Sequential(*head, nn.Linear(last.in_features, width), nn.Linear(width, size)))


def use_group_norm(module: nn.Module, groups: int) -> None:
    """Replace every BatchNorm by GroupNorm (Wu, He 2018, arXiv 1803.08494) with this number of groups."""
    norms = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        raise BadInputError("model.norm = group replaces BatchNorm layers, and the model has none")
    for name, layer in norms:
        channels = layer.num_features
        if channels % groups:
            raise BadInputError(f"model.groups = {groups} does not divide the {channels} channels of layer {name}")
        replace(module, name, nn.GroupNorm(groups, channels, layer.eps, layer.affine))


def freeze_backbone(module: nn.Module, head: str) -> None:
    """Freeze all layers except those under the name `head`, and put them into evaluation mode."""
    module.requires_grad_(False).eval()
    module.get_submodule(head).requires_grad_(True).train()


def take_images(module: nn.Module, model: Model, shape: Shape) -> None:
    """Let the network resize its images, and repeat a grey image's channel, where that is needed.

    A hook does this, so the names of the network's tensors stay the same.
    """
    side, grey = model.side(shape), model.is_torchvisions and shape[0] == 1
    if model.is_torchvisions and shape[0] not in (1, 3):
        raise BadInputError(f"model.name = {model.name} takes images of 1 or 3 channels, not of {shape[0]}")

    def prepare(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        images = inputs[0]
        if side:
            shrink = side < max(shape[1:])  # without antialiasing most pixels would not count
            images = F.interpolate(images, (side, side), mode="bilinear", align_corners=False, antialias=shrink)
        if grey and model.channels_last:  # torch.func.vmap does not support contiguous(memory_format)
            return images.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous().permute(0, 3, 1, 2)
        return images.expand(-1, 3, -1, -1).contiguous() if grey else images

    if side or grey:
        module.register_forward_pre_hook(prepare)
