"""The reservations of a population: plain arithmetic, and a sentence with the arithmetic where it does not work out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedray.cluster.capacity import Capacity, capacity_of
from fedray.cluster.needs import Needs, object_store_bytes
from fedray.cluster.plan import Plan, plan, runs_at_once
from fedray.cluster.settings import Cluster
from fedray.cluster.shares import room, share
from fedray.core.errors import BadInputError
from fedray.experiment.composition import compose

LAPTOP = Capacity(cpus=(2.0,), gpus=0, memory=20e9)
SMALL = 250_000  # bytes of a model


def planned(clients, capacity=LAPTOP, model_bytes=SMALL, **settings):
    return plan(Cluster(**settings), clients, capacity, Needs(model_bytes))


def test_auto_is_one_actor_per_client_while_that_fits_in_memory():
    assert planned(10) == Plan(actors=10, clients_per_actor=1, num_cpus=0.2, num_gpus=0, room=10, most_lanes=2, most=10)
    assert not planned(100).packed
    assert planned(101, Capacity((2.0,), 0, 1e12)).packed  # it would take a minute to start them
    assert planned(60, forked=False).packed
    assert planned(1000) == Plan(
        actors=2, clients_per_actor=500, num_cpus=1, num_gpus=0, room=2, most_lanes=2, most=1000
    )


def test_auto_counts_the_model_too():
    assert not planned(10).packed
    assert planned(10, model_bytes=500_000_000).packed  # vgg16: parameters, gradients, momentum and message


def test_auto_counts_shards_and_object_store_too():
    assert not plan(Cluster(forked=False), 40, LAPTOP, Needs(SMALL, shards=10**9, object_store=10**9)).packed
    assert plan(Cluster(forked=False), 40, LAPTOP, Needs(SMALL, shards=10**9, object_store=2 * 10**9)).packed


VGG16 = Needs(537_000_000, object_store=object_store_bytes(10**8, 537_000_000, 5), vectors=8)
"""With its 8 vectors a process takes 4.36 GB."""


def test_auto_makes_no_more_actors_than_memory_holds():
    def actors(memory, cpus=8.0, **settings):
        return plan(Cluster(**settings), 10, Capacity((cpus,), 0, memory), VGG16).actors

    assert actors(1e12) == 10
    assert actors(50e9) == 5  # packed as the cores have it, and all of them fit
    assert actors(20e9) == 3  # the store, 4.4 GB, and three times 4.36 GB
    assert actors(9e9) == 1
    with pytest.raises(BadInputError, match="1 actor x 4157 MiB, of which 8 vectors of 512 MiB each, and 1526 MiB"):
        actors(4e9)


@pytest.mark.parametrize("settings", [{"clients_per_actor": 1}, {"clients_per_actor": 2, "cpus_per_actor": 0.1}])
def test_actors_that_memory_cannot_hold_are_refused_with_the_arithmetic(settings):
    actors = 10 // settings["clients_per_actor"]
    with pytest.raises(BadInputError) as error:
        plan(Cluster(**settings), 10, Capacity((2.0,), 0, 4e9), VGG16)
    total = actors * 4157 + 1526
    parts = f"{actors} actors x 4157 MiB", f"need {total} MiB, but 3815 MiB are free", "clients_per_actor"
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert plan(Cluster(**settings), 10, Capacity((2.0,), 0, 1e12), VGG16).actors == actors


def test_a_process_counts_frozen_parameters_once_and_with_a_gpu_few_vectors():
    frozen, whole = Needs(20_000, vectors=8, frozen=537_000_000), Needs(537_000_000, vectors=8)
    on_one = Capacity((8.0,), 1, 8e9)
    one_each = Cluster(clients_per_actor=1)
    assert plan(one_each, 10, Capacity((8.0,), 0, 8e9), frozen).actors == 10  # 600 MB each
    with pytest.raises(BadInputError, match="14 actors"):
        plan(one_each, 14, Capacity((8.0,), 0, 8e9), frozen)
    assert plan(Cluster(clients_per_actor=1, forked=True), 2, on_one, whole).actors == 2  # 2.7 GB each
    with pytest.raises(BadInputError, match="2 actors x 4157 MiB"):
        plan(one_each, 2, Capacity((8.0,), 0, 8e9), whole)


INCEPTION = Needs(97_000_000, vectors=8, activations=6_900 * 2**20)
"""As measured with its auxiliary classifiers and batches of 32 images: a process takes 60 + 740 + 6900 MiB."""


def test_a_process_counts_its_batches_of_images():
    clients, machine = 10, Capacity((8.0,), 0, 16 * 2**30)
    assert plan(Cluster(), clients, machine, INCEPTION).actors == 2
    with pytest.raises(BadInputError) as error:
        plan(Cluster(clients_per_actor=1), clients, machine, INCEPTION)
    assert "10 actors x 7701 MiB, of which 8 vectors of 92.5 MiB each and 6900 MiB for batches of" in str(error.value)
    assert "need 77010 MiB, but 16384 MiB are free" in str(error.value)
    assert "a smaller model or algorithm.batch_size" in str(error.value)
    on_one = Capacity((8.0,), 1, 16 * 2**30)
    assert plan(Cluster(clients_per_actor=1), clients, on_one, INCEPTION).actors == 10  # the batches are on the GPU


def test_runs_in_flight_share_the_actors_images():
    """An actor works for one run at a time, so that 10 GiB are left for the runs' 8 vectors in each of two actors."""
    planned, machine = Plan(2, 5, 1, 0, room=2, most_lanes=2), Capacity((2.0,), 0, 20 * 2**30)
    assert runs_at_once(planned, Needs(50 * 2**20, vectors=8), machine) == 3
    assert runs_at_once(planned, Needs(50 * 2**20, vectors=8, activations=8 * 2**30), machine) == 1


