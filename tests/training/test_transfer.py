"""Data, messages and sums on a device of their own give the bits of the host's: here the CPU, by the name "cpu:0"."""

import dataclasses
import math
import pickle
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from small_data import bits_of, make_dataset, make_recipe

from fedray.algorithms.ditto import Ditto
from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.fedbn import FedBN
from fedray.algorithms.finetune import FineTune
from fedray.algorithms.moon import Moon
from fedray.algorithms.scaffold import Scaffold
from fedray.cluster.actor import ClientActor, NodeData, join_rows
from fedray.core.updates import Report, Updates, WeightedSum, finite
from fedray.data.skew import Skew
from fedray.models.build import build, initial_vectors
from fedray.server.aggregators import Mean
from fedray.server.rounds import play_rounds
from fedray.server.task import Task
from fedray.training import shards
from fedray.training.block import evaluate_block, train_block
from fedray.training.evaluate import evaluate
from fedray.training.in_process import InProcessPopulation
from fedray.training.outgoing import Outgoing
from fedray.training.shards import place
from fedray.training.spec import EVALUATION_BATCH, EVALUATION_BATCH_ON_GPU, evaluation_batch
from fedray.training.trainer import Trainer
from fedray.training.transfer import Done, to_device, to_host

DEVICE = "cpu:0"
DATASET = make_dataset(test=230, side=8, validation=110)
SHARDS = [np.arange(0, 20), np.arange(20, 30), np.arange(30, 60), np.arange(60, 85), np.arange(85, 96)]
OWN_TESTS = [np.arange(0, 40, 3), np.arange(5, 9), np.arange(0, 40, 2), np.arange(30, 40), np.arange(7, 8)]
LOCAL = {"lr": 0.05, "batch_size": 8}


class Overflowing(FedAvg):
    """Updates of clients with five steps are not finite from round 2 on, those with six have no loss that is."""

    def finish(self, start, end, steps, lr, message, memory):
        update = end - start
        return {"params": update.index_fill(0, torch.tensor([5]), math.inf) if steps == 4 else update}, memory

    def loss(self, output, targets):
        return super().loss(output, targets) * (math.nan if len(targets) == 6 else 1.0)


ALGORITHMS = {
    "fedavg": FedAvg(epochs=2, **LOCAL),
    "sum": FedAvg(weighting="sum", **LOCAL),
    "scaffold": Scaffold(**LOCAL),
    "scaffold I": Scaffold(option="I", weighting="uniform", **LOCAL),
    "ditto": Ditto(**LOCAL),
    "moon": Moon(**LOCAL),
    "fedbn": FedBN(**LOCAL),
    "finetune": FineTune(fine_tune_epochs=2, **LOCAL),
    "overflowing": Overflowing(**LOCAL),
}


class Listed(Mean):
    """Aggregates what every client sent, as an aggregator that is not linear does."""

    linear = False

    def aggregate(self, updates, denominator=None):
        total = WeightedSum()
        for vectors, weight in zip(updates.each, updates.weights, strict=True):
            total.add_update(vectors, weight)
        return Mean().aggregate(Updates(total, updates.reports), denominator)


ALGORITHMS["listed"] = FedAvg(**LOCAL)
AGGREGATORS = {"listed": Listed()}


def recipe_of(model, engine="plain", augment="none", skew=None):
    recipe = make_recipe(DATASET, model, augment, engine=engine, cutout=3)
    return dataclasses.replace(recipe, clients=len(SHARDS), skew=skew or Skew())


def told(report):
    return repr(
        dataclasses.replace(report, seconds=None, cpu_seconds=None, pid=0)
    )  # in which what is no number equals itself


def bytes_of(vectors):
    return {name: vector.tobytes() for name, vector in vectors.items()}


