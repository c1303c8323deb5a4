"""CPU seconds of training: of the process that trains, without what it waits for, in both engines."""

import dataclasses
import time

import numpy as np
import pytest
from small_runs import small

from fedray.algorithms.fedavg import FedAvg
from fedray.run import run

WAITED = 0.04


class Waiting(FedAvg):
    """It waits in each step, which takes time and no CPU."""

    def correct(self, grad, params, message, memory, lr):
        time.sleep(WAITED)
        return grad


@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_cpu_seconds_are_those_of_training_without_waiting(tmp_path, engine):
    e = small(tmp_path, engine=engine, rounds=3, faults__dropout=0.3, algorithm__momentum=0.0, algorithm__steps=5)
    found = run(dataclasses.replace(e, algorithm=Waiting(batch_size=10, steps=5)))
    clients, rounds = found.clients, found.rounds
    trained = clients["status"] == "ok"
    assert trained.any() and not trained.all()
    assert clients["cpu_seconds"].notna().tolist() == trained.tolist()
    assert (clients["cpu_seconds"][trained] > 0).all()
    sums = clients.groupby("round")["cpu_seconds"].sum()
    np.testing.assert_allclose(rounds["cpu_seconds"], sums, rtol=1e-9)
    asked = rounds["answered"] > 0
    assert (rounds["seconds_train"][asked] > 5 * WAITED).all()
    assert rounds["cpu_seconds"].sum() < 0.5 * rounds["seconds_train"].sum()
