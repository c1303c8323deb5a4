"""Learning rates by pattern, model.lr_scale: a client descends by lr times the parameter's factor."""

import dataclasses

import numpy as np
import pytest
import torch
from small_data import make_dataset, make_recipe

from fedray.algorithms.ditto import Ditto
from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.feddyn import FedDyn
from fedray.algorithms.fedprox import FedProx
from fedray.algorithms.fedsgd import FedSGD
from fedray.core.errors import BadInputError
from fedray.experiment.composition import compose
from fedray.models.build import build
from fedray.models.rates import factors, factors_by_name
from fedray.server.task import Task
from fedray.training.in_process import InProcessPopulation

DATA = make_dataset(train=36, test=20, validation=0, side=8)
SHARDS = [np.arange(0, 12), np.arange(12, 24), np.arange(24, 36)]
NAMES = ["1.weight", "1.bias", "3.weight", "3.bias", "5.weight", "5.bias"]
SCALE = "1.*=0.5,3.weight=0"


def updates(algorithm, scale="", engine="plain", model="mlp", t=1, population=None):
    """Each client's update of a round, by the parameters' names."""
    recipe = make_recipe(DATA, model, engine=engine)
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, lr_scale=scale))
    here = population or InProcessPopulation(DATA, SHARDS, recipe, 1)
    flat = here.trainer.network.flat
    state = algorithm.init(flat.params.numpy().copy(), flat.buffers.numpy().copy())
    found = []
    for client in range(3):
        task = Task(algorithm, algorithm.broadcast(state, t), t, algorithm.lr)
        made = here.take(here.submit(task, [client])).sum.vectors["params"]
        found.append({name: view.numpy() for name, view in flat.layout.views(torch.from_numpy(made)).items()})
    return found


def test_the_last_pattern_that_fits_counts_and_all_ones_are_none():
    found = factors_by_name("*=0.5, 1.*=2,1.bias=0", NAMES)
    assert found == {**dict.fromkeys(NAMES, 0.5), "1.weight": 2.0, "1.bias": 0.0}
    assert factors("3.*=2", NAMES[:4], [2, 1, 2, 1]).tolist() == [1, 1, 1, 2, 2, 2]
    assert factors("*=1", NAMES, [1] * 6) is None and factors("", NAMES, [1] * 6) is None
    with pytest.raises(BadInputError, match="lr_scale: '5.wieght' is the name of no parameter .*did you mean 5.weight"):
        factors_by_name("5.wieght=2", NAMES)
    with pytest.raises(BadInputError, match="nothing would move"):
        factors_by_name("*=0", NAMES)


def test_a_step_of_fedsgd_is_lr_times_the_factor_times_the_gradient():
    """One step from the same model has the same gradient, so that updates differ by the factors alone."""
    for engine in ("plain", "fused"):
        plain, scaled = updates(FedSGD(lr=0.1), engine=engine), updates(FedSGD(lr=0.1), SCALE, engine)
        for one, other in zip(plain, scaled, strict=True):
            wanted = {"1.weight": 0.5, "1.bias": 0.5, "3.weight": 0.0}
            for name in NAMES:
                weight = 12  # of a client in the sum
                np.testing.assert_allclose(
                    other[name] / weight, wanted.get(name, 1.0) * one[name] / weight, rtol=1e-4, atol=1e-7
                )
                assert np.any(one[name])
            assert not np.any(other["3.weight"])


LOCAL = {
    "plain": {}, "momentum, decay and clipping": {"momentum": 0.9, "weight_decay": 0.01, "clip_norm": 1.0},
    "adam of torch": {"optimizer": "adam", "lr": 0.001}, "rprop of torch": {"optimizer": "rprop"},
}  # fmt: skip
BOTH = [
    (kind, engine, "mlp") for kind in LOCAL for engine in ("plain", "fused") if engine == "plain" or "torch" not in kind
]
BOTH += [("plain", engine, "lenet5") for engine in ("plain", "fused")]


@pytest.mark.parametrize(("kind", "engine", "model"), BOTH)
def test_half_of_everything_is_half_the_rate_and_ones_are_none(kind, engine, model):
    """To the bit: a factor of a half is exact. So is one of 1 that is written out, beside another one."""
    settings = {"lr": 0.1, "epochs": 2, "batch_size": 4, **LOCAL[kind]}
    half = FedAvg(**{**settings, "lr": settings["lr"] / 2})
    layout = "0.*" if model == "lenet5" else "1.*"
    one = updates(half, engine=engine, model=model) if "rprop" not in kind else updates(FedAvg(**settings), "*=0.5")
    other = updates(FedAvg(**settings), "*=0.5", engine, model)
    ones = updates(half, f"{layout}=1,*=1", engine, model)
    base = updates(half, engine=engine, model=model)
    for a, b, c, d in zip(one, other, ones, base, strict=True):
        assert all(np.array_equal(a[name], b[name]) and np.array_equal(c[name], d[name]) for name in a)