def test_what_of_the_store_goes_to_disk_counts_for_nothing():
    huge = Needs(SMALL, object_store=10**12)
    assert plan(Cluster(clients_per_actor=1), 10, LAPTOP, huge).actors == 10
    with pytest.raises(BadInputError, match="and 19000 MiB of shared memory"):
        plan(Cluster(clients_per_actor=1, object_store=19_000), 10, LAPTOP, huge)


def test_shares_always_fit():
    for clients in (3, 7, 11, 30):
        p = planned(clients)
        assert p.actors == clients
        assert p.actors * p.num_cpus <= 2
        g = planned(clients, Capacity((16.0,), 2, 1e12))
        assert g.num_gpus > 0
        assert int(1 / g.num_gpus + 1e-9) * 2 >= clients


def test_no_share_lies_across_two_nodes():
    """Three actors on two nodes of one CPU each: a half, since one of them must hold two."""
    nodes = Capacity((1.0, 1.0), 0, 1e12)
    assert planned(3, nodes, clients_per_actor=1).num_cpus == 0.5
    assert planned(7, Capacity((4.0, 2.0), 0, 1e12), clients_per_actor=1).num_cpus == pytest.approx(0.8)
    with pytest.raises(BadInputError, match="2 on 2 nodes, room for 2"):
        planned(3, nodes, clients_per_actor=1, cpus_per_actor=0.6)


