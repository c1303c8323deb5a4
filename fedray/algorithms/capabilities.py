"""What an algorithm can do, declared by its class or read off the hooks that it fills. All of it is here."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar, Self

from fedray.algorithms.hooks import Hooks
from fedray.algorithms.norms import OwnNorms
from fedray.core.errors import BadInputError
from fedray.core.settings import undeclared


class Capabilities(Hooks):
    """What the rest of fedray asks of an algorithm before it calls a hook."""

    needs_sgd: ClassVar[bool] = False
    """Whether the algorithm's equations count SGD steps of length lr. Other optimizers make no such steps, nor do
    parameters with rates of their own."""
    shares_nothing: ClassVar[bool] = False
    """Whether all that is trained may stay at the clients."""
    fusable: ClassVar[bool] = True
    """Whether the hooks serve many clients at a time. `init_memory`, `correct` and `finish` must broadcast over leading
    dimensions. An own `loss` must work under torch.func.vmap, which forbids .item() and branches on values. With False
    the algorithm trains in the plain engine only. So does an algorithm with its own `local_gradient`, `local_round`,
    `penalty` or `personal`."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Raise BadInputError for a class whose settings are none, which pydantic would blame on FedAvg."""
        if why := undeclared(cls):
            raise BadInputError(why)
        return super().__new__(cls)

    if TYPE_CHECKING:
        norms: Any
        optimizer: str
        local_optimizer: Any

    @property
    def remembers(self) -> bool:
        """Whether clients keep a memory between rounds: the algorithm's own, or the personal part of the model."""
        return self.keeps_a_memory or self.personalises

    @property
    def keeps_a_memory(self) -> bool:
        """Whether clients keep something of the algorithm's own, besides a part of the model."""
        return self.has_own("init_memory")

    @property
    def personalises(self) -> bool:
        """Whether a part of the model stays at each client. There is then no global model to evaluate."""
        return self.has_own("personal") or self.norms == "local"

    @property
    def has_own_models(self) -> bool:
        """Whether a client uses a model other than the server's. Evaluation then has to go client by client."""
        return self.personalises or self.has_own("own_model")

    @property
    def compares(self) -> bool:
        """Whether the loss has a `penalty` on the batch's features."""
        return self.has_own("penalty")

    @property
    def corrects(self) -> bool:
        """Whether the algorithm has its own `correct`. Clients then do not descend along the plain gradient."""
        return self.has_own("correct")

    @property
    def has_own_loss(self) -> bool:
        """Whether the algorithm has its own `loss` in place of the cross-entropy."""
        return self.has_own("loss")

    @property
    def has_own_gradient(self) -> bool:
        """Whether the algorithm makes the gradient of a step itself, of one or several of its batch's."""
        return self.has_own("local_gradient")

    @property
    def unfusable(self) -> str:
        """The reason why the fused engine cannot train this algorithm, as a clause about it; empty if it can."""
        if not self.fusable:
            return "whose class sets fusable = False"
        if self.local_optimizer and not self.local_optimizer.is_elementwise:
            return f"whose optimizer, torch's {self.optimizer}, needs one client at a time"
        alone = {
            "local_gradient": self.has_own_gradient,
            "local_round": self.has_own("local_round"),
            "penalty": self.compares,
            "personal": self.personalises,
        }
        own = next((name for name, own in alone.items() if own), "")
        return f"whose `{own}` needs one client at a time" if own else ""

    def has_own(self, hook: str) -> bool:
        """Whether the class fills a hook that is neutral in FedAvg."""
        neutral = OwnNorms if hook == "personal" else Hooks
        return getattr(type(self), hook) is not getattr(neutral, hook)


def refuse_former_hooks(kind: type) -> None:
    """Raise BadInputError for a class that was written for fedray 0.3, whose hooks would not be called any more."""
    named = f"algorithm {kind.__name__}"
    if hasattr(kind, "aggregate") or hasattr(kind, "linear"):
        what = "aggregate" if hasattr(kind, "aggregate") else "linear"
        raise BadInputError(
            f"{named} defines `{what}`, which is no hook since fedray 0.4: [aggregator] in the settings says what is "
            "made of the updates, and what else it did belongs into server_update(state, mean, participation)"
        )
    try:
        inspect.signature(kind.metrics).bind(None, None, None, None)  # type: ignore[attr-defined]
    except TypeError:
        raise BadInputError(
            f"{named} defines metrics{inspect.signature(kind.metrics)}, "  # type: ignore[attr-defined]
            "and since fedray 0.4 it is metrics(self, state, mean, updates), where mean is the aggregated update"
        ) from None
