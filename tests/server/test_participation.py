"""Clients that do not answer, as a study simulates them, and updates that are not finite."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_data import make_dataset, make_recipe

from fedray import results
from fedray.algorithms import ALGORITHMS
from fedray.algorithms.fedavg import FedAvg
from fedray.core.errors import BadInputError, LostStateError, TooFewSurvivorsError
from fedray.core.settings import section
from fedray.core.updates import Event
from fedray.data.partitions.even import Iid
from fedray.experiment.composition import compose
from fedray.run import run
from fedray.run.prepared import Job
from fedray.run.watch import Watch
from fedray.server.participation import Faults, answering
from fedray.server.rounds import play_rounds, sample_cohort
from fedray.training.in_process import InProcessPopulation

SHARDS = [np.arange(0, 21), np.arange(21, 30), np.arange(30, 70), np.arange(70, 96)]


def small(root, rounds=6, clients=8, cohort=4, model="logistic", algorithm=(), **faults):
    return compose(
        {
            "rounds": rounds,
            "clients": clients,
            "cohort": cohort,
            "data": {"dataset": "synthetic", "train_examples": 160, "test_examples": 120},
            "model": {"name": model},
            "algorithm": {"batch_size": 10, **dict(algorithm)},
            "faults": faults,
            "cluster": {"backend": "in-process"},
            "output": {"root": str(root), "name": "small"},
        }
    )


@given(
    st.integers(0, 2**40),
    st.integers(1, 1000),
    st.integers(1, 20),
    st.integers(0, 10),
    st.sampled_from((0, 0.3, 0.9, 1)),
)
def test_everybody_asked_trains_drops_out_or_is_one_too_many(seed, t, cohort, more, dropout):
    asked = sample_cohort(seed, t, 40, cohort + more)
    faults = Faults(dropout=dropout, over_selection=more)
    members, absent = answering(faults, seed, t, asked, cohort)
    assert (members, absent) == answering(faults, seed, t, asked, cohort)
    assert sorted([*members, *absent]) == asked
    assert members == sorted(members)
    answers = len(asked) - list(absent.values()).count("dropout")
    assert len(members) == min(cohort, answers)
    assert list(absent.values()).count("surplus") == answers - len(members)
    assert not dropout or dropout == 1 or set(absent.values()) <= {"dropout", "surplus"}
    if dropout in (0, 1):
        assert answers == len(asked) * (1 - dropout)


def test_each_client_drops_out_as_often_as_asked_and_the_surplus_is_nobody_in_particular():
    asked = list(range(10))
    faults = Faults(dropout=0.3, over_selection=4)
    counts = pd.DataFrame([answering(faults, 0, t, asked, 6)[1] for t in range(1, 4001)]).apply(pd.Series.value_counts)
    dropouts, surplus = counts.loc["dropout"] / 4000, counts.loc["surplus"] / 4000
    assert (dropouts.sub(0.3).abs() < 4 * math.sqrt(0.21 / 4000)).all()
    assert surplus.max() - surplus.min() < 8 * math.sqrt(0.25 / 4000)
    rounds = [frozenset(answering(faults, 0, t, asked, 6)[1].items()) for t in range(1, 200)]
    assert len(set(rounds)) > 190
    other = [frozenset(answering(faults, 1, t, asked, 6)[1].items()) for t in range(1, 200)]
    assert rounds != other


def test_asking_more_leaves_the_draw_of_a_cohort_without_it_as_it_was():
    assert answering(Faults(), 3, 7, [1, 4, 5], 3) == ([1, 4, 5], {})


def test_a_round_with_dropouts_is_the_round_of_those_who_answered(tmp_path):
    """Every number of the tables, from the cohort's clients trained without any faults."""
    e = small(tmp_path, dropout=0.4, over_selection=2)
    tables = run(e)
    rounds, clients = tables.rounds, tables.clients
    assert (rounds["cohort_size"] == 6).all()
    parts = rounds[["answered", "dropouts", "surplus", "lost", "non_finite"]]
    assert (parts.sum(axis=1) == 6).all()
    assert rounds["dropouts"].sum() > 0
    assert rounds["surplus"].sum() > 0
    assert (rounds[["lost", "non_finite"]] == 0).all().all()
    for t, group in clients.groupby("round"):
        row = rounds[rounds["round"] == t].iloc[0]
        members, absent = answering(e.faults, 0, t, sample_cohort(0, t, 8, 6), 4)
        assert group["client"].tolist() == sorted([*members, *absent])
        assert group.set_index("client")["status"].to_dict() == dict.fromkeys(members, "ok") | absent
        assert row["answered"] == len(members)
        assert row["num_examples"] == 20 * len(members)
        away = group[group["status"] != "ok"]
        assert away[["train_loss", "update_norm", "seconds"]].isna().all().all()
        assert (away["steps"] == 0).all()
        present = group[group["status"] == "ok"]
        if len(present):
            assert row["train_loss"] == pytest.approx(present["train_loss"].mean())
            assert row["bytes_up"] == len(present) * 4 * 30_730
            assert row["bytes_down"] == 6 * 4 * 30_730  # all that were asked got the message


