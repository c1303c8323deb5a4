"""The model that a run starts from: the tensors of a file, model.init, where their names and shapes fit.

The file is safetensors, as a run saves its model, or torch.save's of a state dict, which is read without running code.
A tensor is taken where the model has one of its name, shape and kind (floating or not). The others start as without a
file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from fedray.core.errors import BadInputError
from fedray.models import weights
from fedray.models.merging import is_adapter
from fedray.models.patterns import listed

Tensors = Mapping[str, torch.Tensor]
COUNTER = "num_batches_tracked"  # of BatchNorm; old files lack it, and nothing but an average without momentum reads it
WITHIN = ("state_dict", "model_state_dict", "model")
"""The keys under which programs save a state dict beside other things."""


@dataclass(frozen=True)
class Fit:
    """What of a file fits a model, by the tensors' names, each in the order of the model or of the file."""

    taken: tuple[str, ...]
    other: tuple[str, ...]
    """Those that the file has, but of another shape or kind."""
    missing: tuple[str, ...]
    """Those that the file lacks. Adapters are not counted unless the file has some."""
    unused: tuple[str, ...]
    """Those of the file that the model lacks."""

    @property
    def fresh(self) -> tuple[str, ...]:
        """The names of the model's tensors that start as without a file."""
        return *self.other, *self.missing

    def said(self, path: str) -> str:
        """A sentence on what was taken."""
        every = len(self.taken) + len(self.fresh)
        parts = [f"model.init = {path}: {len(self.taken)} of the model's {every} tensors start from that file"]
        if self.other:
            parts.append(f"{listed(self.other, 'tensors')}, of another shape or type there, start fresh")
        if self.missing:
            parts.append(f"{listed(self.missing, 'tensors')}, which it lacks, start fresh")
        if self.unused:
            parts.append(f"{listed(self.unused, 'tensors')} of it are none of the model's")
        return "; ".join(parts)


def read(path: Path) -> Tensors:
    """The tensors of a file by name; BadInputError where it cannot be read."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=weights.is_mappable(path))
    except Exception as error:  # torch's unpickler raises errors of many kinds
        reason = str(error).strip().partition("\n")[0]
        raise BadInputError(
            f"model.init = {path} cannot be read ({reason}); it must hold the tensors of a model by name, as "
            "safetensors, or as torch.save(module.state_dict(), FILE)"
        ) from error
    inner = next((found[key] for key in WITHIN if isinstance(found, dict) and isinstance(found.get(key), dict)), found)
    if not isinstance(inner, dict) or not inner or not all(isinstance(each, torch.Tensor) for each in inner.values()):
        raise BadInputError(f"model.init = {path} holds no tensors by name; save module.state_dict()")
    return inner


def fit(found: Tensors, module: nn.Module, path: str) -> Fit:
    """What of these tensors fits the module; BadInputError where no parameter does."""
    own = module.state_dict()
    taken = tuple(name for name in own if name in found and are_alike(own[name], found[name]))
    adapts = any(map(is_adapter, found))
    lacking = [name for name in own if name not in found and (adapts or not is_adapter(name))]
    result = Fit(
        taken,
        tuple(name for name in own if name in found and name not in taken),
        tuple(name for name in lacking if not name.endswith(COUNTER)),
        tuple(name for name in found if name not in own),
    )
    parameters = {name for name, _ in module.named_parameters()}
    if not parameters & set(taken):
        shapes = f"; {result.other[0]} is {tuple(found[result.other[0]].shape)} there" if result.other else ""
        raise BadInputError(
            f"model.init = {path} has nothing that fits the model: it has {listed(found, 'tensors')}, and the model "
            f"{listed(own, 'tensors')}{shapes}"
        )
    return result


def are_alike(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether one tensor can take the place of the other: of its shape, and floating as it is."""
    return mine.shape == theirs.shape and mine.is_floating_point() == theirs.is_floating_point()


def take(module: nn.Module, path: str, wanted: str = "") -> Fit:
    """Set the tensors of a module that a file fits; returns which.

    BadInputError where the file is not there, has not the SHA-256 `wanted`, or has a number that is not finite.
    """
    file = weights.given(path)
    if wanted and weights.fingerprint(file) != wanted:
        raise BadInputError(
            f"model.init = {path} is not the file that this run began with: it has changed since, or this machine has "
            "another"
        )
    found = read(file)
    result, own = fit(found, module, path), module.state_dict()
    with torch.no_grad():
        for name in result.taken:
            if not torch.isfinite(found[name]).all():
                raise BadInputError(f"model.init = {path}: {name} there has numbers that are not finite")
            own[name].copy_(found[name])
    return result
