"""Laws of every algorithm in the registry, and law 2: at its neutral setting a variant is FedAvg."""

import dataclasses
import inspect
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from playing import play, with_dropout
from small_data import has_one_value, make_algorithm, make_dataset

from fedray.algorithms import ALGORITHMS
from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.fedavgm import FedAvgM
from fedray.algorithms.feddyn import FedDyn
from fedray.algorithms.fednova import FedNova
from fedray.algorithms.fedopt import FedAdagrad, FedAdam, FedYogi
from fedray.algorithms.fedprox import FedProx
from fedray.algorithms.fedsgd import FedSGD
from fedray.algorithms.moon import Moon
from fedray.algorithms.scaffold import Scaffold
from fedray.core.errors import BadInputError
from fedray.experiment import Experiment
from fedray.models import build as networks
from fedray.models.build import initial_vectors
from fedray.models.model import Model
from fedray.server.task import Task

SIZES = (6, 10, 18, 27, 35)
SHARDS = np.split(np.arange(96), np.cumsum(SIZES)[:-1])
LOCAL = {"lr": 0.05, "batch_size": 8, "epochs": 2, "momentum": 0.5, "weight_decay": 0.01}
every = pytest.mark.parametrize("kind", ALGORITHMS.values(), ids=ALGORITHMS.keys())


@pytest.fixture(scope="module")
def small():
    return make_dataset(train=96, test=10, side=4)


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    """Put a network with BatchNorm and dropout in mlp's place: with buffers, personal layers, and random numbers."""
    monkeypatch.setitem(networks.BUILDERS, "mlp", with_dropout)


def bits(vectors):
    return {name: (vector.dtype.str, vector.shape, vector.tobytes()) for name, vector in vectors.items()}


@every
def test_an_algorithm_is_a_value(kind):
    """Frozen, and equal to one that was made or unpickled with the same settings, elsewhere too."""
    algorithm = make_algorithm(kind, lr=0.25)
    with pytest.raises(dataclasses.FrozenInstanceError):
        algorithm.lr = 0.5
    again = pickle.loads(pickle.dumps(algorithm))
    assert type(again) is kind
    assert again == algorithm
    assert hash(again) == hash(algorithm)
    assert algorithm != make_algorithm(kind, lr=0.5)


@every
def test_an_algorithm_is_one_short_file_that_names_its_paper(kind):
    """One level below FedAvg, whose own file is the list of hooks; training alone is nobody's paper."""
    assert ALGORITHMS[kind.name] is kind
    assert kind is FedAvg or kind.__bases__ == (FedAvg,)
    module = sys.modules[kind.__module__]
    assert kind is FedAvg or len(inspect.getsource(module).splitlines()) <= 75
    assert kind.name == "local" or re.search(r"(19|20)\d\d,.*arXiv\s\d{4}\.\d{5}", module.__doc__, re.DOTALL)
    assert kind.__doc__


def test_the_driver_needs_no_torch_to_know_them():
    program = "import sys, fedray.algorithms; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@every
def test_names_and_shapes_stay_those_of_the_beginning(kind, small):
    """The state's those of `init`, a memory's those of `init_memory` and of the client's own part of the model."""
    algorithm = make_algorithm(kind, **LOCAL)
    start = dict(zip(("params", "buffers"), initial_vectors(with_dropout((3, 4, 4), 10)), strict=True))
    done, population = play(algorithm, small, SHARDS, 3, model="mlp", cohort=3)
    first = algorithm.init(**start)
    assert {"params", "buffers"} <= first.keys() & algorithm.broadcast(first, 1).keys()
    for after in done:
        assert shapes(after.state) == shapes(first)
        assert {"params", "buffers"} <= algorithm.broadcast(after.state, after.t + 1).keys()
    remembered = algorithm.init_memory(**{name: torch.from_numpy(vector) for name, vector in start.items()})
    remembered = {name: vector.numpy() for name, vector in remembered.items()}
    if own := population.trainer.own_part(algorithm):
        remembered |= {f"own_{name}": start[name][places] for name, places in own.places.items()}
    memories = dict(population.memories(3))
    assert bool(remembered) == bool(memories) == algorithm.remembers
    assert set(memories) <= set().union(*(after.cohort for after in done))
    assert all(shapes(memory) == shapes(remembered) for memory in memories.values())


def shapes(vectors):
    return {name: (vector.dtype.str, vector.shape) for name, vector in vectors.items()}


