"""The losses of [loss]: by hand, against torch's own, in both engines, and as a user's own function."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_data import make_recipe, make_values

from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.fedprox import FedProx
from fedray.algorithms.moon import Moon
from fedray.cli.console import describe_network
from fedray.core.errors import BadInputError
from fedray.core.kinds import Kind
from fedray.experiment.composition import compose
from fedray.models.loss import NAMES, OTHER_NAMES, SUITED, Loss
from fedray.run import run
from fedray.run.checks import check_loss, fault_of_own_loss
from fedray.run.prepared import Job
from fedray.server.task import Task
from fedray.training.block import train_block
from fedray.training.evaluate import measure
from fedray.training.objective import Objective, each_loss, find, try_out
from fedray.training.trainer import Trainer

# Below, at and above a batch of 8, with and without a rest.
SHARDS = [np.arange(0, 21), np.arange(21, 24), np.arange(24, 64), np.arange(64, 72), np.arange(72, 96)]
OWN = """
import torch

def pseudo_huber(output, targets):
    return ((output - targets).square() + 1).sqrt().mean()

def by_value(output, targets):
    return (output - targets).abs().mean() if float(output.sum()) > 0 else (output - targets).square().mean()

def several(output, targets):
    return (output - targets).square().mean(1)

def number(output, targets):
    return float((output - targets).square().mean())

def infinite(output, targets):
    return ((output - targets).square().mean() - 1e9).log()

def constant(output, targets):
    return output.detach().mean()

def flat(output, targets):
    return (0 * output).mean()

def wrong(output, targets):
    return output.mean() / nothing
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "own_losses.py"
    path.write_text(OWN)
    return path


def objective(name="auto", targets="values", weights=(), **settings):
    recipe = dataclasses.replace(make_recipe(make_values(targets), "logistic"), class_weights=weights)
    return Objective(dataclasses.replace(recipe, loss=Loss(name=name, **settings)))


def mean_of(objective, output, targets, **settings):
    return objective.mean(FedAvg(**settings))(torch.tensor(output), torch.tensor(targets)).item()


# By hand.


def test_the_squared_error_is_a_mean_over_examples_and_values():
    """(1 + 4 + 0 + 9) / 4."""
    assert mean_of(objective("mse"), [[1.0, 2.0], [3.0, 0.0]], [[0.0, 0.0], [3.0, 3.0]]) == 3.5


def test_hubers_loss_is_a_parabola_up_to_delta_and_a_line_above():
    """Errors 1 and 4 with delta 2: 1/2, and 2 (4 - 1) = 6; their mean."""
    assert mean_of(objective("huber", delta=2.0), [[1.0, 4.0]], [[0.0, 0.0]]) == 3.25


def test_the_binary_cross_entropy_is_that_of_each_label():
    """Scores log 3 and 0 are probabilities 3/4 and 1/2: -(log 3/4 + log 1/2) / 2 where the labels are 1 and 0."""
    found = mean_of(objective("bce", "labels"), [[math.log(3), 0.0]], [[1.0, 0.0]])
    assert found == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)


def test_weights_multiply_what_a_labels_positives_lose():
    """The same with the weights 4 and 5, the latter of a negative, which it does not multiply."""
    found = mean_of(objective("bce", "labels", (4.0, 5.0)), [[math.log(3), 0.0]], [[1.0, 0.0]])
    assert found == pytest.approx(-(4 * math.log(0.75) + math.log(0.5)) / 2)


def test_weights_multiply_an_examples_cross_entropy_and_the_mean_is_over_examples():
    """Two examples of even scores lose log 2 each; with the weights 3 and 1 they are (3 + 1) / 2 times that."""
    found = mean_of(objective("cross_entropy", "classes", (3.0, 1.0)), [[0.0, 0.0], [0.0, 0.0]], [0, 1])
    assert found == pytest.approx(2 * math.log(2))
    smooth = mean_of(objective("auto", "classes", (3.0, 1.0)), [[0.0, 0.0]], [0], label_smoothing=0.5)
    assert smooth == pytest.approx(3 * math.log(2))
    uneven = mean_of(objective("auto", "classes", (3.0, 1.0)), [[1.0, 0.0]], [0], label_smoothing=0.5)
    lost = math.log(1 + math.exp(-1))  # at its class, and one more at the other
    assert uneven == pytest.approx(3 * (0.75 * lost + 0.25 * (lost + 1)))


