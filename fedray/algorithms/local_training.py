"""Local training: the settings of a client's steps, which every algorithm has, and what follows from them alone.

Gradient clipping: Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent neural networks", arXiv
1211.5063, Algorithm 1. Label smoothing: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna 2016, "Rethinking the Inception
Architecture for Computer Vision", arXiv 1512.00567, section 7. Local epochs that differ between clients and rounds:
Wang, Liu, Liang, Joshi, Poor 2020, arXiv 2007.07481. The paper's experiments draw them uniformly from 2..5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from fedray.algorithms import local_optimizer
from fedray.algorithms.local_optimizer import LocalOptimizer, read_options
from fedray.core.errors import BadInputError
from fedray.core.randomness import generator
from fedray.core.settings import AsLowerCase, Maybe, section, setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@section
class LocalTraining:
    """The settings of a client's training in a round that all algorithms have."""

    name: ClassVar[str] = ""
    needs_sgd: ClassVar[bool] = False  # as in capabilities.py

    optimizer: Annotated[str, AsLowerCase] = setting(
        "sgd", "Optimizer of the clients, restarted each round: the name of any in torch.optim, for example adam."
    )
    optimizer_options: str = setting(
        "",
        "Options of that optimizer, as Python keyword arguments: betas=(0.9, 0.99), eps=1e-6; for sgd nesterov=True or "
        "dampening=0.1.",
    )
    lr: float = setting(0.05, "Learning rate of the clients in the first round.", gt=0, le=1e6)
    lr_schedule: Literal["constant", "cosine", "step", "exponential"] = setting(
        "constant",
        "Change of lr over the rounds: cosine falls towards 0 at the last round, step multiplies lr by lr_decay every "
        "lr_decay_every rounds, exponential multiplies it by lr_decay every round.",
    )
    lr_decay: float = setting(0.99, "Factor of the step and exponential schedules.", gt=0, le=1)
    lr_decay_every: int = setting(10, "Length of a stage of the step schedule.", unit="rounds", ge=1)
    epochs: int = setting(1, "Local epochs a round, E in the paper.", unit="passes over the shard", ge=1)
    epochs_min: Maybe[int] = setting(
        None,
        "Least epochs: each client's epochs are drawn anew in each round, uniformly from epochs_min to epochs; none: "
        "always epochs.",
        unit="passes over the shard",
        ge=1,
    )
    steps: Maybe[int] = setting(None, "Local steps a round, instead of epochs.", unit="steps", ge=1)
    steps_min: Maybe[int] = setting(
        None,
        "Least steps: each client's steps are drawn anew in each round, uniformly from steps_min to steps; none: "
        "always steps.",
        unit="steps",
        ge=1,
    )
    batch_size: int = setting(32, "Local batch size, B in the paper; 0 is the whole shard.", unit="images", ge=0)
    drop_last: bool = setting(False, "Drop an epoch's last batch where it is smaller than batch_size.")
    momentum: float = setting(0.0, "Momentum of the clients' sgd, restarted each round.", ge=0, lt=1)
    weight_decay: float = setting(
        0.0,
        "L2 penalty of the clients' sgd; for another optimizer its weight_decay, in place of the optimizer's own "
        "default.",
        ge=0,
        le=1e6,
    )
    clip_norm: Maybe[float] = setting(
        None,
        "Largest Euclidean norm of a batch's gradient over all parameters; a longer gradient is scaled down to it, "
        "before the algorithm corrects it; none: no clipping.",
        gt=0,
        le=1e6,
    )
    label_smoothing: float = setting(
        0.0,
        "Share of an example's weight in the training loss that is spread evenly over all classes; evaluation uses no "
        "smoothing.",
        ge=0,
        lt=1,
    )

    def __post_init__(self) -> None:
        options = read_options(self.optimizer_options)
        for taken in ("lr", "weight_decay", *(["momentum"] if self.optimizer == "sgd" else [])):
            if taken in options:
                raise BadInputError(f"algorithm.optimizer_options: {taken} is a setting by itself, algorithm.{taken}")
        if options.get("maximize"):
            raise BadInputError(f"algorithm.optimizer_options = {self.optimizer_options!r} would climb the loss")
        if self.needs_sgd and self.local_optimizer:
            raise BadInputError(
                f"algorithm.name = {self.name} counts steps of plain SGD, which {self.local_optimizer.said} "
                "does not make"
            )
        if self.momentum and self.optimizer != "sgd":
            raise BadInputError(
                f"algorithm.momentum = {self.momentum:g} is for algorithm.optimizer = sgd; what {self.optimizer} has "
                "like it is among its algorithm.optimizer_options"
            )
        if self.steps_min and not self.steps:
            raise BadInputError(f"algorithm.steps_min = {self.steps_min} needs algorithm.steps, the most to be drawn")
        if self.epochs_min and self.steps:
            raise BadInputError(
                f"algorithm.epochs_min = {self.epochs_min} is for epochs, which algorithm.steps = {self.steps} "
                "replaces; the least of those is algorithm.steps_min"
            )
        for name, least, most in (("epochs", self.epochs_min, self.epochs), ("steps", self.steps_min, self.steps)):
            if least and most and least > most:
                raise BadInputError(f"algorithm.{name}_min = {least} is more than algorithm.{name} = {most}")

    @property
    def local_optimizer(self) -> LocalOptimizer | None:
        """The optimizer of torch.optim that clients use; None for the engine's own SGD."""
        if self.optimizer == "sgd" and not self.optimizer_options.strip():
            return None
        return LocalOptimizer(self.optimizer, self.optimizer_options, self.momentum, self.weight_decay)

    def make_optimizer(self, parameters: Sequence[Tensor], lr: float) -> torch.optim.Optimizer | None:
        """A new optimizer of a client's parameters, or of groups of them, for one round; None for the engine's SGD."""
        wanted = self.local_optimizer
        return local_optimizer.make(wanted, parameters, lr) if wanted else None

    @property
    def optimizer_vectors(self) -> int:
        """The largest number of vectors [P] that the optimizer keeps during a client's round."""
        if self.optimizer == "sgd":
            return int(self.momentum > 0)
        options = read_options(self.optimizer_options)
        return 2 + bool(options.get("amsgrad") or (options.get("centered") and options.get("momentum")))

    def learning_rate(self, t: int, rounds: int) -> float:
        """The clients' learning rate in round t of 1..rounds."""
        if self.lr_schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * (t - 1) / rounds)) / 2
        if self.lr_schedule == "step":
            return float(self.lr * self.lr_decay ** ((t - 1) // self.lr_decay_every))
        if self.lr_schedule == "exponential":
            return float(self.lr * self.lr_decay ** (t - 1))
        return self.lr

    def local_steps(self, seed: int, t: int, client: int, per_epoch: int, attempt: int = 0) -> int:
        """The number of a client's steps in round t, where an epoch has `per_epoch` steps.

        It depends on the arguments alone, so every process computes the same number. `attempt` is as in
        core.randomness.
        """
        least, most = (self.steps_min, self.steps) if self.steps else (self.epochs_min, self.epochs)
        if least:
            rng = generator(seed, "local-work", t=t, client=client, attempt=attempt)
            most = int(rng.integers(least, most + 1))
        return most if self.steps else most * per_epoch

    def clip(self, grad: Tensor) -> Tensor:
        """Each client's gradient [..., P], scaled in place to a norm of at most clip_norm."""
        if self.clip_norm is None:
            return grad
        norm = grad.square().sum(-1, keepdim=True).sqrt()
        return grad.mul_((self.clip_norm / norm).clamp(max=1.0))
