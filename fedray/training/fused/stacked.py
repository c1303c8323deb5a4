"""The gradients of many clients' models of any kind: torch.func.vmap over params [A, P]."""

from contextlib import nullcontext

import torch
from torch.func import functional_call, vmap

from fedray.core.algorithm import Algorithm
from fedray.models.batch_norm import BatchNorm, ManyNorms, Rows, RunningStatistics
from fedray.models.dropout import dropout_layers
from fedray.models.flat import FlatModel, Tensors
from fedray.training.fused.batches import Batch
from fedray.training.fused.forms import ByTable
from fedray.training.fused.layers import AsTorchDoes
from fedray.training.fused.losses import losses_and_slopes
from fedray.training.objective import Objective
from fedray.training.spec import Recipe

FORMS: dict[str, type[AsTorchDoes]] = {"cpu": AsTorchDoes, "cuda": ByTable}
"""The forms of many clients' layers. On a CPU a block of cnn takes 0.8 of the time with vmap's own grouped convolutions
that it takes with products, and one of resnet18 0.5 (experiments/speed/together.py)."""


class Stacked:
    """The program that differentiates the sum of all clients' losses, since none depends on another client."""

    def __init__(
        self, recipe: Recipe, flat: FlatModel, device: str, statistics: RunningStatistics, objective: Objective
    ):
        self.recipe, self.flat, self.kind, self.objective = recipe, flat, torch.device(device).type, objective
        self.form = FORMS[self.kind](recipe, flat.module)
        self.dropouts = dropout_layers(flat.module)
        self.statistics = statistics
        self.normalises = any(isinstance(layer, BatchNorm) for layer in flat.module.modules())
        self.leaves: Tensors = {}
        self.slopes: list[torch.Tensor] = []
        self.apart: list[torch.Tensor] = []

    def look_at(self, params: Tensors, grads: torch.Tensor | None) -> None:
        """Differentiate at `params`, [A, ...] by name, from now on, and write into `grads` [A, P]. Params may change.

        Without `grads` each parameter's gradient is left in `apart`, in the layout's order.
        """
        self.leaves = {name: view.detach().requires_grad_() for name, view in params.items()}
        self.slopes = [] if grads is None else list(self.flat.layout.views(grads).values())
        self.apart = []

    def forget(self) -> None:
        """Let go of the params and gradients."""
        self.leaves, self.slopes, self.apart = {}, [], []

    def differentiate(self, algorithm: Algorithm, batch: Batch) -> torch.Tensor:
        """The losses [A] of these batches. Their gradients are written."""
        leaves = list(self.leaves.values())
        inputs = self.form.inputs(batch.pixels)
        with torch.enable_grad():
            main, *others = self.outputs(self.leaves, batch.keys, inputs, self.rows(batch))
        loss, slope = losses_and_slopes(self.objective, algorithm, main.detach(), batch)
        slopes = [slope]
        for other in others:
            _, slope = losses_and_slopes(self.objective, algorithm, other.detach(), batch)
            slopes.append(slope.mul_(self.recipe.model.aux_weight))
        found = torch.autograd.grad([main, *others], leaves, slopes, allow_unused=True, materialize_grads=True)
        if self.slopes:
            torch._foreach_copy_(self.slopes, list(found))
        else:
            self.apart = list(found)
        return loss

    def rows(self, batch: Batch) -> Rows | None:
        """The rows that BatchNorm is to see; None where it may see all, those of clients without a batch included."""
        if not self.is_ragged(batch):
            return None
        return Rows(batch.weights > 0, int(batch.sizes[batch.sizes > 0].min()))

    def is_ragged(self, batch: Batch) -> bool:
        """Whether BatchNorm has to tell rows from padding."""
        return self.normalises and bool(((batch.sizes > 0) & (batch.sizes < batch.targets.shape[1])).any())

    def kind_of(self, batch: Batch) -> tuple[bool, bool]:
        """Whether BatchNorm has to tell rows from padding, and whether it may meet a batch of one image."""
        ragged = self.is_ragged(batch)
        return ragged, ragged and bool((batch.sizes == 1).any())

    def outputs(
        self, params: Tensors, keys: torch.Tensor, inputs: torch.Tensor, rows: Rows | None
    ) -> list[torch.Tensor]:
        """The models' float32 outputs [A, B, classes], and those of their auxiliary classifiers.

        The clients of `inputs` are where the form has them.
        """
        model, module = self.recipe.model, self.flat.module

        def output(tensors: Tensors, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            made = functional_call(module, tensors | self.statistics.unread, (inputs,))
            outputs = tuple(made) if isinstance(made, tuple) else (made,)
            return outputs if model.aux_weight else outputs[:1]

        tensors = params | self.statistics.of(len(keys))
        tensors |= {f"{name}.key": key for name, key in zip(self.dropouts, keys.unbind(1), strict=True)}
        half = torch.autocast(self.kind, torch.bfloat16, model.precision == "bfloat16", cache_enabled=False)
        norms = ManyNorms(self.statistics.layers, rows) if self.normalises else nullcontext()
        with half, norms, self.form:
            outputs = vmap(output, in_dims=(0, self.form.clients_at))(tensors, inputs)
        return [output.float() for output in outputs]

    @property
    def moving(self) -> list[torch.Tensor]:
        """The tensors that it changes besides the gradients."""
        return list(self.statistics.blocks.values())

    @property
    def constants(self) -> list[torch.Tensor]:
        """The tensors that it reads besides its arguments, and would make anew if they were gone."""
        masks = [tensor for layer in self.dropouts.values() for tensor in layer.positions.values()]
        return [*masks, *self.objective.constants]