def test_of_a_cluster_only_what_is_free_is_counted_and_nodes_without_cpus_are_left_out():
    nodes = [({"CPU": 4.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 1.5}), ({"CPU": 2.0}, {}), ({"GPU": 8.0}, {"GPU": 8.0})]
    capacity = capacity_of(nodes, 1e12)
    assert capacity == Capacity((1.0, 0.0), 1.5, 1e12, node_gpus=(1.5, 0.0), held_cpus=5.0, held_gpus=0.5)
    assert planned(3, capacity, clients_per_actor=1).num_cpus == pytest.approx(0.3333)
    assert planned(3, capacity, clients_per_actor=1).num_gpus == 0.5  # two on one GPU, one on what is left of another
    assert planned(3, capacity, clients_per_actor=3).actors == 1
    with pytest.raises(BadInputError, match="but only 1 of 6 are free on 2 nodes, room for 1;"):
        planned(2, capacity, clients_per_actor=1, cpus_per_actor=1)
    with pytest.raises(BadInputError, match="only 1.5 of 2 GPUs are free on 2 nodes, so room for 1;"):
        planned(2, capacity, clients_per_actor=1, gpus_per_client=1)
    with pytest.raises(BadInputError, match="no CPUs .all of its 2 are held by other jobs."):
        planned(2, capacity_of(nodes[1:], 1e12))


def test_an_actor_finds_its_cpus_and_its_gpu_on_the_same_node():
    """Eight CPUs beside no GPU are no use to an actor that wants one."""
    nodes = Capacity((8.0, 2.0), 2, 1e12, node_gpus=(0, 2))
    found = planned(6, nodes, clients_per_actor=1)
    assert found.num_gpus == pytest.approx(1 / 3, abs=1e-4)
    assert found.num_cpus == pytest.approx(1 / 3, abs=1e-4)
    assert found.room == 6
    assert planned(6, nodes, clients_per_actor=2).actors == 2  # a whole CPU each
    with pytest.raises(BadInputError, match="on 2 nodes, so room for 2 with 1 CPUs each beside them;"):
        planned(4, nodes, clients_per_actor=1, cpus_per_actor=1, gpus_per_client=0.5)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=4), st.integers(1, 200))
def test_a_share_always_fits_and_no_noticeably_larger_one_does(wholes, parts):
    found = share(wholes, parts)
    assert 0 < found <= 1
    assert room(wholes, found) >= parts
    assert found == 1 or room(wholes, found + 0.0002) < parts


def test_packing_makes_as_many_actors_as_fit():
    assert planned(10, clients_per_actor=5) == Plan(2, 5, 1, 0, room=2, most_lanes=2, most=2)
    assert planned(10, clients_per_actor=10) == Plan(1, 10, 1, 0, room=2, most_lanes=2, most=1)
    assert planned(100, clients_per_actor=10).actors == 2
    oversubscribed = planned(100, clients_per_actor=10, cpus_per_actor=0.25)
    assert oversubscribed.actors == oversubscribed.lanes == 8
    assert planned(8, Capacity((16.0,), 1, 1e12), clients_per_actor=2, gpus_per_client=0.25).actors == 2


@pytest.mark.parametrize(
    ("clients", "capacity", "settings", "arithmetic"),
    [
        (7, Capacity((8.0,), 2, 1e12), {"clients_per_actor": 1, "gpus_per_client": 0.3}, ("7 actors x 0.3 GPU", "holds 3", "2 GPUs", "room for 6")),
        (5, LAPTOP, {"clients_per_actor": 1, "cpus_per_actor": 0.5}, ("5 actors x 0.5 CPUs need 2.5 CPUs", "there are 2")),
        (20_000, Capacity((16.0,), 1, 1e15), {"clients_per_actor": 1}, ("20000 actors x 0.0001 GPU", "room for 10000")),
        (4, Capacity((8.0,), 1, 1e12), {"gpus_per_client": 2, "clients_per_actor": 2}, ("1 actors x 2 GPU", "room for 0")),
        (4, Capacity((), 0, 1e12), {}, ("no CPUs",)),
        (30_000, LAPTOP, {"clients_per_actor": 1}, ("30000 actors", "0.0001")),
    ],
)  # fmt: skip
def test_what_cannot_fit_is_refused_with_the_arithmetic(clients, capacity, settings, arithmetic):
    with pytest.raises(BadInputError) as error:
        planned(clients, capacity, **settings)
    assert all(part in str(error.value) for part in arithmetic)
    assert "\n" not in str(error.value)


