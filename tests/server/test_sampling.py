"""How cohorts are drawn: uniformly, as ever, or in proportion to what the clients hold."""

from itertools import permutations

import numpy as np
import pytest
from small_runs import assert_same_tables, small, stopped_after

from fedray.run import run
from fedray.server.rounds import sample_cohort

SIZES = np.array([1, 2, 4, 8, 16, 29])
ROUNDS = 6000


def test_a_uniform_cohort_is_the_one_it_always_was():
    """As drawn before there was another way."""
    assert sample_cohort(1, 1, 20, 6) == [4, 11, 12, 15, 17, 19]
    assert sample_cohort(1, 2, 20, 6) == [1, 6, 12, 15, 16, 17]
    assert sample_cohort(7, 300, 1000, 3) == [132, 330, 493]


def chances(weights, m):
    """How likely each client is in a cohort of m: summed over all orders in which one could be drawn."""
    found = np.zeros(len(weights))
    for order in permutations(range(len(weights)), m):
        left, chance = weights.sum(), 1.0
        for client in order:
            chance, left = chance * weights[client] / left, left - weights[client]
        found[list(order)] += chance
    return found


@pytest.mark.parametrize("m", [1, 2, 4])
def test_the_frequencies_over_many_rounds_follow_the_sizes(m):
    """Of a cohort of one in proportion to them. Five standard deviations; another weight would be tens away."""
    cohorts = [sample_cohort(3, t, 6, m, SIZES) for t in range(1, ROUNDS + 1)]
    assert all(len(set(cohort)) == m and cohort == sorted(cohort) for cohort in cohorts)
    expected = chances(SIZES, m)
    assert expected.sum() == pytest.approx(m)
    if m == 1:
        assert expected == pytest.approx(SIZES / 60)
    counts = np.bincount(np.concatenate(cohorts), minlength=6)
    bound = 5 * np.sqrt(ROUNDS * expected * (1 - expected))
    assert (abs(counts - ROUNDS * expected) < bound).all()
    for other in (np.full(6, m / 6), chances(np.sqrt(SIZES), m), chances(SIZES**2, m)):
        assert (abs(counts - ROUNDS * other) > 2 * bound).any()


def test_a_weighted_cohort_is_a_pure_function_of_seed_round_and_sizes():
    def cohorts(seed, weights):
        return [sample_cohort(seed, t, 6, 2, weights) for t in range(1, 40)]

    assert cohorts(1, SIZES) == cohorts(1, SIZES.copy())
    assert cohorts(1, SIZES) != cohorts(2, SIZES)
    assert cohorts(1, SIZES) != cohorts(1, SIZES[::-1])
    assert cohorts(1, SIZES) == cohorts(1, 7 * SIZES)  # only their proportions count
    assert sample_cohort(0, 9, 6, 6, SIZES) == list(range(6))


UNEVEN = {"clients": 8, "cohort": 2, "partition__name": "dirichlet", "partition__alpha": 0.3, "sampling": "size"}


def test_a_run_asks_the_clients_that_the_draw_says(tmp_path):
    """More than are needed too: they are asked by size, and who answers first is no matter of size."""
    tables = run(small(tmp_path / "size", **UNEVEN, faults__over_selection=2))
    sizes = tables.population["num_examples"].to_numpy()
    asked = tables.clients.groupby("round")["client"].apply(list).tolist()
    assert asked == [sample_cohort(0, t, 8, 4, sizes) for t in range(1, 7)]
    uniform = run(small(tmp_path / "uniform", **UNEVEN | {"sampling": "uniform"}, faults__over_selection=2))
    asked_uniformly = uniform.clients.groupby("round")["client"].apply(list).tolist()
    assert asked_uniformly == [sample_cohort(0, t, 8, 4) for t in range(1, 7)]
    assert asked != asked_uniformly
    assert tables.runs["run"][0] != uniform.runs["run"][0]


def test_a_run_that_draws_by_size_is_resumed_without_a_replay(tmp_path):
    stopped_after(tmp_path / "a", 3, **UNEVEN)
    assert_same_tables(run(small(tmp_path / "a", **UNEVEN)), run(small(tmp_path / "b", **UNEVEN)))
