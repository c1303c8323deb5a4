"""Inputs that are no images, through both engines to a table: normalised by hand, and the same from either."""

import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from small_data import make_recipe

from fedray.algorithms.fedavg import FedAvg
from fedray.core.errors import BadInputError
from fedray.data.arrays import assemble
from fedray.data.dataset import Dataset, measure_values
from fedray.data.given import Given
from fedray.experiment import Experiment
from fedray.experiment.composition import compose
from fedray.models.build import build, initial_vectors
from fedray.run import run
from fedray.run.checks import check_split
from fedray.run.prepared import Job
from fedray.run.run_columns import partition_columns
from fedray.server.rounds import play_rounds
from fedray.training.fused.stacked import FORMS
from fedray.training.in_process import InProcessPopulation
from fedray.training.network import Network
from fedray.training.rehearsal import examples

RNG = np.random.default_rng(11)
N, TEST = 80, 40


def dataset_of(inputs, test, **more) -> Dataset:
    """Two classes that the first number of an example tells apart."""
    parts = {"train_images": inputs, "test_images": test}
    first = [each.reshape(len(each), -1)[:, 0] for each in (inputs, test)]
    middle = np.median(first[0])
    parts |= {
        f"{split}_labels": (each > middle).astype(int) for split, each in zip(("train", "test"), first, strict=True)
    }
    found = assemble(Given("made", {**parts, **more}, {}), "made")
    return (
        found
        if found.kind.inputs == "tokens"
        else replace(found, **dict(zip(("mean", "std"), measure_values(found.train_images), strict=True)))
    )


def table(*shape):
    return dataset_of(*(RNG.normal(40, 5, (n, *shape)) for n in (N, TEST)))


def text():
    return dataset_of(*(RNG.integers(0, 12, (n, 6)) for n in (N, TEST)), vocabulary=12)


@pytest.mark.parametrize("shape", [(4,), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("lead", [(7,), (2, 7)])
def test_values_are_standardised_per_index_of_their_first_axis_by_hand(shape, lead):
    dataset = table(*shape)
    values = torch.from_numpy(RNG.normal(40, 5, (*lead, *shape)).astype(np.float32))
    network = Network(make_recipe(dataset, "logistic"))
    columns = [each.reshape(-1, *[1] * (len(shape) - 1)) for each in map(np.array, (dataset.mean, dataset.std))]
    by_hand = (values.numpy().astype(float) - columns[0]) / columns[1]
    form = FORMS["cpu"](network.recipe, network.flat.module)
    for found in (network.inputs(values), form.inputs(values)):
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), by_hand, rtol=1e-5, atol=1e-6)


def test_values_far_from_zero_lose_nothing_to_normalisation():
    """In float32 x / std - mean / std would have a deviation of the size of the error, about 6."""
    values = (2.0**24 + 2 * RNG.integers(0, 8, (N, 1))).astype(np.float32)
    dataset = dataset_of(values, values)
    found = Network(make_recipe(dataset, "logistic")).inputs(torch.from_numpy(values)).numpy()
    assert abs(found.mean()) < 0.2
    assert len(np.unique(found)) == len(np.unique(values))


def test_token_ids_reach_the_model_as_they_are():
    network = Network(make_recipe(text(), "lstm"))
    ids = torch.from_numpy(text().train_images)
    for found in (network.inputs(ids), FORMS["cpu"](network.recipe, network.flat.module).inputs(ids[None])[0]):
        assert found.dtype == torch.int64
        assert torch.equal(found, ids)


def rounds_of(dataset, engine, model="logistic"):
    recipe = make_recipe(dataset, model, engine=engine)
    shards = np.array_split(np.arange(N), 4)
    population = InProcessPopulation(dataset, shards, recipe, 2)
    algorithm = FedAvg(batch_size=8, lr=0.1, epochs=2)
    state = algorithm.init(*initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed)))
    played = list(play_rounds(algorithm, population, state, ts=range(1, 4), rounds=3, cohort=3, seed=3))
    return played[-1].state["params"], population.evaluate(played[-1].state)


@pytest.mark.parametrize(("shape", "model"), [((4,), "logistic"), ((4,), "mlp"), ((3, 5), "logistic")])
def test_both_engines_learn_a_table_alike(shape, model):
    (one, seen), (other, again) = (rounds_of(table_for(shape), engine, model) for engine in ("plain", "fused"))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert seen.loss < 0.6  # log 2 before
    assert again.loss == pytest.approx(seen.loss, rel=1e-4)


