"""The analysis of results: every number here is worked out by hand, or by scipy.stats."""

import json
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fedray.core.errors import BadInputError
from fedray.results import (
    RepeatedRunsWarning,
    Results,
    best,
    compare,
    curves,
    holm,
    load,
    to_target,
    to_target_by,
    varied,
)
from fedray.results.recorder import Recorder
from fedray.results.schema import GROUPING

T_2 = 4.302652729911275
"""The 97.5 % point of Student's t with 2 degrees of freedom, from a printed table but for its last digits."""
T_1 = 12.706204736432095


def add_run(
    root: Path,
    test: Sequence[float | None],
    *,
    seed: int = 0,
    algorithm: str = "fedavg",
    lr: float = 0.1,
    validation: Sequence[float | None] | None = None,
    loss: Sequence[float] | None = None,
    seconds: float = 1.0,
    status: str | None = "finished",
    settings: dict[str, Any] | None = None,
    run: str = "",
    **own: Any,
) -> str:
    """Record a run with these accuracies, a round each, and these settings of its own of the algorithm; its id."""
    tree = {"seed": seed, "rounds": 9, "algorithm": {"name": algorithm, "lr": lr, **own}, **(settings or {})}
    grouping = dict.fromkeys(GROUPING) | {"algorithm": algorithm, "lr": lr, "seed": seed, "cohort": 2}
    run = run or f"run{len(list(root.glob('name/runs/*'))):02d}"
    recorder = Recorder(root, "name", run, grouping, {"settings": json.dumps(tree)})
    recorder.start([], [])
    for t, accuracy in enumerate(test, start=1):
        row = {"round": t, "test_accuracy": accuracy, "seconds": seconds, "bytes_down": 10, "bytes_up": 5}
        row |= {"validation_accuracy": validation[t - 1]} if validation else {}
        right = {"split": ["test"], "label": [0], "predicted": [0], "count": [10]} if accuracy else {}
        recorder.round(row | ({"test_loss": loss[t - 1]} if loss else {}), [], confusion=right)
    if status:
        recorder.finish(status)
    return run


def results(root: Path) -> Results:
    return load("name", root)


def assert_table(found: pd.DataFrame, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """The table has exactly these columns and rows; numbers agree to 9 digits, None stands for any null."""
    assert list(found.columns) == list(columns)
    assert len(found) == len(rows)
    for row, expected in zip(found.to_numpy(object), rows, strict=True):
        for name, one, other in zip(columns, row, expected, strict=True):
            if other is None:
                assert pd.isna(one), name
            elif isinstance(other, float):
                assert one == pytest.approx(other, rel=1e-9), name
            else:
                assert one == other, name


# Curves


def test_a_curve_is_the_mean_and_students_interval_at_each_round(tmp_path: Path) -> None:
    """0.1, 0.2, 0.3 have standard deviation 0.1, so that the interval is 0.2 ± 4.303 * 0.1 / sqrt(3)."""
    for seed, values in enumerate([[0.1, 0.4, 0.9], [0.2, 0.6], [0.3, None]]):
        add_run(tmp_path, values, seed=seed)
    half, half_2 = T_2 * 0.1 / math.sqrt(3), T_1 * 0.1  # two values: (0.2 / sqrt(2)) / sqrt(2) = 0.1
    assert_table(
        curves(results(tmp_path), by="algorithm"),
        ["algorithm", "round", "runs", "mean", "std", "low", "high"],
        [
            ["fedavg", 1, 3, 0.2, 0.1, 0.2 - half, 0.2 + half],
            ["fedavg", 2, 2, 0.5, 0.2 / math.sqrt(2), 0.5 - half_2, 0.5 + half_2],
            ["fedavg", 3, 1, 0.9, None, None, None],
        ],
    )
    low, high = stats.t.interval(0.5, 2, 0.2, 0.1 / math.sqrt(3))
    narrow = curves(results(tmp_path), confidence=0.5).iloc[0]
    assert (narrow["low"], narrow["high"]) == (pytest.approx(low), pytest.approx(high))


def test_curves_can_be_grouped_by_any_setting_and_null_is_a_group(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1])
    for seed in (0, 1):
        add_run(tmp_path, [0.2 + 0.2 * seed], seed=seed, algorithm="fedprox", mu=0.5)
    add_run(tmp_path, [0.7], algorithm="fedprox", mu=2.0)
    found = curves(results(tmp_path), by=["algorithm", "algorithm.mu"])
    means = found[["algorithm", "algorithm.mu", "runs", "mean"]]
    rows = [["fedavg", None, 1, 0.1], ["fedprox", 0.5, 2, 0.3], ["fedprox", 2.0, 1, 0.7]]
    assert_table(means, ["algorithm", "algorithm.mu", "runs", "mean"], rows)
    assert curves(results(tmp_path))["runs"].tolist() == [4]
    assert curves(results(tmp_path), by="run")["mean"].tolist() == [0.1, 0.2, 0.4, 0.7]


