"""What is said of the server's model at the end of a run, and where it is said from."""

import io

from rich.console import Console
from small_runs import small
from unlearning import experiment

from fedray.cli.console import ConsoleWatch
from fedray.run import run
from fedray.run.prepared import Job


def said(e):
    """The lines after the rounds, by their labels."""
    out = io.StringIO()
    tables = run(e, ConsoleWatch(Console(file=out, highlight=False, soft_wrap=True)))
    lines = out.getvalue().split("\n\n", 1)[1].splitlines()
    return {line[:10].rstrip(): line[10:] for line in lines}, tables


def test_the_best_round_the_classes_and_the_k_best_labels(tmp_path):
    e = experiment(tmp_path, save_best=False, evaluation__top_k=3)
    lines, tables = said(e)
    assert list(lines) == ["status", "data", "accuracy", "loss", "top 3", "classes", "best", "time", "results", "model"]
    rounds, final = tables.rounds, tables.confusion[tables.confusion["which"] == "final"]
    last, best = rounds.iloc[-1], rounds.iloc[rounds["test_accuracy"].argmax()]
    assert lines["accuracy"] == f"{last['test_accuracy']:.4f}"
    assert lines["top 3"] == f"{last['test_top_k_accuracy']:.4f}"
    assert lines["best"] == f"{best['test_accuracy']:.4f} in round {best['round']}, chosen on the test set"
    right = final[final["label"] == final["predicted"]].set_index("label")["count"]
    recall = (right / final.groupby("label")["count"].sum()).fillna(0.0)
    names = dict(enumerate(Job(e).dataset.classes))
    low, high = recall.idxmin(), recall[::-1].idxmax()
    assert lines["classes"] == (
        f"{names[low]} {recall[low]:.4f} (the weakest) to {names[high]} {recall[high]:.4f} (the strongest)"
    )


def test_the_best_is_told_as_it_was_chosen_and_only_where_it_is_another_round(tmp_path):
    lines, tables = said(experiment(tmp_path / "a", save_best=False, data__validation_examples=3))
    best = tables.rounds.iloc[tables.rounds["validation_accuracy"].argmax()]
    assert lines["best"] == f"{best['test_accuracy']:.4f} in round {best['round']}, chosen on the validation split"
    lines, _ = said(small(tmp_path / "b", rounds=1))
    assert "best" not in lines and "top 5" not in lines
    lines, _ = said(small(tmp_path / "c", rounds=1, algorithm__name="local"))
    assert not lines.keys() & {"accuracy", "loss", "classes", "best"}


def test_where_the_best_model_lies_is_said(tmp_path):
    e = experiment(tmp_path)
    lines, _ = said(e)
    assert lines["model"] == f"{Job(e).best_model}, the best round's"


def test_a_draw_by_size_is_said(tmp_path):
    out = io.StringIO()
    run(small(tmp_path, rounds=1, sampling="size"), ConsoleWatch(Console(file=out, soft_wrap=True)))
    assert "3 take part in a round, drawn by size\n" in out.getvalue()
