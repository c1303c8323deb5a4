"""The settings of a client's steps: torch's optimizers, epochs and steps that are drawn, clipping, label smoothing."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from playing import Regression, flat, fresh, inputs, play, with_batchnorm
from small_data import make_algorithm, make_recipe
from torch.nn.utils import vector_to_parameters

from fedray.algorithms import ALGORITHMS, local_optimizer
from fedray.algorithms.ditto import Ditto
from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.fednova import FedNova
from fedray.algorithms.fedprox import FedProx
from fedray.algorithms.fedsgd import FedSGD
from fedray.algorithms.finetune import FineTune
from fedray.algorithms.local_optimizer import LocalOptimizer, read_options
from fedray.algorithms.scaffold import Scaffold
from fedray.core.errors import BadInputError
from fedray.models import build as networks
from fedray.models.build import initial_vectors
from fedray.server.task import Task
from fedray.training.batches import draw_batches
from fedray.training.evaluate import evaluate_client
from fedray.training.fused.losses import cross_entropy
from fedray.training.trainer import Trainer

SIZES = (6, 10, 18, 27, 35)
SHARDS = np.split(np.arange(96), np.cumsum(SIZES)[:-1])
LOCAL = {"lr": 0.05, "batch_size": 8, "epochs": 2}


def bits(algorithm, dataset, rounds=2, **settings):
    """The parameters after each round, and each client's steps and loss."""
    done, _ = play(algorithm, dataset, SHARDS, rounds, **{"model": "logistic", "cohort": 3, **settings})
    reports = [(r.client, r.steps, r.train_loss) for after in done for r in after.updates.reports]
    return [after.state["params"].tobytes() for after in done], reports


# Optimizers.


@pytest.mark.parametrize("kind", [FedAvg, FedProx])
@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9}, {"momentum": 0.5, "weight_decay": 0.1, "clip_norm": 0.5}])
def test_torchs_sgd_is_the_engines_own_to_the_bit(dataset, kind, settings):
    own, torchs = (
        bits(kind(**LOCAL, **settings, optimizer_options=options), dataset, model="lenet5")
        for options in ("", "dampening=0.0")
    )
    assert own == torchs


@pytest.mark.parametrize(
    ("name", "options", "others"),
    [
        ("adam", "betas=(0.5, 0.9), eps=1e-3", {"weight_decay": 0.1}),
        ("AdamW", "", {"weight_decay": 0.1}),
        ("adafactor", "d=2.0", {}),  # what it keeps of a matrix is less than of a vector as long
        ("rmsprop", "momentum=0.5, centered=True", {}),
        ("sgd", "nesterov=True", {"momentum": 0.9, "weight_decay": 0.1}),
        ("nadam", "", {}),
    ],
)
def test_one_client_is_centralised_training_with_that_optimizer(dataset, name, options, others):
    """Law 3, for two rounds: torch's own on the module's own parameters, which begins anew in the second.

    The second starts from the first one's bits, since what is rounded near 0 may take another sign, and so another step.
    """
    rows = np.arange(70)
    algorithm = FedAvg(optimizer=name, optimizer_options=options, lr=0.01, epochs=2, batch_size=16, **others)
    done, population = play(algorithm, dataset, [rows], rounds=2)
    module = fresh(dataset)
    kind = {kind.lower(): getattr(torch.optim, kind) for kind in dir(torch.optim)}[name.lower()]
    for t, after in enumerate(done, 1):
        optimizer = kind(module.parameters(), lr=0.01, **read_options(options), **others)
        for x, y in draw_batches(
            population.trainer.network, algorithm, 0, dataset.train_images[rows], dataset.train_labels[rows], t
        ):
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()
        np.testing.assert_allclose(after.state["params"], flat(module), atol=1e-6)
        vector_to_parameters(torch.from_numpy(after.state["params"].copy()), module.parameters())
    assert np.abs(flat(module) - flat(fresh(dataset))).max() > 0.01


