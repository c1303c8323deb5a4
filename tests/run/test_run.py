"""A run from start to finish, in process: what ends it, what it leaves behind, and that it can be resumed."""

import dataclasses
import random
import shutil
import signal
import weakref

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fuzzing import on_disk
from safetensors.torch import load_file
from small_runs import FailsInRound3, Remembering, assert_same_tables, self_t, small, stopped_after

from fedray import results
from fedray.algorithms.fedavg import FedAvg
from fedray.cluster.settings import Cluster
from fedray.core.errors import BadInputError, ClientError
from fedray.experiment.composition import compose
from fedray.models.build import BUILDERS
from fedray.run import checkpoint, run
from fedray.run.checks import check_batches
from fedray.run.opening import anyhow
from fedray.run.prepared import Job
from fedray.run.resume import read_past
from fedray.run.stopping import judged_by, outcome
from fedray.run.watch import Watch
from fedray.server.participation import Faults
from fedray.training.evaluate import evaluate
from fedray.training.in_process import InProcessPopulation


def test_a_run_fills_every_table(tmp_path):
    tables = run(small(tmp_path, model__name="lenet5"))
    (row,) = tables.runs.to_dict("records")
    assert row["status"] == "finished"
    assert row["rounds_done"] == row["rounds_planned"] == 6
    assert row["num_params"] == 62_006
    assert tables.rounds["round"].tolist() == [1, 2, 3, 4, 5, 6]
    assert tables.rounds["test_accuracy"].between(0, 1).all()
    assert (tables.rounds["bytes_down"] == 3 * 62_006 * 4).all()
    assert (tables.rounds["bytes_up"] == 3 * 62_006 * 4).all()
    assert len(tables.clients) == 18
    assert (tables.clients["steps"] == 4).all()
    assert tables.population["num_examples"].sum() == tables.partitions["count"].sum() == 160
    weighted = tables.clients.groupby("round").apply(lambda g: np.average(g["train_loss"], weights=g["num_examples"]))
    np.testing.assert_allclose(weighted, tables.rounds["train_loss"])
    final = tables.confusion[tables.confusion["which"] == "final"]
    assert (final["round"] == 6).all() and (final["split"] == "test").all()
    assert final["count"].sum() == 120
    right = final["label"] == final["predicted"]
    assert final["count"][right].sum() / 120 == row["final_test_accuracy"]
    assert (tables.rounds["dataset"] == "synthetic").all()
    assert row["final_test_accuracy"] == tables.rounds["test_accuracy"].iloc[-1]


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path):
    one, two, other = (run(small(tmp_path / str(i), seed=seed)) for i, seed in enumerate((0, 0, 1)))
    assert_same_tables(one, two)
    assert one.runs["model_fingerprint"][0] != other.runs["model_fingerprint"][0]


def test_the_model_loads_into_torch_with_the_accuracy_of_the_table(tmp_path):
    experiment = small(tmp_path, model__name="lenet5")
    tables = run(experiment)
    job = Job(experiment)
    module = BUILDERS["lenet5"]((3, 32, 32), 10)
    module.load_state_dict(load_file(job.model))
    data = job.dataset
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (data.mean, data.std))
    output = module((torch.from_numpy(data.test_images).float() / 255 - mean) / std)
    accuracy = (output.argmax(1).numpy() == data.test_labels).mean()
    assert accuracy == tables.runs["final_test_accuracy"][0]


