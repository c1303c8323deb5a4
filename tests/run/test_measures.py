"""F1, AUC and a metric of one's own in a run: their columns, which of them judges, and what is refused."""

import dataclasses
import json
import textwrap

import numpy as np
import pytest
from small_runs import assert_same_tables, small
from unlearning import Unlearning

from fedray.core.errors import BadInputError, ClientError
from fedray.core.kinds import Kind
from fedray.core.metrics import auc_of, f1_of
from fedray.results import load
from fedray.results.schema import judging_column
from fedray.run import run
from fedray.run.checks import check_split
from fedray.run.prepared import Job
from fedray.run.stopping import best_round, judged_by, outcome
from fedray.training.in_process import InProcessPopulation

OWN = """
import numpy as np

def hits(scores, labels):
    assert scores.dtype == np.float32 and labels.dtype == np.int64
    scores[:] = 0.0 * scores if BREAKS else scores
    return int((scores.argmax(1) == labels).sum())
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        return f"{name}:hits"

    return write


def test_what_costs_nothing_is_always_there_and_scores_are_where_they_are_asked_for(tmp_path):
    plain = run(small(tmp_path / "plain", rounds=2, data__validation_examples=40))
    job = Job(small(tmp_path / "auc", rounds=2, data__validation_examples=40, evaluation__metrics="auc"))
    more = run(job.experiment)
    assert job.run != plain.runs["run"][0]
    assert plain.runs["model_fingerprint"][0] == more.runs["model_fingerprint"][0]
    for split in ("test", "validation"):
        assert plain.rounds[f"{split}_f1"].tolist() == more.rounds[f"{split}_f1"].tolist()
        assert plain.rounds[f"{split}_auc"].isna().all()
        assert more.rounds[f"{split}_auc"].between(0.5, 1).all()
        counts = more.confusion[(more.confusion["which"] == "final") & (more.confusion["split"] == split)]
        matrix = np.zeros((10, 10), int)
        np.add.at(matrix, (counts["label"], counts["predicted"]), counts["count"])
        assert more.rounds[f"{split}_f1"].iloc[-1] == f1_of(matrix)
    last, row = more.rounds.iloc[-1], more.runs.iloc[0]
    for name in ("test_f1", "test_balanced_accuracy", "test_auc", "validation_auc", "validation_loss"):
        assert row[f"final_{name}"] == last[name]
    assert more.rounds[["test_mae", "test_rmse", "test_own_metric"]].isna().all(axis=None)
    assert row["best_test_auc"] == more.rounds["test_auc"][row["best_round"] - 1]


def test_the_scores_of_a_population_are_the_models_outputs(tmp_path):
    job = Job(small(tmp_path, data__test_examples=230))
    population = InProcessPopulation(job.dataset, job.shards, job.recipe, 2)
    params, buffers = job.vectors
    found = population.evaluate({"params": params, "buffers": buffers}, scores=True)
    assert population.evaluate({"params": params, "buffers": buffers}).scores is None
    assert (found.scores.shape, found.scores.dtype) == ((230, 10), np.float32)
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, (job.dataset.test_labels, found.scores.argmax(1)), 1)
    assert matrix.tolist() == found.confusion.tolist()
    assert found.metric("auc") == auc_of(found.scores, job.dataset.test_labels, "classes")


def test_a_metric_of_ones_own_is_in_both_tables_and_judges(tmp_path, module):
    own = module("my_hits", OWN.replace("BREAKS", "True"))
    changes = {"data__validation_examples": 40, "evaluation__own_metric": own}
    job = Job(small(tmp_path / "a", evaluation__judged_by="own_metric", evaluation__target=1, **changes))
    tables = run(job.experiment)
    row = tables.runs.iloc[0]
    assert (row["judged_by"], row["status"], row["rounds_done"]) == ("validation_own_metric", "reached_target", 1)
    assert set(tables.metrics["name"]) == {"test_hits", "validation_hits"}
    found = dict(zip(tables.metrics["name"], tables.metrics["value"], strict=True))
    assert found["test_hits"] == tables.rounds["test_own_metric"][0]
    # The function writes to what it is given, zeros: it was given a copy, of which the first class is the highest.
    assert found["validation_hits"] == (job.dataset.validation_labels == 0).sum()
    assert json.loads(row["own_code"]).keys() == {"evaluation.own_metric"}


def test_the_content_of_a_metric_is_in_the_id_of_the_run(tmp_path, module):
    own = module("my_edited_hits", OWN.replace("BREAKS", "False"))
    changes = {"evaluation__own_metric": own, "rounds": 1}
    first = Job(small(tmp_path, **changes)).run
    tables = run(small(tmp_path, **changes))
    assert tables.metrics["value"][0] == round(120 * tables.rounds["test_accuracy"][0])
    module("my_edited_hits", OWN.replace("BREAKS", "False") + "# edited\n")
    assert Job(small(tmp_path, **changes)).run != first


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def other(scores, labels): return 1", "my_bad_0 has no function hits"),
        ("def hits(scores, labels): return 1 / 0", "fails: ZeroDivisionError: division by zero, in my_bad_1.py line 1"),
        ("def hits(scores, labels): return float('nan')", "returned nan, which is not a finite number"),
        ("def hits(scores, labels): return 'good'", "returned good, which is not a finite number"),
        ("def hits(scores, labels): return True", "returned True, which is not a finite number"),
        ("import nonesuch", "my_bad_5 cannot be imported (ModuleNotFoundError: No module named 'nonesuch'"),
    ],
)
def test_a_metric_that_fails_is_refused_before_anything_is_on_disk(tmp_path, module, text, said, request):
    number = request.node.callspec.indices["text"]
    with pytest.raises(BadInputError) as error:
        run(small(tmp_path / "results", evaluation__own_metric=module(f"my_bad_{number}", text)))
    assert said in str(error.value)
    assert str(error.value).startswith("evaluation.own_metric = my_bad_")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results").exists()


def test_a_metric_that_fails_later_ends_the_run_as_failed(tmp_path, module):
    text = "calls = []\ndef hits(scores, labels):\n    calls.append(1)\n    return 1 / (3 - len(calls))\n"
    with pytest.raises(ClientError, match=r"evaluation.own_metric = my_late:hits fails: ZeroDivisionError"):
        run(small(tmp_path, evaluation__own_metric=module("my_late", text)))
    assert load("small", tmp_path).runs["status"][0] == "failed"


def test_judged_by_the_loss_the_best_round_has_the_lowest(tmp_path):
    """The last rounds unlearn what was learned, so the best is not the last one."""
    changes = {"evaluation__judged_by": "loss", "output__save_best": True, "data__train_examples": 400}
    experiment = small(tmp_path, **changes)
    experiment = dataclasses.replace(experiment, algorithm=Unlearning(lr=0.1, batch_size=10))
    tables = run(experiment)
    losses, row = tables.rounds["test_loss"], tables.runs.iloc[0]
    assert row["judged_by"] == "test_loss"
    assert row["best_round"] == losses.idxmin() + 1 < 6
    assert row["best_test_loss"] == losses.min() < losses.iloc[-1] == row["final_test_loss"]
    kept = tables.confusion[tables.confusion["which"] == "best"]
    assert kept["round"].unique().tolist() == [row["best_round"]]
    patient = run(dataclasses.replace(experiment, evaluation=dataclasses.replace(experiment.evaluation, patience=1)))
    assert patient.runs["status"][0] == "no_improvement"
    assert patient.runs["rounds_done"][0] == losses.idxmin() + 2


def test_a_target_of_a_loss_is_reached_from_above(tmp_path):
    losses = run(small(tmp_path / "a", algorithm__lr=0.001)).rounds["test_loss"]
    target = losses.min() + 1e-9
    assert losses.idxmin() > 0
    changes = {"evaluation__judged_by": "loss", "evaluation__target": target, "algorithm__lr": 0.001}
    tables = run(small(tmp_path / "b", **changes))
    assert tables.runs[["status", "rounds_done"]].iloc[0].tolist() == ["reached_target", losses.idxmin() + 1]
    same = run(small(tmp_path / "c", evaluation__judged_by="f1", evaluation__target=2.0))
    assert same.runs["status"][0] == "finished"


def test_each_kind_of_target_has_its_judge():
    plain, held_out = small("x"), small("x", data__validation_examples=10)
    assert [judged_by(plain, kind) for kind in ("classes", "labels", "values")] == [
        *("test_accuracy", "test_f1", "test_rmse"),
    ]
    assert judged_by(held_out, "values") == "validation_rmse"
    personal = small("x", algorithm__name="fedper", model__name="mlp")
    assert [judged_by(personal, kind) for kind in ("classes", "labels", "values")] == [
        *("client_accuracy", "client_accuracy", "client_loss"),
    ]
    assert judged_by(small("x", evaluation__judged_by="mae"), "values") == "test_mae"


def test_the_best_and_the_end_of_rounds_go_by_the_direction_of_the_measure():
    rounds = [
        {"round": t, "test_rmse": rmse, "test_f1": f1, "answered": 1, "non_finite": 0, "cohort_size": 1}
        for t, rmse, f1 in ((1, 3.0, 0.1), (2, 1.0, 0.4), (3, None, None), (4, 2.0, 0.2), (5, float("nan"), 0.4))
    ]
    assert (best_round(rounds, "test_rmse"), best_round(rounds, "test_f1")) == (2, 2)
    e = small("x", evaluation__target=1.5, evaluation__judged_by="rmse")
    ends = [outcome(e.evaluation, rounds[:t], 9, "test_rmse", e.faults) for t in range(1, 6)]
    assert ends == [None, "reached_target", None, None, None]


def test_the_column_judged_by_names_a_column_of_rounds():
    assert [judging_column(each) for each in ("test", "validation", "client")] == [
        *("test_accuracy", "validation_accuracy", "client_accuracy"),
    ]
    assert judging_column("validation_rmse") == "validation_rmse"
    assert judging_column(None, [{"validation_accuracy": None, "test_accuracy": None, "client_accuracy": 0.5}]) == (
        "client_accuracy"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"metrics": "acu"},
            "evaluation.metrics = acu: 'acu' is none of f1, balanced_accuracy, auc, mae, rmse; did you",
        ),
        (
            {"metrics": "auc,mae"},
            "the targets of synthetic are classes, which have no mae; they have loss, accuracy, f1",
        ),
        ({"judged_by": "rmse"}, "are classes, which have no rmse"),
        ({"judged_by": "own_metric"}, "evaluation.judged_by = own_metric needs evaluation.own_metric"),
        ({"own_metric": "nothing"}, "evaluation.own_metric = nothing is not package.module:function"),
        ({"target": 0.5, "target_accuracy": 0.5}, "are two ends of a run; set one of them"),
        ({"target_accuracy": 0.5, "judged_by": "f1"}, "evaluation.target_accuracy is an accuracy"),
    ],
)
def test_measures_that_cannot_be_are_refused_in_one_sentence(tmp_path, changes, said):
    with pytest.raises(BadInputError) as error:
        check_split(
            Job(small(tmp_path / "results", **{f"evaluation__{name}": value for name, value in changes.items()}))
        )
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("changes", [{"metrics": "auc"}, {"judged_by": "f1"}, {"own_metric": "a:b"}])
def test_what_the_servers_model_alone_has_is_refused_where_there_is_none(changes):
    with pytest.raises(BadInputError, match="is for the server's model, and fedper has none to evaluate"):
        small("x", algorithm__name="fedper", **{f"evaluation__{name}": value for name, value in changes.items()})


def one_hot(labels):
    return np.eye(10, dtype=np.float32)[labels]


@pytest.mark.parametrize(
    ("targets", "changes", "said"),
    [
        ("values", {"target_accuracy": 0.5}, "a run is judged by its rmse; set evaluation.target"),
        (
            "values",
            {"judged_by": "accuracy"},
            "are real numbers, which have no accuracy; set evaluation.judged_by to loss",
        ),
        ("labels", {"top_k": 2}, "are any number of labels, which have no k best"),
        ("labels", {"judged_by": "balanced_accuracy"}, "which have no balanced_accuracy"),
    ],
)
def test_other_kinds_of_targets_are_refused_what_they_have_not(tmp_path, targets, changes, said):
    job = Job(small(tmp_path, **{f"evaluation__{name}": value for name, value in changes.items()}))
    found = job.dataset
    made = {split: one_hot(getattr(found, f"{split}_labels")) for split in ("train", "test")}
    job.dataset = dataclasses.replace(
        found, kind=Kind(targets=targets), train_labels=made["train"], test_labels=made["test"]
    )
    with pytest.raises(BadInputError, match=said):
        check_split(job)


def test_a_killed_run_that_is_judged_by_its_loss_has_the_same_row(tmp_path):
    """What is read from the journal is judged as the tables are."""
    whole = run(small(tmp_path / "a", evaluation__judged_by="loss"))
    experiment = small(tmp_path / "b", evaluation__judged_by="loss")
    part = run(experiment, until=4)
    assert part.runs["best_test_loss"][0] == part.rounds["test_loss"].min()
    assert part.confusion["round"].max() == 4
    assert_same_tables(run(experiment), whole)