@pytest.mark.parametrize("name", ["adam", "adamw", "adagrad", "rmsprop", "sgd"])
def test_options_and_weight_decay_matter(dataset, name):
    option = {"sgd": "dampening=0.5", "adagrad": "lr_decay=0.5"}.get(name, "eps=0.01")
    momentum = {"momentum": 0.5} if name == "sgd" else {}
    found = [
        bits(FedAvg(optimizer=name, optimizer_options=options, weight_decay=decay, **LOCAL, **momentum), dataset)[0]
        for options, decay in (("", 0), (option, 0), ("", 0.1))
    ]
    assert found[0] != found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize("mu", [0.0, 2.0])
def test_two_steps_of_adam_by_hand(mu):
    """m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, w <- w - lr m' / (sqrt(v') + eps) with m' = m / (1 - b1^k) and
    v' = v / (1 - b2^k), where g = grad F(w) + mu (w - w_t): what FedProx corrects is what Adam sees. lr is halved in
    the second round, whose moments start at 0.
    """
    regression = Regression((96,))
    settings = {"optimizer": "adam", "optimizer_options": "betas=(0.8, 0.9), eps=1e-3", "lr_schedule": "exponential"}
    done, _ = regression.play(FedProx, 2, lr=0.1, lr_decay=0.5, steps=2, batch_size=0, mu=mu, **settings)
    w = regression.start
    for after, lr in zip(done, (0.1, 0.05), strict=True):
        start, m, v = w, 0.0, 0.0
        for k in (1, 2):
            g = regression.gradient(0, w) + mu * (w - start)
            m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
            w = w - lr * (m / (1 - 0.8**k)) / (np.sqrt(v / (1 - 0.9**k)) + 1e-3)
        np.testing.assert_allclose(after.state["params"], regression.vector(w), rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ALGORITHMS.values(), ids=ALGORITHMS.keys())
def test_an_algorithm_trains_with_adam_or_says_why_not(kind, dataset, monkeypatch):
    """Those that count steps of SGD refuse it; FedSGD has no choice. A client that trains again gives the same bits."""
    if kind in (FedSGD, Scaffold, FedNova):
        why = "should be 'sgd'" if kind is FedSGD else f"algorithm.name = {kind.name} counts steps of plain SGD"
        with pytest.raises(ValueError, match=why):
            kind(optimizer="adam")
        return
    adam, sgd = (kind(optimizer=name, lr=0.003, batch_size=8) for name in ("adam", "sgd"))
    monkeypatch.setitem(networks.BUILDERS, "mlp", with_batchnorm)
    done, population = play(adam, dataset, [SHARDS[2], SHARDS[3]], rounds=2, model="mlp")
    message = adam.broadcast(done[-1].state, 3)
    memory = dict(population.memories(2)).get(0, {})
    train, shard = population.trainer.train, population.shards.of(0)
    first, again = (train(Task(adam, message, 3, 0.003), 0, *shard, memory)[0]["params"] for _ in range(2))
    other = train(Task(sgd, message, 3, 0.003), 0, *shard, memory)[0]["params"]
    assert first.tobytes() == again.tobytes()
    assert np.isfinite(first).all()
    assert (np.abs(first - other).max() > 1e-4) == (kind.name != "local")  # which sends nothing


def test_sgd_with_options_is_refused_where_steps_are_counted():
    with pytest.raises(
        ValueError, match=r"scaffold counts steps of plain SGD, which .*optimizer_options = 'nesterov=T"
    ):
        Scaffold(optimizer_options="nesterov=True", momentum=0.5)
    assert Scaffold(optimizer="SGD", momentum=0.5).local_optimizer is None


def test_the_fused_engine_refuses_by_name_those_that_look_at_more_than_an_element():
    assert FedAvg(optimizer="adafactor").unfusable == "whose optimizer, torch's adafactor, needs one client at a time"
    assert not FedAvg(optimizer="adam").unfusable
    assert not FedAvg(optimizer_options="nesterov=True", momentum=0.5).unfusable
    assert not FedAvg(optimizer="SGD", optimizer_options=" ").unfusable