def test_a_validation_split_is_evaluated_beside_the_test_set_and_decides_when_to_stop(tmp_path):
    """Target and patience go by it, so that the test set decides nothing."""
    experiment = small(tmp_path, data__validation_examples=40, evaluation__patience=1)
    tables = run(experiment)
    job = Job(experiment)
    assert (len(job.dataset.train_labels), len(job.dataset.validation_labels)) == (120, 40)
    assert tables.population["num_examples"].sum() == 120
    rounds = tables.rounds
    assert (rounds["validation_loss"] != rounds["test_loss"]).all()
    trainer = InProcessPopulation(job.dataset, job.shards, job.recipe, 2).trainer
    state = load_file(job.model)
    layout = [state[name].numpy().reshape(-1) for name in job.blueprint.names]
    message = {"params": np.concatenate(layout), "buffers": np.empty(0, np.float32)}
    images, labels = job.dataset.examples("validation")
    measured = evaluate(trainer, message, images, labels)
    right = (measured.predicted == labels).sum()
    loss, accuracy = rounds[["validation_loss", "validation_accuracy"]].iloc[-1]
    assert (loss, accuracy) == (measured.losses[0] / 40, right / 40)
    assert tables.runs["final_validation_accuracy"][0] == right / 40
    assert judged_by(experiment) == "validation_accuracy"
    kept = tables.confusion.groupby(["which", "split"])
    assert kept["count"].sum().to_dict() == {
        (which, split): n for which in ("best", "final") for split, n in (("test", 120), ("validation", 40))
    }
    assert kept["round"].unique().map(list).to_dict() == {
        (which, split): [t]
        for which, t in (("best", rounds["validation_accuracy"].argmax() + 1), ("final", len(rounds)))
        for split in ("test", "validation")
    }
    assert tables.runs["judged_by"][0] == "validation"
    best = rounds.loc[rounds["validation_accuracy"].idxmax()]
    assert (
        tables.runs[["best_round", "best_test_accuracy"]].iloc[0].tolist() == best[["round", "test_accuracy"]].tolist()
    )
    *before, last = rounds["validation_accuracy"]
    assert tables.runs["status"][0] == "no_improvement"
    assert max(before) >= last
    plain = run(small(tmp_path / "plain"))
    assert plain.rounds["validation_accuracy"].isna().all()
    assert plain.runs["judged_by"][0] == "test"


def test_the_k_best_labels_are_counted_where_asked_for_and_change_nothing_else(tmp_path):
    plain = run(small(tmp_path / "plain", rounds=2, data__validation_examples=40))
    counted = run(small(tmp_path / "k", rounds=2, data__validation_examples=40, evaluation__top_k=3))
    for split in ("test", "validation"):
        name = f"{split}_top_k_accuracy"
        assert plain.rounds[name].isna().all()
        assert (counted.rounds[name] > counted.rounds[f"{split}_accuracy"]).all()
        assert (counted.rounds[name] < 1).all()
    assert plain.runs["model_fingerprint"][0] == counted.runs["model_fingerprint"][0]


@pytest.mark.parametrize("k", [10, 11])
def test_as_many_best_labels_as_classes_are_refused_before_anything_is_written(tmp_path, k):
    with pytest.raises(BadInputError, match=rf"evaluation\.top_k = {k} takes in all 10 classes of synthetic"):
        run(small(tmp_path, evaluation__top_k=k))
    assert not list(tmp_path.iterdir())


def test_evaluation_every_n_rounds_and_after_the_last(tmp_path):
    rounds = run(small(tmp_path, rounds=5, evaluation__every=3)).rounds
    assert rounds["test_accuracy"].notna().tolist() == [False, False, True, False, True]


@pytest.mark.parametrize(
    ("changes", "status", "rounds_done"),
    [
        ({"evaluation__target_accuracy": 0.01}, "reached_target", 1),
        ({"evaluation__patience": 2, "algorithm__lr": 1e-9}, "no_improvement", 3),
        ({"algorithm__lr": 1e5, "model__name": "lenet5"}, "diverged", None),
        ({}, "finished", 6),
    ],
)
def test_what_ends_a_run_is_its_status(tmp_path, changes, status, rounds_done):
    (row,) = run(small(tmp_path, **changes)).runs.to_dict("records")
    assert row["status"] == status
    assert row["rounds_done"] == (rounds_done or row["rounds_done"])
    assert not list(tmp_path.glob("small/journal/*"))
    assert not list(tmp_path.glob("small/checkpoints/*"))


def test_patience_counts_from_the_first_of_equal_bests():
    evaluation = compose({"evaluation": {"patience": 2}}).evaluation
    rows = [
        {
            "round": t,
            "test_accuracy": a,
            "test_loss": 1.0,
            "client_loss": None,
            "train_loss": 1.0,
            "update_norm": 1.0,
            "non_finite": 0,
            "answered": 3,
        }
        for t, a in enumerate((0.1, 0.3, 0.3, 0.2), 1)
    ]
    assert [outcome(evaluation, rows[:n], 9, "test_accuracy", Faults()) for n in range(5)] == [
        None,
        None,
        None,
        None,
        "no_improvement",
    ]


