"""Law 4: every example in exactly one shard (or, where a scheme says so, drawn with replacement across clients), no
empty shard, the same for the same seed."""

import hashlib
import math
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedray.core.errors import BadInputError
from fedray.data.partitions import PARTITIONS, label_counts, partition_id
from fedray.data.partitions.dirichlet import Dirichlet
from fedray.data.partitions.even import Contiguous, Iid
from fedray.data.partitions.few_classes import ClassesPerClient
from fedray.data.partitions.sampled import Sampled

SCHEMES = [Iid(), Contiguous(), Dirichlet(), *(Dirichlet(alpha=a) for a in (1e-300, 1e-4, 0.01, 100.0, 1e6))]
SCHEMES += [Dirichlet(alpha=a, balanced=True) for a in (1e-300, 0.1, 1e6)]
LABELS = np.random.default_rng(0).integers(0, 10, 5000)


@st.composite
def populations(draw):
    n = draw(st.integers(1, 300))
    clients = draw(st.one_of(st.integers(1, n), st.integers(max(1, n - 3), n)))
    return np.random.default_rng(draw(st.integers(0, 2**32))).integers(0, draw(st.integers(1, 10)), n), clients


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@settings(max_examples=60, deadline=None)
@given(population=populations(), seed=st.integers(0, 2**63 - 1))
def test_a_partition_is_a_partition(scheme, population, seed):
    labels, clients = population
    rows = scheme.split(labels, clients, seed)
    assert len(rows) == clients
    assert min(map(len, rows)) >= 1
    assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(len(labels)))
    assert all(shard.dtype == np.int64 and np.all(np.diff(shard) > 0) for shard in rows)
    assert partition_id(rows) == partition_id(scheme.split(labels, clients, seed))


@settings(max_examples=60, deadline=None)
@given(n=st.integers(20, 400), clients=st.integers(1, 20), alpha=st.floats(1e-3, 10), seed=st.integers(0, 1000))
def test_dirichlet_keeps_its_least_size_up_to_the_last_example(n, clients, alpha, seed):
    largest = n // clients
    rows = Dirichlet(alpha=alpha, min_size=largest).split(np.arange(n) % 10, clients, seed)
    assert min(map(len, rows)) >= largest
    assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(n))


@pytest.mark.parametrize("scheme", SCHEMES[:3], ids=str)
def test_more_clients_than_examples_are_refused_with_the_numbers(scheme):
    with pytest.raises(BadInputError, match=r"6 clients .* need 6 examples, but the training set has 5"):
        scheme.split(LABELS[:5], 6, 0)
    with pytest.raises(BadInputError, match="at least one client, not 0"):
        scheme.split(LABELS, 0, 0)


def test_a_least_size_that_does_not_fit_is_refused_with_the_numbers():
    with pytest.raises(BadInputError, match=r"10 clients with at least 501 examples each need 5010 .* has 5000"):
        Dirichlet(min_size=501).split(LABELS, 10, 0)


@pytest.mark.parametrize("scheme", [Iid(), Contiguous(), Dirichlet(alpha=0.1, balanced=True)], ids=str)
def test_even_schemes_differ_by_at_most_one(scheme):
    sizes = [len(shard) for shard in scheme.split(LABELS, 37, 3)]
    assert max(sizes) - min(sizes) == 1  # 5000 is no multiple of 37