def test_curves_over_seconds_are_interpolated_each_within_its_own_span(tmp_path: Path) -> None:
    """0, 0.2, 0.4 at 0.75, 2.25, 3 s and 0.1, 0.5 at 1.5, 3 s: at 1.875 s they are 0.15 and 0.2."""
    add_run(tmp_path, [0.0, None, 0.2, 0.4], seconds=0.75)
    add_run(tmp_path, [0.1, 0.5], seconds=1.5, seed=1)
    found = curves(results(tmp_path), over="seconds")
    half, half_3 = T_1 * 0.025, T_1 * 0.05  # std = difference / sqrt(2), over the root of two runs
    assert_table(
        found,
        ["seconds", "runs", "mean", "std", "low", "high"],
        [
            [0.75, 1, 0.0, None, None, None],
            [1.875, 2, 0.175, 0.05 / math.sqrt(2), 0.175 - half, 0.175 + half],
            [3.0, 2, 0.45, 0.1 / math.sqrt(2), 0.45 - half_3, 0.45 + half_3],
        ],
    )


def test_curves_over_bytes_of_equal_runs_are_those_over_rounds(tmp_path: Path) -> None:
    for seed in range(3):
        add_run(tmp_path, np.random.default_rng(seed).random(7).tolist(), seed=seed)
        add_run(tmp_path, np.random.default_rng(seed).random(3).tolist(), seed=seed, lr=0.2)
    over_rounds, over_bytes = (curves(results(tmp_path), by="lr", over=over) for over in ("round", "bytes"))
    assert over_bytes["bytes"].tolist() == (over_rounds["round"] * 15).tolist()
    for name in ("lr", "runs", "mean", "std", "low", "high"):
        np.testing.assert_allclose(over_bytes[name], over_rounds[name], rtol=1e-12)


def test_a_run_without_a_row_is_left_out_and_no_runs_are_no_curve(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1])
    (tmp_path / "name" / "runs" / f"{add_run(tmp_path, [0.9])}.parquet").write_bytes(b"")
    with pytest.warns(UserWarning, match="run01"):
        half = results(tmp_path)
    assert len(half.rounds) == 2
    assert curves(half)["mean"].tolist() == [0.1]
    for over in ("round", "seconds", "bytes"):
        empty = curves(half, by="lr", value="client_accuracy", over=over)
        assert list(empty.columns) == ["lr", over, "runs", "mean", "std", "low", "high"]
        assert empty.empty


# The way to a target


def test_the_way_to_a_target_ends_with_the_first_round_that_reaches_it(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1, None, 0.5, 0.2, 0.9], seconds=2.0)
    add_run(tmp_path, [0.5, 0.1], seed=1)
    add_run(tmp_path, [0.1, 0.49], seed=2)
    found = to_target(results(tmp_path), 0.5)
    assert list(found.columns) == ["run", *GROUPING, "rounds", "seconds", "bytes"]
    rows = [["run00", 3, 6.0, 45.0], ["run01", 1, 1.0, 15.0], ["run02", None, None, None]]
    assert_table(found[["run", "rounds", "seconds", "bytes"]], ["run", "rounds", "seconds", "bytes"], rows)


def test_the_way_to_a_loss_leads_down(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1] * 4, loss=[2.0, 1.5, 0.9, 0.1])
    assert to_target(results(tmp_path), 1.0, "test_loss")["rounds"].tolist() == [3]


