"""The optimizers of torch.optim as optimizers of the clients, in place of the engine's own SGD.

Each client makes a new optimizer in each round, with the round's learning rate. The optimizer sees the model's
parameters in their own shapes. Their gradients are the directions that `correct` returns. Torch is imported only in the
functions that need it, because the driver does without it.
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
"""The optimizers of torch.optim that cannot be used here, each with the reason as a clause about it."""


ELEMENTWISE = frozenset(
    {"adadelta", "adagrad", "adam", "adamax", "adamw", "asgd", "nadam", "radam", "rmsprop", "rprop", "sgd"}
)
"""Those whose step moves each element by its own gradients alone. One of them serves many clients at once."""


PRELOADED = ("torch._dynamo",)
"""The modules that torch imports when the first optimizer is made."""


class LocalOptimizer(NamedTuple):
    """An optimizer of torch.optim: its name in lower case, and its options as the settings have them."""

    name: str
    options: str
    momentum: float
    weight_decay: float

    @property
    def is_elementwise(self) -> bool:
        """Whether an element's step does not depend on the others, nor on the parameters' shapes."""
        return self.name in ELEMENTWISE

    @property
    def said(self) -> str:
        options = f" with optimizer_options = {self.options!r}" if self.options else ""
        return f"algorithm.optimizer = {self.name}{options}"


def read_options(text: str) -> dict[str, Any]:
    """The dictionary of `betas=(0.9, 0.99), eps=1e-6`: Python keyword arguments whose values are plain.

    BadInputError where the text is anything else, or has a number that is not finite.
    """
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise SyntaxError
        options = {str(keyword.arg or ""): ast.literal_eval(keyword.value) for keyword in call.keywords}
        if "" in options or len(options) < len(call.keywords):
            raise SyntaxError
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):  # all that ast documents
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
    """The optimizers of the installed torch, by their names in lower case."""
    import torch

    base = torch.optim.Optimizer
    found = {name.lower(): kind for name, kind in vars(torch.optim).items() if isinstance(kind, type)}
    return {name: kind for name, kind in found.items() if issubclass(kind, base) and kind is not base}


@cache
def options_of(name: str) -> list[str]:
    """The names of an optimizer's options, without the parameters and the learning rate."""
    return [option for option in inspect.signature(kinds()[name]).parameters if option not in ("params", "lr")]


def make(wanted: LocalOptimizer, parameters: Sequence[torch.Tensor], lr: float) -> torch.optim.Optimizer:
    """A new optimizer of these parameters."""
    given: dict[str, Any] = {"weight_decay": wanted.weight_decay} if "weight_decay" in options_of(wanted.name) else {}
    if wanted.name == "sgd":
        given["momentum"] = wanted.momentum
    kind: Any = kinds()[wanted.name]
    return kind(parameters, lr=lr, **given, **read_options(wanted.options))


def check(wanted: LocalOptimizer, shapes: Sequence[tuple[int, ...]]) -> None:
    """Try one step on parameters of these shapes; BadInputError where the optimizer cannot make it."""
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
