"""Whole runs in process whose clients are evaluated: the evaluations table, what the rounds say of it, and what follows."""

import dataclasses
import math
from math import prod

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from small_runs import assert_same_tables, small, stopped_after
from torch import nn

from fedray import results
from fedray.algorithms import ALGORITHMS
from fedray.algorithms.fedavg import FedAvg
from fedray.core.errors import ClientError
from fedray.experiment.composition import compose
from fedray.models import build as networks
from fedray.run import run
from fedray.run.prepared import Job
from fedray.training.in_process import InProcessPopulation

PERSONAL = {"local", "finetune", "fedbn", "fedper", "ditto"}
WITHOUT_A_GLOBAL_MODEL = {"local", "fedbn", "fedper"}
SCORES = ["client_loss", "client_accuracy", "client_accuracy_p10", "client_accuracy_std"]
SKEWED = {"partition__name": "dirichlet", "partition__alpha": 0.5, "model__name": "logistic"}
TRAINED = ["train_loss", "update_norm", "bytes_down", "bytes_up"]


@pytest.fixture
def small_network(monkeypatch):
    """What is called lenet5 has two layers and dropout."""
    monkeypatch.setitem(networks.BUILDERS, "lenet5", two_layers)


def two_layers(shape, classes):
    layers = nn.Linear(prod(shape), 8), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, classes)
    return nn.Sequential(nn.Flatten(), *layers)


def played(root, algorithm, **changes):
    return run(small(root, **{**SKEWED, "algorithm__name": algorithm, **changes}))


@pytest.mark.parametrize("algorithm", ["finetune", "fedper"])
def test_the_rounds_say_what_numpy_says_of_the_evaluations(tmp_path, small_network, algorithm):
    """Over all clients, each of which counts the same: with seven, the 10th percentile is 0.6 of the way from the least
    to the next, and the standard deviation is over 7, not 6.
    """
    tables = played(tmp_path, algorithm, rounds=3, clients=7, model__name="lenet5")
    evaluations, (last,) = tables.evaluations, tables.runs.to_dict("records")
    assert evaluations["round"].tolist() == [1] * 7 + [2] * 7 + [3] * 7
    assert evaluations["client"].tolist() == [*range(7)] * 3
    sizes = evaluations["test_examples"].to_numpy().reshape(3, 7)
    assert (sizes == sizes[0]).all()
    assert len(set(sizes[0])) > 1
    right = evaluations["test_accuracy"] * evaluations["test_examples"]
    np.testing.assert_allclose(right, right.round(), atol=1e-9)
    apart = set()
    for (_, of), (_, row) in zip(evaluations.groupby("round"), tables.rounds.iterrows(), strict=True):
        accuracies = np.sort(of["test_accuracy"].to_numpy())
        mean = accuracies.sum() / 7
        assert row["client_loss"] == pytest.approx(of["test_loss"].sum() / 7, rel=1e-12)
        assert row["client_accuracy"] == pytest.approx(mean, rel=1e-12)
        assert row["client_accuracy_p10"] == pytest.approx(accuracies[0] + 0.6 * (accuracies[1] - accuracies[0]))
        assert row["client_accuracy_std"] == pytest.approx(math.sqrt(((accuracies - mean) ** 2).sum() / 7))
        apart.add(accuracies[0] < accuracies[1])
    assert True in apart
    assert last["final_client_accuracy"] == tables.rounds["client_accuracy"].iloc[-1]
    assert last["best_client_accuracy"] == tables.rounds["client_accuracy"].max()


