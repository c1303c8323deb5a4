"""The model of the best round: it is on disk once that round was reported, whatever ends the process, and is the best."""

import dataclasses
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small_runs import FailsInRound3, assert_same_tables, self_t, small
from unlearning import experiment

from fedray import results
from fedray.core.errors import BadInputError, ClientError
from fedray.models.build import BUILDERS
from fedray.run import checkpoint, run
from fedray.run.prepared import Job
from fedray.run.watch import Watch


def bests(accuracies):
    """The rounds that were better than all before them."""
    return [t for t in range(1, len(accuracies) + 1) if accuracies[t - 1] > max(accuracies[: t - 1], default=-1)]


def round_of(path):
    with safe_open(path, "numpy") as file:
        return int(file.metadata()["round"])


def bits(path):
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}


def accuracy_of(path, job, split):
    module = BUILDERS["logistic"]((3, 32, 32), 10)
    module.load_state_dict(load_file(path))
    images, labels = job.dataset.examples(split)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (job.dataset.mean, job.dataset.std))
    output = module((torch.from_numpy(images).float() / 255 - mean) / std)
    return (output.argmax(1).numpy() == labels).mean()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The tables and the job of a run whose best round is not the last."""
    job = Job(experiment(tmp_path_factory.mktemp("undisturbed")))
    return run(job.experiment), job


def test_it_loads_into_torch_with_the_accuracy_of_its_round(undisturbed):
    tables, job = undisturbed
    accuracies = tables.rounds["test_accuracy"].tolist()
    best = bests(accuracies)[-1]
    assert round_of(job.best_model) == best == tables.runs["best_round"][0]
    assert accuracy_of(job.best_model, job, "test") == max(accuracies) > accuracies[-1]
    assert accuracy_of(job.model, job, "test") == accuracies[-1]
    assert round_of(job.model) == 6
    kept = tables.confusion[tables.confusion["which"] == "best"]
    right = kept["label"] == kept["predicted"]
    assert kept["round"].unique().tolist() == [best]
    assert kept["count"][right].sum() / 120 == max(accuracies)


def test_where_there_is_a_validation_split_it_is_best_by_that(tmp_path):
    job = Job(experiment(tmp_path, data__validation_examples=3))
    rounds = run(job.experiment).rounds
    best = rounds["validation_accuracy"].argmax()
    assert best != rounds["test_accuracy"].argmax()
    assert round_of(job.best_model) == best + 1
    assert accuracy_of(job.best_model, job, "validation") == rounds["validation_accuracy"][best]
    assert accuracy_of(job.best_model, job, "test") == rounds["test_accuracy"][best]


def test_it_is_kept_only_where_that_is_asked_for(tmp_path, undisturbed):
    tables = run(experiment(tmp_path, save_best=False))
    assert [path.name for path in (tmp_path / "small/models").iterdir()] == [f"{undisturbed[1].run}.safetensors"]
    assert_same_tables(tables, undisturbed[0])
    notices = []

    class Noting(Watch):
        def notice(self, text):
            notices.append(text)

    run(experiment(tmp_path), Noting())
    assert notices == ["the model of its best round was not kept; --fresh runs it again"]
    run(experiment(tmp_path), Noting(), fresh=True)
    assert len(notices) == 2 and "small.old-1" in notices[1]
    run(experiment(tmp_path), fresh=True)
    (moved,) = tmp_path.glob("small.old-2/models/*.best.safetensors")
    assert bits(moved) == bits(undisturbed[1].best_model) == bits(Job(experiment(tmp_path)).best_model)


def stop_after(root, rounds):
    class Stopping(Watch):
        def round(self, job, row):
            if row["round"] == rounds:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(experiment(root), Stopping())


@pytest.mark.parametrize("rounds", range(1, 6))
def test_after_an_interrupt_it_is_the_best_so_far_and_in_the_end_the_best(tmp_path, undisturbed, rounds):
    stop_after(tmp_path, rounds)
    tables, job = undisturbed
    here = Job(experiment(tmp_path))
    assert round_of(here.best_model) == bests(tables.rounds["test_accuracy"][:rounds])[-1]
    assert_same_tables(run(here.experiment), tables)
    assert bits(here.best_model) == bits(job.best_model)


def test_an_interrupt_while_it_is_written_has_its_round_played_again(tmp_path, undisturbed, monkeypatch):
    """The round is recorded by then, but is not in the checkpoint."""
    written, rounds = [], bests(undisturbed[0].rounds["test_accuracy"])
    assert len(rounds) > 1

    def save_model(path, tensors, meta):
        written.append(int(meta["round"]))
        if len(written) == 2:
            raise KeyboardInterrupt
        really(path, tensors, meta)

    really = checkpoint.save_model
    monkeypatch.setattr(checkpoint, "save_model", save_model)
    here = Job(experiment(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        run(here.experiment)
    assert results.load("small", tmp_path).rounds["round"].max() == rounds[1]
    assert checkpoint.load(here.checkpoint)[1]["round"] == rounds[1] - 1
    assert_same_tables(run(here.experiment), undisturbed[0])
    assert written == [*rounds[:2], *rounds[1:], 6]  # the last is the final model
    assert bits(here.best_model) == bits(undisturbed[1].best_model)


def test_one_that_is_no_longer_the_best_goes_when_it_is_no_longer_wanted(tmp_path, undisturbed):
    *_, before, best = bests(undisturbed[0].rounds["test_accuracy"])
    stop_after(tmp_path, before)
    here = Job(experiment(tmp_path))
    run(experiment(tmp_path, save_best=False), until=best - 1)
    assert round_of(here.best_model) == before
    run(experiment(tmp_path, save_best=False))
    assert not here.best_model.exists()


def test_a_run_that_failed_or_diverged_keeps_what_there_is(tmp_path):
    failing = dataclasses.replace(small(tmp_path, output__save_best=True), algorithm=FailsInRound3(batch_size=10))
    self_t["fails"] = True
    with pytest.raises(ClientError):
        run(failing)
    assert round_of(Job(failing).best_model) in (1, 2)
    diverging = small(tmp_path, output__save_best=True, algorithm__lr=1e5, model__name="lenet5")
    assert run(diverging).runs["status"].tolist() == ["diverged"]
    assert Job(diverging).best_model.exists()


def test_where_only_clients_are_evaluated_it_is_best_by_them(tmp_path):
    personal = small(tmp_path, output__save_best=True, algorithm__name="fedper", model__name="mlp")
    rounds = run(personal).rounds
    assert round_of(Job(personal).best_model) == rounds["client_accuracy"].argmax() + 1
    with pytest.raises(BadInputError, match=r"output.save_best go by the clients"):
        small(tmp_path, output__save_best=True, algorithm__name="fedper", evaluation__clients_every=0)


SETTINGS = ["--rounds=3", "--clients=2", "--cohort=1", "--data.dataset=synthetic", "--data.train_examples=80"]
SETTINGS += ["--data.test_examples=60", "--model.name=logistic", "--cluster.backend=in-process", "--output.name=small"]
SETTINGS += ["--output.checkpoint_every=1", "--output.save_best=true"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("under", "step"), [("models", 29), pytest.param("", 1, marks=pytest.mark.slow)])
def test_killed_before_any_file_operation_a_run_ends_with_the_same_models(tmp_path, warm, under, step):
    """Each twenty-ninth operation on models, or every one on all that there is of the run."""

    def models(root):
        return {path.name: bits(path) for path in sorted((root / "small/models").iterdir())}

    whole, point = tmp_path / "whole", 0
    assert warm.run(*SETTINGS, "--output.root", whole)[0] == 0
    assert len(models(whole)) == 2
    while True:
        root = tmp_path / "killed"
        status, *said = warm.run(*SETTINGS, "--output.root", root, at=point, under=root / "small" / under)
        if status == 0:
            break
        assert status == -9, said
        status, *said = warm.run(*SETTINGS, "--output.root", root)
        assert status == 0, said
        assert_same_tables(results.load("small", root), results.load("small", whole))
        assert models(root) == models(whole)
        shutil.rmtree(root)
        point += step
    assert point > 8
