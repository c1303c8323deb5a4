"""The memory of GPUs: what a machine has, what actors need of it, and what is made of that. No GPU is needed here."""

import dataclasses
import stat

import pytest

from fedray.cluster.capacity import Capacity
from fedray.cluster.gpus import memory_of_each, needed, needed_parts
from fedray.cluster.needs import Needs
from fedray.cluster.plan import plan, runs_at_once
from fedray.cluster.settings import Cluster
from fedray.core.errors import BadInputError
from fedray.experiment.composition import compose
from fedray.run.needs import needs_of
from fedray.run.prepared import Job

MIB = 2**20

# What there is.

FIRST, SECOND, THIRD = "GPU-1f6a0000-0000", "GPU-2e5b0000-0000", "GPU-1c4d0000-0000"
THREE = f"0, {FIRST}, 24564, [N/A]\n1, {SECOND}, 16376, Disabled\n2, {THIRD}, 81920, Disabled\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Puts a program on PATH that says what nvidia-smi would."""

    def put(said: str, status: int = 0) -> None:
        program = tmp_path / "nvidia-smi"
        asked = '[ "$*" = "--query-gpu=index,uuid,memory.total,mig.mode.current --format=csv,noheader,nounits" ]'
        (tmp_path / "said").write_text(said)
        program.write_text(f"#!/bin/sh\n{asked} || exit 3\n/bin/cat '{tmp_path}/said'\nexit {status}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return put


def test_the_memory_is_that_of_the_smallest_gpu_which_nvidia_smi_reports(machine):
    machine(THREE)
    assert [memory_of_each(gpus) for gpus in (1, 2, 3)] == [16376 * MIB] * 3


def test_of_gpus_that_are_made_up_nothing_is_known(machine):
    assert memory_of_each(1) is None  # there is no nvidia-smi
    machine(THREE)
    assert memory_of_each(4) is None
    machine("")
    assert memory_of_each(1) is None


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", 9),
        (THREE, 9),
        ("No devices were found\n", 0),
        (f"0, {FIRST}, [N/A], [N/A]\n", 0),  # memory that a GPU shares with its machine
        (f"0, {FIRST}, 81920, Enabled\n", 0),  # of which an instance has a part
    ],
)
def test_where_nvidia_smi_cannot_say_it_nothing_is_known(machine, said, status):
    machine(said, status)
    assert memory_of_each(1) is None


