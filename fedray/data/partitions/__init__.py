"""Partitions: which client holds which examples. A scheme is a frozen class that turns labels into row numbers.

Every scheme puts each example into exactly one shard, leaves no shard empty, and gives the same shards for the same
seed. There are two exceptions: `sampled` puts an example into any number of shards, and `natural` leaves out the users
beyond the number of clients.
"""

import hashlib

import numpy as np

from fedray.data.partitions.dirichlet import Dirichlet
from fedray.data.partitions.even import Contiguous, Iid
from fedray.data.partitions.few_classes import ClassesPerClient, SortedShards
from fedray.data.partitions.natural import Natural
from fedray.data.partitions.quantity import QuantitySkew
from fedray.data.partitions.sampled import Sampled
from fedray.data.partitions.scheme import Partition, Shards
from fedray.data.strata import Strata

PARTITIONS: dict[str, type[Partition]] = {
    scheme.name: scheme
    for scheme in (Iid, Contiguous, Dirichlet, ClassesPerClient, SortedShards, QuantitySkew, Natural, Sampled)
}


def partition_id(rows: Shards, strata: Strata | None = None) -> str:
    """A hash of all shards in the order of the clients, and of the strata where they are given: 16 hex digits."""
    digest = hashlib.blake2b(digest_size=8)
    if strata:
        digest.update(repr(strata.names).encode() + strata.train.astype("<i8").tobytes())
    for shard in rows:
        digest.update(len(shard).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(shard, dtype="<i8").tobytes())
    return digest.hexdigest()


def label_counts(rows: Shards, labels: np.ndarray, classes: int) -> np.ndarray:
    """Examples of each class at each client: int64 [clients, classes]; `labels` [n] are below `classes`."""
    cells = np.repeat(np.arange(len(rows)) * classes, [len(shard) for shard in rows])
    cells += labels[np.concatenate(rows)]
    return np.bincount(cells, minlength=len(rows) * classes).reshape(len(rows), classes)


def count_holders(rows: Shards, n: int) -> np.ndarray:
    """The number of shards that hold each of the n examples: int64 [n]."""
    return np.bincount(np.concatenate(rows), minlength=n)