def play(name, recipe, device):
    """All that three rounds of four clients give, and the evaluations after each."""
    population = InProcessPopulation(DATASET, SHARDS, recipe, 2, OWN_TESTS, device)
    algorithm, found = ALGORITHMS[name], []
    state = algorithm.init(*initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed)))
    for done in play_rounds(
        algorithm, population, state, ts=[1, 2, 3], rounds=3, cohort=4, seed=5, aggregator=AGGREGATORS.get(name)
    ):
        message = algorithm.broadcast(done.state, done.t)
        found.append((
            [told(report) for report in (*done.updates.reports, *done.absent)],
            bytes_of(done.state),
            bits_of(population.evaluate(done.state, "test", 3)),
            bits_of(population.evaluate(done.state, "validation")),
            population.evaluate_clients(Task(algorithm, message, done.t, done.lr)),
        ))  # fmt: skip
    return found, {client: bytes_of(memory) for client, memory in population.memories(3)}, population


@cache
def on_host(name, recipe):
    return play(name, recipe, "cpu")[:2]


# BatchNorm has buffers; a skewed client has images of its own.
CASES = [
    *(("lenet5" if name == "moon" else "logistic", "plain", name) for name in ALGORITHMS if name != "fedbn"),
    *(("resnet20", "plain", name) for name in ("fedavg", "fedbn")),
    *(("mlp", "fused", name) for name in ("fedavg", "scaffold", "finetune")),
]


@pytest.mark.parametrize(("model", "engine", "name"), CASES)
def test_what_is_kept_and_summed_on_a_device_is_the_same_bits(model, engine, name, monkeypatch):
    if model == "lenet5":
        monkeypatch.setitem(globals(), "DATASET", make_dataset(test=60, side=16, validation=30))
    recipe = recipe_of(model, engine, "crop-flip-cutout", Skew(noise=0.1, rotation=40))
    *found, population = play(name, recipe, DEVICE)
    assert tuple(found) == on_host(name, recipe)
    assert isinstance(population.shards.of(0)[0], torch.Tensor)
    assert population.shards.of(1)[0]._base is population.shards.of(0)[0]._base is population.shards.kept.images
    statuses = {
        word
        for word in ("ok", "non_finite")
        if any(f"{word!r}" in report for reports, *_ in found[0] for report in reports)
    }
    assert statuses == ({"ok", "non_finite"} if name == "overflowing" else {"ok"})


@pytest.mark.parametrize(("model", "engine", "name"), [("logistic", "plain", "scaffold I"), ("mlp", "fused", "fedavg")])
@pytest.mark.parametrize("largest", [0, 8000])
def test_what_is_too_large_to_be_kept_is_the_same_bits(model, engine, name, largest, monkeypatch):
    """Nothing is ever on the device as a whole, or only what one call needs: 8000 bytes are 41 images."""
    monkeypatch.setattr(shards, "LARGEST_KEPT", largest)
    recipe = recipe_of(model, engine, "crop-flip-cutout", Skew(noise=0.1, rotation=40))
    *found, population = play(name, recipe, DEVICE)
    assert tuple(found) == on_host(name, recipe)
    assert population.shards.kept is population.tests.kept is None
    assert isinstance(place(*population.shards.of(0), DEVICE)[0], np.ndarray if largest == 0 else torch.Tensor)


# The sum.


def updates_of(rng, clients, spoilt):
    """Updates of several vectors with zeros of either sign; those of `spoilt` clients are not finite, each its way."""
    found = []
    for client in range(clients):
        zeros = np.where(rng.random(40) < 0.5, np.float32(0), np.float32(-0.0))
        params = np.where(rng.random(40) < 0.5, zeros, rng.standard_normal(40).astype(np.float32))
        update = {"params": params, "buffers": np.zeros(0, np.float32), "c": rng.random(3).astype(np.float32) * 1e38}
        loss = 1.0
        if client in spoilt:
            way = spoilt.index(client) % 4
            if way < 3:
                update["c" if way == 1 else "params"][2] = (np.inf, np.nan, -np.inf)[way]
            loss = math.nan if way == 3 else loss
        found.append((update, loss))
    return found