@pytest.mark.parametrize(
    ("visible", "order", "smallest"),
    [
        ("0,2", "PCI_BUS_ID", 24564),
        ("2", "PCI_BUS_ID", 81920),
        ("2", "", 16376),  # the slowest, whichever that is
        (SECOND, "", 16376),
        (f"{FIRST},GPU-1c", "", 24564),
        ("", "", None),
        ("-1", "", None),
        ("MIG-1f6a0000-0000", "", None),
        ("GPU-77", "", None),
    ],
)
def test_only_gpus_count_that_cuda_visible_devices_names(machine, monkeypatch, visible, order, smallest):
    machine(THREE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", order)
    assert memory_of_each(1) == (smallest * MIB if smallest else None)


# What an actor needs.

NEEDS = Needs(
    10 * MIB,
    shards=300 * MIB,
    vectors=8,
    frozen=30 * MIB,
    activations_on_gpu=70 * MIB,
    largest_shard=20 * MIB,
    evaluated=28 * MIB,
)
"""An actor of its own needs 500 + 32 + 8 x 10 + 30 + 70 + (20 + 20 + 28) = 780 MiB, a packed one 1060."""


def test_an_actor_needs_a_context_vectors_activations_and_its_images():
    assert needed(NEEDS, packed=False) == 780 * MIB
    assert needed(NEEDS, packed=True) == 1060 * MIB
    parts = needed_parts(NEEDS, packed=True)
    assert list(parts.values()) == [size * MIB for size in (500, 32, 80, 30, 70, 348)]


def test_clients_that_train_at_once_have_vectors_activations_and_a_shuffled_shard_each():
    at_once = dataclasses.replace(NEEDS, at_once_on_gpu=10, activations_on_gpu=700 * MIB)
    assert needed(at_once, packed=True) - needed(NEEDS, packed=True) == 9 * (80 + 70 + 20) * MIB


def test_images_that_stay_on_the_host_are_not_counted():
    """All that may be kept of one array is 1 GiB, and there are the shards and two splits."""
    large = dataclasses.replace(NEEDS, shards=10**12, evaluated=10**12)
    assert needed_parts(large, packed=True)["data"] == (3 * 1024 + 20) * MIB


def test_a_jobs_needs_count_its_images(tmp_path):
    """Of 3072 bytes and a label of 8; three clients in one partition of quantities have shards that differ."""
    data = {"dataset": "synthetic", "train_examples": 100, "test_examples": 30, "validation_examples": 10}
    tree = {"data": data, "clients": 3, "cohort": 2, "output": {"root": str(tmp_path), "name": "mine"}}
    job = Job(compose({**tree, "partition": {"name": "dirichlet", "alpha": 0.5}, "cluster": {"backend": "in-process"}}))
    sizes = [len(shard) for shard in job.shards]
    assert sum(sizes) == 90
    assert max(sizes) > 30
    assert needs_of(job).shards == 90 * 3080
    assert needs_of(job).largest_shard == max(sizes) * 3080
    assert needs_of(job).evaluated == 40 * 3080
    assert (needs_of(job).at_once, needs_of(job).at_once_on_gpu, needs_of(job).together) == (1, 1, "")


# What is made of it.


def planned(clients, gpus=1, memory=8000, cpus=16.0, needs=NEEDS, **settings):
    capacity = Capacity((cpus,), gpus, 1e12, gpu_memory=memory and memory * MIB)
    return plan(Cluster(**settings), clients, capacity, needs)


def refusal(*args, **settings):
    with pytest.raises(BadInputError) as error:
        planned(*args, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_auto_has_an_actor_for_each_client_as_long_as_their_share_holds_them():
    """780 MiB are a tenth of 7800."""
    found = planned(10, memory=7800)
    assert (found.actors, found.packed, found.num_gpus, found.why) == (10, False, 0.1, "")
    assert found.gpu_bytes == 780 * MIB
    packed = planned(10, memory=7799)
    assert packed.packed
    assert packed.why == "10 would have 779 MiB of a GPU each, and need 780 MiB"
    assert planned(20, gpus=2, memory=7800).num_gpus == 0.1
    assert planned(10, memory=None).num_gpus == planned(10, memory=10**6).num_gpus == 0.1  # nothing is known; or plenty


def test_auto_packs_into_fewer_actors_with_larger_shares():
    """1060 MiB: four share a GPU of 4240 MiB, three one of 4000, one has that of 1100."""
    for memory, actors, num_gpus in ((4240, 4, 0.25), (4000, 3, 0.3333), (2120, 2, 0.5), (1100, 1, 1.0)):
        found = planned(50, memory=memory)
        assert (found.actors, found.num_gpus) == (actors, pytest.approx(num_gpus)), memory
        assert found.num_gpus * memory >= 1060
        assert planned(50, gpus=3, memory=memory).actors == 3 * actors
    assert planned(200, memory=4240).why == ""  # that many are packed on any GPU
    assert planned(200, memory=4000).why == "each needs 1060 MiB there"
    assert planned(200, memory=4000, clients_per_actor=2).num_gpus == pytest.approx(0.3333)


def test_what_no_gpu_holds_is_refused_even_where_all_is_left_to_fedray():
    assert refusal(50, memory=1000) == (
        "1 actor x 1 GPU: of a GPU's 1000 MiB each has 1000, but a process needs 1060 there, 500 for its CUDA context, "
        "32 for cuBLAS, 80 for 8 vectors of 10 MiB, 30 for what is frozen, 70 for batches of images and 348 for data; "
        "choose a smaller model or algorithm.batch_size, or cluster.gpus_per_client = 0 to train on the CPU"
    )
    assert planned(50, memory=1000, gpus_per_client=0).num_gpus == 0


def test_settings_that_say_how_are_refused_with_the_whole_arithmetic():
    said = refusal(10, memory=7000, clients_per_actor=1)
    assert said.startswith("10 actors x 0.1 GPU: of a GPU's 7000 MiB each has 700, but a process needs 780 there, 500 ")
    assert said.endswith("; raise cluster.clients_per_actor, or choose a smaller model or algorithm.batch_size")
    said = refusal(10, clients_per_actor=1, gpus_per_client=0.05)
    assert said.startswith("10 actors x 0.05 GPU: of a GPU's 8000 MiB each has 400, but a process needs 780 there, ")
    assert "; raise cluster.gpus_per_client or cluster.clients_per_actor, or choose" in said
    said = refusal(10, clients_per_actor=2, gpus_per_client=0.06)
    assert said.startswith("5 actors x 0.12 GPU: of a GPU's 8000 MiB each has 960, but a process needs 1060 there, ")
    assert planned(10, clients_per_actor=1, gpus_per_client=0.0975).actors == 10  # 780 of 8000
    assert planned(10, clients_per_actor=2, gpus_per_client=0.07).actors == 5


def test_a_share_that_is_too_small_is_made_larger_where_packing_is_left_to_fedray():
    """1060 of 8000 MiB are 0.1325."""
    found = planned(10, gpus_per_client=0.05)
    assert (found.actors, found.packed) == (7, True)
    assert found.num_gpus == pytest.approx(0.1325)
    assert found.why == "10 would have 400 MiB of a GPU each, and need 780 MiB"


def test_the_setting_counts_more_than_what_was_found():
    assert planned(10, memory=None, gpu_memory=7799).packed
    assert not planned(10, memory=100, gpu_memory=7800).packed
    assert "of a GPU's 500 MiB" in refusal(10, memory=10**6, gpu_memory=500)


def test_an_actor_with_several_gpus_uses_the_memory_of_one():
    assert "2 actors x 2 GPU: of a GPU's 700 MiB each has 700," in refusal(
        2, gpus=4, memory=700, clients_per_actor=1, gpus_per_client=2
    )


def test_runs_in_flight_have_to_fit_their_actors_share():
    """An actor has 2000 MiB, of which 500 + 32 are for whichever trains, and 528 for each of them: two fit.

    70 of those are for batches of images, which graphs keep.
    """
    needs, machine = NEEDS, Capacity((16.0,), 1, 1e12, gpu_memory=8000 * MIB)
    alike = planned(200, clients_per_actor=100)
    assert (alike.actors, alike.gpu_bytes) == (2, 2000 * MIB)
    assert runs_at_once(alike, needs, machine) == 2
    assert runs_at_once(planned(200, memory=4240, clients_per_actor=100), needs, machine) == 1
    assert runs_at_once(planned(200, memory=None, clients_per_actor=100), needs, machine) == 6


# engine = fused.

ONE = dataclasses.replace(NEEDS, together="anywhere")
MANY = dataclasses.replace(ONE, at_once_on_gpu=10, activations_on_gpu=700 * MIB, fewer=ONE)
"""500 + 32 + 10 x 80 + 30 + 700 + (300 + 10 x 20 + 28) = 2590 MiB, or 1060 for one client at a time."""


def test_clients_that_train_as_one_program_are_packed_and_have_a_whole_gpu():
    for memory in (8000, None):
        found = planned(10, memory=memory, needs=MANY)
        assert (found.actors, found.packed, found.num_gpus) == (1, True, 1.0)
    assert planned(10, gpus=2, needs=MANY).actors == 2
    assert planned(10, gpus=0, needs=MANY, cpus=2.0).clients_per_actor == 5
    assert planned(1, needs=MANY).clients_per_actor == 1
    said = refusal(10, needs=MANY, clients_per_actor=1)
    assert "cluster.clients_per_actor = 1 keeps clients apart, and engine = fused trains them as one program" in said
    assert planned(10, needs=MANY, clients_per_actor=2, gpus_per_client=0.5).actors == 1


def test_models_whose_bits_are_the_same_alone_are_packed_on_gpus_only():
    needs = dataclasses.replace(MANY, together="on a GPU")
    assert planned(10, needs=needs).packed
    assert "engine = fused, on a GPU, trains them" in refusal(10, needs=needs, clients_per_actor=1)
    assert not planned(10, gpus=0, needs=needs).packed
    assert not planned(10, needs=needs, gpus_per_client=0).packed


def test_where_many_at_once_have_no_room_one_at_a_time_has_to_do():
    assert planned(10, memory=2000, needs=MANY).num_gpus == 1.0
    assert "a process needs 2590 there" in refusal(10, memory=2000, needs=dataclasses.replace(MANY, fewer=None))
    assert "a process needs 1060 there" in refusal(10, memory=1000, needs=MANY)


def test_a_jobs_needs_count_the_clients_that_train_at_once(tmp_path):
    """lenet5 has 62,006 params: 67 clients' are less than 16 MiB; a block has 40 of 80."""
    data = {"dataset": "synthetic", "train_examples": 800, "test_examples": 30}
    tree = {"data": data, "clients": 100, "cohort": 80, "blocks": 2, "model": {"name": "lenet5"}, "engine": "fused"}
    tree |= {"output": {"root": str(tmp_path), "name": "mine"}, "cluster": {"backend": "in-process"}}
    needs = needs_of(Job(compose(tree)))
    assert (needs.at_once, needs.at_once_on_gpu, needs.together) == (40, 40, "anywhere")
    assert needs.fewer.at_once_on_gpu == 1
    assert needs_of(Job(compose({**tree, "blocks": 1}))).at_once == 67
    some = needs_of(Job(compose({**tree, "chunk_size": 7})))
    assert (some.at_once, some.at_once_on_gpu, some.fewer) == (7, 7, None)
    assert needs_of(Job(compose({**tree, "engine": "plain"}))).together == ""
    assert needs_of(Job(compose({**tree, "model": {"name": "mlp"}}))).together == "on a GPU"
