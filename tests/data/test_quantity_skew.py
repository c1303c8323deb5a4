"""Quantity skew: sizes by their distribution, labels by chance."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedray.data.partitions import label_counts
from fedray.data.partitions.quantity import QuantitySkew, largest_remainders


def sizes(n, clients, seed=0, **given):
    return np.array([len(shard) for shard in QuantitySkew(**given).split(np.zeros(n, np.int64), clients, seed)])


def test_a_power_law_by_hand():
    """Weights 1, 1/2, 1/3, 1/4 of 25/12 in all. One example each and shares of 100: 48, 24, 16, 12. Five each and
    shares of 84: 40.32, 20.16, 13.44, 10.08, of which the third is rounded up.
    """
    assert sorted(sizes(104, 4, distribution="power_law"), reverse=True) == [49, 25, 17, 13]
    assert sorted(sizes(104, 4, distribution="power_law", min_size=5), reverse=True) == [45, 25, 19, 15]
    squares = sizes(4 + 205, 4, distribution="power_law", exponent=2)  # of 205/144: 1, 1/4, 1/9, 1/16
    assert sorted(squares, reverse=True) == [145, 37, 17, 10]


def test_ranks_are_shuffled():
    first = {int(np.argmax(sizes(1000, 5, seed, distribution="power_law"))) for seed in range(30)}
    assert first == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_log_sizes_are_normal_with_this_standard_deviation(sigma):
    logs = np.log(sizes(5_000_000, 4000, sigma=sigma) - 1 + 0.5)
    assert logs.std() == pytest.approx(sigma, rel=0.05)
    middle = np.abs(logs - np.median(logs)) < sigma
    assert middle.mean() == pytest.approx(0.683, abs=0.03)


@pytest.mark.parametrize("even", [{"sigma": 0}, {"distribution": "power_law", "exponent": 0}], ids=str)
def test_without_spread_all_hold_equally_many(even):
    assert np.ptp(sizes(1007, 49, **even)) == 1


@pytest.mark.parametrize("strong", [{"sigma": 1000}, {"distribution": "power_law", "exponent": 1000}], ids=str)
def test_the_strongest_skew_leaves_the_least_size_to_all_but_one(strong):
    assert sorted(sizes(500, 20, min_size=7, **strong)) == [*[7] * 19, 500 - 19 * 7]


def test_labels_are_as_in_the_whole():
    labels = np.repeat(np.arange(10), 1000)
    counts = label_counts(QuantitySkew(sigma=1.5).split(labels, 20, 0), labels, 10)
    large = counts[counts.sum(1) > 1000]
    assert len(large)
    np.testing.assert_allclose(large / large.sum(1, keepdims=True), 0.1, atol=0.04)


@settings(max_examples=200, deadline=None)
@given(
    weights=st.lists(st.integers(1, 1000), min_size=1, max_size=30),
    total=st.integers(0, 10_000),
)
def test_the_largest_remainders_are_rounded_up(weights, total):
    """Against exact fractions; where two remainders differ by less than floats tell, either may be rounded up."""
    got = largest_remainders(np.log(weights), total)
    shares = [Fraction(weight * total, sum(weights)) for weight in weights]
    left = [share - found for share, found in zip(shares, got.tolist(), strict=True)]
    assert got.sum() == total
    assert all(-1 < each < 1 + 1e-9 for each in left)
    tiny = 1e-6
    up = [float(each) + 1 for each in left if each < -tiny]  # the remainders of those rounded up
    down = [float(each) for each in left if each > tiny]
    assert min(up, default=1) >= max(down, default=0) - tiny


@pytest.mark.parametrize(
    "wrong",
    [{"sigma": -1}, {"sigma": 1001}, {"exponent": -0.1}, {"exponent": 1e9}, {"min_size": 0}, {"distribution": "zipf"}],
    ids=str,
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        QuantitySkew(**wrong)
