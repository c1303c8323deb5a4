"""The one way of an update to a sum, with transforms written here: in both engines, on the host and on a device.

Halving halves what is sent. Owing sends whole steps of 1/4096 and remembers the rest (error feedback, as in Seide et al.
2014), so that all that was ever sent differs from all that was ever meant by less than a step. Noisy adds addressed
noise. Short claims two bytes a number.
"""

import dataclasses
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch
from small_data import make_dataset, make_recipe

from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.fedbn import FedBN
from fedray.algorithms.scaffold import Scaffold
from fedray.core.errors import ClientError
from fedray.core.randomness import generator
from fedray.models.build import build, initial_vectors
from fedray.server.aggregators import Mean
from fedray.server.rounds import play_rounds
from fedray.server.task import Task
from fedray.training.in_process import InProcessPopulation
from fedray.training.outgoing import all_finite

DATASET = make_dataset(test=40, side=8)
SHARDS = [np.arange(0, 20), np.arange(20, 30), np.arange(30, 60), np.arange(60, 85), np.arange(85, 96)]
LOCAL = {"lr": 0.05, "batch_size": 8}
HOMES = list(product(("plain", "fused"), ("cpu", "cpu:0")))


@dataclass(frozen=True)
class Plain:
    """A transform without memory that leaves the length as it is."""

    name = "plain"
    remembers = False

    def init_memory(self, update):
        return {}

    def apply(self, update, memory, address):
        return update, memory

    def encoded_bytes(self, update, num_bytes):
        return num_bytes


@dataclass(frozen=True)
class Halving(Plain):
    name = "halving"

    def apply(self, update, memory, address):
        return {**update, "params": update["params"] / 2}, memory


@dataclass(frozen=True)
class Owing(Plain):
    name = "owing"
    remembers = True
    step: float = 1 / 4096

    def init_memory(self, update):
        return {"rest": torch.zeros_like(update["params"])}

    def apply(self, update, memory, address):
        owed = update["params"] + memory["rest"]
        sent = torch.trunc(owed / self.step) * self.step
        return {**update, "params": sent}, {"rest": owed - sent}


@dataclass(frozen=True)
class Noisy(Plain):
    name = "noisy"

    def apply(self, update, memory, address):
        seed, t, client, attempt = address
        rng = generator(seed, "arrival", t=t, client=client, attempt=attempt)
        noise = torch.from_numpy(rng.standard_normal(len(update["params"]), np.float32)).to(update["params"].device)
        return {**update, "params": update["params"] + noise}, memory


@dataclass(frozen=True)
class Short(Plain):
    name = "short"

    def encoded_bytes(self, update, num_bytes):
        return num_bytes // 2


@dataclass(frozen=True)
class Spoiling(Plain):
    """What client 2 sends is no number in round 2."""

    name = "spoiling"

    def apply(self, update, memory, address):
        spoilt = address.client == 2 and address.t == 2
        return ({**update, "params": update["params"] * torch.nan} if spoilt else update), memory


class Listed(Mean):
    """Takes every update by itself, and makes the same of them."""

    linear = False

    def aggregate(self, updates, denominator=None):
        total = Mean().zero()
        for vectors, weight in zip(updates.each, updates.weights, strict=True):
            total.add_update(vectors, weight)
        return Mean().aggregate(dataclasses.replace(updates, sum=total), denominator)


def start_of(recipe):
    return initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed))


def play(engine="plain", device="cpu", chain=(), algorithm=None, rounds=3, cohort=4, aggregator=None, model="mlp"):
    """Each round, and the memories after the last."""
    recipe = make_recipe(DATASET, model, engine=engine)
    population = InProcessPopulation(DATASET, SHARDS, recipe, 2, None, device)
    algorithm = algorithm or FedAvg(**LOCAL)
    settings = {"ts": range(1, rounds + 1), "rounds": rounds, "cohort": cohort, "seed": 5, "chain": chain}
    start = algorithm.init(*start_of(recipe))
    done = list(play_rounds(algorithm, population, start, aggregator=aggregator, **settings))
    return done, dict(population.memories(rounds))


def bits(done):
    return [({name: v.tobytes() for name, v in each.state.items()}, each.updates.weights) for each in done]