def test_balanced_weights_are_all_examples_over_classes_times_those_of_the_class():
    """Of 6 examples 3, 2 and 1: 6 / (3 * 3), 6 / (3 * 2), 6 / (3 * 1). Their mean over the examples is 1."""
    labels, names, kind = np.array([0, 0, 0, 1, 1, 2]), ("a", "b", "c"), Kind()
    weights = Loss(class_weights="balanced").weights(kind, labels, names)
    assert weights == (6 / 9, 1.0, 2.0)
    assert np.array(weights)[labels].mean() == pytest.approx(1)
    assert Loss(class_weights="balanced").weights(kind, labels, (*names, "none has it"))[3] == 1
    assert Loss(class_weights=" 1, 0.5,2").weights(kind, labels, names) == (1.0, 0.5, 2.0)


def test_balanced_weights_of_labels_are_negatives_over_positives():
    targets, kind = np.array([[1, 0], [0, 0], [0, 0], [0, 0]], np.float32), Kind(inputs="values", targets="labels")
    assert Loss(class_weights="balanced").weights(kind, targets, ("a", "b")) == (3.0, 1.0)
    with pytest.raises(BadInputError, match="gives the label b no weight"):
        Loss(class_weights="balanced").weights(kind, 1 - targets, ("a", "b"))


# Against torch's own.

TORCHS = {
    "cross_entropy": ("classes", lambda x, y, w: F.cross_entropy(x, y)),
    "bce": ("labels", lambda x, y, w: F.binary_cross_entropy_with_logits(x, y, pos_weight=w)),
    "mse": ("values", lambda x, y, w: F.mse_loss(x, y)),
    "huber": ("values", lambda x, y, w: F.huber_loss(x, y, delta=0.5)),
}


def targets_of(name, n, outputs, rng):
    scores = torch.from_numpy(rng.standard_normal((n, outputs), np.float32))
    return {"classes": scores.argmax(1), "labels": (scores > 0).float(), "values": scores}[TORCHS[name][0]]


@pytest.mark.parametrize("name", NAMES)
def test_the_mean_and_each_example_are_torchs(name):
    rng, settings = np.random.default_rng(0), {"delta": 0.5} if name == "huber" else {}
    output, targets = torch.from_numpy(rng.standard_normal((7, 3), np.float32)), targets_of(name, 7, 3, rng)
    here, torchs = objective(name, TORCHS[name][0], **settings), TORCHS[name][1]
    assert here.mean(FedAvg())(output, targets).item() == pytest.approx(torchs(output, targets, None).item(), rel=1e-6)
    each = here.each(output, targets)
    assert each.shape == (7,)
    for i in range(7):
        one = slice(i, i + 1)
        assert each[i].item() == pytest.approx(torchs(output[one], targets[one], None).item(), rel=1e-6)
    recipe = make_recipe(make_values(TORCHS[name][0]))
    recipe = dataclasses.replace(recipe, loss=Loss(name=name, **settings))
    assert torch.equal(each_loss(recipe, output, targets), each)


def test_an_evaluation_has_no_weights():
    output, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    weighted = objective("auto", "classes", (1.0, 2.0, 3.0)).each(output, targets)
    assert torch.equal(weighted, F.cross_entropy(output, targets, reduction="none"))


def test_plain_cross_entropy_is_the_algorithms_own_method():
    """Nothing stands between a step and what it called in 0.3.0."""
    algorithm = FedAvg(label_smoothing=0.1)
    assert objective("auto", "classes").mean(algorithm) == algorithm.loss


# In both engines.

CASES = {
    "bce": ("labels", {"name": "bce"}, ()),
    "bce with weights": ("labels", {}, (2.0, 0.5, 3.0)),
    "mse": ("values", {}, ()),
    "huber": ("values", {"name": "huber", "delta": 0.7}, ()),
    "weighted cross-entropy": ("classes", {}, (2.0, 0.5, 3.0)),
    "own": ("values", {"name": "own_losses:pseudo_huber"}, ()),
}


