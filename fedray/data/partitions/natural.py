"""Natural clients: each client is a user of the data set, with the user's own examples."""

from typing import ClassVar

import numpy as np

from fedray.core.errors import BadInputError
from fedray.core.randomness import generator
from fedray.core.settings import section, setting
from fedray.data.partitions.scheme import Shards, check_population


@section
class Natural:
    """Give each client the examples of one user. A column of the data set, or its train_users, names the users.

    This is the split of LEAF (Caldas et al. 2018, "LEAF: a benchmark for federated settings", arXiv:1812.01097). Where
    there are more users than clients, users are drawn at random with equal chance, and the examples of the others are
    in no shard. Clients are numbered in the order of their users.
    """

    name: ClassVar[str] = "natural"
    by_user: ClassVar[bool] = True  # `split` gets the examples' users in place of their labels
    min_size: int = setting(1, "Users with fewer examples are left out.", unit="examples", ge=1)

    def split(self, labels: np.ndarray, clients: int, seed: int) -> Shards:
        """One array of sorted int64 rows per client; `labels` [n] are the users of the examples, as whole numbers.

        BadInputError where fewer users than clients have `min_size` examples.
        """
        check_population(clients)
        _, user_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        fit = np.flatnonzero(sizes >= self.min_size)
        if clients > len(fit):
            enough = f" with partition.min_size = {self.min_size} or more examples" if self.min_size > 1 else ""
            raise BadInputError(
                f"{clients} clients with partition.name = natural need as many users{enough}, but the training set has "
                f"{len(fit)}"
            )
        chosen = fit
        if clients < len(fit):
            chosen = np.sort(generator(seed, "partition").choice(fit, clients, replace=False))
        by_user = np.argsort(user_of, kind="stable").astype(np.int64)
        ends = np.cumsum(sizes)
        return [by_user[ends[user] - sizes[user] : ends[user]] for user in chosen.tolist()]