def test_vectors_that_an_optimizer_keeps():
    assert [
        FedAvg(**settings).optimizer_vectors
        for settings in ({}, {"momentum": 0.5}, {"optimizer_options": "dampening=0.0"}, {"optimizer": "adam"})
    ] == [0, 1, 0, 2]


MORE = {
    "adam": ["amsgrad=True"],
    "adamw": ["amsgrad=True"],
    "rmsprop": ["momentum=0.9", "centered=True", "centered=True, momentum=0.9"],
}


@pytest.mark.parametrize("name", sorted(local_optimizer.kinds().keys() - local_optimizer.UNFIT.keys()))
def test_no_optimizer_keeps_more_than_is_counted(name):
    for options in ("", *MORE.get(name, [])):
        parameter = torch.nn.Parameter(torch.ones(30, 30))
        parameter.grad = torch.ones_like(parameter)
        algorithm = FedAvg(optimizer=name, optimizer_options=options, momentum=0.9 if name == "sgd" else 0.0)
        optimizer = local_optimizer.make(LocalOptimizer(name, options, algorithm.momentum, 0.0), [parameter], lr=0.1)
        optimizer.step()
        kept = sum(x.numel() for x in optimizer.state[parameter].values() if isinstance(x, torch.Tensor)) // 900
        assert kept <= algorithm.optimizer_vectors, options
        assert options not in ("amsgrad=True", "centered=True, momentum=0.9") or kept == 3


@pytest.mark.parametrize("options", ["eps=1e999", "betas=(0.9, -1e999)"])
def test_an_option_that_is_not_finite_is_refused(options):
    with pytest.raises(ValueError, match=r"algorithm.optimizer_options = .* has a number that is not finite"):
        FedAvg(optimizer="adam", optimizer_options=options)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_climbing_the_loss_is_refused(name):
    with pytest.raises(ValueError, match="algorithm.optimizer_options = 'maximize=True' would climb the loss"):
        FedAvg(optimizer=name, optimizer_options="maximize=True")
    assert FedAvg(optimizer=name, optimizer_options="maximize=False").local_optimizer


@pytest.mark.parametrize(
    "text",
    [
        "eps",
        "eps=",
        "1",
        "eps=1, 2",
        "eps=1, eps=2",
        "**{'eps': 1}",
        "*[1]",
        "eps=x",
        "eps=print(1)",
        "eps=1) or g(eps=2",
        "a=1)(b=2",
        "eps=1 #",
        "eps=" + "(" * 5000,
        "eps=\0",
    ],
)
def test_options_that_are_not_keyword_arguments_are_refused(text):
    with pytest.raises(ValueError, match=r"algorithm.optimizer_options = .* must be keyword arguments of plain values"):
        FedAvg(optimizer="adam", optimizer_options=text)