@pytest.mark.parametrize("algorithm", ["fedavg", "scaffold"])
def test_a_client_without_a_model_of_its_own_uses_the_servers(tmp_path, algorithm):
    """The saved model, in plain torch, on the rows of each client: the last round's evaluations."""
    changes = {"evaluation__clients_every": 1, "rounds": 3, "model__name": "lenet5"}
    experiment = small(tmp_path, **{**SKEWED, "algorithm__name": algorithm, **changes})
    tables, job = run(experiment), Job(experiment)
    module = networks.BUILDERS["lenet5"]((3, 32, 32), 10)
    module.load_state_dict(load_file(job.model))
    data = job.dataset
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (data.mean, data.std))
    with torch.no_grad():
        output = module((torch.from_numpy(data.test_images).float() / 255 - mean) / std)
    targets = torch.from_numpy(data.test_labels)
    last = tables.evaluations[tables.evaluations["round"] == 3].to_dict("records")
    for row, rows in zip(last, job.own_tests, strict=True):
        assert row["test_examples"] == len(rows)
        assert row["test_loss"] == pytest.approx(float(F.cross_entropy(output[rows], targets[rows])), rel=1e-5)
        assert row["test_accuracy"] == (output[rows].argmax(1) == targets[rows]).double().mean()
    assert tables.rounds["test_accuracy"].notna().all()


def test_auto_evaluates_clients_where_they_have_models_of_their_own():
    assert ALGORITHMS.keys() > PERSONAL
    for name in ALGORITHMS:
        tree = {"data": {"dataset": "synthetic"}, "algorithm": {"name": name}, "evaluation": {"every": 3}}
        auto = compose(tree).resolved()
        assert auto.evaluation.clients_every == (3 if name in PERSONAL else 0)
        for given in (0, 5):
            tree["evaluation"]["clients_every"] = given
            assert compose(tree).resolved().evaluation.clients_every == given
        tree["evaluation"]["clients_every"] = auto.evaluation.clients_every
        assert compose(tree).resolved().run_id("") == auto.run_id("")


def test_without_it_the_table_is_empty_and_the_columns_are_null(tmp_path):
    tables = played(tmp_path, "fedavg", rounds=1)
    assert len(tables.evaluations) == 0
    assert list(tables.evaluations) == results.SCHEMAS["evaluations"].names
    assert tables.rounds[SCORES].isna().all(axis=None)
    assert math.isnan(tables.runs["final_client_accuracy"][0])


def test_clients_are_evaluated_every_n_rounds_and_after_the_last(tmp_path):
    tables = played(tmp_path, "fedavg", rounds=5, evaluation__every=3, evaluation__clients_every=2)
    assert tables.rounds["test_accuracy"].notna().tolist() == [False, False, True, False, True]
    for column in SCORES:
        assert tables.rounds[column].notna().tolist() == [False, True, False, True, True]
    assert tables.rounds["seconds_evaluate"].notna().tolist() == [False, True, True, True, True]
    assert tables.evaluations["round"].unique().tolist() == [2, 4, 5]


@pytest.mark.parametrize("algorithm", ["fedper", "local"])
def test_where_a_part_stays_at_the_clients_no_global_model_is_evaluated(tmp_path, algorithm):
    tables = played(tmp_path, algorithm, rounds=3, evaluation__every=2, model__name="mlp")
    assert tables.rounds[["test_loss", "test_accuracy"]].isna().all(axis=None)
    assert tables.rounds["client_accuracy"].notna().tolist() == [False, True, True]
    assert tables.runs[["final_test_accuracy", "best_test_accuracy"]].isna().all(axis=None)
    (row,) = tables.runs.to_dict("records")
    by_round = tables.rounds.set_index("round")["client_accuracy"]
    assert (row["judged_by"], row["best_round"]) == ("client", by_round.idxmax())
    assert row["best_client_accuracy"] == by_round.max()


def test_seconds_of_evaluation_are_null_where_there_was_none(tmp_path):
    """The server's model would have been due in round 1, had it one."""
    rounds = played(tmp_path, "local", rounds=2, evaluation__clients_every=2).rounds
    assert rounds["client_accuracy"].notna().tolist() == [False, True]
    assert rounds["seconds_evaluate"].notna().tolist() == [False, True]