def trained(recipe, algorithm, dataset, rounds=2):
    """The updates and reports of some rounds, each from the same message."""
    trainer, clients = Trainer(recipe), list(range(len(SHARDS)))
    flat = trainer.network.flat
    message = {"params": flat.params.numpy().copy(), "buffers": flat.buffers.numpy().copy()}
    shard = lambda client: (dataset.train_images[SHARDS[client]], dataset.train_labels[SHARDS[client]])  # noqa: E731
    found = []
    for t in range(1, rounds + 1):
        task = Task(algorithm, message, t, algorithm.lr)
        found.append(train_block(trainer, task, clients, shard, [{}] * len(clients), summed=False)[0])
    return found


@pytest.mark.parametrize("model", ["logistic", "mlp", "lenet5"])
@pytest.mark.parametrize("case", CASES)
def test_the_fused_engine_trains_as_the_plain_one(case, model, own):
    """logistic and mlp by written-out gradients, lenet5 by vmap; shards of all sizes, so that batches are padded."""
    targets, settings, weights = CASES[case]
    dataset = make_values(targets, (1, 16, 16) if model == "lenet5" else (6,))
    recipe = dataclasses.replace(make_recipe(dataset, model), loss=Loss(**settings), class_weights=weights)
    fused, algorithm = (
        dataclasses.replace(recipe, engine="fused"),
        FedAvg(lr=0.02, batch_size=8, epochs=2, momentum=0.5),
    )
    for here, there in zip(trained(fused, algorithm, dataset), trained(recipe, algorithm, dataset), strict=True):
        for a, b, report, other in zip(here.each, there.each, here.reports, there.reports, strict=True):
            far = np.abs(b["params"]).max()
            assert far > 1e-3
            np.testing.assert_allclose(a["params"], b["params"], rtol=2e-4, atol=2e-4 * far)
            assert report.train_loss == pytest.approx(other.train_loss, rel=2e-4)


def test_every_loss_and_delta_and_weights_train_otherwise(own):
    """Each case of one kind of targets ends elsewhere."""
    ends = {}
    for case, (targets, settings, weights) in CASES.items():
        recipe = dataclasses.replace(make_recipe(make_values(targets), "logistic"), loss=Loss(**settings))
        (found,) = trained(dataclasses.replace(recipe, class_weights=weights), FedAvg(), make_values(targets), 1)
        ends[case] = found.each[0]["params"].tobytes()
    recipe = dataclasses.replace(make_recipe(make_values(), "logistic"), loss=Loss(name="huber"))
    ends["another delta"] = trained(recipe, FedAvg(), make_values(), 1)[0].each[0]["params"].tobytes()
    assert len(set(ends.values())) == len(CASES) + 1


@pytest.mark.parametrize("name", ["mse", "bce"])
def test_one_client_is_centralised_sgd_with_every_loss(name):
    """Law 3, in float64, by hand: full batches of all examples, where the mean is over examples and outputs."""
    dataset = make_values(TORCHS[name][0], outputs=2)
    x, y = (torch.from_numpy(each).double() for each in (dataset.train_images, dataset.train_labels))
    trainer = Trainer(make_recipe(dataset, "logistic"))
    flat, algorithm = trainer.network.flat, FedAvg(lr=0.1, batch_size=0, epochs=5)
    message = {"params": flat.params.numpy().copy(), "buffers": flat.buffers.numpy()}
    w, b = (part.double().clone() for part in flat.params.split([12, 2]))
    update, _, report = trainer.train(
        Task(algorithm, message, 1, 0.1), 0, dataset.train_images, dataset.train_labels, {}
    )
    w, losses = w.view(2, 6), []
    for _ in range(5):
        scores = x @ w.T + b
        slope = (2 * (scores - y) if name == "mse" else scores.sigmoid() - y) / y.numel()
        one = (scores - y).square() if name == "mse" else F.softplus(scores) - y * scores
        losses.append(one.mean().item())
        w, b = w - 0.1 * slope.T @ x, b - 0.1 * slope.sum(0)
    end = torch.cat([w.flatten(), b]).numpy()
    np.testing.assert_allclose(message["params"] + update["params"], end, atol=2e-6)
    assert report.train_loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_algorithms_that_add_to_the_loss_or_take_it_apart_go_on_with_every_loss():
    """FedProx descends to another place than FedAvg, and MOON's penalty takes part, with the squared error too."""
    ends = []
    for algorithm in (FedAvg(lr=0.05), FedProx(lr=0.05, mu=5.0), Moon(lr=0.05, mu=5.0)):
        dataset = make_values()
        recipe = make_recipe(dataset, "mlp")
        trainer = Trainer(recipe)
        flat = trainer.network.flat
        message = {"params": flat.params.numpy().copy(), "buffers": flat.buffers.numpy()}
        memory = {}
        for t in (1, 2):
            task = Task(algorithm, message, t, 0.05)
            update, memory, report = trainer.train(task, 0, dataset.train_images, dataset.train_labels, memory)
        assert math.isfinite(report.train_loss)
        ends.append(update["params"].tobytes())
    assert len(set(ends)) == 3


