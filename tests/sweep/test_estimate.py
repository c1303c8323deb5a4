"""How long a sweep takes: the work of a round, and the known runs that are most like those left."""

import dataclasses
import time

import pytest

from fedray.algorithms.fedavg import FedAvg
from fedray.core.errors import ClientError
from fedray.core.settings import flatten
from fedray.experiment.composition import compose
from fedray.results import load
from fedray.run import run
from fedray.sweep.estimate import Known, estimate, known_runs, outlook, rough_duration, time_of_one, work

BASE = {"clients": 10, "cohort": 5, "data": {"train_examples": 1000, "test_examples": 300}, "model": {"name": "mlp"}}


def flat(**changes):
    """Flat settings: `algorithm__lr` is algorithm.lr."""
    tree = {**BASE, "data": dict(BASE["data"]), "model": dict(BASE["model"])}
    for name, value in changes.items():
        *section, key = name.split("__")
        (tree.setdefault(section[0], {}) if section else tree)[key] = value
    return dict(flatten(compose(tree).settings()))


def known(seconds, rounds=10, **changes):
    return Known("run", flat(**changes), rounds, seconds)


@pytest.mark.parametrize(
    ("changes", "trained", "evaluated"),
    [
        ({}, 5 * 100, 300),
        ({"cohort": 10, "algorithm__epochs": 3}, 10 * 3 * 100, 300),
        ({"algorithm__steps": 7, "algorithm__batch_size": 20}, 5 * 7 * 20, 300),
        ({"algorithm__steps": 2, "algorithm__batch_size": 0}, 5 * 2 * 100, 300),
        ({"algorithm__name": "fedsgd"}, 5 * 100, 300),
        ({"algorithm__epochs": 5, "algorithm__epochs_min": 2}, 5 * 3.5 * 100, 300),
        ({"algorithm__steps": 8, "algorithm__steps_min": 2}, 5 * 5 * 32, 300),
        ({"algorithm__name": "ditto", "algorithm__epochs": 2}, 5 * (200 + 200), 300),
        ({"algorithm__name": "ditto", "algorithm__personal_epochs": 3}, 5 * (100 + 300), 300),
        ({"partition__name": "sampled", "partition__examples": 40}, 5 * 40, 300),
        ({"evaluation__every": 10}, 5 * 100, 30),
        ({"evaluation__clients_every": 5, "evaluation__client_examples": 20}, 5 * 100, 300 + 10 * 20 / 5),
        ({"evaluation__clients_every": 1}, 5 * 100, 300 + 10 * 30),
        ({"data__validation_examples": 200}, 5 * 80, 500),
        ({"data__train_examples": 0, "data__test_examples": 0}, 5 * 5000, 10_000),
    ],
)
def test_the_work_of_a_round_is_the_examples_trained_on_and_a_third_of_those_evaluated(changes, trained, evaluated):
    assert work(flat(**changes)) == pytest.approx(trained + evaluated / 3)


def test_without_a_known_run_there_is_no_estimate():
    assert estimate([], [(flat(), 3)]) == [None]


def test_a_run_like_a_known_one_takes_as_long_for_each_of_its_rounds():
    left = [(flat(seed=9, output__name="other", cluster__cpus=7), 4), (flat(), 0)]
    assert estimate([known(20.0, rounds=10)], left) == pytest.approx([8.0, 0.0])


def test_seeds_are_taken_together():
    assert estimate([known(20.0, seed=1), known(40.0, rounds=5, seed=2)], [(flat(), 3)]) == pytest.approx([12.0])


def test_seconds_are_in_proportion_to_the_work():
    (seconds,) = estimate([known(20.0)], [(flat(algorithm__epochs=4), 10)])
    assert seconds == pytest.approx(20 * (5 * 400 + 100) / (5 * 100 + 100))


def test_the_most_similar_known_run_counts_and_its_model_most_of_all():
    runs = [
        known(10.0, algorithm__lr=0.1),
        known(30.0, algorithm__name="fedprox", algorithm__mu=0.1, algorithm__lr=0.2),
        known(900.0, model__name="cnn", algorithm__lr=0.3, algorithm__momentum=0.5),
    ]
    left = [
        (flat(algorithm__lr=0.3, algorithm__momentum=0.5), 10),
        (flat(algorithm__name="fedprox", algorithm__mu=0.2), 10),
        (flat(model__name="cnn"), 10),
        (flat(algorithm__lr=0.1, model__name="lenet5"), 10),  # no run of that model is known
    ]
    *seconds, of_lenet5 = estimate(runs, left)
    assert seconds == pytest.approx([10, 30, 900]) and of_lenet5 is None


OTHERS = [
    {"model__name": "cnn"},
    {"model__norm": "group", "model__name": "resnet18"},
    {"data__dataset": "synthetic"},
    {"data__augment": "crop-flip"},
    {"algorithm__batch_size": 8},
    {"algorithm__name": "moon"},
]


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: "-".join(map(str, other.values())))
def test_a_run_of_another_model_other_data_or_another_batch_size_says_nothing(other):
    """For one of these the seconds were 18 times too few."""
    base = {"data__dataset": "cifar10"}
    assert estimate([known(20.0, **base, algorithm__lr=0.3)], [(flat(**base), 10)]) == pytest.approx([20])
    for one, another in ((base, base | other), (base | other, base)):
        assert estimate([known(20.0, **one)], [(flat(**another), 10)]) == [None]