@pytest.mark.parametrize(("engine", "device"), HOMES)
@pytest.mark.parametrize("algorithm", [FedAvg(**LOCAL), Scaffold(**LOCAL)], ids=["fedavg", "scaffold"])
def test_a_chain_that_changes_nothing_is_no_chain_to_the_bit(engine, device, algorithm):
    plain, memories = play(engine, device, algorithm=algorithm)
    done, others = play(engine, device, (Plain(), Plain()), algorithm=algorithm)
    assert bits(done) == bits(plain)
    assert [each.updates.reports[0].bytes_up for each in done] == [each.updates.reports[0].bytes_up for each in plain]
    assert memories.keys() == others.keys()
    for client, memory in memories.items():
        assert {n: v.tobytes() for n, v in memory.items()} == {n: v.tobytes() for n, v in others[client].items()}


@pytest.mark.parametrize(("engine", "device"), HOMES)
def test_halved_updates_halve_the_first_step(engine, device):
    (whole,), _ = play(engine, device, rounds=1)
    (half,), _ = play(engine, device, (Halving(),), rounds=1)
    assert (half.mean["params"] == whole.mean["params"] / 2).all()
    assert (half.mean["buffers"] == whole.mean["buffers"]).all()
    norms = [[report.update_norm for report in each.updates.reports] for each in (half, whole)]
    assert norms[0] == norms[1]  # of the client's update, before the chain


@pytest.mark.parametrize("chain", [(Halving(), Owing()), (Owing(), Halving())], ids=["halved first", "owed first"])
def test_a_chain_is_done_in_order(chain):
    (first, *_), memories = play(chain=chain, rounds=1)
    (whole, *_), _ = play(rounds=1, aggregator=Listed())
    for report, update in zip(whole.updates.reports, whole.updates.each, strict=True):
        owed = update["params"] / 2 if isinstance(chain[0], Halving) else update["params"]
        sent = np.trunc(owed * np.float32(4096)) / np.float32(4096)
        assert (memories[report.client]["sent/owing/rest"] == owed - sent).all()
    assert first.mean["params"].any()


@pytest.mark.parametrize(("engine", "device"), HOMES)
@pytest.mark.parametrize("algorithm", [FedAvg(**LOCAL), Scaffold(**LOCAL)], ids=["fedavg", "scaffold"])
def test_what_was_not_sent_is_remembered_and_sent_later(engine, device, algorithm):
    """Beside the algorithm's own memory. All that was sent is all that was meant, but for less than a step a number."""
    owing = Owing()
    recipe = make_recipe(DATASET, "mlp", engine=engine)
    population = InProcessPopulation(DATASET, SHARDS, recipe, 2, None, device)
    message = algorithm.broadcast(algorithm.init(*start_of(recipe)), 1)
    meant, sent = 0, 0
    for t in range(1, 5):
        for chain, total in (((), "meant"), ((owing,), "sent")):
            handle = population.submit(Task(algorithm, message, t, 0.05, chain), [1])
            update = population.take(handle).sum.vectors["params"].astype(np.float64) / len(SHARDS[1])
            if total == "meant":
                meant = meant + update
                population.discard(handle)
            else:
                sent = sent + update
                population.keep(handle)
        ((client, memory),) = population.memories(t)
        assert client == 1
        assert set(memory) == {*({"c_i"} if isinstance(algorithm, Scaffold) else ()), "sent/owing/rest"}
        assert np.abs(memory["sent/owing/rest"]).max() < owing.step
    rest = np.abs(meant - sent)
    assert 0 < rest.max() < owing.step * 1.01
    if isinstance(algorithm, FedAvg) and not isinstance(algorithm, Scaffold):
        np.testing.assert_allclose(meant - sent, memory["sent/owing/rest"], atol=1e-6)


def test_of_a_discarded_handle_the_chain_remembers_nothing():
    recipe = make_recipe(DATASET, "mlp")
    population = InProcessPopulation(DATASET, SHARDS, recipe, 2)
    message = FedAvg().broadcast(FedAvg().init(*start_of(recipe)), 1)
    handle = population.submit(Task(FedAvg(**LOCAL), message, 1, 0.05, (Owing(),)), [0, 1])
    population.take(handle)
    population.discard(handle)
    assert list(population.memories(1)) == []


