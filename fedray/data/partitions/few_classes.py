"""Label skew: clients with few classes, either a number of classes or McMahan's shards."""

from typing import ClassVar

import numpy as np

from fedray.core.errors import BadInputError
from fedray.core.randomness import generator
from fedray.core.settings import section, setting
from fedray.data.partitions.scheme import Shards, check


@section
class ClassesPerClient:
    """Give each client a number of classes, and deal the examples of each class out evenly to its clients.

    NIID-Bench (Li et al. 2022, arXiv:2102.02079) draws McMahan's pathological split (`shards`) in this way. Client i
    has class i modulo the number of classes, and others at random. Here every class gets a client before any is drawn
    at random, even with fewer clients than classes.
    """

    name: ClassVar[str] = "classes_per_client"
    classes: int = setting(2, "Different classes that a client holds.", ge=1)

    def split(self, labels: np.ndarray, clients: int, seed: int) -> Shards:
        """One array of sorted int64 rows of `labels` [n] per client.

        BadInputError where the classes do not suit the clients, or a class has fewer examples than clients.
        """
        check(labels, clients, 1)
        present, counts = np.unique(labels, return_counts=True)
        if self.classes > len(present) or self.classes * clients < len(present):
            raise BadInputError(
                f"{clients} clients with partition.classes = {self.classes} each do not suit {len(present)} classes "
                "in the training set: a client holds a class at most once, and every class needs a client"
            )
        rng = generator(seed, "partition")
        owners: list[list[int]] = [[] for _ in present]
        for client in range(clients):
            given = {client % len(present), *range(client, len(present), clients)[: self.classes]}
            others = [k for k in range(len(present)) if k not in given]
            given |= set(rng.choice(others, self.classes - len(given), replace=False).tolist())
            for k in sorted(given):
                owners[k].append(client)
        parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
        for label, held_by, count in zip(present, owners, counts, strict=True):
            if len(held_by) > count:
                raise BadInputError(f"{len(held_by)} clients share the {count} examples of class {label}; use fewer")
            rows = rng.permutation(np.flatnonzero(labels == label))
            for client, part in zip(held_by, np.array_split(rows, len(held_by)), strict=True):
                parts[client].append(part)
        return [np.sort(np.concatenate(part)) for part in parts]


@section
class SortedShards:
    """Sort the examples by label, cut them into equal pieces, and deal each client the same number at random.

    The pathological split of McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized
    data" (arXiv:1602.05629), section 3. A piece has one label, or a few where a label ends within it. So a client has
    few labels, and their number differs between clients. Piece sizes differ by at most one, so shard sizes differ by at
    most `shards_per_client`. Within a label the examples keep their order.
    """

    name: ClassVar[str] = "shards"
    shards_per_client: int = setting(2, "Pieces of the examples, sorted by label, that a client holds.", ge=1)

    def split(self, labels: np.ndarray, clients: int, seed: int) -> Shards:
        """One array of sorted int64 rows of `labels` [n] per client; BadInputError when n < clients * pieces."""
        check(labels, clients, 1)
        pieces = clients * self.shards_per_client
        if pieces > len(labels):
            raise BadInputError(
                f"{clients} clients with partition.shards_per_client = {self.shards_per_client} need {pieces} pieces, "
                f"but the training set has {len(labels)} examples"
            )
        cut = np.array_split(np.argsort(labels, kind="stable").astype(np.int64), pieces)
        dealt = generator(seed, "partition").permutation(pieces).reshape(clients, self.shards_per_client)
        return [np.sort(np.concatenate([cut[piece] for piece in hand])) for hand in dealt.tolist()]
