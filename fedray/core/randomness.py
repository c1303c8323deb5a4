"""Randomness is addressed, never consumed from a shared stream.

Every draw has an address (seed, purpose, round, client, epoch). The address becomes the key and the counter of a Philox
generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). So the numbers are the same in any
process and any order, and resuming at round t needs no replay of the rounds before it.
"""

from typing import Any

import numpy as np

# Append only: a purpose's position is part of every address drawn under it.
PURPOSES = (
    *("cohort", "partition", "model", "shuffle", "augment", "dropout", "synthetic", "client-test", "fine-tune"),
    *("validation", "search", "silence", "arrival", "skew", "local-work", "cutout", "sampling"),
    *("client-holdout", "unseen"),
)
MAX_SEED = 2**63 - 1


def generator(
    seed: int, purpose: str, *, t: int = 0, client: int = 0, epoch: int = 0, attempt: int = 0
) -> np.random.Generator:
    """The generator at an address. Two addresses never share a number within 2**64 draws.

    `attempt` counts how often a client was asked before from the same model: 0 for the first time.
    """
    key = np.array([seed, PURPOSES.index(purpose) + (attempt << 32)], dtype=np.uint64)
    counter = np.array([0, epoch, client, t], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


class Generators:
    """The generators of one purpose and round, for many clients. `at` takes a fifth of the time of `generator`."""

    def __init__(self, seed: int, purpose: str, t: int, attempt: int = 0):
        self.generator = generator(seed, purpose, t=t, attempt=attempt)
        self.state: Any = self.generator.bit_generator.state

    def at(self, client: int, epoch: int) -> np.random.Generator:
        """The generator at (client, epoch). It is valid until the next call, which resets the same generator."""
        self.state["state"]["counter"][1:3] = epoch, client
        self.generator.bit_generator.state = self.state
        return self.generator


def torch_seed(seed: int, purpose: str, *, t: int = 0, client: int = 0, attempt: int = 0) -> int:
    """A seed for torch at an address. It is drawn, not packed: torch's CPU generator reads only the low 32 bits."""
    return int(generator(seed, purpose, t=t, client=client, attempt=attempt).integers(0, 2**63))
