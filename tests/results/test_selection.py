"""Words such as lr=0.1 and what they say of a run."""

from datetime import UTC, datetime

import pytest

from fedray.core.errors import BadInputError
from fedray.results.selection import full_name, is_condition, read_conditions, short_name, written

ROW = {
    "run": "fedprox-seed1-0123456789",
    "status": "finished",
    "lr": 0.1,
    "seed": 1,
    "rounds": 20,
    "local_steps": None,
    "started_at": datetime(2026, 1, 31, 12, tzinfo=UTC),
    "model.name": "cnn",
    "algorithm.mu": 1.0,
    "algorithm.layers": (1, 2),
    "data.validation_examples": 0,
    "evaluation.every": 2,
    "output.every": 5,
    "cluster.forked": True,
}


@pytest.mark.parametrize(
    "word",
    [
        "lr=0.1", "lr=1e-1", "lr==0.1", "lr=0.3,0.1", "lr!=0.3", "lr<0.2", "lr<=0.1", "lr>0.05", "lr>=0.1",
        "mu=1", "mu=1.0", "algorithm.mu=1", "layers=[1,2]", "layers=[1, 2]", "local_steps=none", "forked=true",
        "status=finished", "status=failed,finished", "status!=failed", "seed=1", "rounds>19",
        "started_at<2026-02-01", "started_at>=2026-01-31T12:00",
    ],
)  # fmt: skip
def test_a_run_fits(word):
    assert is_condition(word)
    (condition,) = read_conditions([word], [ROW])
    assert condition.fits(ROW)


@pytest.mark.parametrize(
    "word",
    [
        "lr=0.10001", "lr=x", "lr=", "lr!=0.1", "lr!=0.3,0.1", "lr<0.1", "lr>0.1", "mu=true", "forked=1", "layers=1",
        "local_steps!=5", "local_steps<5", "local_steps=0", "status=finish", "status=Finished", "seed=10", "started_at>2026-02-01",
    ],
)  # fmt: skip
def test_a_run_does_not_fit(word):
    """One that lacks a setting never fits, so that nothing is removed for what it never had."""
    (condition,) = read_conditions([word], [ROW])
    assert not condition.fits(ROW)


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("mue=1", "no run has a setting 'mue'"),
        ("every=2", "every may be evaluation.every or output.every"),
        ("lr<high", "lr<high must compare with a number"),
        ("status<5", "status is no number"),
        ("started_at<soon", "must compare with a time"),
        ("started_at=2026", "is compared with <, <=, > or >="),
        ("5=lr", "is no condition"),
    ],
)
def test_what_says_nothing_is_refused(word, why):
    with pytest.raises(BadInputError, match=why):
        [condition.fits(ROW) for condition in read_conditions([word], [ROW])]


@pytest.mark.parametrize("name", ROW)
def test_a_short_name_means_its_setting(name):
    assert full_name(short_name(name, ROW), ROW) == name


def test_a_written_value_is_a_condition_that_fits():
    for name in ROW.keys() - {"started_at"}:
        (condition,) = read_conditions([f"{name}={written(ROW[name])}"], [ROW])
        assert condition.fits(ROW), name


@pytest.mark.parametrize("word", ["results/lr", "lr", "fedavg-seed0-fe998b4929", "--yes", "=5"])
def test_names_and_ids_are_no_conditions(word):
    assert not is_condition(word)
