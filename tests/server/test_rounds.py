"""Cohorts, blocks and sums."""

import numpy as np
import pytest

from fedray.algorithms.fedavg import FedAvg
from fedray.core.updates import Report, Trained, WeightedSum, cut
from fedray.server.aggregators import Each
from fedray.server.gathering import gather
from fedray.server.rounds import sample_cohort
from fedray.server.task import Task


def test_cohorts_are_distinct_clients_and_a_pure_function_of_seed_and_round():
    cohorts = [sample_cohort(1, t, 20, 6) for t in range(1, 60)]
    assert all(len(set(c)) == 6 and set(c) <= set(range(20)) for c in cohorts)
    assert cohorts == [sample_cohort(1, t, 20, 6) for t in range(1, 60)]
    assert cohorts != [sample_cohort(2, t, 20, 6) for t in range(1, 60)]
    assert len({tuple(c) for c in cohorts}) > 50
    counts = np.bincount(np.concatenate(cohorts), minlength=20)
    assert counts.min() > 5  # 17.7 expected of each: nobody is left out


def test_full_participation_is_everybody():
    assert sample_cohort(0, 9, 7, 7) == list(range(7))


def test_blocks_are_consecutive_and_even():
    assert cut([3, 5, 6, 8, 9], 2) == [[3, 5], [6, 8, 9]]
    assert cut([3, 5], 16) == [[3], [5]]
    assert [len(block) for block in cut(list(range(50)), 16)].count(3) == 14


def report(client, n):
    return Report(
        client=client, num_examples=n, steps=1, train_loss=1.0, update_norm=1.0, seconds=0.1, bytes_down=4, bytes_up=4
    )


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_block_summed_by_an_actor_or_by_the_driver_is_the_same_bits(count):
    """Float32 addition is not associative: only the same order of the same operations gives the same bits."""
    rng, algorithm = np.random.default_rng(0), FedAvg()
    updates = [{"params": rng.normal(size=1000).astype(np.float32) * 10**e} for e in (3, -3, 0, 5, -1, 2, 0)]
    reports = [report(client, n) for client, n in enumerate((5, 3, 11, 2, 7, 1, 9))]
    summed, each = [], []
    for block in cut(list(range(7)), count):
        total = WeightedSum()
        for client in block:
            total.add_update(updates[client], algorithm.weight(reports[client].num_examples))
        summed.append([Trained([reports[c] for c in block], sum=total)])
        each.append([Trained([reports[c]], each=[updates[c]]) for c in block])
    task = Task(algorithm, {}, 1, 0.1)
    one, other = gather(task, summed), gather(task, each)
    assert one.sum.vectors["params"].tobytes() == other.sum.vectors["params"].tobytes()
    assert one.sum.weight == other.sum.weight == 38
    assert [r.client for r in one.reports] == [r.client for r in other.reports] == list(range(7))
    expected = sum(r.num_examples * u["params"].astype(np.float64) for r, u in zip(reports, updates, strict=True))
    np.testing.assert_allclose(one.sum.vectors["params"], expected, rtol=1e-4, atol=1)


def test_a_sum_leaves_what_it_adds_as_it_was():
    update = {"params": np.ones(3, np.float32)}
    total = WeightedSum()
    total.add_update(update, 2.0)
    frozen = WeightedSum({"params": np.full(3, 5, np.float32)}, 1.0)
    frozen.vectors["params"].flags.writeable = False
    other = WeightedSum()
    other.add(frozen)
    other.add(total)
    assert update["params"].tolist() == [1, 1, 1]
    assert frozen.vectors["params"].tolist() == [5, 5, 5]
    assert other.vectors["params"].tolist() == [7, 7, 7]


def test_an_aggregator_that_is_not_linear_gets_every_vector():
    task = Task(FedAvg(), {}, 1, 0.1, aggregator=Each())

    trained = [
        [Trained([report(c, 1)], each=[{"params": np.full(2, c, np.float32)}]) for c in (0, 1)],
        [Trained([report(2, 1)], each=[{"params": np.full(2, 9, np.float32)}])],
    ]
    updates = gather(task, trained)
    assert [u["params"][0] for u in updates.each] == [0, 1, 9]
    assert updates.sum.vectors == {}
