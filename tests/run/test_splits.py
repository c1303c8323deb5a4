"""Examples that are held out at clients, and clients that never train."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from small_runs import assert_same_tables, small

from fedray.core.errors import BadInputError
from fedray.data.splits import draw_unseen, hold_out
from fedray.models.build import BUILDERS
from fedray.run import run
from fedray.run.checks import check_split
from fedray.run.prepared import Job
from fedray.server.rounds import sample_cohort

SKEWED = {"partition__name": "dirichlet", "partition__alpha": 0.3, "partition__min_size": 4}


def outputs(job, params, images):
    module = BUILDERS["logistic"]((3, 32, 32), 10)
    module.load_state_dict(params)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (job.dataset.mean, job.dataset.std))
    with torch.no_grad():
        return module((torch.from_numpy(images).float() / 255 - mean) / std)


@pytest.mark.parametrize("share", [0.01, 0.25, 0.99])
def test_what_is_trained_and_what_is_held_out_are_the_shard(share):
    shards = [np.arange(0, 2), np.arange(5, 105), np.array([200, 203, 207])]
    trained, held = hold_out(shards, share, seed=3)
    for mine, out, rows in zip(trained, held, shards, strict=True):
        assert len(mine) > 0 < len(out)
        assert np.array_equal(np.sort(np.concatenate([mine, out])), rows)
        assert (np.diff(out) > 0).all()
        assert len(out) == min(max(1, round(share * len(rows))), len(rows) - 1)
    others = hold_out([np.arange(300, 340), shards[1], np.arange(400, 402)], share, seed=3)
    assert np.array_equal(others[1][1], held[1])  # whatever the other clients have
    assert not np.array_equal(hold_out(shards, share, seed=4)[1][1], held[1])


def test_of_a_row_that_a_client_has_twice_both_are_held_out_or_none():
    trained, held = hold_out([np.repeat(np.arange(10), 2)], 0.3, seed=0)
    assert len(held[0]) == 3
    assert len(trained[0]) == 14
    assert not set(trained[0]) & set(held[0])


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        ([np.arange(3), np.arange(7, 8)], "client 1 has 1 example, of which none can be held out"),
        ([np.arange(3), np.zeros(0, np.int64)], "client 1 has 0 examples, of which none can be held out"),
        ([np.arange(9), np.arange(9)], "cannot go with a partition that deals an example to several clients"),
    ],
)
def test_what_cannot_be_held_out_is_refused(shards, said):
    with pytest.raises(BadInputError, match=said):
        hold_out(shards, 0.5, seed=0)


def test_clients_are_evaluated_on_their_own_held_out_examples_which_are_in_no_shard(tmp_path):
    """The saved model in plain torch on the held-out rows."""
    experiment = small(tmp_path, evaluation__client_holdout=0.3, rounds=2, **SKEWED)
    assert experiment.resolved().evaluation.clients_every == 1
    tables, job = run(experiment), Job(experiment)
    data, last = job.dataset, tables.evaluations[tables.evaluations["round"] == 2].to_dict("records")
    params = load_file(job.model)
    for row, rows in zip(last, job.own_tests, strict=True):
        output, targets = outputs(job, params, data.train_images[rows]), torch.from_numpy(data.train_labels[rows])
        assert row["test_examples"] == len(rows)
        assert row["test_loss"] == pytest.approx(float(F.cross_entropy(output, targets)), rel=1e-5)
        assert row["test_accuracy"] == (output.argmax(1) == targets).double().mean()
    held = np.concatenate(job.own_tests)
    trained = np.concatenate(job.shards)
    assert not set(held) & set(trained)
    assert np.array_equal(np.sort(np.concatenate([held, trained])), np.arange(160))
    assert tables.population["num_examples"].tolist() == [len(rows) for rows in job.shards]
    assert tables.partitions["count"].sum() == len(trained)
    assert job.unused == 0
    seen = tables.clients[tables.clients["status"] == "ok"]
    assert (seen["num_examples"] == seen["client"].map(tables.population.set_index("client")["num_examples"])).all()
    plain = run(small(tmp_path / "plain", rounds=2, **SKEWED))
    assert plain.runs["model_fingerprint"][0] != tables.runs["model_fingerprint"][0]


def test_held_out_examples_do_not_touch_what_is_learned(tmp_path, monkeypatch):
    """Other pixels in them, and the model is the same to the bit; the evaluation is another."""
    experiment = small(tmp_path / "a", evaluation__client_holdout=0.3, rounds=2)
    one = run(experiment)
    job = Job(experiment)
    images = job.dataset.train_images
    before = images.copy()
    images.flags.writeable = True
    try:
        images[np.concatenate(job.own_tests)] ^= 255
        other = run(small(tmp_path / "b", evaluation__client_holdout=0.3, rounds=2))
    finally:
        images[...] = before
    assert one.runs["model_fingerprint"][0] == other.runs["model_fingerprint"][0]
    assert (one.rounds["client_loss"] != other.rounds["client_loss"]).all()
    assert one.rounds["test_loss"].tolist() == other.rounds["test_loss"].tolist()


@pytest.mark.parametrize("sampling", ["uniform", "size"])
def test_unseen_clients_never_train_and_are_evaluated(tmp_path, sampling):
    changes = {"clients": 9, "sampling": sampling, "evaluation__unseen_clients": 3, "rounds": 8, **SKEWED}
    changes["partition__min_size"] = 1
    experiment = small(tmp_path, **changes)
    tables, job = run(experiment), Job(experiment)
    unseen = job.unseen.tolist()
    assert len(unseen) == 3
    assert set(tables.clients["client"]) == set(range(9)) - set(unseen)
    last = tables.evaluations[tables.evaluations["round"] == 8].set_index("client")
    row = tables.rounds.iloc[-1]
    assert len(last) == 9
    for column, name in (("test_loss", "loss"), ("test_accuracy", "accuracy")):
        assert row[f"unseen_{name}"] == pytest.approx(last.loc[unseen, column].mean())
        assert row[f"client_{name}"] == pytest.approx(last.drop(unseen)[column].mean())
        assert tables.runs[f"final_unseen_{name}"][0] == row[f"unseen_{name}"]
    assert row["client_accuracy_std"] == pytest.approx(last.drop(unseen)["test_accuracy"].std(ddof=0))


def test_without_unseen_clients_cohorts_are_what_they_were(tmp_path):
    tables = run(small(tmp_path, rounds=3))
    for t, of_round in tables.clients.groupby("round"):
        assert of_round["client"].tolist() == sample_cohort(0, t, 4, 3)
    assert tables.rounds[["unseen_loss", "unseen_accuracy"]].isna().all(axis=None)


def test_the_unseen_are_drawn_from_all_at_an_address_of_the_seed():
    drawn = [draw_unseen(20, 5, seed) for seed in range(200)]
    assert np.array_equal(drawn[0], draw_unseen(20, 5, 0))
    counts = np.bincount(np.concatenate(drawn), minlength=20)
    assert counts.sum() == 1000
    assert 20 < counts.min() <= counts.max() < 85  # 50 expected, standard deviation 6


def test_a_share_of_the_clients_is_a_whole_number_of_them():
    counts = {share: small("x", clients=20, evaluation__unseen_clients=share).unseen for share in (0, 0.01, 0.25, 1, 7)}
    assert counts == {0: 0, 0.01: 1, 0.25: 5, 1: 1, 7: 7}


def test_an_unseen_client_fine_tunes_on_its_own_examples(tmp_path):
    """With none of the seen clients' data: the loss of unseen clients differs from that of the server's model alone."""
    changes = {"algorithm__name": "finetune", "evaluation__unseen_clients": 1, "rounds": 2, **SKEWED}
    tuned = run(small(tmp_path / "a", **changes, evaluation__client_holdout=0.4))
    plain = run(small(tmp_path / "b", **{**changes, "algorithm__name": "fedavg"}, evaluation__client_holdout=0.4))
    assert tuned.runs["model_fingerprint"][0] == plain.runs["model_fingerprint"][0]
    assert (tuned.rounds["unseen_loss"] != plain.rounds["unseen_loss"]).all()


def test_an_interrupted_run_with_both_goes_on_to_the_same_tables(tmp_path):
    changes = {"clients": 6, "evaluation__unseen_clients": 2, "evaluation__client_holdout": 0.2}
    changes |= {"algorithm__name": "scaffold"}
    run(small(tmp_path / "a", **changes), until=3)
    assert_same_tables(run(small(tmp_path / "a", **changes)), run(small(tmp_path / "b", **changes)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"evaluation__unseen_clients": 2},
            "evaluation.unseen_clients leaves 2 of 4 clients to train, fewer than a round",
        ),
        ({"evaluation__unseen_clients": 1.5}, "is neither a whole number of clients nor a share below 1"),
        ({"evaluation__unseen_clients": 1, "algorithm__name": "local"}, "cannot go with local: a client that never"),
        ({"evaluation__unseen_clients": 1, "algorithm__name": "ditto"}, "cannot go with ditto: a client that never"),
        ({"evaluation__unseen_clients": 1, "evaluation__clients_every": 0}, "clients_every = 0 leaves out"),
        ({"evaluation__client_holdout": 0.1, "evaluation__clients_every": 0}, "clients_every = 0 leaves out"),
        (
            {"evaluation__client_holdout": 0.1, "evaluation__client_examples": 9},
            "client_examples = 9 counts test examples",
        ),
        ({"evaluation__client_holdout": 0.1, "clients": 160}, "has 1 example, of which none can be held out"),
        (
            {"evaluation__client_holdout": 0.1, "partition__name": "sampled", "partition__examples": 90},
            "cannot go with a partition that deals an example to several clients",
        ),
    ],
)
def test_splits_that_cannot_be_are_refused_in_one_sentence(tmp_path, changes, said):
    with pytest.raises(BadInputError) as error:
        check_split(Job(small(tmp_path / "results", **changes)))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results").exists()