def test_patience_waits_for_an_evaluation(tmp_path):
    """Round 6 is one without improvement, but only because nobody looked."""
    rounds = run(small(tmp_path, rounds=7, evaluation__every=5, evaluation__patience=1)).rounds
    assert rounds["test_accuracy"].notna().tolist() == [False] * 4 + [True, False, True]


class Unnamed(FedAvg):
    def correct(self, grad, params, message, memory, lr):
        return -grad


def test_an_algorithm_that_is_not_enrolled_goes_by_its_class_and_has_runs_of_its_own(tmp_path):
    run(small(tmp_path))
    other = run(dataclasses.replace(small(tmp_path), algorithm=Unnamed(lr=0.02, batch_size=10, momentum=0.5)))
    assert other.rounds["algorithm"].unique().tolist() == ["test_run:Unnamed"]
    both = results.load("small", tmp_path).runs
    assert both["model_fingerprint"].nunique() == 2


def test_one_run_has_one_writer_at_a_time(tmp_path):
    class Meddling(Watch):
        def round(self, job, row):
            if row["round"] == 2:
                with pytest.raises(BadInputError, match="is being recorded by another process"):
                    run(small(tmp_path))

    assert run(small(tmp_path), Meddling()).runs["status"].tolist() == ["finished"]
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("table", ["runs", "rounds", "checkpoints", "models", "journal"])
def test_a_file_where_a_folder_belongs_is_refused(tmp_path, table):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / table).write_text("junk")
    with pytest.raises(BadInputError, match=f"{table} is not a folder"):
        run(small(tmp_path))
    assert len(list(tmp_path.rglob("*"))) == 2


def test_damaged_files_of_other_runs_do_not_stop_this_one(tmp_path):
    for table, suffix in (("runs", "parquet"), ("partitions", "parquet"), ("journal", "jsonl")):
        (tmp_path / "small" / table).mkdir(parents=True)
        (tmp_path / "small" / table / f"other.{suffix}").write_text("junk")
    assert run(small(tmp_path)).runs["status"].tolist() == ["finished"]


@pytest.mark.parametrize("fresh", [False, True])
def test_nothing_is_written_beside_results_of_a_newer_version(tmp_path, fresh):
    run(small(tmp_path, rounds=1))
    (row,) = tmp_path.glob("small/runs/*")
    newer = pq.read_table(row, partitioning=None)
    pq.write_table(newer.append_column("virtual_seconds", pa.array([1.5])), row)
    before = on_disk(tmp_path)
    with pytest.raises(
        BadInputError, match=f"^{row} .* with virtual_seconds, .*{tmp_path}/small/ .* another --output.name"
    ):
        run(small(tmp_path, rounds=2), fresh=fresh)
    assert on_disk(tmp_path) == before


def test_what_a_kill_at_the_very_end_left_is_cleared_by_the_next_start(tmp_path):
    run(small(tmp_path))
    job = Job(small(tmp_path))
    leftover = tmp_path / "small" / "journal" / f"{job.run}.jsonl"
    leftover.write_text("junk")
    job.model.unlink()
    notices = []

    class Noting(Watch):
        def notice(self, text):
            notices.append(text)

    run(small(tmp_path), Noting())
    assert not leftover.exists()
    assert "its model was not kept" in notices[0]


def test_a_finished_run_is_not_repeated(tmp_path):
    run(small(tmp_path))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.parquet")}

    class Asserting(Watch):
        ends = ()

        def begin(self, job, where):
            raise AssertionError("it was begun again")

        def end(self, job, status, repeated):
            self.ends = (status, repeated)

    watch = Asserting()
    assert len(run(small(tmp_path), watch).rounds) == 6
    assert watch.ends == ("finished", True)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.parquet")}


def test_plain_pandas_reads_a_folder_of_different_runs(tmp_path):
    run(small(tmp_path))
    run(
        small(
            tmp_path, seed=1, partition__name="dirichlet", partition__alpha=0.3, algorithm__steps=3, evaluation__every=2
        )
    )
    for table in ("runs", "rounds", "clients", "population", "partitions", "metrics"):
        frame = pd.read_parquet(tmp_path / "small" / table)
        assert list(frame) == results.SCHEMAS[table].names
    rounds = pd.read_parquet(tmp_path / "small" / "rounds")
    assert rounds.groupby("partition")["round"].count().to_dict() == {"dirichlet": 6, "iid": 6}
    assert rounds["alpha"].dropna().unique().tolist() == [0.3]


