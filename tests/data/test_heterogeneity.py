"""The figures of a partition, by hand."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedray.data.heterogeneity import FAR, count_sizes, measure
from fedray.data.partitions import PARTITIONS

LABELS = np.array([0, 0, 1, 1, 2, 2, 0, 1])  # shares 3/8, 3/8, 2/8


def test_the_figures_by_hand():
    """Client 0 holds labels 0, 0, 1, 1 (shares 1/2, 1/2, 0), client 1 only 2 (twice); the last two are nobody's, and the
    first is held by client 2 too, alone.
    """
    found = measure([np.array([0, 1, 2, 3]), np.array([4, 5]), np.array([0])], LABELS, 3)
    distances = [(1 / 8 + 1 / 8 + 2 / 8) / 2, (3 / 8 + 3 / 8 + 6 / 8) / 2, (5 / 8 + 3 / 8 + 2 / 8) / 2]
    assert found.distance_mean == pytest.approx(np.mean(distances))
    assert found.distance_max == pytest.approx(0.75)
    assert found.classes_mean == pytest.approx((2 + 1 + 1) / 3)
    assert found.effective_classes == pytest.approx((2 + 1 + 1) / 3)
    sizes = [4, 2, 1]
    assert found.size_variation == pytest.approx(np.std(sizes) / np.mean(sizes))
    pairs = sum(abs(a - b) for a in sizes for b in sizes)  # half the mean difference of two clients, by the mean
    assert found.size_gini == pytest.approx(pairs / 9 / 2 / np.mean(sizes))
    assert (found.unused, found.shared) == (2, 1)


def test_effective_classes_tell_even_from_uneven():
    """Shares 3/4 and 1/4: exp(entropy) is 4 / 3^(3/4)."""
    found = measure([np.array([0, 1, 6, 2]), np.array([3, 4, 5, 7])], LABELS, 3)
    assert found.effective_classes == pytest.approx((4 / 3**0.75 + 2) / 2)
    assert found.classes_mean == 2


@pytest.mark.parametrize("name", PARTITIONS)
def test_figures_are_within_their_bounds(name):
    labels = np.random.default_rng(0).integers(0, 10, 1000)
    found = measure(PARTITIONS[name]().split(labels, 8, 0), labels, 12)
    assert 0 <= found.distance_mean <= found.distance_max <= 1
    assert 1 <= found.effective_classes <= found.classes_mean <= 10
    assert 0 <= found.size_gini < 1
    assert (found.shared > 0) == (name == "sampled")
    assert (found.unused > 0) == (name in ("sampled", "natural"))


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=50), st.integers(1, 20))
def test_every_size_is_in_one_bin(sizes, most):
    bins = count_sizes(np.array(sizes), most)
    assert 1 <= len(bins) <= most
    assert (bins[0][0], bins[-1][1]) == (min(sizes), max(sizes))
    assert all(before[1] + 1 == after[0] for before, after in pairwise(bins))
    assert all(count == sum(low <= size <= high for size in sizes) for low, high, count in bins)


def test_bins_are_equally_wide_or_grow():
    assert count_sizes(np.array([10, 29]), 4) == [(10, 14, 1), (15, 19, 0), (20, 24, 0), (25, 29, 1)]
    assert count_sizes(np.array([1, 10**4 - 1]), 4) == [(1, 9, 1), (10, 99, 0), (100, 999, 0), (1000, 9999, 1)]
    assert count_sizes(np.array([5, 5, 5]), 10) == [(5, 5, 3)]
    assert FAR * 10 > 29