def test_contiguous_is_slices_of_the_order_given():
    assert [shard.tolist() for shard in Contiguous().split(LABELS[:7], 3, 5)] == [[0, 1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("scheme", [Iid(), Dirichlet(), Sampled()], ids=str)
def test_another_seed_is_another_partition(scheme):
    assert partition_id(scheme.split(LABELS, 10, 0)) != partition_id(scheme.split(LABELS, 10, 1))


def largest_class_share(scheme, seed):
    counts = label_counts(scheme.split(LABELS, 10, seed), LABELS, 10)
    return (counts.max(axis=1) / counts.sum(axis=1)).mean()


def test_a_smaller_alpha_is_more_skewed_and_a_huge_one_is_iid():
    shares = [np.mean([largest_class_share(Dirichlet(alpha=a), s) for s in range(5)]) for a in (0.01, 0.1, 0.5, 5, 1e4)]
    assert all(left > right + 0.02 for left, right in pairwise(shares[:-1]))
    assert shares[0] > 0.7
    assert shares[-1] == pytest.approx(0.1, abs=0.015)


def test_balanced_clients_draw_their_own_mixes():
    """The largest share of a client is on average that of as many draws of NumPy's own."""
    labels = np.repeat(np.arange(10), 5000)
    for alpha in (0.1, 1, 100):
        counts = label_counts(Dirichlet(alpha=alpha, balanced=True).split(labels, 100, 0), labels, 10)
        draws = np.random.default_rng(0).dirichlet(np.full(10, alpha), 10_000)
        assert (counts.max(1) / 500).mean() == pytest.approx(draws.max(1).mean(), abs=0.04)


@settings(max_examples=60, deadline=None)
@given(clients=st.integers(1, 30), each=st.integers(1, 10), seed=st.integers(0, 1000))
def test_clients_hold_so_many_classes_and_share_each_evenly(clients, each, seed):
    if clients * each < 10:
        with pytest.raises(BadInputError, match="every class needs a client"):
            ClassesPerClient(classes=each).split(LABELS, clients, seed)
        return
    shards = ClassesPerClient(classes=each).split(LABELS, clients, seed)
    assert np.array_equal(np.sort(np.concatenate(shards)), np.arange(len(LABELS)))
    counts = label_counts(shards, LABELS, 10)
    assert ((counts > 0).sum(1) == each).all()
    for held in counts.T:
        assert np.ptp(held[held > 0]) <= 1


def test_more_classes_than_there_are_or_more_clients_than_examples_of_a_class_are_refused():
    with pytest.raises(BadInputError, match=r"partition.classes = 11 each do not suit 10 classes"):
        ClassesPerClient(classes=11).split(LABELS, 20, 0)
    with pytest.raises(BadInputError, match=r"20 clients share the 2 examples of class 0"):
        ClassesPerClient(classes=2).split(np.array([0, 0] + [1] * 30), 20, 0)


@pytest.mark.parametrize("balanced", [False, True])
def test_the_largest_alpha_that_there_is_is_even_not_overflown(balanced):
    counts = label_counts(Dirichlet(alpha=1.7e308, balanced=balanced).split(LABELS, 10, 0), LABELS, 10)
    assert counts[:9].min() > 15  # of 50 on average; the last client gets what is left


def test_tiny_alpha_with_many_clients_ends_and_is_even_enough_to_run():
    rows = Dirichlet(alpha=1e-6).split(LABELS, 1000, 0)
    assert min(map(len, rows)) == 1


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 200), clients=st.integers(1, 50), seed=st.integers(0, 2**63 - 1), data=st.data())
def test_sampled_shards_are_full_and_have_nothing_twice(n, clients, seed, data):
    scheme = Sampled(examples=data.draw(st.integers(1, n)))
    rows = scheme.split(np.zeros(n, np.int64), clients, seed)
    assert len(rows) == clients
    assert all(len(shard) == scheme.examples and shard.dtype == np.int64 for shard in rows)
    assert all(np.all(np.diff(shard) > 0) and shard[0] >= 0 and shard[-1] < n for shard in rows)
    assert partition_id(rows) == partition_id(scheme.split(np.zeros(n, np.int64), clients, seed))


def test_a_sampled_shard_does_not_depend_on_the_number_of_clients():
    many = Sampled().split(LABELS, 3000, 5)
    for clients in (1, 7, 1310, 1311, 2621):  # 1310 are drawn from one generator
        assert partition_id(Sampled().split(LABELS, clients, 5)) == partition_id(many[:clients])