def test_an_evaluation_has_the_loss_of_the_targets():
    dataset = make_values()
    trainer = Trainer(make_recipe(dataset, "logistic"))
    flat = trainer.network.flat
    model = {"params": flat.params, "buffers": flat.buffers}
    found = measure(trainer.network, model, dataset.test_images, dataset.test_labels)
    output = flat.module(torch.from_numpy(dataset.test_images))
    expected = F.mse_loss(output, torch.from_numpy(dataset.test_labels)).item()
    assert sum(found.losses) / len(dataset.test_labels) == pytest.approx(expected, rel=1e-5)


# One's own.


def test_ones_own_loss_is_evaluated_as_the_mean_of_each_batch(own):
    function = find("own_losses:pseudo_huber")
    here, (output, targets) = objective("own_losses:pseudo_huber"), torch.randn(2, 5, 3)
    assert here.each(output, targets).tolist() == [pytest.approx(function(output, targets).item())] * 5
    assert here.mean(FedAvg()) is here.function


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("several", r"gives \[4\] for an output \[4, 3\] and targets \[4, 3\], not one number"),
        ("number", "gives float for an output"),
        ("infinite", "gives nan for an output"),
        ("constant", "gives a loss without a gradient"),
        ("flat", "has the gradient 0"),
        ("wrong", r"fails for an output \[4, 3\].*NameError.*in own_losses.py line 26"),
        ("pseudo_hubers", "has no function pseudo_hubers; did you mean pseudo_huber?"),
    ],
)
def test_ones_own_loss_is_tried(name, said, own):
    with pytest.raises(BadInputError, match=said) as error:
        try_out(f"own_losses:{name}", "", Kind(inputs="values", targets="values"), 3, for_many=False)
    assert f"loss.name = own_losses:{name}" in str(error.value)


def test_a_loss_that_branches_is_for_one_client_at_a_time(own):
    kind = Kind(inputs="values", targets="values")
    try_out("own_losses:by_value", "", kind, 3, for_many=False)
    with pytest.raises(BadInputError, match="fails for many clients at a time .* set engine = plain"):
        try_out("own_losses:by_value", "", kind, 3, for_many=True)


SETTINGS = {
    "data": {"dataset": "synthetic", "train_examples": 40, "test_examples": 20}, "clients": 2, "cohort": 2, "rounds": 1,
    "model": {"name": "logistic"}, "cluster": {"backend": "in-process"},
}  # fmt: skip
FOCAL = """
import torch.nn.functional as F

def focal(output, targets):
    return ((1 - F.softmax(output, 1).gather(1, targets[:, None])[:, 0]) ** 2 * each(output, targets)).mean()

def each(output, targets):
    return F.cross_entropy(output, targets, reduction="none")
"""