def test_options_are_plain_values_of_python():
    found = read_options("betas=(0.9, -0.99), eps=1e-6, foreach=None,\n amsgrad=True, text='a', ")
    assert found == {"betas": (0.9, -0.99), "eps": 1e-6, "foreach": None, "amsgrad": True, "text": "a"}
    assert read_options("") == read_options(" ") == {}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"optimizer": "adam", "optimizer_options": "lr=1"}, "lr is a setting by itself, algorithm.lr"),
        ({"optimizer": "adam", "optimizer_options": "weight_decay=1"}, "itself, algorithm.weight_decay"),
        ({"optimizer_options": "momentum=0.5"}, "momentum is a setting by itself, algorithm.momentum"),
        ({"optimizer": "rmsprop", "momentum": 0.5}, r"algorithm.momentum = 0.5 is for algorithm.optimizer = sgd"),
        ({"steps_min": 2}, r"algorithm.steps_min = 2 needs algorithm.steps"),
        ({"steps_min": 5, "steps": 4}, r"algorithm.steps_min = 5 is more than algorithm.steps = 4"),
        ({"epochs_min": 2}, r"algorithm.epochs_min = 2 is more than algorithm.epochs = 1"),
        ({"epochs_min": 1, "steps": 4}, r"algorithm.epochs_min = 1 is for epochs, which algorithm.steps = 4 replaces"),
    ],
)
def test_settings_that_do_not_go_together_are_one_sentence(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        FedAvg(**settings)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("adm", "", r"algorithm.optimizer = 'adm' is not in torch.optim, which has adadelta, .*; did you mean adam\?"),
        ("optimizer", "", "is not in torch.optim"),
        ("lbfgs", "", "algorithm.optimizer = lbfgs needs the loss again"),
        ("sparseadam", "", "algorithm.optimizer = sparseadam takes sparse gradients"),
        ("adam", "beta=(0.9, 0.99)", r"optimizer_options: adam takes betas, .*, not beta; did you mean betas\?"),
        ("adam", "params=3", "not params"),
        (
            "adam",
            "betas=(2, 0)",
            r"optimizer = adam with optimizer_options = 'betas=\(2, 0\)' cannot train .*: Invalid b",
        ),
        ("adam", "eps='a'", "cannot train this model"),
        ("adam", "differentiable=True", "cannot train this model"),
        ("sgd", "nesterov=True", "Nesterov momentum requires a momentum"),
        ("muon", "", "algorithm.optimizer = muon cannot train this model: Muon only supports 2D parameters"),
    ],
)
def test_what_torch_has_not_or_refuses_is_one_sentence(name, options, sentence):
    with pytest.raises(BadInputError, match=sentence) as error:
        local_optimizer.check(LocalOptimizer(name, options, 0.0, 0.0), [(3, 4), (4,)])
    assert "\n" not in str(error.value)


def test_every_usable_optimizer_passes_the_check():
    for name in local_optimizer.kinds().keys() - local_optimizer.UNFIT.keys():
        local_optimizer.check(LocalOptimizer(name, "", 0.0, 0.0), [(3, 4)])
    with pytest.raises(BadInputError, match=r"algorithm.weight_decay = 0.1, but rprop takes none"):
        local_optimizer.check(LocalOptimizer("rprop", "", 0.0, 0.1), [(3, 4)])


# Epochs and steps that are drawn.


@pytest.mark.parametrize("engine", ["plain", "fused"])
@pytest.mark.parametrize("least", [{"epochs": 3, "epochs_min": 3}, {"steps": 3, "steps_min": 3}])
def test_a_range_of_one_number_is_that_number_to_the_bit(dataset, engine, least):
    fixed = {name: value for name, value in least.items() if not name.endswith("_min")}
    one, other = (bits(FedAvg(lr=0.01, batch_size=8, **work), dataset, engine=engine) for work in (least, fixed))
    assert one == other