class Reporting(FedAvg):
    def metrics(self, state, mean, updates):
        return {"largest": float(np.abs(state["params"]).max()), "clients": len(updates.reports)}


def test_what_only_an_algorithm_reports_is_in_the_metrics_table(tmp_path):
    metrics = run(dataclasses.replace(small(tmp_path), algorithm=Reporting(batch_size=10))).metrics
    assert metrics.groupby("name")["round"].apply(list).to_dict() == {
        "clients": [*range(1, 7)],
        "largest": [*range(1, 7)],
    }
    assert (metrics[metrics["name"] == "clients"]["value"] == 3).all()


def test_a_failed_run_says_why_and_goes_on_from_its_checkpoint(tmp_path):
    experiment = dataclasses.replace(small(tmp_path), algorithm=FailsInRound3(batch_size=10))
    with pytest.raises(ClientError, match="failed in round 3"):
        run(experiment)
    (row,) = results.load("small", tmp_path).runs.to_dict("records")
    assert (row["status"], row["rounds_done"]) == ("failed", 2)
    assert "RuntimeError: no luck" in row["error"]
    self_t["fails"] = False
    notices = []

    class Noting(Watch):
        def notice(self, text):
            notices.append(text)

    resumed = run(experiment, Noting())
    assert "after round 2" in notices[0]
    undisturbed = run(dataclasses.replace(small(tmp_path / "again"), algorithm=FailsInRound3(batch_size=10)))
    assert_same_tables(resumed, undisturbed)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(small(tmp_path_factory.mktemp("undisturbed"), model__name="lenet5"))


@pytest.mark.parametrize("rounds", [1, 2, 3, 5])
def test_an_interrupted_run_goes_on_to_the_same_tables(tmp_path, undisturbed, rounds):
    stopped_after(tmp_path / "a", rounds, model__name="lenet5")
    assert results.load("small", tmp_path / "a").runs["status"].tolist() == ["interrupted"]
    assert_same_tables(run(small(tmp_path / "a", model__name="lenet5")), undisturbed)


def test_client_memory_survives_an_interrupt(tmp_path, monkeypatch):
    def experiment(root):
        return dataclasses.replace(small(root), algorithm=Remembering(batch_size=10))

    given = []

    def remember(self, client, memory):
        assert all(vector() is None for vector in given)  # the last client's are let go of
        given.extend(weakref.ref(vector) for vector in memory.values())
        original(self, client, {name: vector.copy() for name, vector in memory.items()})

    original = InProcessPopulation.remember
    monkeypatch.setattr(InProcessPopulation, "remember", remember)

    class LettingGo(Watch):
        def round(self, job, row):
            assert all(vector() is None for vector in given)

    class Stopping(Watch):
        def round(self, job, row):
            if row["round"] == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(experiment(tmp_path / "a"), Stopping())
    resumed, undisturbed = run(experiment(tmp_path / "a"), LettingGo()), run(experiment(tmp_path / "b"))
    assert len(given) == 2 * 4  # all clients have trained in three rounds
    assert_same_tables(resumed, undisturbed)
    plain = run(dataclasses.replace(small(tmp_path / "c"), algorithm=FedAvg(batch_size=10)))
    losses = [tables.rounds["train_loss"].tolist() for tables in (plain, undisturbed)]
    assert losses[0][0] == losses[1][0]
    assert losses[0][1:] != losses[1][1:]