def test_ways_to_a_target_are_summed_up_over_the_runs_that_reached_it(tmp_path: Path) -> None:
    for seed, values in enumerate([[0.1, 0.5], [0.1, 0.1, 0.1, 0.5], [0.1]]):
        add_run(tmp_path, values, seed=seed, seconds=3.0)
    add_run(tmp_path, [], algorithm="fedprox", mu=0.1, settings={"rounds": 7})
    ways = [f"{way}_{what}" for way in ("rounds", "seconds", "bytes") for what in ("mean", "std")]
    root_2 = math.sqrt(2)
    reached = [3.0, root_2, 9.0, 3 * root_2, 45.0, 15 * root_2]
    # "rounds" is also the name of a setting: the rounds that were asked for.
    by = ["algorithm.mu", "algorithm"]
    rows = [[0.1, "fedprox", 1, 0, *[None] * 6], [None, "fedavg", 3, 2, *reached]]
    assert_table(to_target_by(results(tmp_path), 0.5, by), [*by, "runs", "reached", *ways], rows)
    assert_table(to_target_by(results(tmp_path), 0.5), ["runs", "reached", *ways], [[4, 2, *reached]])


# What varies


def test_what_varies_is_named_once_and_without_what_explains_itself(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1], settings={"blocks": 2, "data": {"root": "/a"}, "cluster": {"cpus": 2}})
    add_run(tmp_path, [0.1], seed=1, algorithm="fedprox", mu=0.1, settings={"blocks": 2, "output": {"name": "x"}})
    assert varied(results(tmp_path)) == ["algorithm", "algorithm.mu"]
    add_run(tmp_path, [0.1], lr=0.2, settings={"blocks": 16, "data": {"root": "/b"}})
    assert varied(results(tmp_path)) == ["algorithm", "lr", "algorithm.mu"]
    add_run(tmp_path, [0.1], lr=0.2, settings={"blocks": 8})
    assert varied(results(tmp_path)) == ["algorithm", "lr", "algorithm.mu", "blocks"]


def test_one_run_varies_in_nothing(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1], steps=None)
    assert varied(results(tmp_path)) == []


# The best configuration


BEST = ["algorithm", "lr", "chosen_by", "chosen", "complete", "runs", "mean", "std", "low", "high"]


def add_grid(root: Path, **common: Any) -> None:
    """0.1 is better on the test set (0.45 to 0.25), 0.2 on the validation split (0.6 to 0.55)."""
    for seed, (a, b) in enumerate([(0.5, 0.7), (0.6, 0.5)]):
        add_run(root, [0.4 + seed / 10], validation=[a], lr=0.1, seed=seed, **common)
        add_run(root, [0.2 + seed / 10], validation=[b], lr=0.2, seed=seed, **common)


def test_the_best_configuration_is_chosen_on_validation_and_reported_on_test(tmp_path: Path) -> None:
    add_grid(tmp_path)
    std, half = 0.1 / math.sqrt(2), T_1 * 0.05
    validated = ["fedavg", 0.2, "validation_accuracy", 0.6, True, 2, 0.25, std, 0.25 - half, 0.25 + half]
    assert_table(best(results(tmp_path), "algorithm"), BEST, [validated])
    tested = ["fedavg", 0.1, "test_accuracy", 0.45, True, 2, 0.45, std, 0.45 - half, 0.45 + half]
    assert_table(best(results(tmp_path), "algorithm", choose="test_accuracy"), BEST, [tested])
    assert_table(best(results(tmp_path)), BEST[1:], [validated[1:]])
    rows = best(results(tmp_path), ["algorithm.lr"])  # a setting by its other name, so that nothing is left open
    assert rows[["algorithm.lr", "chosen", "mean"]].to_numpy().tolist() == [
        [0.1, pytest.approx(0.55), pytest.approx(0.45)],
        [0.2, pytest.approx(0.6), pytest.approx(0.25)],
    ]
    assert "lr" not in rows


def test_without_a_validation_split_the_choice_says_that_it_was_on_test(tmp_path: Path) -> None:
    add_grid(tmp_path)
    add_run(tmp_path, [0.3], algorithm="fedprox", lr=0.1)
    add_run(tmp_path, [0.7], algorithm="fedprox", lr=0.2)
    found = best(results(tmp_path), "algorithm")
    assert found["chosen_by"].tolist() == ["validation_accuracy", "test_accuracy"]
    assert found["lr"].tolist() == [0.2, 0.2]
    assert found["mean"].tolist() == [0.25, 0.7]
    assert found["std"].isna().tolist() == [False, True]