def test_six_actors_of_a_third_fit_two_gpus():
    assert planned(6, Capacity((8.0,), 2, 1e12), gpus_per_client=0.3, clients_per_actor=1).num_gpus == 0.3


@pytest.mark.parametrize(
    ("gpus", "share", "fit"), [(2, 0.3, 6), (3, 0.4, 6), (4, 0.6, 4), (1, 0.1, 10), (2, 1, 2), (5, 2, 2), (1, 0.34, 2)]
)
def test_as_many_actors_fit_as_the_single_gpus_hold_whole_shares(gpus, share, fit):
    """One more is refused where the settings say how, on one node or one GPU a node, and packed where they do not."""
    one = Capacity((64.0,), gpus, 1e12)
    each = Capacity((32.0,) * gpus, gpus, 1e12, node_gpus=(1,) * gpus)
    for capacity in [one, each] if share <= 1 else [one]:
        asked = {"gpus_per_client": share, "clients_per_actor": 1}
        assert planned(fit, capacity, **asked).actors == planned(fit, capacity, **asked).room == fit
        with pytest.raises(BadInputError, match=f"^{fit + 1} actors x {share:g} GPU do not fit: .*so room for {fit};"):
            planned(fit + 1, capacity, **asked)
        packed = planned(fit + 1, capacity, gpus_per_client=share)
        assert (packed.actors, packed.num_gpus, packed.packed) == (fit, share, True)
        assert packed.why == f"{fit + 1} x {share:g} GPU are more than fit {gpus} GPU{'s' * (gpus > 1)}"


def test_without_a_gpu_the_same_settings_reserve_none():
    for settings in ({}, {"clients_per_actor": 1}, {"clients_per_actor": 2}):
        found = planned(4, gpus_per_client=0.5, **settings)
        assert found == planned(4, **settings)
        assert found.num_gpus == 0
    held = Capacity((8.0,), 0, 1e12, held_gpus=2)
    with pytest.raises(BadInputError, match="only 0 of 2 GPUs are free"):
        planned(4, held, gpus_per_client=0.5, clients_per_actor=1)


def test_packed_actors_share_out_the_gpus_that_their_cpus_let_them_use():
    """With two cores two actors fit, so that each has half a GPU, or one of two; with sixteen four share a GPU."""
    for cpus, gpus, expected in ((2.0, 1, (2, 0.5)), (2.0, 2, (2, 1.0)), (16.0, 1, (4, 0.25)), (3.0, 2, (3, 0.5))):
        found = planned(200, Capacity((cpus,), gpus, 1e12))
        assert (found.actors, found.num_gpus) == expected


def test_the_object_store_holds_data_messages_and_updates():
    assert object_store_bytes(10**9, 10**7, 20) == 10**9 + 23 * 10**7


@pytest.mark.parametrize(
    "address", ["", "here", "a b:1", "host:", "host:port", "host:\u00b2", "ray://host:10001", "host:1234567"]
)
def test_an_address_is_local_auto_or_host_and_port(address):
    """Above all an empty one joins no cluster by accident."""
    with pytest.raises(BadInputError, match="is none of local, auto and HOST:PORT"):
        compose({"cluster": {"address": address}})


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (1.5, "cluster.gpus_per_client = 1.5: more than one GPU is a whole number of them"),
        (0.00005, "cluster.gpus_per_client = 5e-05: a share of a GPU is at least 0.0001"),
    ],
)
def test_a_share_is_one_that_ray_can_count(asked, sentence):
    with pytest.raises(BadInputError, match=sentence):
        compose({"cluster": {"gpus_per_client": asked}})
    assert [compose({"cluster": {"gpus_per_client": fine}}) for fine in (0, 0.0001, 1, 2)]


@pytest.mark.parametrize("address", ["local", "auto", "head:6379", "10.0.0.1:6379", "[::1]:6379"])
def test_addresses_that_may_be_right_are_taken(address):
    assert compose({"cluster": {"address": address}}).cluster.address == address
