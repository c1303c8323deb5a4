"""Which configurations successive halving stops, and at which rounds it can."""

import math

import pytest

from fedray.core.errors import BadInputError
from fedray.experiment.composition import compose
from fedray.run.stopping import judged_by
from fedray.sweep.halving import configuration, read_rungs, score, worse_half


def test_the_better_half_of_the_means_is_kept_the_odd_one_and_the_first_of_equals_too():
    scores = {"a": [0.1, 0.3], "b": [0.2, 0.2], "c": [0.9, 0.0], "d": [0.5, 0.5], "e": [0.1, 0.1]}
    assert worse_half(scores) == ["b", "e"]  # means 0.2, 0.2, 0.45, 0.5, 0.1
    assert worse_half({"a": [0.2], "b": [0.2]}) == ["b"]
    assert worse_half({"a": [0.2]}) == []
    assert worse_half({}) == []


def test_a_configuration_with_a_run_that_failed_comes_last():
    assert worse_half({"a": [0.9, -math.inf], "b": [0.1, 0.1]}) == ["a"]


def rows(**columns):
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_a_run_is_judged_by_its_last_evaluation_up_to_the_round_on_the_validation_split_where_there_is_one():
    rounds = rows(
        round=[1, 2, 3, 4],
        test_accuracy=[0.1, None, 0.3, 0.4],
        validation_accuracy=[0.5, None, 0.6, 0.7],
        client_accuracy=[0.8, None, 0.9, 1.0],
    )
    experiments = (
        compose({}),
        compose({"data": {"validation_examples": 10}}),
        compose({"algorithm": {"name": "fedper"}}),
    )
    plain, held_out, personal = map(judged_by, experiments)
    assert [score(plain, rounds, t) for t in (1, 2, 3, 9)] == [0.1, 0.1, 0.3, 0.4]
    assert score(held_out, rounds, 3) == 0.6
    assert score(personal, rounds, 3) == 0.9
    assert score(plain, rounds[1:2], 3) == -math.inf
    assert score(plain, rows(round=[1], test_accuracy=[math.nan]), 3) == -math.inf
    errors = rows(round=[1, 2], test_rmse=[0.5, 0.25])
    assert [score("test_rmse", errors, t) for t in (1, 2)] == [-0.5, -0.25]  # the lower is the better half


def test_a_configuration_is_all_but_the_seed():
    one, other = compose({"seed": 1}), compose({"seed": 2})
    assert configuration(one) == configuration(other) != configuration(compose({"rounds": 3}))


def test_rungs_are_rounds_at_which_there_is_something_to_judge_and_to_stop():
    runs = [compose({"rounds": 20}), compose({"rounds": 40})]
    assert read_rungs("5,30", runs) == [5, 30]
    for text, part in {
        "5,5": "ascend",
        "0": "from 1",
        "": "with commas",
        "5.5": "with commas",
        "40": "the longest run has 40 rounds",
    }.items():
        with pytest.raises(BadInputError, match=part):
            read_rungs(text, runs)
    with pytest.raises(BadInputError, match="measured every 7 rounds"):
        read_rungs("5", [compose({"evaluation": {"every": 7}})])