def test_the_best_round_is_chosen_by_validation_and_never_by_what_is_reported(tmp_path: Path) -> None:
    add_run(tmp_path, [0.8, 0.1, 0.7, 0.9], validation=[0.2, 0.6, 0.6, None])
    found = best(results(tmp_path), at="best")
    assert (found["chosen"].item(), found["mean"].item()) == (0.6, 0.1)
    final = best(results(tmp_path))
    assert (final["chosen"].item(), final["mean"].item()) == (0.6, 0.7)


def test_a_loss_is_best_where_it_is_least(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1, 0.2], loss=[0.5, 0.9], lr=0.1)
    add_run(tmp_path, [0.3, 0.4], loss=[0.7, 0.7], lr=0.2)
    assert best(results(tmp_path), choose="test_loss")["mean"].tolist() == [0.4]
    assert best(results(tmp_path), choose="test_loss", at="best")["mean"].tolist() == [0.1]


@pytest.mark.parametrize("flaw", ["diverged", "failed", "halved", "interrupted", "running", "not a number"])
def test_a_flawed_run_takes_its_configuration_out_while_there_is_another(tmp_path: Path, flaw: str) -> None:
    add_run(tmp_path, [0.9], lr=0.1)
    last = math.nan if flaw == "not a number" else 0.9
    status = {"not a number": "finished", "running": None}.get(flaw, flaw)
    add_run(tmp_path, [last], lr=0.1, seed=1, status=status)
    add_run(tmp_path, [0.3], lr=0.2)
    found = best(results(tmp_path))
    assert found[["lr", "complete", "runs", "mean"]].to_numpy().tolist() == [[0.2, True, 1, 0.3]]
    (tmp_path / "name" / "runs" / "run02.parquet").unlink()
    found = best(results(tmp_path))  # what is left has one value of lr
    assert found[["complete", "runs", "mean"]].to_numpy().tolist() == [[False, 2 - math.isnan(last), 0.9]]


def test_a_group_without_a_value_has_a_row_of_nulls(tmp_path: Path) -> None:
    add_run(tmp_path, [0.3], lr=0.1)
    add_run(tmp_path, [None], lr=0.2, algorithm="fedper")
    add_run(tmp_path, [], lr=0.3, algorithm="local", status="failed")
    found = best(results(tmp_path), "algorithm").set_index("algorithm")
    assert found.loc[["fedper", "local"], ["lr", "chosen", "mean"]].isna().all(axis=None)
    assert found["complete"].to_dict() == {"fedavg": True, "fedper": False, "local": False}
    assert found["runs"].to_dict() == {"fedavg": 1, "fedper": 0, "local": 0}


# Comparison


def add_pairs(root: Path, pairs: Sequence[tuple[float, float]]) -> None:
    for seed, (a, b) in enumerate(pairs):
        add_run(root, [0.0, a], algorithm="fedprox", mu=0.1, seed=seed)
        add_run(root, [0.0, b], seed=seed)


PROX, AVG = {"algorithm": "fedprox"}, {"algorithm": "fedavg"}


def test_a_comparison_is_the_paired_t_test(tmp_path: Path) -> None:
    """Differences 0.1, 0.2, 0.3: mean 0.2, standard error 0.1 / sqrt(3)."""
    pairs = [(0.5, 0.4), (0.4, 0.2), (0.9, 0.6)]
    add_pairs(tmp_path, pairs)
    found = compare(results(tmp_path), PROX, AVG)
    half = T_2 * 0.1 / math.sqrt(3)
    assert (found.pairs, found.difference) == (3, pytest.approx(0.2))
    assert (found.low, found.high) == (pytest.approx(0.2 - half), pytest.approx(0.2 + half))
    assert (found.mean_a, found.mean_b) == (pytest.approx(0.6), pytest.approx(0.4))
    reference = stats.ttest_rel(*zip(*pairs, strict=True))
    assert found.p_value == pytest.approx(reference.pvalue, rel=1e-12)
    wide = compare(results(tmp_path), PROX, AVG, confidence=0.99)
    assert (wide.low, wide.high) == pytest.approx(tuple(reference.confidence_interval(0.99)))
    turned = compare(results(tmp_path), AVG, PROX)
    assert (turned.difference, turned.p_value) == (pytest.approx(-0.2), pytest.approx(found.p_value))


