"""Several runs at once on the same actors: each ends in the bits that it has alone, whatever befalls the others."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from populations import ALGORITHM, SHARDS, Counting, on_ray, play
from small_data import make_dataset, make_recipe

from fedray.algorithms.fedavg import FedAvg
from fedray.cluster.dispatch import Dispatcher
from fedray.cluster.needs import Needs
from fedray.cluster.plan import plan
from fedray.cluster.settings import Cluster
from fedray.cluster.tickets import Errand, Slot, Ticket, Traffic
from fedray.core.errors import ClientError
from fedray.sweep.threads import play_all
from fedray.training.in_process import InProcessPopulation

RUNS = [
    (ALGORITHM, {"model": "lenet5"}),
    (Counting(lr=0.05, batch_size=8), {"model": "mlp", "engine": "fused"}),
    (Counting(lr=0.01, batch_size=4), {"model": "lenet5", "augment": "crop-flip"}),
    (FedAvg(lr=0.1, batch_size=16), {"model": "logistic", "seed": 5}),
]


@pytest.fixture(scope="module")
def alone(dataset):
    recipes = [make_recipe(dataset, **settings) for _, settings in RUNS]
    return [
        play(InProcessPopulation(dataset, SHARDS, recipe, 2), algorithm, recipe, rounds=4)
        for (algorithm, _), recipe in zip(RUNS, recipes, strict=True)
    ]


def play_together(session, dataset, clients_per_actor, meanwhile=lambda populations: None):
    """The bits of all RUNS, played at once."""
    recipes = [make_recipe(dataset, **settings) for _, settings in RUNS]
    populations = [on_ray(session, dataset, recipe, clients_per_actor=clients_per_actor) for recipe in recipes]
    with ThreadPoolExecutor() as threads:
        calls = [
            threads.submit(play, population, algorithm, recipe, rounds=4)
            for population, (algorithm, _), recipe in zip(populations, RUNS, recipes, strict=True)
        ]
        meanwhile(populations)
        bits = [call.result() for call in calls]
    for population in populations:
        population.close()
    return bits, populations


@pytest.mark.parametrize("clients_per_actor", [2, 1], ids=["packed", "an actor per client"])
def test_runs_at_once_give_the_bits_that_each_has_alone(session, dataset, alone, clients_per_actor):
    bits, populations = play_together(session, dataset, clients_per_actor)
    assert bits == alone
    used = [{slot.where["pid"] for slot in population.slots} for population in populations]
    assert all(pids == used[0] for pids in used)  # the same processes served them all
    assert not any(slot.uses for slot in session.pool.slots)


def test_a_lost_actor_comes_back_enrolled_in_every_run_that_used_it(session, dataset, alone):
    def kill(populations):
        for _ in range(2):
            time.sleep(0.15)
            with suppress(ProcessLookupError, KeyError):  # the last one killed, while another comes up
                os.kill(populations[0].slots[0].where["pid"], signal.SIGKILL)

    bits, populations = play_together(session, dataset, 2, kill)
    assert bits == alone
    assert any("actor_lost" in {event.kind for event in population.events()} for population in populations)


class Failing(FedAvg):
    def finish(self, start, end, steps, lr, message, memory):
        raise RuntimeError("this one fails")


def test_a_run_that_fails_takes_nothing_from_the_others(session, dataset, alone):
    recipe = make_recipe(dataset, **RUNS[0][1])
    for clients_per_actor in (2, 1):
        good = on_ray(session, dataset, recipe, clients_per_actor=clients_per_actor)
        bad = on_ray(session, dataset, make_recipe(dataset), clients_per_actor=clients_per_actor)
        with ThreadPoolExecutor() as threads:
            playing = threads.submit(play, good, ALGORITHM, recipe, rounds=4)
            with pytest.raises(ClientError, match="this one fails"):
                play(bad, Failing(batch_size=8), recipe)
            bad.close()
            assert playing.result() == alone[0]
        good.close()


def test_a_run_that_wants_other_reservations_waits_for_the_actors_at_work(session, dataset):
    recipe = make_recipe(dataset)
    first = on_ray(session, dataset, recipe, clients_per_actor=1)
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(on_ray, session, dataset, recipe, clients_per_actor=2)
        time.sleep(0.5)
        assert not asked.done()
        first.close()
        second = asked.result()
    assert {slot.where["pid"] for slot in second.slots}.isdisjoint(slot.where["pid"] for slot in first.slots)
    second.close()


def test_runs_of_one_client_have_an_actor_each_as_long_as_they_fit(session, dataset):
    """So that centralised training, one client, uses all cores when several runs of it are in flight."""
    from fedray.cluster.population import RayPopulation

    planned = plan(Cluster(clients_per_actor=1, gpus_per_client=0), 1, session.capacity, Needs(250_000))
    assert (planned.actors, planned.num_cpus, planned.room) == (1, 1.0, 2)
    runs = [RayPopulation(session.pool, planned, dataset, [SHARDS[2]], make_recipe(dataset), 1) for _ in range(3)]
    first, second, third = (run.slots[0].where["pid"] for run in runs)
    assert first != second
    assert third in (first, second)
    assert session.pool.dispatcher.lanes == 2
    for run in runs:
        run.close()


def test_each_data_set_in_use_is_in_the_store_once(session):
    one, other = make_dataset(train=96), make_dataset(train=96)
    runs = [on_ray(session, data, make_recipe(one), clients_per_actor=2) for data in (one, other, one, other)]
    refs = [run.data for run in runs]
    assert refs[0] == refs[2] != refs[1] == refs[3]
    for run in runs:
        run.close()
    assert [shared[0] for shared in session.pool.shared.values()] == [other]


def test_calls_of_the_run_that_began_first_are_handed_out_first():
    """One lane; a call is never answered here, so all but the first stay queued."""
    dispatcher = Dispatcher()
    slot = Slot(None, lambda slot: None, lambda: False)
    started = []

    def ticket(rank, cost):
        return Ticket(
            lambda actor: started.append((rank, cost)) or [object()], [slot], Errand(Traffic(rank)), cost=cost
        )

    late = [ticket(2, cost) for cost in (5.0, 9.0)]
    dispatcher.submit([ticket(3, 1.0)])
    dispatcher.submit([ticket(3, 1.0)])  # now the actor has one running and one waiting
    dispatcher.submit(late)
    dispatcher.submit([ticket(1, cost) for cost in (1.0, 3.0)])
    assert started == [(3, 1.0), (3, 1.0)]
    assert [(each.traffic.rank, each.cost) for each in dispatcher.queue] == [(1, 3.0), (1, 1.0), (2, 9.0), (2, 5.0)]
    dispatcher.withdraw(late[0].traffic)
    assert late[0] not in dispatcher.queue
    assert late[1] in dispatcher.queue  # of another Traffic, though of the same rank


def test_a_run_whose_data_do_not_fit_leaves_its_actors_to_the_next(session, dataset, monkeypatch):
    from fedray.cluster.pool import Pool

    def share(self, run, data):
        raise MemoryError("the object store is full")

    recipe = make_recipe(dataset)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Pool, "share", share)
        on_ray(session, dataset, recipe, clients_per_actor=1)
    assert not any(slot.uses for slot in session.pool.slots)
    on_ray(session, dataset, recipe, clients_per_actor=2).close()  # other reservations, and no waiting


def test_room_that_another_run_leaves_is_used_and_a_wait_for_nothing_can_be_stopped():
    dispatcher = Dispatcher()
    first, second = Slot(None, lambda slot: None, lambda: False), Slot(None, lambda slot: None, lambda: False)
    started = []

    def ticket(slot, name):
        return Ticket(lambda actor: started.append(name) or [object()], [slot], Errand(Traffic(0)))

    waiting = ticket(second, "b")
    dispatcher.submit([ticket(first, "a"), waiting])  # one lane
    assert started == ["a"]
    first.gone = True
    dispatcher.forget([first])
    assert started == ["a", "b"]
    dispatcher.forget([second])
    dispatcher.stop()
    with pytest.raises(KeyboardInterrupt):
        dispatcher.wait(waiting)


def test_an_interrupt_reaches_every_thread_at_its_next_wait():
    stop, ended = threading.Event(), []

    def play(item):
        if item == 1:
            signal.raise_signal(signal.SIGINT)  # which Python hands to the main thread
        stop.wait()
        ended.append(item)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            play_all(range(4), play, 2, stop.set)
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted(ended) == [0, 1]  # the others never began
