"""The model of a process, bound to flat vectors, and its forward passes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import nn

from fedray.data.augment import normaliser
from fedray.models.build import build
from fedray.models.dropout import dropout_layers
from fedray.models.flat import FlatModel, Tensors
from fedray.models.model import Model
from fedray.models.rates import factors, factors_by_name
from fedray.training.device import has_own_memory
from fedray.training.objective import Objective
from fedray.training.spec import Recipe
from fedray.training.taps import Trimmed


def factors_of(model: Model, flat: FlatModel) -> torch.Tensor | None:
    """The factors on the learning rate, float32 [P] on the model's device; None where all are 1."""
    found = factors(model.lr_scale, flat.layout.names, [parameter.numel() for parameter in flat.trainable])
    return None if found is None else torch.from_numpy(found).to(flat.params.device)


class Network:
    """A model bound to flat vectors, on the device that it computes on."""

    def __init__(self, recipe: Recipe, device: str = "cpu"):
        self.recipe, self.device = recipe, device
        self.objective = Objective(recipe, device)
        self.on_device = has_own_memory(device)
        self.trims = torch.device(device).type == "cuda"
        self.normalise = normaliser(recipe.kind, len(recipe.shape), recipe.mean, recipe.std)
        self.flat = self.build()
        self.dropouts = list(dropout_layers(self.flat.module).values())
        self.factors = factors_of(recipe.model, self.flat)
        self.rivals: dict[str, FlatModel] = {}
        self.captured: Any = None
        """On a GPU, the CapturedSteps of this network."""
        self.heed: Callable[[], None] = lambda: None

    def build(self) -> FlatModel:
        """The recipe's model at its initial parameters."""
        r = self.recipe
        return FlatModel(build(r.model, r.shape, r.classes, r.seed, r.fingerprint, r.kind), self.device)

    def groups(self, lr: float) -> Any:
        """The parameters for an optimizer of torch.optim, in groups where model.lr_scale gives them rates.

        Those with the factor 0 are in none, since not every optimizer rests at a rate of 0.
        """
        if self.factors is None:
            return self.flat.trainable
        groups: dict[float, list[torch.Tensor]] = {}
        of_each = factors_by_name(self.recipe.model.lr_scale, self.flat.layout.names)
        for parameter, factor in zip(self.flat.trainable, of_each.values(), strict=True):
            groups.setdefault(factor, []).append(parameter)
        return [{"params": each, "lr": lr * factor} for factor, each in groups.items() if factor]

    @cached_property
    def initial(self) -> Tensors:
        """The model that every run of this recipe starts from."""
        flat = self.build()
        return {"params": flat.params, "buffers": flat.buffers}

    def references(self, models: dict[str, Tensors]) -> dict[str, nn.Module]:
        """Modules in evaluation mode with the given parameters and buffers."""
        for name, model in models.items():
            if name not in self.rivals:
                self.rivals[name] = self.build()
                self.rivals[name].module.eval()
                self.share_frozen(self.rivals[name].module)
            self.rivals[name].load(model["params"], model["buffers"])
        return {name: self.rivals[name].module for name in models}

    def share_frozen(self, other: nn.Module) -> None:
        """Give up another model's frozen parameters for this one's, which are the same."""
        for mine, theirs in zip(self.flat.module.parameters(), other.parameters(), strict=True):
            if not mine.requires_grad:
                theirs.data = mine.data

    def inputs(self, given: torch.Tensor) -> torch.Tensor:
        """uint8 images or values as the model's normalised float32 input, and token ids as they are, on the device."""
        inputs = self.normalise(given.to(self.device))
        return inputs.contiguous(memory_format=torch.channels_last) if self.recipe.model.channels_last else inputs

    def outputs(self, module: nn.Module, inputs: torch.Tensor) -> list[torch.Tensor]:
        """The model's float32 output [batch, classes], and in training those of its auxiliary classifiers."""
        model = self.recipe.model
        half = torch.autocast(torch.device(self.device).type, torch.bfloat16, model.precision == "bfloat16")
        with half, Trimmed() if self.trims else nullcontext():
            made = module(inputs)
        outputs = made if isinstance(made, tuple) else (made,)
        return [output.float() for output in (outputs if model.aux_weight else outputs[:1])]

    def outputs_and_features(self, module: nn.Module, inputs: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The outputs, as `outputs` gives them, and the features [batch, d]: the input of the last Linear layer."""
        last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
        seen: list[torch.Tensor] = []
        handle = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            return self.outputs(module, inputs), seen[0].float()
        finally:
            handle.remove()

    @torch.no_grad()
    def features(self, module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        return self.outputs_and_features(module, inputs)[1]

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """TensorFloat-32 on a GPU for the length of a `with`, where the settings say so. What was set before returns.

        The names are those of torch 2.9. The names of earlier versions must not be used beside them.
        """
        cudnn: Any = torch.backends.cudnn
        flags = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn] if self.on_device else []  # a CPU heeds none
        before = [flag.fp32_precision for flag in flags]
        try:
            for flag in flags:
                flag.fp32_precision = "tf32" if self.recipe.model.precision == "tf32" else "ieee"
            yield
        finally:
            for flag, precision in zip(flags, before, strict=True):
                flag.fp32_precision = precision
