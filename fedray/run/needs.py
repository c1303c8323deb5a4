"""The memory that a run needs."""

from typing import Any

from fedray.models import model as models


def vectors_held(algorithm: Any) -> int:
    """How many vectors as long as the model a process comes to hold that trains it, as measured with alexnet on a CPU.

    They are its parameters, their gradients by layer and as one, the update, its weighted copy and the block's sum, and
    what the allocator keeps between them; another direction than the gradient; what a torch optimizer keeps; what a
    correction computes; the initial model and the client's own memory; and two other models, where features are
    compared.
    """
    optimizer = algorithm.optimizer_vectors if algorithm.local_optimizer else 0
    directs = bool(algorithm.momentum or algorithm.weight_decay or algorithm.clip_norm or algorithm.corrects)
    return 8 + directs + optimizer + 2 * algorithm.corrects + 4 * algorithm.remembers + 4 * algorithm.compares


def copies_held(algorithm: Any, model: models.Model) -> int:
    """How often a process comes to hold what is frozen of the model: its own, and what it takes to build models.

    Where clients remember, another is built, whose frozen parameters then are given up. Weights take their size again
    where their file cannot be mapped into memory.
    """
    return 1 + algorithm.remembers + model.is_read_whole