@every
def test_a_call_that_is_made_again_gives_the_same_bits(kind, small):
    """Hooks are pure: a client that trains twice from one memory, as after a lost actor, counts once; arrays that came
    in are as they were. In the second round, so that nothing is at its start.
    """
    algorithm = make_algorithm(kind, **LOCAL)
    done, population = play(algorithm, small, SHARDS, 1, model="mlp", cohort=5)
    state, memory = done[0].state, dict(population.memories(1)).get(2, {})
    message = algorithm.broadcast(state, 2)
    before = bits(state), bits(memory), bits(message)
    once, again = (
        population.trainer.train(Task(algorithm, message, 2, 0.05), 2, *population.shards.of(2), memory)
        for _ in range(2)
    )
    for i in (0, 1):
        assert bits(once[i]) == bits(again[i])
    mean = {name: vector.copy() for name, vector in once[0].items()}
    after = algorithm.server_update(state, mean, 0.4)
    assert bits(after) == bits(algorithm.server_update(state, mean, 0.4))
    assert (bits(state), bits(memory), bits(message)) == before


REFUSED = {
    "moon": "whose `local_round` needs one client at a time",
    "local": "whose `personal` needs one client at a time",
    "fedbn": "whose `personal` needs one client at a time",
    "fedper": "whose `personal` needs one client at a time",
    "ditto": "whose `local_round` needs one client at a time",
}


@every
def test_the_fused_engine_trains_it_or_refuses_it_by_name(kind):
    """Those that it trains are compared with the plain engine by test_hooks_written_once_serve_many_clients."""
    model = Model(name="mlp")
    assert make_algorithm(kind).unfusable == REFUSED.get(kind.name, "")
    if kind.name in REFUSED:
        with pytest.raises(ValueError, match=f"engine = fused cannot train {kind.name}, {REFUSED[kind.name]}"):
            Experiment(model=model, algorithm=kind(), engine="fused")
    else:
        assert Experiment(model=model, algorithm=kind(), engine="fused").resolved().engine == "fused"
    chosen = Experiment(model=model, algorithm=kind()).resolved().engine
    assert chosen == ("plain" if kind.name in REFUSED else "fused")


def test_the_fused_engine_refuses_scaffolds_option_i_by_name():
    with pytest.raises(ValueError, match="engine = fused cannot train scaffold, whose .* needs one client at a time"):
        Experiment(model=Model(name="mlp"), algorithm=Scaffold(option="I"), engine="fused")
    assert Experiment(model=Model(name="mlp"), algorithm=Scaffold(option="I")).resolved().engine == "plain"


def test_fedbn_refuses_a_model_without_batchnorm():
    with pytest.raises(BadInputError, match="the model has none"):
        ALGORITHMS["fedbn"]().personal(["0.weight", "0.bias"], [])


def test_the_fused_engine_refuses_local_norms():
    with pytest.raises(ValueError, match="engine = fused cannot train fedprox, whose `personal` needs one client"):
        Experiment(model=Model(name="mlp"), algorithm=FedProx(norms="local"), engine="fused")


NEUTRAL = {
    "fedprox": FedProx(mu=0, **LOCAL),
    "fedavgm": FedAvgM(server_momentum=0, **LOCAL),
    "moon": Moon(mu=0, **LOCAL),
    "feddyn": FedDyn(alpha=0, **LOCAL),
    # lr / (sqrt(v) + tau) is 1 to the bit: v stays tau^2 = 2^-8, and 2^-3 / (2^-4 + 2^-4) = 1;
    # for Adagrad v is 2^36, too large for delta^2 to count, and 2^19 / (2^18 + 2^18) = 1.
    "fedadam": FedAdam(server_beta1=0, server_beta2=1, server_tau=2**-4, server_lr=2**-3, **LOCAL),
    "fedyogi": FedYogi(server_beta1=0, server_beta2=1, server_tau=2**-4, server_lr=2**-3, **LOCAL),
    "fedadagrad": FedAdagrad(server_beta1=0, server_tau=2**18, server_lr=2**19, **LOCAL),
}
SHORT = {"lr": 0.05, "batch_size": 8, "steps": 4}


@pytest.mark.parametrize(("model", "engine"), [("mlp", "plain"), ("logistic", "fused")])
@pytest.mark.parametrize("name", NEUTRAL)
def test_at_its_neutral_setting_it_is_fedavg(name, model, engine, small):
    """Law 2, bit for bit: four rounds of three of five clients with unequal shards, parameters and buffers."""
    if engine == "plain" or not NEUTRAL[name].unfusable:
        assert_same(NEUTRAL[name], FedAvg(**LOCAL), small, 4, model=model, engine=engine)