@pytest.mark.parametrize("algorithm", ["fedper", "local"])
def test_such_a_run_ends_by_its_clients_accuracy(tmp_path, algorithm):
    whole = played(tmp_path, algorithm, model__name="mlp").rounds["client_accuracy"]
    target = whole.max()
    first = int(whole.idxmax()) + 1
    assert first > 1
    tables = played(tmp_path, algorithm, model__name="mlp", evaluation__target_accuracy=float(target))
    assert (tables.runs["status"][0], tables.runs["rounds_done"][0]) == ("reached_target", first)
    stuck = played(tmp_path, algorithm, model__name="mlp", evaluation__patience=2, algorithm__lr=1e-9)
    assert (stuck.runs["status"][0], stuck.runs["rounds_done"][0]) == ("no_improvement", 3)


@pytest.mark.parametrize("algorithm", ["fedavg", "ditto"])
def test_a_run_with_a_global_model_ends_by_that(tmp_path, algorithm):
    """By its test accuracy, though the clients' is higher or lower."""
    rounds = played(tmp_path, algorithm, evaluation__clients_every=1).rounds
    assert (rounds["test_accuracy"] - rounds["client_accuracy"]).abs().max() > 0.02
    target = rounds["test_accuracy"].max()
    first = int(rounds["test_accuracy"].idxmax()) + 1
    by_clients = rounds["client_accuracy"] >= target
    assert not by_clients.any() or int(by_clients.idxmax()) + 1 != first
    tables = played(tmp_path, algorithm, evaluation__clients_every=1, evaluation__target_accuracy=float(target))
    assert (tables.runs["status"][0], tables.runs["rounds_done"][0]) == ("reached_target", first)


def test_a_run_with_a_global_model_waits_for_its_evaluation(tmp_path):
    changes = {"evaluation__every": 3, "evaluation__clients_every": 1, "evaluation__target_accuracy": 0.01}
    (row,) = played(tmp_path, "fedavg", **changes).runs.to_dict("records")
    assert (row["status"], row["rounds_done"]) == ("reached_target", 3)


def test_a_clients_loss_that_is_not_finite_ends_the_run(tmp_path):
    """The global model is fine, but the personal ones are pulled 2,000 times beyond it in every step."""
    tables = played(tmp_path, "ditto", algorithm__lam=1e5, rounds=6)
    last = tables.rounds.iloc[-1]
    assert tables.runs["status"].tolist() == ["diverged"]
    assert not math.isfinite(last["client_loss"])
    assert all(math.isfinite(last[column]) for column in ("train_loss", "test_loss", "update_norm"))
    assert np.isfinite(tables.rounds["client_loss"][:-1]).all()
    assert 1 < len(tables.rounds) < 6


@pytest.mark.parametrize(
    ("algorithm", "settings"), [("finetune", {"algorithm__fine_tune_epochs": 2}), ("ditto", {}), ("fedavg", {})]
)
def test_evaluating_clients_leaves_no_trace_in_the_training(tmp_path, small_network, algorithm, settings):
    """With dropout and augmentation, whose random numbers fine-tuning draws as well: the model and all that the rounds
    say of its training are FedAvg's without any evaluation of clients, to the bit.
    """
    changes = {"model__name": "lenet5", "data__augment": "crop-flip", "rounds": 3}
    avg = played(tmp_path, "fedavg", **changes)
    other = played(tmp_path, algorithm, **changes, evaluation__clients_every=1, **settings)
    for column in (*TRAINED, "test_loss", "test_accuracy"):
        assert other.rounds[column].tolist() == avg.rounds[column].tolist(), column
    assert other.clients[["client", "steps", "train_loss"]].equals(avg.clients[["client", "steps", "train_loss"]])
    assert other.runs["model_fingerprint"].tolist() == avg.runs["model_fingerprint"].tolist()
    assert len(other.evaluations) == 12
    if algorithm != "fedavg":
        plain = played(tmp_path, "fedavg", **changes, evaluation__clients_every=1).evaluations
        assert (plain["test_loss"] != other.evaluations["test_loss"]).all()