def test_faults_are_part_of_the_run_id_and_a_run_with_them_is_repeated_to_the_bit(tmp_path):
    plain, faulty = small(tmp_path / "a"), small(tmp_path / "a", dropout=0.4)
    assert Job(plain).run != Job(faulty).run
    one, other = run(faulty), run(small(tmp_path / "b", dropout=0.4))
    assert one.runs["model_fingerprint"].tolist() == other.runs["model_fingerprint"].tolist()
    assert one.runs["model_fingerprint"].tolist() != run(plain).runs["model_fingerprint"].tolist()


# fedbn, which wants a model with BatchNorm, is as fedper is here.
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "fedbn"])
def test_every_algorithm_stands_a_round_in_which_nobody_answers(tmp_path, name):
    e = small(tmp_path, cohort=2, model="lenet5", dropout=0.6, algorithm={"name": name, "batch_size": 0})
    tables = run(e)
    assert tables.runs["status"].tolist() == ["finished"]
    assert (tables.rounds["answered"] == 0).any()
    assert (tables.rounds["answered"] > 0).any()


def test_a_round_in_which_nobody_answers_leaves_the_model_as_it_was(tmp_path):
    tables = run(small(tmp_path, rounds=3, dropout=1.0, algorithm={"server_optimizer": "adam", "server_lr": 0.01}))
    rounds = tables.rounds
    assert tables.runs["status"].tolist() == ["finished"]
    assert (rounds["answered"] == 0).all()
    assert rounds["train_loss"].isna().all()
    assert (rounds["update_norm"] == 0).all()
    assert rounds["test_loss"].nunique() == 1


class Noting(Watch):
    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


class Counting(FedAvg):
    """It remembers how often each client has trained; some updates of it are not finite."""

    def broadcast(self, state, t):
        return {**super().broadcast(state, t), "t": np.full(1, t, np.float32)}

    def init_memory(self, params, buffers):
        return {"times": torch.zeros(1)}

    def finish(self, start, end, steps, lr, message, memory):
        update = end - start
        if message["t"].item() == 2 and steps == 2:  # client 1, whose shard has nine images
            update = update.clone()
            update[7] = torch.inf
        return {"params": update}, {"times": memory["times"] + 1}


def play(faults, members=None, blocks=2):
    dataset = make_dataset()
    recipe = make_recipe(dataset, "logistic")
    population = InProcessPopulation(dataset, SHARDS, recipe, blocks)
    algorithm = Counting(batch_size=8)
    state = algorithm.init(population.trainer.network.initial["params"].numpy(), np.zeros(0, np.float32))
    rounds = list(play_rounds(algorithm, population, state, ts=[1, 2, 3], rounds=3, cohort=4, seed=5, faults=faults))
    return rounds, dict(population.memories(3))


def test_an_update_that_is_not_finite_is_left_out_and_counted():
    rounds, memories = play(Faults(non_finite="reject"))
    assert [len(done.updates.reports) for done in rounds] == [4, 3, 4]
    (rejected,) = rounds[1].absent
    assert (rejected.client, rejected.status) == (1, "non_finite")
    assert not math.isfinite(rejected.update_norm)
    assert all(np.isfinite(done.state["params"]).all() for done in rounds)
    assert {client: memory["times"].item() for client, memory in memories.items()} == {0: 3, 1: 2, 2: 3, 3: 3}
    weights = np.array([21, 40, 26])
    assert rounds[1].updates.sum.weight == weights.sum()