@pytest.mark.parametrize("spoilt", [[], [0], [3], [0, 1, 2, 5], [0, 1, 2, 3, 4, 5]])
@pytest.mark.parametrize("weights", [[1.0] * 6, [7.0, 300.0, 1.0, 41.0, 2.0, 13.0], [0.1, 1e-30, 0.3, 3.7, 1e30, 1.0]])
def test_the_sum_on_a_device_is_numpys_to_the_bit(spoilt, weights):
    """Rounded after the product and after the sum, the signs of zeros kept, whatever overflows on the way."""
    task = Task(FedAvg(), {}, 1, 0.1, weights=dict(enumerate(weights)))
    there, total = Outgoing(Trainer(recipe_of("logistic"), DEVICE), task, summed=True), WeightedSum()
    with np.errstate(over="ignore"):
        for client, (update, loss) in enumerate(updates_of(np.random.default_rng(3), 6, spoilt)):
            tensors = {name: torch.from_numpy(vector.copy()) for name, vector in update.items()}
            norm = torch.linalg.vector_norm(tensors["params"])
            report = Report(client, 10, 2, None, None, 0.5, 1, 1)
            there.add(Done(tensors, {}, report, torch.tensor(loss, dtype=torch.float64), norm), {})
            assert bytes_of({name: tensor.numpy() for name, tensor in tensors.items()}) == bytes_of(update)
            if finite(update) and math.isfinite(loss):
                total.add_update(update, weights[client])
    trained, _ = there.result()
    found, reports = trained.sum, trained.reports
    assert bytes_of(found.vectors) == bytes_of(total.vectors)
    assert found.weight == total.weight
    assert [report.client for report in reports if report.status == "non_finite"] == spoilt
    assert all(math.isfinite(report.update_norm) for report in reports if report.status == "ok")
    assert sum(report.seconds for report in reports) == pytest.approx(0, abs=10)


def test_the_clients_of_a_block_share_the_time_that_it_took():
    """Telling the device what to do took 1 and 3 s; the whole took so long as the clock says now."""
    there = Outgoing(Trainer(recipe_of("logistic"), DEVICE), Task(FedAvg(), {}, 1, 0.1), summed=True)
    for client, seconds in enumerate((1.0, 3.0)):
        report = Report(client, 10, 2, None, None, seconds, 1, 1)
        there.add(Done({"params": torch.ones(2)}, {}, report, 0.5, 1.0), {})
    there.began -= 80
    one, other = there.result()[0].reports
    assert one.seconds + other.seconds == pytest.approx(80, abs=5)
    assert other.seconds == pytest.approx(3 * one.seconds)
    assert (one.train_loss, one.update_norm, one.status) == (0.5, 1.0, "ok")


def test_one_copy_brings_back_tensors_of_every_kind():
    """Of any shape and type, views and expanded ones too; what is written to one changes nothing else."""
    whole = torch.arange(12, dtype=torch.float32)
    tensors = [
        torch.tensor(True), whole[1:4], torch.zeros(0), torch.arange(6, dtype=torch.int16).view(2, 3).t(),
        torch.tensor(0.1, dtype=torch.float64), torch.ones(1).expand(5), whole.view(3, 4)[:, 1], torch.tensor([7]),
        torch.zeros(0).expand(4, -1)[1], torch.ones(1).expand(3, -1)[2],
    ]  # fmt: skip
    expected = [tensor.numpy().copy() for tensor in tensors]
    found = to_host(tensors)
    for array, wanted in zip(found, expected, strict=True):
        assert (array.dtype, array.shape, array.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())
        assert array.flags.aligned
    found[1][:] = 99
    assert whole.tolist() == list(range(12))
    assert to_host([]) == []
    (alone,) = to_host([whole])
    alone[0] = 99
    assert whole[0] == 0


def test_numbers_of_an_epoch_go_there_in_one_copy():
    one, other = to_device(DEVICE, [np.arange(5), np.arange(5, 10)])
    assert (one.tolist(), other.tolist()) == ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
    assert one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


# Actors.

NODE = NodeData(**{f"{split}_{what}": getattr(DATASET, f"{split}_{what}") for split in ("train", "test", "validation")
                   for what in ("images", "labels")})  # fmt: skip


def actor_on(device, recipe, packed):
    """An actor without Ray, enrolled in the run "r"."""
    actor = ClientActor.__new__(ClientActor)
    actor.device, actor.runs, actor.refused, actor.place = device, {}, {}, {}
    if packed:
        actor.enrol("r", recipe, NODE, join_rows(SHARDS), join_rows(OWN_TESTS))
    else:
        actor.enrol("r", recipe, NODE, None, None)
        for client, rows in enumerate(SHARDS):
            actor.adopt("r", client, rows, OWN_TESTS[client])
    return actor