def test_fine_tuning_has_the_learning_rate_of_its_round(tmp_path):
    """Round 1's is 0.02, round 2's next to 0, so that what is fine-tuned then is the global model as it is."""
    changes = {"rounds": 2, "algorithm__lr_schedule": "exponential", "algorithm__lr_decay": 1e-6}
    tables = [played(tmp_path, name, evaluation__clients_every=1, **changes) for name in ("finetune", "fedavg")]
    tuned, plain = (table.evaluations["test_loss"].to_numpy().reshape(2, 4) for table in tables)
    assert np.abs(tuned[0] - plain[0]).min() > 1e-3
    np.testing.assert_allclose(tuned[1], plain[1], atol=1e-5)


REMEMBER = {"fedper": {}, "ditto": {}, "scaffold": {"evaluation__clients_every": 1}}


@pytest.mark.parametrize("algorithm", REMEMBER)
def test_an_interrupted_run_goes_on_to_the_same_tables(tmp_path, small_network, algorithm, monkeypatch):
    """Its checkpoint has what the clients remember: without it the tables would be others."""
    changes = {**SKEWED, "model__name": "lenet5", "algorithm__name": algorithm, **REMEMBER[algorithm]}
    undisturbed = run(small(tmp_path / "b", **changes))
    assert len(undisturbed.evaluations) == 6 * 4
    stopped_after(tmp_path / "a", 3, **changes)
    assert len(results.load("small", tmp_path / "a").evaluations) == 3 * 4
    assert_same_tables(run(small(tmp_path / "a", **changes)), undisturbed)
    stopped_after(tmp_path / "c", 3, **changes)
    monkeypatch.setattr(InProcessPopulation, "remember", lambda self, client, memory: None)
    forgetful = run(small(tmp_path / "c", **changes)).evaluations["test_loss"]
    assert forgetful[:12].equals(undisturbed.evaluations["test_loss"][:12])
    assert not forgetful.equals(undisturbed.evaluations["test_loss"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_ends_an_evaluation_of_clients_costs_its_round_and_nothing_more(
    tmp_path, small_network, error, monkeypatch
):
    """The clients have trained round 4; the checkpoint is of round 3, or, after an error, of round 2, memories too."""
    changes = {**SKEWED, "model__name": "lenet5", "algorithm__name": "fedper", "rounds": 5}

    def evaluate_clients(self, task):
        if task.t == 4:
            raise error("in the evaluation")
        return original(self, task)

    original = InProcessPopulation.evaluate_clients
    monkeypatch.setattr(InProcessPopulation, "evaluate_clients", evaluate_clients)
    with pytest.raises(error):
        run(small(tmp_path / "a", **changes))
    monkeypatch.setattr(InProcessPopulation, "evaluate_clients", original)
    assert results.load("small", tmp_path / "a").evaluations["round"].max() == 3
    assert_same_tables(run(small(tmp_path / "a", **changes)), run(small(tmp_path / "b", **changes)))


class Forgetful(FedAvg):
    def own_model(self, client, message, memory, lr):
        if client.number == 2:
            raise ZeroDivisionError("the user's own mistake")
        return super().own_model(client, message, memory, lr)


def test_an_error_in_a_clients_evaluation_names_client_and_round(tmp_path):
    experiment = dataclasses.replace(small(tmp_path, **SKEWED, evaluation__every=2), algorithm=Forgetful(batch_size=10))
    with pytest.raises(ClientError, match="client 2 failed in its evaluation after round 2:") as error:
        run(experiment)
    assert str(error.value).count("Traceback") == 1
    assert "ZeroDivisionError: the user's own mistake" in str(error.value)