@pytest.mark.parametrize("examples", [1, 2, 3, 4])
def test_every_set_of_examples_is_sampled_equally_often(examples):
    rows = Sampled(examples=examples).split(np.zeros(5), 60_000, 1)
    _, found = np.unique(np.stack(rows), axis=0, return_counts=True)
    sets = math.comb(5, examples)
    assert len(found) == sets
    deviations = (found - 60_000 / sets) / np.sqrt(60_000 / sets)
    assert np.square(deviations).sum() < sets - 1 + 5 * np.sqrt(2 * sets)  # chi-squared, five standard deviations


def test_sampled_shards_overlap_and_more_examples_than_there_are_are_refused_with_the_numbers():
    one, two, *_ = rows = Sampled(examples=3000).split(LABELS, 10, 0)
    assert len(np.intersect1d(one, two)) == pytest.approx(1800, abs=150)
    assert len(np.unique(np.concatenate(rows))) > 4990
    with pytest.raises(BadInputError, match=r"partition.examples is 5001, but the training set has 5000 examples"):
        Sampled(examples=5001).split(LABELS, 2, 0)
    with pytest.raises(BadInputError, match="at least one client, not 0"):
        Sampled().split(LABELS, 0, 0)
    with pytest.raises(ValidationError):
        Sampled(examples=0)


def test_a_hundred_thousand_clients_take_a_moment():
    """Half a second on two cores; drawing and counting client by client takes many times that."""
    start = time.perf_counter()
    labels = np.arange(50_000) % 10
    rows = Sampled(examples=50).split(labels, 100_000, 0)
    counts = label_counts(rows, labels, 10)
    partition_id(rows)
    assert time.perf_counter() - start < 3
    assert counts.shape == (100_000, 10)
    assert np.all(counts.sum(axis=1) == 50)
    assert np.abs(counts.sum(axis=0) - 500_000).max() < 4000  # six standard deviations


def test_label_counts_count():
    rows = [np.array([0, 1, 2]), np.array([3])]
    assert label_counts(rows, np.array([2, 0, 2, 1]), 4).tolist() == [[1, 0, 2, 0], [0, 1, 0, 0]]


def test_a_partition_id_sees_who_holds_what():
    one, two = np.array([0, 1]), np.array([2, 3])
    ids = {partition_id(rows) for rows in ([one, two], [two, one], [np.array([0]), np.array([1, 2, 3])])}
    assert len(ids) == 3
    written = b"".join(n.to_bytes(8, "little") for n in (2, 0, 1, 2, 2, 3))  # a length, its rows, and so on
    assert partition_id([one, two]) == hashlib.blake2b(written, digest_size=8).hexdigest()


def test_partitions_are_pinned():
    """Shards are part of what a run is; numbers that change silently would break every stored result."""
    found = {name: partition_id(kind().split(np.arange(200) % 10, 7, 42)) for name, kind in PARTITIONS.items()}
    assert found == {
        "iid": "daab54c2f86eef8e",
        "contiguous": "1bd46ce7950488d4",
        "dirichlet": "5c7ed116619dfa2d",
        "classes_per_client": "e61cbf5fde24bf21",
        "shards": "a4585cc111d19fa5",
        "quantity_skew": "17e88590dc031d9d",
        "natural": "e4b5d889264b06c6",
        "sampled": "ee32f0b8ba6450ab",
    }
    repaired = Dirichlet(alpha=0.01, min_size=5).split(np.arange(200) % 10, 20, 42)
    assert partition_id(repaired) == "916a1e5338359b6f"
    balanced = Dirichlet(alpha=0.3, balanced=True).split(np.arange(200) % 10, 20, 42)
    assert partition_id(balanced) == "3f75e0dcb2be45e0"


@pytest.mark.parametrize("wrong", [{"alpha": 0}, {"alpha": -1}, {"alpha": float("nan")}, {"min_size": 0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        Dirichlet(**wrong)


def test_each_name_makes_its_class():
    assert {name: kind().name for name, kind in PARTITIONS.items()} == {name: name for name in PARTITIONS}