def test_of_some_runs_the_time_is_known_and_of_the_others_it_is_said_that_it_is_not():
    runs = [known(40.0), known(40.0, model__name="cnn")]
    left = [(flat(), 10), (flat(), 5), (flat(model__name="lenet5"), 10)]
    assert outlook(3, left, runs) == (
        "3 runs left; 2 of them take about 60 seconds one after another, by 1 known run; no run of lenet5 is known to "
        "estimate the others by"
    )
    assert outlook(3, left[2:], runs) == "1 of 3 runs left; no run of lenet5 is known to estimate their time by"
    assert outlook(1, [(flat(algorithm__batch_size=8), 10)], runs) == (
        "1 run left; no run of mlp with this data, batch size and algorithm is known to estimate their time by"
    )


def test_the_time_of_one_run_is_that_of_its_rounds_left():
    runs = [known(40.0), known(900.0, model__name="cnn")]
    assert time_of_one(flat(), 15, runs) == "about 60 seconds for 15 rounds, by 1 known run"
    assert time_of_one(flat(model__name="lenet5"), 15, runs) == "no run of lenet5 is known to estimate the time by"
    assert time_of_one(flat(), 15, []) == "no run of these results is known to estimate the time by"
    assert time_of_one(flat(), 0, runs) == "no round is left"


def test_known_runs_that_are_equally_similar_are_taken_together():
    runs = [known(10.0, algorithm__lr=0.1), known(30.0, algorithm__lr=0.2)]
    assert estimate(runs, [(flat(algorithm__lr=0.3), 10)]) == pytest.approx([20])


def test_a_thousand_runs_are_estimated_in_less_than_two_seconds():
    runs = [known(10.0, algorithm__lr=0.001 * (i + 1), algorithm__momentum=i / 600) for i in range(500)]
    left = [(flat(algorithm__lr=1 + 0.001 * i, algorithm__momentum=i / 600), 10) for i in range(500)]
    began = time.perf_counter()
    assert estimate(runs, left) == pytest.approx([10] * 500)
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
    ("left", "runs", "sentence"),
    [
        (0, 1, "none of 12 runs is left"),
        (12, 0, "12 runs left; no run is known yet to estimate their time by"),
        (6, 2, "6 of 12 runs left, about 4 minutes one after another, by 2 known runs"),
        (12, 1, "12 runs left, about 8 minutes one after another, by 1 known run"),
        (1, 1, "1 of 12 runs left, about 40 seconds one after another, by 1 known run"),
    ],
)
def test_the_sentence_says_how_many_are_left_and_how_long_they_take(left, runs, sentence):
    assert outlook(12, [(flat(), 10)] * left, [known(40.0)] * runs) == sentence


def test_durations_are_in_the_largest_unit_of_which_there_are_two():
    seconds = {0.2: "1 second", 40: "40 seconds", 119: "119 seconds", 125: "2 minutes", 5000: "83 minutes"}
    seconds |= {4 * 3600: "4 hours", 40 * 3600: "40 hours", 10**6: "12 days"}
    assert {s: rough_duration(s) for s in seconds} == seconds


def test_what_a_run_left_on_disk_is_known(tmp_path):
    assert known_runs(tmp_path, "mine") == []
    tree = {
        "clients": 4,
        "cohort": 2,
        "rounds": 2,
        "model": {"name": "logistic"},
        "data": {"dataset": "synthetic", "train_examples": 160, "test_examples": 100},
        "cluster": {"backend": "in-process"},
        "output": {"root": str(tmp_path), "name": "mine"},
    }
    experiment = compose(tree)
    row = run(experiment).runs.iloc[0]
    (found,) = known_runs(tmp_path, "mine")
    assert (found.run, found.rounds, found.seconds) == (row["run"], 2, row["seconds"])
    assert found.settings == dict(flatten(experiment.resolved().settings()))
    again = dict(flatten(dataclasses.replace(experiment, seed=5).resolved().settings()))
    assert estimate([found], [(again, 6)]) == pytest.approx([3 * row["seconds"]])


def test_a_run_without_a_round_is_not_known(tmp_path, monkeypatch):
    def loss(self, output, targets):
        raise RuntimeError("too fast")

    monkeypatch.setattr(FedAvg, "loss", loss)
    tree = {"clients": 2, "cohort": 1, "model": {"name": "logistic"}, "cluster": {"backend": "in-process"}}
    tree |= {"engine": "plain", "data": {"dataset": "synthetic", "train_examples": 40, "test_examples": 20}}
    with pytest.raises(ClientError):
        run(compose(tree | {"output": {"root": str(tmp_path), "name": "mine"}}))
    assert load("mine", tmp_path).runs["rounds_done"].tolist() == [0]
    assert known_runs(tmp_path, "mine") == []