def table_for(shape):
    rng = np.random.default_rng(1)
    return dataset_of(*(rng.normal(40, 5, (n, *shape)) for n in (N, TEST)))


def test_a_standardised_table_with_mean_0_and_deviation_1_gives_the_bits_of_the_table():
    """The law of normalisation: it is done before the model, and to nothing else."""
    dataset = table_for((4,))
    network = Network(make_recipe(dataset, "logistic"))
    done = [network.inputs(torch.from_numpy(each)).numpy() for each in (dataset.train_images, dataset.test_images)]
    beforehand = replace(dataset, train_images=done[0], test_images=done[1], mean=(0.0,) * 4, std=(1.0,) * 4)
    (one, seen), (other, again) = (rounds_of(each, "plain") for each in (dataset, beforehand))
    assert np.array_equal(one, other)
    assert seen.loss == again.loss


@pytest.mark.parametrize("made", [lambda: table_for((3, 5)), text])
def test_a_rehearsal_has_examples_of_the_kind(made):
    dataset = made()
    recipe = make_recipe(dataset, "logistic")
    inputs, targets = examples(recipe)
    assert (inputs.dtype, inputs.shape[1:]) == (dataset.train_images.dtype, dataset.train_images.shape[1:])
    assert (targets.dtype, targets.max() < recipe.classes) == (np.int64, True)
    if dataset.kind.inputs == "values":
        assert abs(inputs.mean() - 40) < 5


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of the user's own, with `own.py` in it, in which a run is played."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own.py").write_text(SOURCE)
    yield tmp_path
    sys.modules.pop("own", None)


SOURCE = """
import numpy as np
from torch import nn

RNG = np.random.default_rng(0)
WEIGHTS = np.array([3.0, -2.0, 0.0, 1.0])


def table():
    x = RNG.normal([5, 0, 100, -3], [1, 2, 30, 0.1], (160, 4))
    y = ((x - x.mean(0)) / x.std(0) @ WEIGHTS > 0).astype(int)
    return {"train_inputs": x[:120], "train_targets": y[:120], "test_inputs": x[120:], "test_targets": y[120:],
            "classes": ["low", "high"]}


def pictures():
    x = RNG.normal(0, 1, (60, 3, 32, 32))
    return x[:40], np.arange(40) % 2, x[40:], np.arange(20) % 2


def text():
    ids = RNG.integers(1, 12, (160, 6))
    ids[:, 4:] = 0
    ids[np.arange(160), np.arange(160) % 4] = 1 + np.arange(160) % 2
    y = (ids == 1).sum(1) > (ids == 2).sum(1)
    return {"train_inputs": ids[:120], "train_targets": y[:120].astype(int), "test_inputs": ids[120:],
            "test_targets": y[120:].astype(int), "vocabulary": 12, "padding": 0}


def real():
    x = RNG.normal(0, 1, (160, 4))
    return x[:120], x[:120] @ WEIGHTS, x[120:], x[120:] @ WEIGHTS


def labels():
    x = RNG.normal(0, 1, (160, 4))
    return x[:120], x[:120, :3] > [0, 0.5, 1], x[120:], x[120:, :3] > [0, 0.5, 1]


class Bag(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.embedding, self.last = nn.Embedding(12, 8), nn.Linear(8, classes)

    def forward(self, ids):
        return self.last(self.embedding(ids.long()).mean(1))


def bag(shape, classes):
    return Bag(classes)
"""


def experiment(dataset, **settings) -> Experiment:
    tree = {
        "rounds": 6, "clients": 4, "cohort": 4, "data": {"dataset": f"own:{dataset}"}, "model": {"name": "logistic"},
        "partition": {"name": "dirichlet", "alpha": 0.5}, "algorithm": {"name": "fedavg", "batch_size": 8, "lr": 0.3},
        "evaluation": {"clients_every": 3}, "cluster": {"backend": "in-process"}, "output": {"name": "kinds"},
    }  # fmt: skip
    for name, value in settings.items():
        section, _, key = name.partition("__")
        tree[section] = {**tree.get(section, {}), key: value} if key else value
    return compose(tree)


@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_a_table_is_run_whole(own, engine):
    found = run(experiment("table", engine=engine))
    (row,) = found.runs.to_dict("records")
    assert (row["status"], row["data_format"], row["num_params"]) == ("finished", "arrays", 10)
    assert row["final_test_accuracy"] > 0.85
    assert row["final_client_accuracy"] > 0.8
    assert sorted(set(found.partitions["label_name"])) == ["high", "low"]
    assert found.partitions["count"].sum() == 120