def test_without_movement_in_a_layer_the_others_are_as_if_it_had_ones():
    """The factors of the other parameters are 1, and go through the product: to the bit in the first step."""
    one, other = updates(FedAvg(lr=0.1, steps=1)), updates(FedAvg(lr=0.1, steps=1), "5.bias=0")
    for a, b in zip(one, other, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in NAMES[:-1])
        assert np.any(a["5.bias"]) and not np.any(b["5.bias"])


@pytest.mark.parametrize("kind", LOCAL)
def test_what_has_the_factor_0_does_not_move(kind):
    for found in updates(FedAvg(**{"lr": 0.1, "epochs": 2, "batch_size": 4, **LOCAL[kind]}), SCALE):
        assert not np.any(found["3.weight"]) and np.any(found["3.bias"])


@pytest.mark.parametrize("kind", ["plain", "momentum, decay and clipping"])
def test_both_engines_descend_alike(kind):
    algorithm = FedAvg(**{"lr": 0.1, "epochs": 2, "batch_size": 4, **LOCAL[kind]})
    for one, other in zip(updates(algorithm, SCALE), updates(algorithm, SCALE, "fused"), strict=True):
        for name in NAMES:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-5)


def test_the_engine_descends_as_torchs_sgd_with_groups_of_parameters():
    """An option of torch's SGD that changes nothing has torch take the steps."""
    settings = {"lr": 0.1, "epochs": 2, "batch_size": 4, "momentum": 0.9, "weight_decay": 0.01}
    mine, torchs = (
        updates(FedAvg(**settings), SCALE),
        updates(FedAvg(**settings, optimizer_options="dampening=0"), SCALE),
    )
    for one, other in zip(mine, torchs, strict=True):
        for name in NAMES:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("algorithm", [FedProx(lr=0.1), Ditto(lr=0.1), FedDyn(lr=0.1)])
def test_algorithms_whose_equations_hold_take_factors(algorithm):
    for found in updates(algorithm, SCALE):
        assert not np.any(found["3.weight"]) and np.any(found["1.weight"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"algorithm": {"name": "scaffold"}}, "lr_scale gives .* scaffold counts steps of one length, lr"),
        ({"algorithm": {"name": "fednova"}}, "algorithm.name = fednova counts steps of one length, lr"),
        (
            {"engine": "fused", "algorithm": {"optimizer": "adam"}},
            "engine = fused gives algorithm.optimizer = adam one",
        ),
    ],
)
def test_where_one_rate_is_needed_factors_are_refused_by_name(changes, said):
    with pytest.raises(BadInputError, match=said):
        compose({"model": {"name": "mlp", "lr_scale": "1.*=0.1"}, **changes})
    compose({"model": {"name": "mlp"}, **changes})


def test_rates_times_the_hand_derived_gradient_of_logistic_regression():
    """The gradient of the bias is softmax minus one-hot, and its factor 0.25."""
    (plain, *_), (scaled, *_) = (
        updates(FedSGD(lr=0.4), model="logistic"),
        updates(FedSGD(lr=0.4), "1.bias=0.25", model="logistic"),
    )
    recipe = make_recipe(DATA, "logistic")
    module = build(recipe.model, recipe.shape, 10, recipe.seed)
    x = torch.from_numpy(DATA.train_images[SHARDS[0]]).double() / 255
    mean, std = (torch.tensor(each, dtype=torch.float64).view(1, -1, 1, 1) for each in (recipe.mean, recipe.std))
    logits = ((x - mean) / std).flatten(1) @ module[1].weight.double().T + module[1].bias.double()
    slope = logits.softmax(1) - torch.nn.functional.one_hot(torch.from_numpy(DATA.train_labels[SHARDS[0]]), 10)
    wanted = -0.4 * 0.25 * slope.mean(0).detach().numpy() * len(SHARDS[0])
    np.testing.assert_allclose(scaled["1.bias"], wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(plain["1.bias"], 4 * wanted, rtol=1e-4, atol=1e-6)