@section
class Unequal(Iid):
    name: ClassVar[str] = "unequal"

    def split(self, labels, clients, seed):
        return np.split(np.arange(160), [16, 48, 96])


class Overflowing(FedAvg):
    """From round 2 on two clients' updates are not finite, from round 4 on all."""

    def broadcast(self, state, t):
        return {**super().broadcast(state, t), "t": np.full(1, t, np.float32)}

    def finish(self, start, end, steps, lr, message, memory):
        t = message["t"].item()
        return {"params": (end - start) / float(t < 2 or (t < 4 and steps > 2))}, memory


@pytest.mark.parametrize(("setting", "rounds", "rejected"), [("stop", 2, [0, 2]), ("reject", 4, [0, 2, 2, 4])])
def test_what_is_not_finite_stops_the_run_or_only_that_update(tmp_path, setting, rounds, rejected):
    """Four clients with shards that take 1, 2, 3 and 4 steps."""
    e = small(tmp_path, rounds=9, clients=4, model="lenet5", non_finite=setting)
    tables = run(dataclasses.replace(e, algorithm=Overflowing(batch_size=16), partition=Unequal()))
    (row,) = tables.runs.to_dict("records")
    assert (row["status"], row["rounds_done"]) == ("diverged", rounds)
    assert row["error"] == f"{rejected[-1]} of 4 updates in round {rounds} are not finite"
    assert tables.rounds["non_finite"].tolist() == rejected
    assert tables.rounds["answered"].tolist() == [4 - number for number in rejected]
    assert (tables.clients["status"] == "non_finite").sum() == sum(rejected)
    assert np.isfinite(tables.rounds["test_loss"]).all()
    assert not list(tmp_path.glob("small/checkpoints/*"))


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        ({"dropout": 1.5}, "faults.dropout = 1.5 must be less than or equal to 1"),
        ({"dropout": "often"}, "faults.dropout = 'often' must be a valid number"),
        ({"over_selection": -1}, "faults.over_selection = -1 must be greater than or equal to 0"),
        ({"over_selection": 5}, "cohort = 4 and faults.over_selection = 5 ask more clients than the population has"),
        ({"min_survivors": 5}, "faults.min_survivors = 5 is more than a cohort has, cohort = 4"),
        ({"min_survivors": 0}, "faults.min_survivors = 0 must be greater than or equal to 1"),
        ({"lost": "forget"}, "faults.lost = 'forget' must be 'retry' or 'drop'"),
        ({"non_finite": "keep"}, "faults.non_finite = 'keep' must be 'stop' or 'reject'"),
        ({"drop_out": 0.1}, "unknown setting 'faults.drop_out'; did you mean faults.dropout?"),
    ],
)
def test_bad_values_are_one_sentence_and_leave_nothing(tmp_path, faults, sentence):
    with pytest.raises(BadInputError) as error:
        run(small(tmp_path, **faults))
    assert sentence in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_with_dropouts_goes_on_to_the_same_tables(tmp_path):
    from small_runs import assert_same_tables

    class Stopping(Watch):
        def round(self, job, row):
            if row["round"] == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(small(tmp_path / "a", dropout=0.5), Stopping())
    assert_same_tables(run(small(tmp_path / "a", dropout=0.5)), run(small(tmp_path / "b", dropout=0.5)))
    events = results.load("small", tmp_path / "a").events
    assert events["kind"].tolist() == ["resumed"]
    assert events["round"].tolist() == [4]


@pytest.mark.parametrize("lost_in", [1, 2, 4])
def test_when_memories_are_lost_the_run_goes_back_to_its_checkpoint(tmp_path, monkeypatch, lost_in):
    """Lost as with a node (tests/cluster/test_nodes.py loses one); checkpoints are written after rounds 2 and 4."""
    from small_runs import assert_same_tables

    undisturbed = run(small(tmp_path / "a", rounds=5, algorithm={"name": "scaffold"}))
    original, rounds, watch = InProcessPopulation.take, [], Noting()

    def take(self, handle):
        rounds.append(handle.task.t)
        if rounds == list(range(1, lost_in + 1)):
            raise LostStateError("what client 3 remembers: its copies are lost")
        return original(self, handle)

    monkeypatch.setattr(InProcessPopulation, "take", take)
    e = small(tmp_path / "b", rounds=5, algorithm={"name": "scaffold"})
    e = dataclasses.replace(e, output=dataclasses.replace(e.output, checkpoint_every=2))
    troubled = run(e, watch)
    assert rounds == [*range(1, lost_in + 1), *range(3 if lost_in == 4 else 1, 6)]
    assert_same_tables(troubled, undisturbed)
    assert troubled.events["kind"].tolist() == ["went_back"]
    assert troubled.events["round"].tolist() == [3 if lost_in == 4 else 1]
    assert "what clients remember was lost with a node" in watch.notices[0]


