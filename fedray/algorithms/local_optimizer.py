"""What a client does with its gradients, where that is not the engine's own SGD: any optimizer of torch.optim.

It is made anew for each client in each round, as momentum is, with the round's learning rate. It sees the model's
parameters in their own shapes and, as their gradients, what `correct` gives. torch is imported only where it trains.
"""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from fedray.core.errors import BadInputError
from fedray.core.settings import nearest

if TYPE_CHECKING:
    import torch

UNFIT = {
    "lbfgs": "needs the loss again and again within a step",
    "sparseadam": "takes sparse gradients, and these are dense",
}
"""What is in torch.optim but cannot be used, and why, to follow its name."""


PRELOADED = ("torch._dynamo",)
"""What torch imports when the first optimizer is made."""


class LocalOptimizer(NamedTuple):
    """An optimizer of torch.optim as the settings name it, in lower case, with its options as they were written."""

    name: str
    options: str
    momentum: float
    weight_decay: float

    @property
    def said(self) -> str:
        options = f" with optimizer_options = {self.options!r}" if self.options else ""
        return f"algorithm.optimizer = {self.name}{options}"


def read_options(text: str) -> dict[str, Any]:
    """`betas=(0.9, 0.99), eps=1e-6` as a dictionary: what Python would take as keyword arguments, plain values only."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise SyntaxError
        options = {str(keyword.arg or ""): ast.literal_eval(keyword.value) for keyword in call.keywords}
        if "" in options or len(options) < len(call.keywords):
            raise SyntaxError
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):  # what ast says it may raise
        raise BadInputError(
            f"algorithm.optimizer_options = {text!r} must be keyword arguments of plain values, each name once, as "
            "Python writes them: betas=(0.9, 0.99), eps=1e-6"
        ) from None
    numbers = (part.value for part in ast.walk(call) if isinstance(part, ast.Constant))
    if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
        raise BadInputError(f"algorithm.optimizer_options = {text!r} has a number that is not finite")
    return options


@cache
def kinds() -> dict[str, type[torch.optim.Optimizer]]:
    """The optimizers that this torch has, by their names in lower case."""
    import torch

    base = torch.optim.Optimizer
    found = {name.lower(): kind for name, kind in vars(torch.optim).items() if isinstance(kind, type)}
    return {name: kind for name, kind in found.items() if issubclass(kind, base) and kind is not base}


@cache
def options_of(name: str) -> list[str]:
    """What an optimizer takes besides parameters and learning rate."""
    return [option for option in inspect.signature(kinds()[name]).parameters if option not in ("params", "lr")]


def make(wanted: LocalOptimizer, parameters: Sequence[torch.Tensor], lr: float) -> torch.optim.Optimizer:
    """The optimizer of these parameters."""
    given: dict[str, Any] = {"weight_decay": wanted.weight_decay} if "weight_decay" in options_of(wanted.name) else {}
    if wanted.name == "sgd":
        given["momentum"] = wanted.momentum
    kind: Any = kinds()[wanted.name]
    return kind(parameters, lr=lr, **given, **read_options(wanted.options))


def check(wanted: LocalOptimizer, shapes: Sequence[tuple[int, ...]]) -> None:
    """Try a step on parameters of these shapes; BadInputError, in a sentence, where that cannot be."""
    import torch

    usable = sorted(kinds().keys() - UNFIT.keys())
    if wanted.name in UNFIT:
        raise BadInputError(f"algorithm.optimizer = {wanted.name} {UNFIT[wanted.name]}")
    if wanted.name not in usable:
        raise BadInputError(
            f"algorithm.optimizer = {wanted.name!r} is not in torch.optim, which has {', '.join(usable)}"
            f"{nearest(wanted.name, usable)}"
        )
    own = [option for option in options_of(wanted.name) if option != "weight_decay"]
    if wanted.weight_decay and "weight_decay" not in options_of(wanted.name):
        raise BadInputError(f"algorithm.weight_decay = {wanted.weight_decay:g}, but {wanted.name} takes none")
    for option in read_options(wanted.options):
        if option not in own:
            raise BadInputError(
                f"algorithm.optimizer_options: {wanted.name} takes {', '.join(own)}, not {option}{nearest(option, own)}"
            )
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    try:
        make(wanted, parameters, lr=0.1).step()
    except (Exception, SystemExit) as error:  # whatever torch, or Python on its behalf, finds wrong
        raise BadInputError(f"{wanted.said} cannot train this model: {error}") from None
