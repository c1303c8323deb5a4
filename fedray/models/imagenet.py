"""torchvision's networks for ImageNet, with random or pretrained weights. torchvision takes 2 s to import, so `make`
imports it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedray.core.errors import BadInputError
from fedray.models import weights
from fedray.models.model import KNOWN, Model
from fedray.models.parts import last_linear

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
OLD_DENSE = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)")
"""Tensor names in old files, whose module names have dots; torchvision rewrites them in the same way."""


def make(model: Model, classes: int, fingerprint: str = "") -> nn.Module:
    """The network that `model` names, for images of three channels. BadInputError where pretrained weights do not have
    the `fingerprint`, if that is given."""
    from torchvision import models

    settings: dict[str, Any] = {"num_classes": classes}
    if KNOWN[model.name].least_aux:
        # Both networks were trained on images with another normalisation, for which transform_input accounts.
        settings |= {"aux_logits": model.aux_weight > 0, "init_weights": True, "transform_input": model.pretrained}
    module: nn.Module = getattr(models, model.name)(**settings)
    if model.stem == "cifar":
        module.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(module.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's
        module.maxpool = nn.Identity()
    if model.pretrained:
        path = weights.locate(model.name, KNOWN[model.name].weights)
        if fingerprint and weights.fingerprint(path) != fingerprint:
            raise BadInputError(
                f"the weights of model.name = {model.name} in {path} are not those that this run began with: they "
                "have changed since, or this machine has others"
            )
        load(module, model.name, path)
    return module


def load(module: nn.Module, name: str, path: Path) -> None:
    """Set all parameters and buffers from a file, except those of the last layer and of auxiliary classifiers.

    BadInputError where the file does not hold weights of this network; a file from a mirror is then removed.
    """
    heads = (f"{last_linear(module)}.", *AUXILIARY)
    try:
        found = read(path)
        wanted = {key: x.shape for key, x in module.state_dict().items() if not key.startswith(heads)}
        have = {key: x for key, x in found.items() if not key.startswith(heads)}
        off = [key for key in wanted.keys() ^ have.keys() if not key.endswith(".num_batches_tracked")]
        off += [key for key in wanted.keys() & have.keys() if wanted[key] != have[key].shape]
        if off:
            raise ValueError(f"{len(off)} tensors are missing, unknown or of another shape, {min(off)} for one")
    except Exception as error:  # torch's unpickler raises errors of many kinds
        reason, advice = str(error).strip().partition("\n")[0], "remove it"
        if path.name != KNOWN[name].weights:
            path.unlink(missing_ok=True)
            advice = "it came from FEDRAY_WEIGHTS_URL, and was removed"
        raise BadInputError(f"{path} does not hold the weights of {name} ({reason}); {advice}") from error
    module.load_state_dict(have, strict=False)


def read(path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a file, by today's names."""
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=weights.is_mappable(path))
    return {"".join(old.groups()) if (old := OLD_DENSE.fullmatch(key)) else key: x for key, x in found.items()}