def test_tokens_are_run_whole(own):
    found = run(experiment("text", model__name="own:bag", algorithm__lr=2.0, rounds=12))
    (row,) = found.runs.to_dict("records")
    assert (row["status"], row["num_params"]) == ("finished", 12 * 8 + 18)
    assert row["final_test_accuracy"] > 0.9


@pytest.mark.parametrize("bins", [3, 10])
@pytest.mark.parametrize(
    "partition", [{"name": "shards", "shards_per_client": 1}, {"name": "dirichlet"}, {"name": "iid"}]
)
def test_partitions_and_tables_go_by_bins_of_real_targets(own, bins, partition):
    job = Job(experiment("real", partition=partition, data__target_bins=bins), writes=False)
    targets, columns = job.dataset.train_labels[:, 0], partition_columns(job)
    assert columns["count"].sum() == 120
    assert len(set(columns["label"])) == bins
    assert columns["label_name"][0].startswith("below ")
    assert columns["label_name"][bins - 1].startswith("from ")
    other = Job(experiment("real", partition=partition, data__target_bins=4), writes=False)
    assert job.partition_id != other.partition_id  # the table has other rows, also where the shards are the same
    if partition["name"] == "shards":  # pieces of the sorted bins: clients hardly overlap
        ranges = sorted((targets[rows].min(), targets[rows].max()) for rows in job.shards)
        width = np.quantile(targets, 1) - np.quantile(targets, 0)
        assert all(low[1] - high[0] < width / 2 for low, high in pairwise(ranges))
    assert job.own_tests is not None
    for rows, shard in zip(job.own_tests, job.shards, strict=True):
        held = set(job.dataset.strata.train[shard])
        assert set(job.dataset.strata.test[rows]) <= held
        assert len(rows)


def test_several_labels_are_dealt_out_by_the_rarest_one(own):
    job = Job(experiment("labels", partition={"name": "classes_per_client", "classes": 1}), writes=False)
    columns, labels = partition_columns(job), job.dataset.train_labels
    assert set(columns["label_name"]) == {"0", "1", "2", "none"}
    rarest = np.where(labels[:, 2] > 0, 2, np.where(labels[:, 1] > 0, 1, np.where(labels[:, 0] > 0, 0, 3)))
    assert [set(rarest[rows]) for rows in job.shards] == [{0}, {1}, {2}, {3}]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"skew": {"noise": 0.1}}, "skew.noise = 0.1 changes uint8 images, and the inputs of own:table are values"),
        ({"skew": {"rotation": 5.0}}, "skew.rotation = 5.0 changes uint8 images"),
        ({"model__resize": 32}, "model.resize = 32 is for inputs of channels, height and width, and those of own:table are 4 values"),
        ({"model__channels_last": True}, "model.channels_last = true is for inputs of channels, height and width"),
        ({"model__name": "resnet18", "model__pretrained": True}, "model.name = resnet18 takes images, and the inputs are vectors"),
    ],
)  # fmt: skip
def test_settings_of_images_are_refused_by_name(own, monkeypatch, settings, sentence):
    monkeypatch.setattr("fedray.models.model.Model.fingerprint", lambda self: "")  # no weights are fetched
    with pytest.raises(BadInputError, match=sentence):
        check_split(Job(experiment("table", **settings), writes=False))
    assert not (own / "results").exists()


def test_pretrained_weights_take_floats_in_0_to_1_alone(own, monkeypatch):
    monkeypatch.setattr("fedray.models.model.Model.fingerprint", lambda self: "")  # no weights are fetched
    settings = {"model__name": "resnet18", "model__pretrained": True}
    with pytest.raises(BadInputError, match=r"normalises intensities in 0..1 .*, and the inputs of own:pictures go"):
        check_split(Job(experiment("pictures", **settings), writes=False))


def test_what_images_are_called_is_said_of_images_alone(own, capsys):
    from fedray.__main__ import main

    words = ["--data.dataset", "own:table", "--model.name", "logistic", "--clients", "4", "--cohort", "2"]
    assert main([*words, "--cluster.backend", "in-process", "--output.name", "dry", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "own:table, 120 training and 40 test examples (4 values, 2 classes)" in said
    assert "4, iid shards of 30 examples; 2 take part" in said
    assert "images" not in said
