"""Small runs in this process, and how their tables compare."""

import json

import pandas as pd
import pytest
import torch

from fedray.algorithms.fedavg import FedAvg
from fedray.experiment.composition import compose
from fedray.run import run
from fedray.run.watch import Watch

VOLATILE = ("seconds", "cpu_seconds", "actor", "node", "pid", "started_at", "finished_at", "retries")


SMALL = {
    "rounds": 6, "clients": 4, "cohort": 3,
    "data": {"dataset": "synthetic", "train_examples": 160, "test_examples": 120},
    "model": {"name": "logistic"},
    "algorithm": {"lr": 0.02, "batch_size": 10, "momentum": 0.5},
    "cluster": {"backend": "in-process"},
}  # fmt: skip


def small(root, **changes):
    """A small experiment with settings changed by dotted name (dots written as two underscores)."""
    tree = json.loads(json.dumps(SMALL))
    tree["output"] = {"root": str(root), "name": "small", "checkpoint_every": 2}
    for name, value in changes.items():
        *section, key = name.split("__")
        (tree.setdefault(section[0], {}) if section else tree)[key] = value
    return compose(tree)


def comparable(tables):
    """The tables without their volatile columns (DESIGN's "same tables")."""
    frames = vars(tables).items()
    dropped = {n: f[[c for c in f if not c.startswith(VOLATILE)]] for n, f in frames if n != "events"}
    dropped["runs"] = dropped["runs"].drop(
        columns=[c for c in dropped["runs"] if c.startswith(("output.", "settings"))]
    )
    return dropped


def assert_same_tables(one, other):
    one, other = comparable(one), comparable(other)
    for name in one:
        pd.testing.assert_frame_equal(one[name], other[name], obj=name)


class FailsInRound3(FedAvg):
    def broadcast(self, state, t):
        self_t["t"] = t
        return super().broadcast(state, t)

    def loss(self, output, targets):
        if self_t["t"] == 3 and self_t["fails"]:
            raise RuntimeError("no luck")
        return super().loss(output, targets)


self_t = {"t": 0, "fails": True}


def stopped_after(tmp_path, rounds, **changes):
    """A results folder as an interrupt after some rounds leaves it."""

    class Stopping(Watch):
        def round(self, job, row):
            if row["round"] == rounds:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(small(tmp_path, **changes), Stopping())


class Remembering(FedAvg):
    """Its updates depend on what the clients remember, so a lost memory would show."""

    def init_memory(self, params, buffers):
        return {"times": torch.zeros(1), "drift": torch.zeros_like(params)}

    def correct(self, grad, params, message, memory, lr):
        return grad + 0.1 * memory["drift"]

    def finish(self, start, end, steps, lr, message, memory):
        return {"params": end - start}, {"times": memory["times"] + 1, "drift": memory["drift"] + (end - start)}