def test_seeds_without_a_partner_are_named_and_do_not_count(tmp_path: Path) -> None:
    add_pairs(tmp_path, [(0.5, 0.4), (0.4, 0.2)])
    add_run(tmp_path, [0.9], seed=7)
    add_run(tmp_path, [0.9], seed=5, algorithm="fedprox", mu=0.1)
    add_run(tmp_path, [0.9], seed=5, status="halved")
    add_run(tmp_path, [None], seed=4, algorithm="fedprox", mu=0.1)
    found = compare(results(tmp_path), PROX, AVG)
    assert (found.pairs, found.difference) == (2, pytest.approx(0.15))
    assert (found.only_a, found.only_b) == ((4, 5), (5, 7))


def test_one_pair_has_no_interval_and_equal_pairs_no_doubt(tmp_path: Path) -> None:
    add_pairs(tmp_path / "one", [(0.5, 0.4)])
    found = compare(results(tmp_path / "one"), PROX, AVG)
    assert (found.pairs, found.difference) == (1, pytest.approx(0.1))
    assert np.isnan([found.low, found.high, found.p_value]).all()
    add_pairs(tmp_path / "same", [(0.5, 0.5), (0.25, 0.25)])
    found = compare(results(tmp_path / "same"), PROX, AVG)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    add_pairs(tmp_path / "shifted", [(0.75, 0.5), (0.5, 0.25)])
    found = compare(results(tmp_path / "shifted"), PROX, AVG)
    assert (found.difference, found.low, found.high, found.p_value) == (0.25, 0.25, 0.25, 0)


def test_pairs_share_all_that_is_not_named(tmp_path: Path) -> None:
    """Twice 0.1 better at lr 0.1 and at lr 0.2; blocks, which fedray decides, and mu, of FedProx alone, part nothing."""
    for lr in (0.1, 0.2):
        for seed in (0, 1):
            add_run(tmp_path, [lr + seed], lr=lr, seed=seed, settings={"blocks": 2})
            add_run(tmp_path, [lr + seed + lr], lr=lr, seed=seed, settings={"blocks": 16}, algorithm="fedprox", mu=0.1)
    found = compare(results(tmp_path), PROX, AVG)
    assert (found.pairs, found.difference) == (4, pytest.approx(0.15))
    across = compare(results(tmp_path), PROX | {"lr": 0.2}, AVG | {"algorithm.lr": 0.1})
    assert (across.pairs, across.difference) == (2, pytest.approx(0.3))


def test_the_best_rounds_are_compared_as_validation_chooses_them(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1, 0.9], validation=[0.5, 0.4])
    add_run(tmp_path, [0.6, 0.2], validation=[0.5, 0.4], algorithm="fedprox")
    assert compare(results(tmp_path), PROX, AVG, at="best").difference == pytest.approx(0.5)
    assert compare(results(tmp_path), PROX, AVG).difference == pytest.approx(-0.7)


def test_null_settings_can_be_asked_for(tmp_path: Path) -> None:
    add_pairs(tmp_path, [(0.5, 0.4)])
    assert compare(results(tmp_path), {"algorithm.mu": 0.1}, AVG | {"algorithm.mu": None}).pairs == 1


def test_a_comparison_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    add_pairs(tmp_path, [(0.5, 0.4), (0.4, 0.2)])
    add_run(tmp_path, [0.5], algorithm="fedprox", mu=1.0)
    add_run(tmp_path, [0.5], algorithm="scaffold", lr=0.7)
    found = results(tmp_path)
    for a, b, sentence in (
        (PROX, AVG, "^2 runs of seed 0 fit a, which differ in algorithm.mu: name it in a$"),
        (AVG, PROX, "^2 runs of seed 0 fit b, which differ in algorithm.mu: name it in b$"),
        (PROX | {"algorithm.mu": 0.3}, AVG, r"otherwise fits a has algorithm\.mu = 0\.3; there is 0\.1, 1\.0$"),
        (PROX, {"algorithm": "fedpro"}, "fits b has algorithm = 'fedpro'; there is fedavg, fedprox, scaffold$"),
        (PROX, {"algorithm.mu": 0.1}, "^run run00 fits both a and b$"),
        ({"algoritm": "fedavg"}, AVG, "^there is no setting 'algoritm'; the nearest is 'algorithm'$"),
        (AVG, {"algorithm": "scaffold"}, "has a partner in b, one with the same seed and lr$"),
    ):
        with pytest.raises(BadInputError, match=sentence):
            compare(found, a, b)
    again = add_run(tmp_path, [0.5])
    with pytest.raises(BadInputError, match="2 runs of seed 0 fit a, with equal settings"):
        compare(results(tmp_path), AVG, {"algorithm": "scaffold"})
    assert again == "run06"