@pytest.mark.parametrize("work", [{"epochs": 5, "epochs_min": 2}, {"steps": 7, "steps_min": 3}])
def test_each_client_in_each_round_draws_its_own_whatever_the_engine_and_the_blocks(dataset, work):
    """In an epoch shards of 6 to 35 images have 1 to 5 batches of 8."""
    least, most = sorted(work.values())
    found = []
    for engine, blocks in (("plain", 1), ("plain", 5), ("fused", 1), ("fused", 5)):
        done, _ = play(
            FedAvg(lr=0.01, batch_size=8, **work), dataset, SHARDS, 4, model="logistic", engine=engine, blocks=blocks
        )
        found.append({(after.t, r.client): r.steps for after in done for r in after.updates.reports})
    assert found[0] == found[1] == found[2] == found[3]
    per_epoch = [1] * 5 if "steps" in work else [-(-n // 8) for n in SIZES]
    drawn = {key: steps // per_epoch[key[1]] for key, steps in found[0].items()}
    assert all(drawn[key] * per_epoch[key[1]] == steps for key, steps in found[0].items())
    assert set(drawn.values()) <= set(range(least, most + 1))
    assert all(len({drawn[t, client] for client in range(5)}) > 1 for t in range(1, 5))
    assert all(len({drawn[t, client] for t in range(1, 5)}) > 1 for client in range(5))


def test_every_number_in_the_range_is_drawn_about_equally_often():
    algorithm = FedAvg(epochs=5, epochs_min=2)
    drawn = [algorithm.local_steps(seed, t, client, 10) for seed in (0, 1) for t in range(50) for client in range(40)]
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [20, 30, 40, 50]
    assert np.abs(counts - 1000).max() < 140  # 27 is the standard deviation
    assert drawn[:2000] != drawn[2000:]


def test_epochs_of_their_own_are_not_drawn(dataset, monkeypatch):
    """Fine-tuning's are what is said; Ditto's personal model takes as many as its global one, unless told otherwise."""

    def watched(network, algorithm, client, images, labels, t, first_epoch, steps, attempt):
        made.append(steps)
        return draw_batches(network, algorithm, client, images, labels, t, first_epoch, steps, attempt)

    monkeypatch.setattr("fedray.training.client.draw_batches", watched)
    trainer = Trainer(make_recipe(dataset, "logistic"))
    data = dataset.train_images[:20], dataset.train_labels[:20]
    params, buffers = initial_vectors(trainer.network.flat.module)
    message, work = {"params": params, "buffers": buffers}, {"batch_size": 10, "epochs": 9, "epochs_min": 1}
    for t in (1, 2, 3):
        made = []
        trainer.train(Task(Ditto(**work), message, t, 0.01), 0, *data, {})
        trainer.train(Task(Ditto(**work, personal_epochs=3), message, t, 0.01), 0, *data, {})
        drawn = FedAvg(**work).local_steps(3, t, 0, 2)
        assert made == [drawn, drawn, drawn, 6]
        made = []
        received = trainer.received(Task(FineTune(**work, fine_tune_epochs=4), message, t, 0.01))
        evaluate_client(trainer, received, 0, data, data, {})
        assert made == [8]


# Clipping.


def test_clipping_by_hand():
    """The norm of (3, 4) is 5: with at most 1 it is (0.6, 0.8), with 2.5 half of it, with 5 or more what it was."""
    for limit, expected in ((1.0, [0.6, 0.8]), (2.5, [1.5, 2.0]), (5.0, [3.0, 4.0]), (6.0, [3.0, 4.0])):
        found = FedAvg(clip_norm=limit).clip(torch.tensor([3.0, 4.0]))
        assert found.tolist() == pytest.approx(expected, rel=1e-6)
    many = FedAvg(clip_norm=1.0).clip(torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]))
    np.testing.assert_allclose(many, [[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]], rtol=1e-6)
    assert FedAvg().clip(grad := torch.tensor([3.0, 4.0])) is grad


@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_a_limit_that_no_gradient_reaches_is_none_to_the_bit(dataset, engine):
    one, other = (bits(FedAvg(**LOCAL, clip_norm=limit), dataset, engine=engine) for limit in (1e6, None))
    assert one == other
    assert one[0] != bits(FedAvg(**LOCAL, clip_norm=0.01), dataset, engine=engine)[0]


@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_the_gradient_is_clipped_before_it_is_corrected(engine):
    """Three steps of FedProx by hand, whose pull of mu = 12 is longer than the limit of 0.3."""
    regression = Regression((96,))
    settings = {"lr": 0.2, "steps": 3, "batch_size": 0, "mu": 12.0, "clip_norm": 0.3, "weight_decay": 0.2}
    done, _ = regression.play(FedProx, 1, engine=engine, **settings)
    start = w = regression.start
    norms = []
    for _ in range(3):
        gradient = regression.gradient(0, w)
        norms.append(np.linalg.norm(gradient))
        w = w - 0.2 * (gradient * min(1, 0.3 / norms[-1]) + 12.0 * (w - start) + 0.2 * w)
    np.testing.assert_allclose(done[0].state["params"], regression.vector(w), rtol=0, atol=2e-6)
    assert min(norms) > 0.3


def test_scaffolds_option_i_takes_the_clipped_gradient_of_the_shard():
    regression = Regression((96,))
    _, population = regression.play(Scaffold, 1, option="I", lr=0.1, batch_size=0, clip_norm=0.3)
    gradient = regression.gradient(0, regression.start)
    expected = gradient * 0.3 / np.linalg.norm(gradient)
    np.testing.assert_allclose(dict(population.memories(1))[0]["c_i"], regression.vector(expected), rtol=0, atol=2e-6)


# Label smoothing.


def test_label_smoothing_by_hand():
    """Outputs 0 and log 3 are probabilities of 1/4 and 3/4. With smoothing 0.2 the target class 1 has 0.9 of the
    weight and class 0 has 0.1: a loss of -0.9 log(3/4) - 0.1 log(1/4).
    """
    loss = FedAvg(label_smoothing=0.2).loss(torch.tensor([[0.0, math.log(3)]]), torch.tensor([1]))
    assert float(loss) == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25), rel=1e-6)
    assert float(FedAvg().loss(torch.tensor([[0.0, math.log(3)]]), torch.tensor([1]))) == pytest.approx(-math.log(0.75))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_the_fused_cross_entropy_and_its_gradient_are_autograds(smoothing):
    """Two clients with batches of 5 and 3 examples of 4 classes; the second's other two rows are padding."""
    output = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    targets = torch.tensor([[0, 1, 2, 3, 0], [3, 3, 1, 0, 0]])
    weights = torch.tensor([[1 / 5] * 5, [1 / 3] * 3 + [0.0] * 2], dtype=torch.float64)
    loss, slope = cross_entropy(output.clone(), targets, weights, smoothing, classes=1)
    for client, n in ((0, 5), (1, 3)):
        mine = output[client].T[:n].clone().requires_grad_()
        expected = FedAvg(label_smoothing=smoothing).loss(mine, targets[client, :n])
        (gradient,) = torch.autograd.grad(expected, mine)
        torch.testing.assert_close(loss[client], expected.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(slope[client, :, :n], gradient.T, rtol=1e-12, atol=1e-12)
    assert slope[1, :, 3:].abs().max() == 0


@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_training_is_smoothed_and_evaluation_is_not(dataset, engine):
    """A step on the whole shard, so that the training loss is the initial model's."""
    rows = np.arange(96)
    algorithm = FedAvg(lr=0.01, batch_size=0, label_smoothing=0.3)
    done, population = play(algorithm, dataset, [rows], 1, model="logistic", engine=engine)
    module = fresh(dataset, "logistic")
    x, y = inputs(dataset, rows)
    loss = F.cross_entropy(module(x), y, label_smoothing=0.3)
    assert done[0].updates.reports[0].train_loss == pytest.approx(float(loss.detach()), rel=1e-5)
    steps = torch.autograd.grad(loss, list(module.parameters()))
    moved = -0.01 * torch.cat([g.flatten() for g in steps]).numpy()
    np.testing.assert_allclose(done[0].mean["params"], moved, rtol=0, atol=1e-6)
    params, buffers = initial_vectors(module)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (dataset.mean, dataset.std))
    test = (torch.from_numpy(dataset.test_images).float() / 255 - mean) / std
    with torch.no_grad():
        plain = float(F.cross_entropy(module(test), torch.from_numpy(dataset.test_labels)))
    assert population.evaluate({"params": params, "buffers": buffers}).loss == pytest.approx(plain, rel=1e-5)


def test_an_algorithm_fixed_to_one_step_of_sgd_has_no_range():
    for wrong in ({"epochs_min": 1}, {"steps_min": 1}, {"optimizer_options": "nesterov=True"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FedSGD(**wrong)
    assert make_algorithm(FedSGD, epochs_min=1, optimizer="adam") == FedSGD()
