"""McMahan's shards: pieces of the examples sorted by label, dealt at random."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedray.core.errors import BadInputError
from fedray.data.partitions import label_counts
from fedray.data.partitions.few_classes import SortedShards

LABELS = np.random.default_rng(1).permutation(np.repeat(np.arange(10), 60))


def test_two_pieces_of_one_label_each_as_in_the_paper():
    """100 clients and 200 pieces of 3 examples, 20 of each label: a piece has one label, a client one or two."""
    counts = label_counts(SortedShards().split(LABELS, 100, 0), LABELS, 10)
    assert np.all(counts.sum(1) == 6)
    assert set(np.unique(counts)) == {0, 3, 6}
    assert set((counts > 0).sum(1)) == {1, 2}


def test_a_client_holds_so_many_pieces():
    """The same 60 pieces whoever gets them: of more pieces a client has more labels."""
    classes = {}
    for pieces in (1, 2, 6):
        counts = label_counts(SortedShards(shards_per_client=pieces).split(LABELS, 60 // pieces, 0), LABELS, 10)
        assert np.all(counts.sum(1) == 10 * pieces)
        assert (counts > 0).sum(1).max() <= pieces
        classes[pieces] = (counts > 0).sum(1).mean()
    assert 1 == classes[1] < classes[2] < classes[6]


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 200), each=st.integers(1, 5), data=st.data(), seed=st.integers(0, 1000))
def test_a_shard_is_pieces_of_the_sorted_examples_and_sizes_differ_by_as_many(n, each, data, seed):
    clients = data.draw(st.integers(1, max(1, n // each)))
    labels = np.random.default_rng(n).integers(0, 4, n)
    if clients * each > n:
        with pytest.raises(BadInputError):
            SortedShards(shards_per_client=each).split(labels, clients, seed)
        return
    shards = SortedShards(shards_per_client=each).split(labels, clients, seed)
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= each
    place = np.empty(n, np.int64)
    place[np.argsort(labels, kind="stable")] = np.arange(n)
    for shard in shards:
        runs = 1 + np.count_nonzero(np.diff(np.sort(place[shard])) > 1)
        assert runs <= each


def test_too_many_pieces_are_refused_with_the_numbers():
    with pytest.raises(BadInputError, match=r"shards_per_client = 7 need 700 pieces, but the training set has 600"):
        SortedShards(shards_per_client=7).split(LABELS, 100, 0)
    with pytest.raises(ValidationError):
        SortedShards(shards_per_client=0)