def holm_as_defined(p_values: Sequence[float]) -> list[float]:
    """The smallest level at which Holm's procedure rejects each: from the smallest p on, while p <= level / (those left)."""

    def rejected(level: float) -> list[int]:
        found = []
        for left, place in zip(range(len(p_values), 0, -1), np.argsort(p_values, kind="stable"), strict=True):
            if p_values[place] * left > level:
                break
            found.append(int(place))
        return found

    levels = sorted({p * left for p in p_values for left in range(1, len(p_values) + 1)})
    return [
        next((level for level in levels if place in rejected(level) and level <= 1), 1.0)
        for place in range(len(p_values))
    ]


def test_holm_is_the_procedure_of_his_paper() -> None:
    """By hand: 0.01 x 4; 0.015 x 3 = 0.045; 0.02 x 2 = 0.04, which is not below the one before; 0.8 x 1."""
    assert holm([0.015, 0.8, 0.01, 0.02]) == pytest.approx([0.045, 0.8, 0.04, 0.045])
    assert holm([0.5, 0.6]) == [1.0, 1.0] and holm([0.03]) == [0.03] and holm([]) == []
    assert holm([0.02, 0.02]) == [0.04, 0.04]
    assert holm([0.02, math.nan, 0.03])[::2] == [0.04, 0.04] and math.isnan(holm([0.02, math.nan])[1])
    rng = np.random.default_rng(7)
    for size in (2, 3, 5, 8):
        p_values = (rng.random(size) ** 3).tolist()
        assert holm(p_values) == pytest.approx(holm_as_defined(p_values))


def test_several_comparisons_are_each_the_one_and_corrected_for_their_number(tmp_path: Path) -> None:
    finals = {
        "fedavg": (0.5, 0.4, 0.9),
        "fedprox": (0.4, 0.2, 0.6),
        "scaffold": (0.1, 0.35, 0.2),
        "local": (0.5, 0.3, 0.9),
    }
    for name, values in finals.items():
        for seed, value in enumerate(values):
            add_run(tmp_path, [value], algorithm=name, seed=seed)
    loaded = results(tmp_path)
    others = [{"algorithm": name} for name in ("scaffold", "fedprox", "local")]
    found = compare(loaded, AVG, others)
    alone = [compare(loaded, AVG, other) for other in others]
    assert [replace(each, p_adjusted=each.p_value) for each in found] == alone
    tests = [stats.ttest_rel(finals["fedavg"], finals[other["algorithm"]]).pvalue for other in others]
    assert [each.p_adjusted for each in found] == pytest.approx(holm_as_defined(tests))
    assert sorted(tests)[0] * 3 == pytest.approx(min(each.p_adjusted for each in found))
    assert compare(loaded, AVG, others[:1])[0] == alone[0]
    with pytest.raises(BadInputError, match="^the list of settings to compare with is empty"):
        compare(loaded, AVG, [])


# Several results together


BOTH = ["a/name", "b/name"]


def test_results_loaded_together_are_what_one_folder_would_have(tmp_path: Path) -> None:
    for number, (folder, lr) in enumerate((("a", 0.1), ("b", 0.2), ("a", 0.3))):
        for root in (tmp_path / folder, tmp_path / "all"):
            add_run(root, [0.1, lr], lr=lr, run=f"run{number}", mu=0.1)
    together, whole = load(BOTH, tmp_path), load("name", tmp_path / "all")
    assert together.runs["folder"].tolist() == ["a/name", "b/name", "a/name"]
    assert "folder" not in whole.runs and load(["name"], tmp_path / "all").runs["folder"].tolist() == ["name"] * 3
    times = ["started_at", "finished_at"]
    for table, frame in vars(together).items():
        one, other = (each.drop(columns=["folder", *times], errors="ignore") for each in (frame, vars(whole)[table]))
        pd.testing.assert_frame_equal(one, other)
    assert varied(together) == ["lr"]
    for names, sentence in (([], "is empty"), (["a/name", "c"], "there are no results 'c'"), ([""], "no results ''")):
        with pytest.raises(BadInputError, match=sentence):
            load(names, tmp_path)