def message_of(recipe, seed=0):
    params, buffers = initial_vectors(build(recipe.model, recipe.shape, recipe.classes, seed))
    return {"params": params, "buffers": buffers}


def results_of(enrolment, message):
    """A block's training, its clients' evaluation, and that of both splits, as they are compared."""
    algorithm, clients, nothing = FineTune(**LOCAL), [0, 1, 3, 4], [{}] * 4
    task, shards = Task(algorithm, message, 2, 0.05), enrolment.shards.of
    trained, _ = train_block(enrolment.trainer, task, clients, shards, nothing, summed=True)
    scores = evaluate_block(enrolment.trainer, task, clients, shards, enrolment.tests.of, nothing)
    whole = [evaluate(enrolment.trainer, message, *enrolment.examples(split)) for split in ("test", "validation")]
    measured = [(found.losses, found.predicted.tobytes()) for found in whole]
    return bytes_of(trained.sum.vectors), trained.sum.weight, [told(r) for r in trained.reports], scores, measured


@pytest.mark.parametrize("engine", ["plain", "fused"])
@pytest.mark.parametrize("packed", [True, False])
def test_an_actor_holds_the_images_on_its_device_and_gives_the_same_bits(packed, engine):
    recipe = recipe_of("mlp", engine, "crop-flip", Skew(noise=0.1, colour=0.4))
    message = message_of(recipe)
    found = {}
    for device in ("cpu", DEVICE):
        enrolment = actor_on(device, recipe, packed).runs["r"]
        found[device] = results_of(enrolment, message)
    assert found["cpu"] == found[DEVICE]
    kept = [enrolment.shards.of(0), enrolment.tests.of(3), enrolment.examples("test")]
    again = [enrolment.shards.of(0), enrolment.tests.of(3), enrolment.examples("test")]
    assert all(type(part) is torch.Tensor for examples in kept for part in examples)
    assert [x.data_ptr() for x, _ in kept] == [x.data_ptr() for x, _ in again]
    if packed:
        assert enrolment.shards.kept.images.shape == (96, 3, 8, 8)
        assert enrolment.shards.of(4)[0]._base is enrolment.shards.kept.images


# Arrays that cannot be written to, as all that comes from the object store; in an actor the same is switched off.
READ_ONLY = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")


@READ_ONLY
def test_an_actor_reads_the_same_small_message_once():
    """Pickled by value in each call; another message, or another algorithm, is read anew, in whatever order."""
    recipe = recipe_of("logistic")
    one, other = message_of(recipe), message_of(recipe, seed=1)
    calls = [
        (Task(algorithm, {}, 1, 0.05), message)
        for algorithm, message in (
            (FedAvg(**LOCAL), one),
            (FedAvg(**LOCAL), other),
            (FedAvg(momentum=0.5, **LOCAL), one),
        )
    ]
    expected: dict[int, dict[str, bytes]] = {}
    for device, order in (("cpu", [0, 1, 2]), (DEVICE, [0, 0, 1, 1, 0, 2, 2])):
        actor, read = actor_on(device, recipe, packed=True), []
        for each in order:
            first, *_ = actor.train("r", pickle.dumps(calls[each], protocol=5), [0, 1], True, "", None, 0)
            found = bytes_of(pickle.loads(first)[1].sum.vectors)
            assert found == expected.setdefault(each, found)
            read.append(actor.runs["r"].trainer.last_received)
        if device == DEVICE:
            again = [after is before for before, after in pairwise(read)]
            assert again == [after == before for before, after in pairwise(order)]
    assert len({found["params"] for found in expected.values()}) == 3