def test_a_run_knows_ones_own_loss_by_its_content(tmp_path, monkeypatch):
    """A run with it, the same found again, and another id once the file says something else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "run_losses.py"
    path.write_text(FOCAL)
    experiment = compose({**SETTINGS, "loss": {"name": "run_losses:focal"}, "output": {"name": "own"}})
    first = run(experiment).runs
    assert first["status"].tolist() == ["finished"]
    assert "loss.name" in first["own_code"][0]
    assert Job(experiment).run == first["run"][0]
    assert fault_of_own_loss(Job(experiment), "fused") == ""
    path.write_text(FOCAL.replace("** 2", "** 3"))
    assert Job(experiment).run != first["run"][0]
    path.unlink()
    with pytest.raises(BadInputError, match="loss.name = run_losses:focal: there is no module run_losses"):
        Job(experiment)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({}, "by fedavg"), ({"class_weights": "balanced"}, "by fedavg to minimise cross_entropy with class weights")],
)
def test_the_console_says_which_loss_unless_it_is_the_plain_one(settings, said):
    job = Job(compose({**SETTINGS, "loss": settings, "output": {"name": "x"}}), writes=False)
    assert describe_network(job).endswith(said)


def test_what_does_not_fail_until_it_is_tried_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "bad_losses.py").write_text("def several(output, targets):\n    return output.sum(1)\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        BadInputError, match=r"bad_losses:several gives \[4\] for an output \[4, 10\] and targets \[4\]"
    ):
        run(compose({**SETTINGS, "loss": {"name": "bad_losses:several"}, "output": {"name": "bad"}}))
    assert [path for path in sorted(tmp_path.rglob("*")) if path.suffix not in (".pyc", "")] == [
        path for path in before if path.suffix
    ]
    assert not (tmp_path / "results").exists()


# What does not go together.


def test_the_table_has_every_loss_once_and_auto_is_its_first():
    assert sorted(NAMES) == sorted({"cross_entropy", "bce", "mse", "huber"})
    assert set(OTHER_NAMES.values()) == set(NAMES)
    for targets, names in SUITED.items():
        assert Loss().chosen(Kind(inputs="values", targets=targets)) == names[0]


@pytest.mark.parametrize(
    ("settings", "targets", "said"),
    [
        (
            {"name": "mse"},
            "classes",
            "loss.name = mse is for values, and the targets are classes; for those there is cross",
        ),
        ({"name": "bce"}, "values", "for those there is mse or huber, or a function of your own"),
        ({"class_weights": "balanced"}, "values", "is for cross_entropy and bce, not for loss.name = mse"),
        ({"class_weights": "1,2"}, "classes", "are 2 numbers, and there are 3 classes"),
    ],
)
def test_a_loss_that_does_not_suit_the_targets_is_refused(settings, targets, said):
    dataset = make_values(targets)
    with pytest.raises(BadInputError, match=said):
        Loss(**settings).weights(dataset.kind, dataset.train_labels, dataset.classes)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "mea"}, "loss.name = 'mea' is neither one of auto, cross_entropy, bce, mse, huber nor package"),
        ({"name": "l2"}, "did you mean mse?"),
        ({"delta": 2.0}, "loss.delta = 2 is for loss.name = huber, not auto"),
        ({"name": "huber", "class_weights": "balanced"}, "is for cross_entropy and bce, not for loss.name = huber"),
        ({"class_weights": "even"}, "'even' is neither none nor balanced nor a list"),
        ({"class_weights": "1,-2"}, "neither none nor balanced nor a list"),
        ({"class_weights": "0,0"}, "neither none nor balanced nor a list"),
    ],
)
def test_wrong_settings_of_a_loss_are_one_sentence(settings, said):
    with pytest.raises(BadInputError, match=said):
        compose({"loss": settings})


class OwnLoss(FedAvg):
    """An algorithm with a loss of its own."""

    def loss(self, output, targets):
        return output.square().mean()


@pytest.mark.parametrize("settings", [{"name": "bce"}, {"class_weights": "balanced"}])
def test_an_algorithm_with_its_own_loss_takes_no_other(settings):
    experiment = compose(SETTINGS)
    with pytest.raises(ValueError, match="has a loss of its own, so that loss"):
        dataclasses.replace(experiment, algorithm=OwnLoss(), loss=Loss(**settings))
    assert dataclasses.replace(experiment, algorithm=OwnLoss()).loss == Loss()


def test_label_smoothing_and_balanced_sampling_are_for_classes(monkeypatch):
    for settings, said in (
        ({"algorithm": {"label_smoothing": 0.1}}, "label_smoothing = 0.1 is for loss.name = cross_entropy, not mse"),
        ({"data": {**SETTINGS["data"], "sampling": "balanced"}}, "balanced is for classes, and the targets are values"),
    ):
        job = Job(compose({**SETTINGS, **settings, "output": {"name": "x"}}), writes=False)
        job.__dict__["dataset"] = make_values()
        with pytest.raises(BadInputError, match=said):
            check_loss(job)
    job = Job(compose({**SETTINGS, "output": {"name": "x"}}), writes=False)
    job.__dict__["dataset"] = make_values()
    check_loss(job)