def test_an_interrupt_between_training_and_recording_does_not_apply_memory_twice(tmp_path, monkeypatch):
    """The clients have trained round 4 when its evaluation is interrupted: the checkpoint is of round 3, memory too."""

    def experiment(root):
        return dataclasses.replace(small(root), algorithm=Remembering(batch_size=10))

    evaluations = []

    def evaluate(self, state, split="test", top_k=None, scores=False):
        evaluations.append(state)
        if len(evaluations) == 4:
            raise KeyboardInterrupt
        return original(self, state, split, top_k, scores)

    original = InProcessPopulation.evaluate
    monkeypatch.setattr(InProcessPopulation, "evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        run(experiment(tmp_path / "a"))
    monkeypatch.undo()
    past = read_past(Job(experiment(tmp_path / "a")))
    assert past.t == 3
    assert sum(memory["times"].item() for _, memory in past.memories) == 9  # 3 rounds of 3 clients
    assert_same_tables(run(experiment(tmp_path / "a")), run(experiment(tmp_path / "b")))


def test_a_run_that_another_process_finished_in_the_meantime_is_left_alone(tmp_path):
    class Meddling(Watch):
        def prepare(self, job):
            run(small(tmp_path))

    with pytest.raises(BadInputError, match="finished by another process"):
        run(small(tmp_path), Meddling())
    assert results.load("small", tmp_path).runs["status"].tolist() == ["finished"]


def test_a_checkpoint_of_another_experiment_is_refused_and_nothing_is_written(tmp_path):
    stopped_after(tmp_path, 3)
    other = Job(small(tmp_path, algorithm__lr=0.5))
    shutil.copy(Job(small(tmp_path)).checkpoint, other.checkpoint)
    before = sorted((str(p), p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    with pytest.raises(BadInputError, match=r"algorithm.lr 0.02 there, 0.5 here"):
        run(other.experiment)
    assert before == sorted((str(p), p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    stopped_after(tmp_path, 3)
    job = Job(small(tmp_path))
    arrays, meta, _ = checkpoint.load(job.checkpoint)
    checkpoint.save(job.checkpoint, arrays, meta | {"data": "something else"})
    with pytest.raises(BadInputError, match="other data"):
        run(job.experiment)


def test_kill_9_between_and_inside_rounds_ends_in_the_same_tables(tmp_path, warm):
    """Law 5: at every kill what was printed is on disk; killed again and again, the run ends as if it had not been."""
    settings = [
        "--rounds=40", "--clients=4", "--cohort=3", "--data.dataset=synthetic", "--data.train_examples=160",
        "--data.test_examples=120", "--algorithm.batch_size=4", "--cluster.backend=in-process", "--output.name=small",
        "--output.checkpoint_every=3",
    ]  # fmt: skip
    killed = [*settings, f"--output.root={tmp_path / 'a'}"]
    continued, rng = 0, random.Random(0)
    for at in (7, 15, 26):  # rounds shortly after which it is killed, each behind a checkpoint
        status, out, err = warm.run(*killed, after=rng.uniform(0, 0.05), since=f"round {at:2}/")
        assert (status, err) == (-signal.SIGKILL, "")
        seen = max(int(line.split()[1].split("/")[0]) for line in out.splitlines() if line.startswith("round"))
        left = results.load("small", tmp_path / "a")
        assert left.rounds["round"].max() >= seen >= at and left.runs["status"].tolist() == ["killed"]
        continued += "continuing run" in out
    assert continued == 2
    for root in "ab":
        status, out, err = warm.run(*settings, f"--output.root={tmp_path / root}")
        assert (status, err, "continuing run" in out) == (0, "", root == "a")
    assert_same_tables(results.load("small", tmp_path / "a"), results.load("small", tmp_path / "b"))
    assert not list((tmp_path / "a").rglob(".*"))


def test_a_batch_of_one_image_is_refused_for_batchnorm():
    check_batches(FedAvg(batch_size=8), [9, 16], normalises=False)
    check_batches(FedAvg(batch_size=8, drop_last=True), [9, 16], normalises=True)
    with pytest.raises(BadInputError, match="client 1 has 9 examples"):
        check_batches(FedAvg(batch_size=8), [16, 9], normalises=True)
    with pytest.raises(BadInputError, match="fewer than algorithm.batch_size = 8"):
        check_batches(FedAvg(batch_size=8, drop_last=True), [16, 7], normalises=False)


def test_more_clients_than_examples_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(BadInputError, match="161"):
        run(small(tmp_path, clients=161, cohort=3))
    assert not list(tmp_path.iterdir())


def test_a_population_that_is_planned_anew_stays_on_the_cpu_if_it_was_to_be_there():
    asked = Cluster(clients_per_actor=2, cpus_per_actor=0.5, gpus_per_client=0.25, start_timeout=7)
    assert anyhow(asked) == Cluster(start_timeout=7)
    assert anyhow(dataclasses.replace(asked, gpus_per_client=0)) == Cluster(gpus_per_client=0, start_timeout=7)