@READ_ONLY
def test_a_message_that_cannot_change_is_copied_once_and_any_other_each_time():
    trainer = Trainer(recipe_of("logistic"), DEVICE)
    message = message_of(trainer.recipe)
    first = trainer.on_its_place(message)
    message["params"][:] = 1  # nothing said that it would not
    assert trainer.on_its_place(message)["params"].unique().tolist() == [1]
    for vector in message.values():
        vector.flags.writeable = False
    frozen = trainer.on_its_place(message)
    assert first["params"].data_ptr() != frozen["params"].data_ptr()
    views = {name: vector[:] for name, vector in message.items()}  # as each call gets them from the object store
    assert trainer.on_its_place(views) is frozen
    assert trainer.on_its_place({"params": views["params"]}) is not frozen
    longer = np.ones(len(message["params"]) + 1, np.float32)
    longer.flags.writeable = False
    halves = [
        trainer.on_its_place({**views, "params": longer[part]})["params"] for part in (slice(0, -1), slice(1, None))
    ]
    assert halves[0].data_ptr() != halves[1].data_ptr()
    assert Trainer(trainer.recipe).on_its_place(message)["params"].data_ptr() == message["params"].ctypes.data


# Arithmetic.

FLAGS = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)


@pytest.mark.parametrize(
    ("precision", "expected"), [("float32", "ieee"), ("tf32", "tf32"), ("bfloat16", "ieee"), ("float32_3xtf32", "ieee")]
)
def test_a_device_computes_in_tf32_where_it_is_asked_to_and_is_left_as_it_was(precision, expected):
    """In the plain and the fused engine and in both evaluations, whatever was set before and whatever fails."""
    seen = []

    class Noting(FineTune):
        def loss(self, output, targets):
            seen.append([flag.fp32_precision for flag in FLAGS])
            return super().loss(output, targets)

    class Failing(FedAvg):
        def loss(self, output, targets):
            raise ValueError

    before = [flag.fp32_precision for flag in FLAGS]
    algorithm, shard = Noting(**LOCAL), lambda client: (DATASET.train_images[:20], DATASET.train_labels[:20])
    for engine in ("plain", "fused"):
        recipe = recipe_of("logistic", engine)
        recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, precision=precision))
        for device in (DEVICE, "cpu"):
            trainer, message = Trainer(recipe, device), message_of(recipe)
            handle = trainer.network.flat.module.register_forward_pre_hook(
                lambda module, _: seen.append([flag.fp32_precision for flag in FLAGS])
            )
            for call in (
                lambda: train_block(trainer, Task(algorithm, message, 1, 0.05), [0], shard, [{}], True),  # noqa: B023
                lambda: trainer.train(Task(algorithm, message, 1, 0.05), 0, *shard(0), {}),  # noqa: B023
                lambda: evaluate(trainer, message, *shard(0)),  # noqa: B023
                lambda: evaluate_block(trainer, Task(algorithm, message, 1, 0.05), [0], shard, shard, [{}]),  # noqa: B023
            ):
                seen.clear()
                call()
                assert seen
                assert all(flags == ([expected] * 3 if device == DEVICE else before) for flags in seen)
                assert [flag.fp32_precision for flag in FLAGS] == before
            with pytest.raises(Exception, match="ValueError"):
                train_block(trainer, Task(Failing(**LOCAL), message, 1, 0.05), [0], shard, [{}], True)
            assert [flag.fp32_precision for flag in FLAGS] == before
            handle.remove()


@pytest.mark.parametrize("model", ["logistic", "resnet20"])
def test_tf32_is_float32_where_there_is_no_gpu(model):
    def after(precision):
        recipe = recipe_of(model)
        trainer = Trainer(dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, precision=precision)))
        examples = DATASET.train_images[:20], DATASET.train_labels[:20]
        update, _, _ = trainer.train(Task(FedAvg(**LOCAL), message_of(recipe), 1, 0.05), 0, *examples, {})
        return bytes_of(update), evaluate(trainer, message_of(recipe), *examples).losses

    assert after("tf32") == after("float32") != after("bfloat16")


def test_a_gpu_evaluates_more_images_at_a_time():
    assert [evaluation_batch(device) for device in ("cpu", DEVICE)] == [EVALUATION_BATCH] * 2
    assert [evaluation_batch(device) for device in ("cuda", "cuda:1")] == [EVALUATION_BATCH_ON_GPU] * 2
    assert EVALUATION_BATCH_ON_GPU % EVALUATION_BATCH == 0  # so that a call for a GPU is whole batches elsewhere