def test_the_folder_tells_apart_what_has_the_same_settings_and_seed(tmp_path: Path) -> None:
    """As where the data or a function of the user's own differ. Further seeds in a folder of their own are just seeds."""
    for folder, seed in (("a", 0), ("a", 1), ("b", 2), ("c", 1)):
        add_run(tmp_path / folder, [0.1 + seed], seed=seed, run=f"{folder}{seed}")
    assert varied(load(BOTH, tmp_path)) == []
    twice = load(["a/name", "c/name"], tmp_path)
    assert varied(twice) == ["folder"]
    assert compare(twice, {"folder": "a/name"}, {"folder": "c/name"}).pairs == 1


def test_a_run_in_two_folders_counts_once_from_the_first_where_it_ended(tmp_path: Path) -> None:
    for folder, status, value in (("a", "failed", 0.1), ("b", "finished", 0.2), ("c", "finished", 0.3)):
        add_run(tmp_path / folder, [value], run="same", status=status)
        add_run(tmp_path / folder, [value], run=f"own{folder}", seed=ord(folder), status=status)

    def taken(*folders: str) -> tuple[str, list[float]]:
        with pytest.warns(RepeatedRunsWarning, match=r"has 1 of the runs that ./name has, which counts once") as caught:
            found = load([f"{folder}/name" for folder in folders], tmp_path)
        assert {warning.filename for warning in caught} == {__file__}
        assert len(found.runs) == len(folders) + 1
        rounds = found.rounds[found.rounds["run"] == "same"]
        return found.runs.set_index("run")["folder"]["same"], rounds["test_accuracy"].tolist()

    assert taken("a", "b") == ("b/name", [0.2])
    assert taken("b", "a") == ("b/name", [0.2])
    assert taken("c", "b") == ("c/name", [0.3])
    assert taken("a", "c", "b") == ("c/name", [0.3])


def test_what_there_is_not_is_answered_with_the_nearest(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1])
    found = results(tmp_path)
    for call, sentence in (
        (lambda: curves(found, by="algorithm.l"), "no setting 'algorithm.l'; the nearest is 'algorithm.lr'"),
        (lambda: curves(found, by="seconds"), "no setting 'seconds'"),
        (lambda: curves(found, value="accuracy"), "no column of numbers in rounds 'accuracy'; .* 'test_accuracy'"),
        (lambda: curves(found, value="finished_at"), "no column of numbers in rounds 'finished_at'"),
        (lambda: curves(found, over="time"), "over = 'time' is not one of round, seconds, bytes"),
        (lambda: curves(found, confidence=95), "confidence = 95 must be between 0 and 1"),
        (lambda: to_target(found, 0.5, "test_acuracy"), "'test_accuracy'"),
        (lambda: to_target_by(found, 0.5, ["algorithm", "modle"]), "no setting 'modle'; the nearest is 'model'"),
        (lambda: best(found, "algoritm"), "'algorithm'"),
        (lambda: best(found, choose="validation_acuracy"), "'validation_accuracy'"),
        (lambda: best(found, at="last"), "at = 'last' is not one of final, best"),
        (lambda: compare(found, {}, {}, at="last"), "at = 'last' is not one of final, best"),
    ):
        with pytest.raises(BadInputError, match=sentence):
            call()


def test_the_examples_of_the_page_give_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("duckdb")
    pytest.importorskip("polars")
    for seed in range(2):
        for lr in (0.03, 0.1):
            add_run(tmp_path, [lr, 0.1 + seed / 10 + lr], lr=lr, seed=seed)
    (tmp_path / "results").mkdir()
    (tmp_path / "name").rename(tmp_path / "results" / "lr")
    shutil.copytree(tmp_path / "results" / "lr", tmp_path / "results" / "quickstart")
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text()
    blocks = [
        code
        for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        if not re.search("load_file|simulate", code)
    ]
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    for block in blocks:
        exec(block, known)
    assert known["final"].to_numpy() == pytest.approx([0.13, 0.23, 0.2, 0.3])
    assert known["classes"]["recall"].tolist() == [1.0] * 4
    assert known["results"].runs["lr"].tolist() == [0.03, 0.1, 0.03, 0.1]
