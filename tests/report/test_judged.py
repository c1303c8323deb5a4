"""Results of runs that another measure than accuracy judges: their report, their table, their best, their list."""

import io

import pytest
from rich.console import Console
from small_runs import small

from fedray import results
from fedray.core.errors import BadInputError
from fedray.inventory.__main__ import main as inventory
from fedray.report.__main__ import main as report
from fedray.report.answer import columns, lead, tiles
from fedray.report.curve_figures import curve_sections
from fedray.report.facts import order_of, runs_table
from fedray.report.grid_figures import setting_section
from fedray.report.study import make_study
from fedray.results import best, compare, curves, load, to_target
from fedray.results.analysis import reported
from fedray.run import run
from fedray.sweep.summary import fitting_target, summary

LRS = (0.0005, 0.005, 0.05)
CHANGES = {"rounds": 3, "data__validation_examples": 40, "data__train_examples": 400}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three rates, judged by the loss."""
    root = tmp_path_factory.mktemp("judged")
    for lr in LRS:
        for seed in (0, 1):
            run(small(root, algorithm__lr=lr, seed=seed, evaluation__judged_by="loss", **CHANGES))
    return root


@pytest.fixture(scope="module")
def found(root):
    return load("small", root)


def of(found, column):
    return found.runs.groupby("lr")[column].mean()


def test_what_is_looked_at_by_default_is_what_judges(found):
    assert reported(found) == "test_loss"
    assert curves(found, by="lr").equals(curves(found, by="lr", value="test_loss"))
    means = of(found, "final_validation_loss")
    (row,) = best(found).to_dict("records")
    assert (row["lr"], row["chosen_by"]) == (means.idxmin(), "validation_loss")
    assert row["mean"] == pytest.approx(of(found, "final_test_loss")[means.idxmin()])
    compared = compare(found, {"lr": LRS[0]}, {"lr": LRS[1]})
    assert compared.value == "test_loss"
    assert compared.difference == pytest.approx(
        of(found, "final_test_loss")[LRS[0]] - of(found, "final_test_loss")[LRS[1]]
    )
    goal = found.rounds["test_loss"].median()
    reached = to_target(found, goal)["rounds"].notna().sum()
    assert reached == (found.rounds.groupby("run")["test_loss"].min() <= goal).sum()


def test_the_report_goes_by_it(root, found, capsys):
    study = make_study("judged", found)
    means = of(found, "final_validation_loss")
    assert (study.measure, study.chosen_by) == ("test_loss", "validation_loss")
    assert [study.configurations["lr"].iloc[0], study.configurations["lr"].iloc[-1]] == [means.idxmin(), means.idxmax()]
    assert study.target == fitting_target(of(found, "best_test_loss").min(), "test_loss")
    headings = [(column.group, column.heading) for column in columns(study)]
    assert ("final", "validation loss") in headings
    assert ("best", "test loss") in headings
    assert ("final, %", "test accuracy") in headings
    first, *_ = tiles(study)
    assert first.heading == "best final test loss"
    assert "%" not in first.number
    assert order_of(study).startswith("Best first, by final validation loss.")
    assert "ahead of" in lead(study) or "level with" in lead(study) or "behind" in lead(study)
    assert "points" not in lead(study)
    shown = [figure.title for section in curve_sections(study) for figure in section.figures]
    assert shown[0] == "Test loss by round"
    assert "Test F1 by round" not in shown
    assert runs_table(study)[0]["accuracy"].count(".") == 1
    (section,) = setting_section(study)
    assert section.figures[0].title == "Final test loss by lr"
    assert report([str(root / "small"), "--target", "2.5"]) == 0
    page = (root / "small" / "report.html").read_text()
    assert "to 2.5 test loss" in page
    assert ">final, %</th>" not in page.split("<h2>Runs</h2>")[1]


def test_the_table_of_a_sweep_and_the_list_of_runs_have_it(root, found, capsys):
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(summary(found, found.runs["run"].tolist(), ["algorithm.lr"]))
    heading = " ".join(console.export_text().splitlines()[0].split())
    goal = fitting_target(of(found, "best_test_loss").min(), "test_loss")
    assert heading.startswith(
        "algorithm.lr runs validation loss final loss best loss validation accuracy final accuracy"
    )
    assert f"rounds to {goal:g} " in heading
    assert inventory(["list", str(root / "small")]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert f"loss {found.runs['final_validation_loss'].iloc[0]:.4g}" in line


def test_a_target_has_two_digits_and_is_on_the_safe_side():
    assert fitting_target(1.234, "test_rmse") == 1.4  # 1.3574, rounded up
    assert fitting_target(0.0333, "test_loss") == 0.037
    assert fitting_target(250.0, "test_own_metric") == 220
    assert fitting_target(-3.0, "test_own_metric") is None
    assert fitting_target(0.6, "test_f1") == 0.54


def test_a_fraction_above_1_is_refused_where_accuracy_judges(tmp_path):
    run(small(tmp_path, rounds=1))
    with pytest.raises(BadInputError, match="--target 50 must be a number above 0 and at most 1"):
        report([str(tmp_path / "small"), "--target", "50"])


def test_of_runs_judged_by_different_measures_it_is_accuracy(tmp_path, root):
    run(small(tmp_path, rounds=1, evaluation__judged_by="f1"))
    run(small(tmp_path, rounds=1, evaluation__judged_by="loss"))
    both = results.load("small", tmp_path)
    assert reported(both) == "test_accuracy"
    assert make_study("both", both).measure == "test_accuracy"
