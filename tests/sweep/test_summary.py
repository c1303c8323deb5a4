"""The table at the end of a sweep, from a few rounds written with the real recorder."""

import io
import json

import pytest
from rich.console import Console

from fedray import results
from fedray.experiment.composition import compose
from fedray.results.recorder import Recorder
from fedray.results.schema import GROUPING
from fedray.sweep.summary import fitting_target, summary

WIDTH = 200


def record(root, lr, seed, accuracies, status="finished", why=None, begin=None, **columns):
    experiment = compose({"seed": seed, "algorithm": {"lr": lr}})
    run = f"run-{lr}-{seed}"
    grouping = dict.fromkeys(GROUPING) | {"algorithm": "fedavg", "lr": lr, "seed": seed}
    recorder = Recorder(root, "sweep", run, grouping, {"settings": json.dumps(experiment.settings())})
    recorder.start([], [])
    for t, accuracy in enumerate(accuracies, start=1):
        row = {"round": t, "test_accuracy": accuracy, "seconds": 0.5, "bytes_down": 1, "bytes_up": 1, **columns}
        recorder.round(row | {"finished_at": begin and begin + 500 * t}, [])
    recorder.finish(status, why)
    return run


def shown(table):
    console = Console(width=WIDTH, record=True, file=io.StringIO())
    console.print(table)
    return [line.split() for line in console.export_text().splitlines()]


@pytest.fixture
def runs(tmp_path):
    ids = [
        record(tmp_path, 0.1, 0, [0.2, 0.4, 0.6]),
        record(tmp_path, 0.1, 1, [0.3, 0.6, 0.5]),
        record(tmp_path, 0.2, 0, [0.1, 0.1, 0.4]),
        record(tmp_path, 0.2, 1, [0.5, None, None], "diverged"),
        record(tmp_path, 0.3, 0, [], "failed"),
    ]
    record(tmp_path, 0.4, 0, [0.99])  # of another sweep in the same folder
    return results.load("sweep", tmp_path), ids


def test_means_are_over_the_seeds_that_came_to_a_good_end(runs):
    """The best mean of the best accuracies is 0.6, so the target is 54 %."""
    heading, *rows = shown(summary(*runs, ["algorithm.lr"]))
    assert " ".join(heading) == (
        "algorithm.lr runs final accuracy best accuracy rounds to 54 % seconds to 54 % rounds seconds"
    )
    assert rows == [
        ["0.1", "2", "0.5500", "±", "0.0707", "0.6000", "±", "0.0000", "2.5", "1.25", "3", "1.5"],
        ["0.2", "1", "of", "2", "0.4000", "0.4000", "never", "never", "3", "1.5", "1", "diverged"],
        ["0.3", "0", "of", "1", "1", "failed"],
    ]


def test_a_target_that_some_seeds_miss_says_how_many_reached_it(runs):
    _, first, *_ = shown(summary(*runs, ["algorithm.lr"], target=0.6))
    assert first[8:] == ["2.5", "1.25", "3", "1.5"]
    _, first, *_ = shown(summary(*runs, [], target=0.55))
    assert first == [
        "3",
        "of",
        "5",
        "0.5000",
        "±",
        "0.1000",
        "0.5333",
        "±",
        "0.1155",
        "2.5",
        "(2",
        "of",
        "3)",
        "1.25",
        "(2",
        "of",
        "3)",
        "3",
        "1.5",
        "1",
        "diverged,",
        "1",
        "failed",
    ]


def test_runs_are_in_the_order_of_the_sweep(runs):
    tables, ids = runs
    assert [row[0] for row in shown(summary(tables, ids[::-1], ["algorithm.lr"]))[1:]] == ["0.3", "0.2", "0.1"]


def test_the_target_that_suits_is_nine_tenths_of_the_best_in_whole_percent():
    assert fitting_target(0.6) == 0.54
    assert fitting_target(0.555) == 0.49
    assert fitting_target(0.01) is None
    assert fitting_target(float("nan")) is None


def test_reasons_of_failures_stand_beside_the_word_and_wrap_before_a_number_does(tmp_path):
    whys = ["an [odd] reason", "an [odd] reason", "another\nin two lines", "", None]
    runs = [record(tmp_path, 0.1, seed, [0.5], "failed", why) for seed, why in enumerate(whys)]
    runs += [
        record(tmp_path, 0.2, 0, [0.123456], "diverged", "an update is not finite"),
        record(tmp_path, 0.3, 0, [0.5]),
    ]
    table = summary(results.load("sweep", tmp_path), runs, ["algorithm.lr"])
    rows = shown(table)
    assert " ".join(rows[1]).endswith(" 5 failed: an [odd] reason (and 1 more)")
    assert rows[2][-2:] == ["1", "diverged"]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    narrow = console.export_text().splitlines()
    assert len(narrow) > len(rows)
    assert any("0.5000" in line and line.startswith("0.3 ") for line in narrow)


NOON = 1_795_800_000_000


@pytest.mark.parametrize(
    ("apart", "columns", "clock", "spent"),
    [
        (1500, {"cpu_seconds": 0.1}, "seconds", "1.5"),
        (1000, {"cpu_seconds": 0.1}, "CPU seconds", "0.3"),
        (1000, {}, "seconds", "1.5"),
    ],
    ids=["one after another", "together", "together, of an earlier version"],
)
def test_of_runs_in_flight_together_the_seconds_are_the_cpus(tmp_path, apart, columns, clock, spent):
    """Each takes 1.5 s. Where the second begins 1 s after the first, they share the cores for half a second."""
    ids = [
        record(tmp_path, 0.1, seed, [0.2, 0.4, 0.6], begin=NOON + seed * apart, **columns | {"seconds_evaluate": 0.0})
        for seed in (0, 1)
    ]
    record(tmp_path, 0.1, 2, [0.2, 0.4, 0.6], begin=NOON + 200)  # of another sweep in the same folder
    heading, row = shown(summary(results.load("sweep", tmp_path), ids, ["algorithm.lr"]))
    said = " ".join(heading)
    assert said.endswith(f"rounds to 54 % {clock} to 54 % rounds {clock}")
    assert row[-1] == spent