@pytest.mark.parametrize(("model", "engine"), [("mlp", "plain"), ("logistic", "fused")])
def test_fednova_of_equal_steps_is_fedavg(model, engine, small):
    """Bit for bit for 4 steps: a division by a power of two and the multiplication after it are exact."""
    assert_same(FedNova(**SHORT), FedAvg(**SHORT), small, 4, model=model, engine=engine)


def test_fednova_of_equal_steps_is_fedavg_with_momentum_too_within_rounding(small):
    algorithms = (kind(momentum=0.9, **SHORT) for kind in (FedNova, FedAvg))
    nova, avg = (play(algorithm, small, SHARDS, 3, model="logistic", cohort=3)[0] for algorithm in algorithms)
    np.testing.assert_allclose(nova[-1].state["params"], avg[-1].state["params"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("model", "engine"), [("mlp", "plain"), ("logistic", "fused")])
@pytest.mark.parametrize("option", ["I", "II"])
def test_scaffolds_first_round_is_fedavg(option, model, engine, small):
    """Bit for bit, as long as c and c_i are 0; the second is another."""
    algorithm = Scaffold(option=option, **LOCAL)
    if engine == "plain" or not algorithm.unfusable:
        assert_same(algorithm, FedAvg(**LOCAL), small, 1, model=model, engine=engine)
        scaffold, avg = (
            play(a, small, SHARDS, 2, model=model, engine=engine, cohort=3)[0] for a in (algorithm, FedAvg(**LOCAL))
        )
        assert np.abs(scaffold[1].state["params"] - avg[1].state["params"]).max() > 1e-3


@pytest.mark.parametrize(("model", "engine"), [("mlp", "plain"), ("logistic", "fused")])
def test_fedsgd_is_fedavg_of_one_epoch_of_the_whole_shard(model, engine, small):
    fedavg = FedAvg(lr=0.05, epochs=1, batch_size=0, weight_decay=0.01)
    assert_same(FedSGD(lr=0.05, weight_decay=0.01), fedavg, small, 4, model=model, engine=engine)


def assert_same(variant, base, dataset, rounds, **settings):
    """After every round, and what the clients report."""
    mine, its = (play(a, dataset, SHARDS, rounds, cohort=3, **settings)[0] for a in (variant, base))
    for one, other in zip(mine, its, strict=True):
        for name in ("params", "buffers"):
            assert one.state[name].tobytes() == other.state[name].tobytes(), (name, one.t)
        for report, expected in zip(one.updates.reports, other.updates.reports, strict=True):
            for name in ("client", "num_examples", "steps", "train_loss"):
                assert getattr(report, name) == getattr(expected, name), name
    assert len({done.state["params"].tobytes() for done in its}) == rounds


FREE = {
    name: kind
    for name, kind in ALGORITHMS.items()
    if not has_one_value(kind.__pydantic_fields__["server_optimizer"].annotation)
}


def test_the_server_optimizer_is_a_setting_of_all_but_those_that_it_names():
    assert set(ALGORITHMS) - set(FREE) == {"fedavgm", "fedadagrad", "fedadam", "fedyogi"}


@pytest.mark.parametrize("kind", FREE.values(), ids=FREE.keys())
def test_plain_sgd_on_the_server_leaves_no_moments(kind, small):
    algorithm = make_algorithm(kind, server_optimizer="sgd", server_momentum=0.0, **LOCAL)
    done, _ = play(algorithm, small, SHARDS, 1, model="mlp", cohort=2)
    assert not {"m", "v"} & done[0].state.keys()
    with_momentum = make_algorithm(kind, server_momentum=0.5)
    assert {"v"} == with_momentum.init(np.ones(3), np.ones(1)).keys() & {"m", "v"}


@pytest.mark.parametrize("kind", FREE.values(), ids=FREE.keys())
def test_a_neutral_server_optimizer_leaves_the_algorithm_as_it_is(kind, small):
    """Bit for bit: Adam whose lr / (sqrt(v) + tau) is 1, so that each hands all of its update to the optimizer."""
    neutral = {
        "server_optimizer": "adam",
        "server_beta1": 0,
        "server_beta2": 1,
        "server_tau": 2**-4,
        "server_lr": 2**-3,
    }
    mine, its = (
        play(make_algorithm(kind, **LOCAL, **settings), small, SHARDS, 3, model="mlp", cohort=3)[0]
        for settings in (neutral, {})
    )
    for one, other in zip(mine, its, strict=True):
        for name, vector in other.state.items():
            assert one.state[name].tobytes() == vector.tobytes(), (name, one.t)
    assert mine[-1].state.keys() - its[-1].state.keys() == {"m", "v"}
