"""The laws of every partition scheme, for any settings, labels and numbers of clients. Schemes join by their names."""

from typing import Literal, get_args, get_origin

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedray.core.errors import BadInputError
from fedray.data.partitions import PARTITIONS, count_holders, partition_id

DRAWS_AGAIN, LEAVES_OUT = {"sampled"}, {"sampled", "natural"}
"""Schemes that say that they put an example into several shards, or into none."""
NOT_RANDOM = {"contiguous"}


def fits_by_class(scheme, labels, clients):
    """None where it is left to chance: some class may get more owners than it has examples."""
    counts = np.unique(labels, return_counts=True)[1]
    if scheme.classes > len(counts) or scheme.classes * clients < len(counts):
        return False
    return True if counts.min() >= clients else None


FITS = {
    "classes_per_client": fits_by_class,
    "shards": lambda scheme, labels, clients: clients * scheme.shards_per_client <= len(labels),
    "natural": lambda scheme, labels, clients: (
        clients <= (np.unique(labels, return_counts=True)[1] >= scheme.min_size).sum()
    ),
    "sampled": lambda scheme, labels, clients: scheme.examples <= len(labels),
}


def fits(scheme, labels, clients):
    """Whether the data suffice, worked out without the scheme: for those not named, for so many examples each."""
    enough = FITS.get(scheme.name, lambda scheme, labels, n: n * getattr(scheme, "min_size", 1) <= len(labels))
    return enough(scheme, labels, clients)


def values(field):
    """Anything that a setting may be, its edges first."""
    if field.annotation is bool:
        return st.booleans()
    if get_origin(field.annotation) is Literal:
        return st.sampled_from(get_args(field.annotation))
    bounds = {key: getattr(m, key) for m in field.metadata for key in ("gt", "ge", "lt", "le") if hasattr(m, key)}
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", 1.7e308)
    if field.annotation is int:
        return st.integers(low, low + 2) | st.integers(low, low + 30)
    edges = [low] if "ge" in bounds else [1e-300]
    return st.sampled_from([*edges, 1e-4, 0.1, 1.0, min(100.0, high), high])


def schemes(name):
    kind = PARTITIONS[name]
    return st.builds(kind, **{key: values(field) for key, field in kind.__pydantic_fields__.items()})


@st.composite
def populations(draw):
    """Labels, of one class, of classes with gaps or of all ten, and clients: few, about n, or more."""
    n = draw(st.integers(1, 120))
    present = draw(st.sampled_from([[0], [7], [0, 3, 9], list(range(10))]))
    labels = np.array(draw(st.lists(st.sampled_from(present), min_size=n, max_size=n)))
    if draw(st.booleans()):
        labels.sort()
    return labels, draw(st.one_of(st.integers(1, 12), st.integers(1, n), st.integers(max(1, n - 1), n + 2)))


@pytest.mark.parametrize("name", PARTITIONS)
@settings(max_examples=50, deadline=None)
@given(data=st.data(), population=populations(), seed=st.integers(0, 2**63 - 1))
def test_a_partition_is_what_it_says_or_is_refused_in_a_sentence(name, data, population, seed):
    scheme, (labels, clients) = data.draw(schemes(name)), population
    before = labels.copy()
    try:
        shards = scheme.split(labels, clients, seed)
    except BadInputError as error:
        assert not fits(scheme, labels, clients)
        assert "\n" not in str(error)
        assert len(str(error)) < 250
        return
    assert fits(scheme, labels, clients) is not False
    assert np.array_equal(labels, before)
    assert len(shards) == clients
    assert min(map(len, shards)) >= getattr(scheme, "min_size", 1)
    assert all(shard.dtype == np.int64 and shard.ndim == 1 and np.all(np.diff(shard) > 0) for shard in shards)
    assert min(shard[0] for shard in shards) >= 0
    holders = count_holders(shards, len(labels))
    assert len(holders) == len(labels)  # no row is beyond the last
    assert name in DRAWS_AGAIN or holders.max() == 1
    assert name in LEAVES_OUT or holders.min() == 1
    assert partition_id(shards) == partition_id(scheme.split(labels, clients, seed))


LABELS = np.random.default_rng(0).integers(0, 10, 600)


@pytest.mark.parametrize("name", PARTITIONS)
def test_another_seed_is_another_partition_where_anything_is_random(name):
    ids = {partition_id(PARTITIONS[name]().split(LABELS, 7, seed)) for seed in range(4)}
    assert (len(ids) == 1) == (name in NOT_RANDOM)


@pytest.mark.parametrize("name", PARTITIONS)
@pytest.mark.parametrize("clients", [0, -1])
def test_a_population_without_clients_is_refused(name, clients):
    with pytest.raises(BadInputError, match=f"at least one client, not {clients}"):
        PARTITIONS[name]().split(LABELS, clients, 0)


@pytest.mark.parametrize("name", PARTITIONS)
def test_a_partition_does_not_know_what_labels_are_called(name):
    """Labels with gaps between them are dealt like those without."""
    shards = PARTITIONS[name]().split(LABELS, 5, 3)
    assert partition_id(shards) == partition_id(PARTITIONS[name]().split(1000 * LABELS + 7, 5, 3))