@pytest.mark.parametrize(("engine", "device"), HOMES)
def test_the_bytes_sent_are_those_of_the_encoding(engine, device):
    """Two bytes a number, of which a quarter is left: what the last transform says of what the one before it said."""
    (plain,), _ = play(engine, device, rounds=1)
    (short,), _ = play(engine, device, (Short(), Short()), rounds=1)
    for one, other in zip(plain.updates.reports, short.updates.reports, strict=True):
        assert other.bytes_up == one.bytes_up // 4
        assert other.bytes_down == one.bytes_down


def test_a_personal_part_is_not_sent_and_the_chain_is_told_the_length_without_it():
    algorithm = FedBN(**LOCAL)
    (plain,), _ = play(algorithm=algorithm, rounds=1, model="resnet20")
    (short,), memories = play(chain=(Short(), Owing()), algorithm=algorithm, rounds=1, model="resnet20")
    assert [r.bytes_up for r in short.updates.reports] == [r.bytes_up // 2 for r in plain.updates.reports]
    assert all({"own_params", "own_buffers", "sent/owing/rest"} == set(memory) for memory in memories.values())


@pytest.mark.parametrize(("engine", "device"), HOMES)
def test_draws_of_a_transform_are_addressed(engine, device):
    """The same noise in blocks of any number, in another order of handles, and another for each client and attempt."""
    recipe = make_recipe(DATASET, "mlp", engine=engine)
    message = FedAvg().broadcast(FedAvg().init(*start_of(recipe)), 1)

    def noise(blocks, clients, attempt=0):
        population = InProcessPopulation(DATASET, SHARDS, recipe, blocks, None, device)
        found = []
        for chain in ((), (Noisy(),)):
            task = Task(FedAvg(**LOCAL), message, 7, 0.05, chain, Listed(), attempt=attempt)
            handle = population.submit(task, clients)
            found.append([vectors["params"] for vectors in population.take(handle).each])
            population.discard(handle)
        return {client: noisy - plain for client, plain, noisy in zip(clients, *found, strict=True)}

    whole = noise(1, [0, 1, 2, 3])
    for other in (noise(2, [0, 1, 2, 3]), noise(1, [2, 3])):
        for client, drawn in other.items():
            np.testing.assert_allclose(drawn, whole[client], atol=1e-6)
    again = noise(1, [0, 1], attempt=1)
    assert all(np.abs(again[client] - whole[client]).max() > 0.1 for client in again)
    assert np.abs(whole[0] - whole[1]).max() > 0.1


@pytest.mark.parametrize(("engine", "device"), HOMES)
def test_what_the_chain_made_infinite_does_not_count(engine, device):
    done, _ = play(engine, device, (Spoiling(), Owing()), cohort=5)
    assert [[(r.client, r.status) for r in each.absent] for each in done] == [[], [(2, "non_finite")], []]
    assert all(np.isfinite(each.state["params"]).all() for each in done)
    left, _ = play(engine, device, (Spoiling(),), cohort=5, aggregator=Listed(), rounds=2)
    assert [report.client for report in left[-1].updates.reports] == [0, 1, 3, 4]


@pytest.mark.parametrize(("engine", "device"), HOMES)
def test_summed_where_they_are_made_or_by_the_driver_the_bits_are_the_same(engine, device):
    chain = (Halving(), Owing())
    done, memories = play(engine, device, chain)
    listed, others = play(engine, device, chain, aggregator=Listed())
    here, _ = play(engine, "cpu", chain)
    assert bits(here) == bits(done)
    for one, other in zip(done, listed, strict=True):  # blocks are summed by themselves, and a list in one go
        np.testing.assert_allclose(other.state["params"], one.state["params"], rtol=1e-5, atol=1e-6)
    assert memories.keys() == others.keys()


class Failing(Plain):
    name = "failing"

    def apply(self, update, memory, address):
        raise ZeroDivisionError("in the chain")


@pytest.mark.parametrize(("engine", "device"), HOMES)
def test_an_error_in_the_chain_names_client_and_round(engine, device):
    with pytest.raises(ClientError, match=r"client \d failed in round 1(?s:.*)in the chain"):
        play(engine, device, (Failing(),))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_seen(wrong):
    update = {"params": torch.full((1000,), 3e38), "buffers": torch.zeros(0)}
    assert all_finite(update)
    update["params"][77] = wrong
    assert not all_finite(update)