def test_memories_that_are_lost_again_and_again_end_the_run(tmp_path, monkeypatch):
    def take(self, handle):
        raise LostStateError("its copies are lost")

    monkeypatch.setattr(InProcessPopulation, "take", take)
    with pytest.raises(LostStateError, match="its copies are lost"):
        run(small(tmp_path, algorithm={"name": "scaffold"}))
    assert results.load("small", tmp_path).runs["status"].tolist() == ["failed"]


def test_too_few_survivors_are_a_status_from_which_the_run_can_go_on(tmp_path, monkeypatch):
    """The process that trains clients 0 and 1 is lost in round 3 whenever it is tried, until the next start."""
    from small_runs import assert_same_tables

    original = InProcessPopulation.take

    def take(self, handle):
        updates = original(self, handle)
        if handle.task.t != 3:
            return updates
        lost = [dataclasses.replace(report, status="lost") for report in updates.reports[:2]]
        return dataclasses.replace(updates, reports=updates.reports[2:], missing=lost)

    faults = {"lost": "drop", "min_survivors": 3}
    with monkeypatch.context() as patch:
        patch.setattr(InProcessPopulation, "take", take)
        with pytest.raises(TooFewSurvivorsError, match="2 of 4 clients were lost"):
            run(small(tmp_path / "a", **faults))
    (row,) = results.load("small", tmp_path / "a").runs.to_dict("records")
    assert (row["status"], row["rounds_done"]) == ("too_few_survivors", 2)
    assert "fewer than faults.min_survivors = 3" in row["error"]
    assert_same_tables(run(small(tmp_path / "a", **faults)), run(small(tmp_path / "b", **faults)))


def test_events_outlive_the_rounds_that_are_played_again_and_those_that_never_end(tmp_path, monkeypatch):
    """An event in round 3 of a run that is killed there, and goes on from the checkpoint of round 2."""
    happened = {3: [Event("actor_lost", "first")], 4: [Event("hung", "second", clients=(1, 2))]}
    lost = Event("actor_lost", "third")

    def take(self, handle):
        t = handle.task.t
        self.events = lambda: happened.pop(t, [])
        if t == 5 and lost:
            self.events = lambda: [lost]
            raise RuntimeError("the fifth round")
        return original(self, handle)

    original = InProcessPopulation.take
    monkeypatch.setattr(InProcessPopulation, "take", take)
    e = small(tmp_path, rounds=6)
    e = dataclasses.replace(e, output=dataclasses.replace(e.output, checkpoint_every=2, flush_seconds=100.0))
    with pytest.raises(RuntimeError, match="the fifth round"):
        run(e)
    events = results.load("small", tmp_path).events
    assert list(zip(events["round"], events["kind"], strict=True)) == [
        *((3, "actor_lost"), (4, "hung")),
        (4, "actor_lost"),  # in a round that never ended
    ]
    Job(e).checkpoint.unlink()  # as if it had been killed before that one was written
    lost = None
    events = run(e).events
    assert list(zip(events["round"], events["kind"], strict=True)) == [
        *((3, "actor_lost"), (3, "resumed")),
        *((4, "hung"), (4, "actor_lost")),
    ]
    assert events["at_work"].dropna().tolist() == ["1,2"]


def test_a_run_without_a_checkpoint_says_that_it_starts_over(tmp_path):
    class Stopping(Watch):
        def round(self, job, row):
            raise SystemExit

    with pytest.raises(SystemExit):
        run(small(tmp_path), Stopping())
    watch = Noting()
    run(small(tmp_path), watch)
    assert "was killed before its first checkpoint, and starts over" in watch.notices[0]
