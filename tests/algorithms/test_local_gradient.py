"""The hook `local_gradient`, a step of several passes, and what it leaves as it is; SAM is in docs/test_own_classes.py."""

import dataclasses

import numpy as np
import pytest
import torch
from playing import play, with_dropout
from small_data import make_dataset
from small_runs import small

from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.scaffold import Scaffold
from fedray.core.errors import ClientError
from fedray.models import build as networks

LOCAL = {"lr": 0.05, "batch_size": 8, "epochs": 2, "momentum": 0.5, "weight_decay": 0.01, "clip_norm": 0.5}
SHARDS = np.split(np.arange(96), [20, 50])


@pytest.fixture
def small_network(monkeypatch):
    """A network with BatchNorm and dropout in mlp's place."""
    monkeypatch.setitem(networks.BUILDERS, "mlp", with_dropout)


class Once(FedAvg):
    def local_gradient(self, gradient, params, message, memory, lr):
        return gradient(params)


class Often(FedAvg):
    """Looks around before and after, and descends along the gradient of where it is."""

    def local_gradient(self, gradient, params, message, memory, lr):
        before, here = params.clone(), gradient(params)
        kept = here.clone()
        gradient(params + 1)
        gradient(message["params"] * torch.nan)
        assert torch.equal(params, before) and torch.equal(here, kept)
        assert torch.equal(gradient(params), here)
        return here


@pytest.mark.parametrize("kind", [Once, Often])
def test_handing_on_the_gradient_is_fedavg(small_network, kind):
    """To the bit, statistics of BatchNorm, masks of dropout, the loss, momentum, decay and clipping included."""
    dataset = make_dataset(train=96, test=10, side=4)
    (*_, mine), (*_, plain) = (play(each(**LOCAL), dataset, SHARDS, 2, model="mlp")[0] for each in (kind, FedAvg))
    assert {name: vector.tobytes() for name, vector in mine.state.items()} == {
        name: vector.tobytes() for name, vector in plain.state.items()
    }
    assert mine.state["buffers"].size
    assert [(r.train_loss, r.images) for r in mine.updates.reports] == [
        (r.train_loss, r.images) for r in plain.updates.reports
    ]


class Beside(Scaffold):
    local_gradient = Once.local_gradient


def test_the_fused_engine_refuses_it_by_name(tmp_path):
    said = "engine = fused cannot train .*, whose `local_gradient` needs one client at a time"
    for algorithm in (Once(), Beside()):
        with pytest.raises(ValueError, match=said):
            small_with(tmp_path, algorithm, engine="fused")
        assert small_with(tmp_path, algorithm).chosen_engine == "plain"


def small_with(root, algorithm, **changes):
    return dataclasses.replace(small(root), algorithm=algorithm, **changes)


class Short(FedAvg):
    def local_gradient(self, gradient, params, message, memory, lr):
        return gradient(params)[:1]


def test_a_gradient_of_another_shape_is_an_error(dataset):
    with pytest.raises(ClientError, match=r"local_gradient\(\) gave a gradient of shape \(1,\), not \(30730,\)"):
        play(Short(), dataset, SHARDS, 1, model="logistic")
