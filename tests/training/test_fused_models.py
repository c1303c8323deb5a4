"""The fused engine against the plain one for every model without BatchNorm, and the ways in which it can compute."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_data import make_algorithm, make_dataset, make_recipe
from torch.multiprocessing.reductions import StorageWeakRef

from fedray.algorithms import ALGORITHMS
from fedray.algorithms.fedavg import FedAvg
from fedray.core.errors import ClientError
from fedray.models.build import build, initial_vectors
from fedray.models.model import KNOWN
from fedray.server.rounds import play_rounds
from fedray.training.device import settle_on
from fedray.training.fused import stacked
from fedray.training.fused import together as fused
from fedray.training.fused.layers import AsProducts, AsTorchDoes, average_pool
from fedray.training.fused.losses import add_at
from fedray.training.fused.replayed import Captured, Replayed
from fedray.training.in_process import InProcessPopulation

# A shard with a rest, one that is smaller than a batch, and one with more steps than the others.
SHARDS = [np.arange(0, 6), np.arange(6, 9), np.arange(9, 18)]
LARGE = {"alexnet", "vgg16", "vgg19"}
DEEP = {"resnet18", "resnet50", "resnet56", "densenet121", "inception_v3", "googlenet"}
"""So deep that the plain engine itself ends 2e-4 to 1e-2 away from where it would, when its start is off by rounding,
and after a second round 2e-4 to 8e-2."""


def play(
    engine,
    model,
    *,
    algorithm=None,
    shards=SHARDS,
    rounds=2,
    augment="crop-flip",
    chunk_size=50,
    device="cpu",
    **settings,
):
    """The state before, the state and the reports of each round, in which all clients train at once.

    What suits a CPU, chunk_size = None, would be one client of a network of more than 2 million parameters.
    """
    dataset = make_dataset(train=18, test=6, validation=0)
    algorithm = algorithm or FedAvg(lr=0.01, momentum=0.5, weight_decay=1e-3, clip_norm=5.0, batch_size=4)
    recipe = dataclasses.replace(make_recipe(dataset, model, augment, engine=engine, **settings), chunk_size=chunk_size)
    population = InProcessPopulation(dataset, shards, recipe, 1, device=device)
    state = algorithm.init(*initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed)))
    done = play_rounds(algorithm, population, state, ts=range(1, rounds + 1), rounds=rounds, cohort=len(shards), seed=5)
    return state["params"], [(d.state["params"], d.updates.reports) for d in done]


def assert_agree(model, tolerance=None, **settings):
    """Params after each round differ by little of how far they moved, or by what float32 cannot tell apart."""
    grows = model in DEEP and not tolerance
    start, plain = play("plain", model, **settings)
    _, fused = play("fused", model, **settings)
    for t, ((params, reports), (expected, expected_reports)) in enumerate(zip(fused, plain, strict=True), start=1):
        allowed = 0.05 * 4 ** (t - 1) if grows else tolerance or 1e-3
        rounding = t * max(report.steps for report in reports) * 2**-24 * float(np.linalg.norm(start))
        assert np.linalg.norm(params - expected) < allowed * np.linalg.norm(expected - start) + rounding
        for report, other in zip(reports, expected_reports, strict=True):
            assert (report.client, report.steps, report.status) == (other.client, other.steps, "ok")
            assert report.train_loss == pytest.approx(other.train_loss, rel=allowed)
            assert report.update_norm == pytest.approx(other.update_norm, rel=allowed, abs=rounding)


def without_batch_norm(name):
    return {"norm": "group"} if KNOWN[name].norms else {}


OF_KNOWN_BLOCKS = {"resnet50", "inception_v3"}  # their layers are those of resnet18, densenet121 and googlenet
SMALLER = [
    pytest.param(name, marks=pytest.mark.slow if name in OF_KNOWN_BLOCKS else ()) for name in KNOWN if name not in LARGE
]


@pytest.mark.parametrize("name", SMALLER)
def test_every_model_trains_as_in_the_plain_engine(name):
    """Deep ones for a round; a second one is a slow test."""
    assert_agree(name, rounds=1 if name in DEEP else 2, **without_batch_norm(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DEEP))
def test_deep_models_do_for_two_rounds(name):
    assert_agree(name, **without_batch_norm(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LARGE))
def test_every_large_model_does(name):
    """Two clients of one and of two steps, one after the other: each of their vectors is some hundred megabytes."""
    shards = [np.arange(0, 2), np.arange(2, 6)]
    assert_agree(name, shards=shards, algorithm=FedAvg(lr=0.01, batch_size=2), chunk_size=None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("name", [name for name in KNOWN if name not in LARGE])
def test_on_a_gpu_every_model_does_too_and_gives_the_same_bits_again(name):
    settle_on("cuda")
    assert_agree(name, device="cuda", **without_batch_norm(name))
    once, again = (play("fused", name, device="cuda", **without_batch_norm(name))[1] for _ in range(2))
    assert [params.tobytes() for params, _ in once] == [params.tobytes() for params, _ in again]


@pytest.mark.parametrize("name", ["lenet5", "cnn"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_devices_way_is_the_hosts(name, precision):
    """A device of another name than the CPU's, on which torch computes all the same."""
    (_, here), (_, there) = (play("fused", name, precision=precision, device=device) for device in ("cpu", "cpu:0"))
    assert [params.tobytes() for params, _ in here] == [params.tobytes() for params, _ in there]


VARIANTS = {
    "bfloat16": ("cnn", {"precision": "bfloat16", "tolerance": 0.25}),
    "channels_last": ("lenet5", {"channels_last": True}),
    "auxiliary classifiers": ("googlenet", {"aux_weight": 0.3, "norm": "group", "rounds": 1}),
    "resized": ("lenet5", {"resize": 40}),
    "a projection head": ("lenet5", {"projection": 16}),
    "a projection head of an mlp": ("mlp", {"projection": 16}),
    "a stem for small images": ("resnet18", {"stem": "cifar", "norm": "group", "rounds": 1}),
    "one group of channels": ("resnet20", {"norm": "group", "groups": 1}),
    "cutout": ("lenet5", {"augment": "crop-flip-cutout"}),
    "one client at a time": ("lenet5", {"chunk_size": 1}),
    "as many clients at a time as suit a CPU": ("lenet5", {"chunk_size": None}),
    "two clients at a time": ("lenet5", {"chunk_size": 2}),
    "one client of a large network, as suits a CPU": ("vgg11", {"chunk_size": None, "rounds": 1}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_changes_a_model_or_its_training_is_the_plain_engines(variant):
    name, settings = VARIANTS[variant]
    assert_agree(name, **settings)


def test_bfloat16_is_what_is_computed_in():
    start, exact = play("fused", "lenet5")
    _, found = play("fused", "lenet5", precision="bfloat16")
    moved = np.linalg.norm(exact[-1][0] - start)
    assert 1e-3 * moved < np.linalg.norm(found[-1][0] - exact[-1][0]) < 0.1 * moved


@pytest.mark.parametrize("name", ["lenet5", "cnn", "googlenet", "resnet18"])
def test_convolutions_as_products_train_as_in_the_plain_engine(monkeypatch, name):
    monkeypatch.setitem(stacked.FORMS, "cpu", AsProducts)
    assert_agree(name, rounds=1 if name in DEEP else 2, **without_batch_norm(name))


@pytest.mark.parametrize("kind", ALGORITHMS.values(), ids=lambda kind: kind.__name__)
def test_the_hooks_of_every_algorithm_serve_a_convolutional_network(kind):
    algorithm = make_algorithm(kind, lr=0.001, momentum=0.5, batch_size=4, epochs=2)
    if algorithm.server_optimizer == "adagrad":  # whose first step is as long as server_lr in every direction
        algorithm = dataclasses.replace(algorithm, server_lr=0.001)
    if not algorithm.unfusable:
        assert_agree("lenet5", algorithm=algorithm, rounds=3)


CONVOLUTIONS = {
    "a plain one": ((8, 3, 3, 3), {}),
    "with a bias": ((8, 3, 3, 3), {"bias": True}),
    "stride and padding": ((8, 3, 3, 3), {"stride": 2, "padding": 1}),
    "different in each direction": ((4, 3, 5, 2), {"stride": (1, 3), "padding": (2, 0), "dilation": (2, 1)}),
    "a single pixel": ((8, 3, 1, 1), {}),
    "every other pixel": ((8, 3, 1, 1), {"stride": 2}),
    "stride over the edge": ((8, 3, 2, 2), {"stride": 3}),
    "as wide as the image": ((8, 3, 9, 11), {}),
    "groups": ((6, 1, 3, 3), {"groups": 3}),
    "padding by name": ((8, 3, 3, 3), {"padding": "same"}),
}


@pytest.mark.parametrize("form", [AsProducts, AsTorchDoes])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_convolution_of_each_client_is_its_own(case, form):
    """Outputs and both gradients, against torch's convolution client by client in float64."""
    shape, settings = CONVOLUTIONS[case]
    settings = dict(settings)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 3, 9, 11, generator=rng, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, *shape, generator=rng, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, shape[0], generator=rng, dtype=torch.float64, requires_grad=True)
    used = settings.pop("bias", False)
    convolve = lambda x, w, b: F.conv2d(x, w, b if used else None, **settings)  # noqa: E731
    with form():
        found = torch.func.vmap(convolve)(x, weight, bias)
    wanted = torch.stack([convolve(x[i], weight[i], bias[i]) for i in range(3)])
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)
    slope = torch.randn(wanted.shape, generator=rng, dtype=torch.float64)
    inputs = (x, weight, bias) if used else (x, weight)
    for mine, theirs in zip(
        torch.autograd.grad(found, inputs, slope), torch.autograd.grad(wanted, inputs, slope), strict=True
    ):
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def test_a_frozen_convolution_is_computed_once_for_all_clients():
    x, weight = torch.randn(3, 2, 3, 9, 11), torch.randn(8, 3, 3, 3)
    with AsProducts():
        found = torch.func.vmap(lambda x: F.conv2d(x, weight, padding=1))(x)
    assert torch.equal(found, F.conv2d(x.flatten(0, 1), weight, padding=1).unflatten(0, (3, 2)))


@pytest.mark.parametrize("size", [1, 7, (3, 4), (None, 2), (9, 11), 16])
def test_average_pooling_is_torchs(size):
    x = torch.randn(2, 3, 9, 11, dtype=torch.float64, requires_grad=True)
    found, wanted = average_pool(x, size), F.adaptive_avg_pool2d(x, size)
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)
    slope = torch.randn(wanted.shape, dtype=torch.float64)
    mine, theirs = (torch.autograd.grad(each, x, slope)[0] for each in (found, wanted))
    assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-12)


# What is done on a GPU only, on the CPU.


@pytest.mark.parametrize("classes", [1, 2])
def test_labels_are_subtracted_alike_on_every_device(classes):
    slope, targets = torch.rand(3, 7, 7), torch.randint(0, 7, (3, 7)).unsqueeze(classes)
    values = torch.rand(3, 7).unsqueeze(classes)
    found = [add_at(slope.clone(), targets, values, classes, compare) for compare in (False, True)]
    assert torch.equal(*found)
    assert not torch.equal(found[0], slope)


class EagerGraph:
    """In the place of a CUDA graph: computes what was captured from the tensors that were captured, and nothing else."""

    def __init__(self, program, places, algorithm, batch, losses):
        self.program, self.places, self.algorithm, self.batch, self.losses = program, places, algorithm, batch, losses

    def replay(self):
        self.program.look_at(*self.places)
        self.losses.copy_(self.program.differentiate(self.algorithm, self.batch))


@pytest.fixture
def as_on_gpu(monkeypatch):
    """Together's ways on a GPU: places that are rounded up, room that stays, wide batches, and graphs, as above."""
    made = []

    def look_at(self, params, grads):
        self.program.look_at(params, grads)
        self.place, self.places = (params.data_ptr(), grads.data_ptr(), len(params)), (params, grads)

    def capture(self, algorithm, batch):
        own = type(batch)(batch.sizes, *(tensor.clone() for tensor in batch.tensors))
        made.append((len(batch.targets), batch.targets.shape[1]))
        losses = self.program.differentiate(algorithm, own)
        return Captured(EagerGraph(self.program, self.places, algorithm, own, losses), own, losses, [])

    real, real_forget = fused.Together.__init__, Replayed.forget

    def init(self, *args):
        real(self, *args)
        self.on_gpu, self.program = True, Replayed(self.program)

    def forget(self):
        self.places = None
        real_forget(self)

    monkeypatch.setattr(Replayed, "forget", forget)
    monkeypatch.setattr(Replayed, "look_at", look_at)
    monkeypatch.setattr(Replayed, "capture", capture)
    monkeypatch.setattr(fused.Together, "__init__", init)
    return made


@pytest.mark.parametrize("name", ["lenet5", "mlp"])
def test_graphs_and_places_change_nothing(as_on_gpu, name):
    """Ten shards from one example to eighteen: places empty one after another, and few graphs serve all rounds."""
    shards = [np.arange(0, n) for n in (1, 2, 3, 4, 5, 6, 9, 12, 15, 18)]
    for algorithm in (FedAvg(lr=0.01, batch_size=4), FedAvg(lr=0.01, batch_size=4, momentum=0.9, weight_decay=0.01)):
        assert_agree(name, algorithm=algorithm, shards=shards, rounds=3)
        # In the five steps 10, 6, 4, 2 and 1 of them have any left.
        assert sorted(as_on_gpu) == [(1, 4), (2, 4), (5, 4), (10, 4)]
        as_on_gpu.clear()


def test_whole_shards_on_a_gpu_are_padded_to_powers_of_two(as_on_gpu):
    shards = [np.arange(0, n) for n in (1, 3, 4, 11, 16)]
    algorithm = FedAvg(lr=0.01, batch_size=0)
    assert_agree("lenet5", algorithm=algorithm, shards=shards)
    assert sorted(as_on_gpu) == [(1, 1), (2, 4), (2, 16)]
    _, rounds = play("fused", "lenet5", algorithm=algorithm, shards=shards)
    for _, reports in rounds:
        found = {report.num_examples: (report.images, report.padding) for report in reports}
        assert found == {1: (1, 0), 3: (3, 1), 4: (4, 0), 11: (11, 5), 16: (16, 0)}


class Ends(FedAvg):
    """Clients send where they ended."""

    def finish(self, start, end, steps, lr, message, memory):
        return {"params": end - start, "end": end}, memory

    def server_update(self, state, mean, participation):
        return {**state, "params": mean["end"]}


def test_what_a_hook_sends_as_it_was_given_is_not_overwritten(as_on_gpu):
    """Shards of three widths, which are trained one after another in the same memory."""
    shards = [np.arange(0, n) for n in (1, 3, 4, 11, 16)]
    assert_agree("lenet5", algorithm=Ends(lr=0.01, batch_size=0), shards=shards)


def test_what_is_computed_for_nothing_is_counted():
    """Batches of 4: shards of 6, 3 and 9 fill 4 and 2, 3 (padded to 8), 4, 4 and 1; the fourth place is empty."""
    _, rounds = play("fused", "lenet5")
    for _, reports in rounds:
        found = {report.num_examples: (report.images, report.padding) for report in reports}
        assert found == {6: (6, 2), 3: (3, 5), 9: (9, 3)}
    _, rounds = play("plain", "lenet5")
    assert {report.num_examples: (report.images, report.padding) for report in rounds[0][1]} == {
        6: (6, 0),
        3: (3, 0),
        9: (9, 0),
    }


class Diverging(FedAvg):
    """Whoever meets a long gradient has infinite params from then on, and soon such as are no numbers."""

    def correct(self, grad, params, message, memory, lr):
        return grad / (grad.square().sum(-1, keepdim=True) < (10 if params.shape[-1] > 10**5 else 2) ** 2)


@pytest.mark.parametrize("name", ["lenet5", "mlp"])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_client_that_diverges_spoils_no_other(request, name, on_gpu):
    if on_gpu:
        request.getfixturevalue("as_on_gpu")
    shards = [np.arange(0, n) for n in (1, 2, 3, 4, 5, 6, 9, 12, 15, 18)]
    settings = {"algorithm": Diverging(lr=0.01, batch_size=4), "shards": shards, "rounds": 1, "augment": "none"}
    start, [(expected, plain)] = play("plain", name, **settings)
    _, [(found, reports)] = play("fused", name, **settings)
    left = [report.num_examples for report in reports]
    assert left == [report.num_examples for report in plain]
    assert 2 < len(left) < len(shards)
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected - start)


class Greedy(FedAvg):
    """As if a GPU had room for three clients, not for four."""

    def correct(self, grad, params, message, memory, lr):
        if params.dim() == 2 and len(params) > 3:
            self.fail()
        return grad

    def fail(self):
        raise torch.OutOfMemoryError("CUDA out of memory")


class OfCuda(Greedy):
    def fail(self):
        raise RuntimeError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' ...")


class WhileCapturing(Greedy):
    def fail(self):
        try:
            super().fail()
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


@pytest.mark.parametrize("kind", [Greedy, OfCuda, WhileCapturing])
def test_where_memory_does_not_suffice_half_as_many_are_trained_at_a_time(kind):
    """Seven are tried, then four, two; and never again more, though three would do."""
    shards = [np.arange(i, i + 8) for i in range(7)]
    settings = {"shards": shards, "algorithm": kind(lr=0.01, batch_size=4)}
    _, rounds = play("fused", "lenet5", **settings)
    assert [{report.squeezed for report in reports} for _, reports in rounds] == [{2}, {2}]
    _, wanted = play("fused", "lenet5", chunk_size=2, **settings)
    assert [{report.squeezed for report in reports} for _, reports in wanted] == [{0}, {0}]
    for (params, _), (expected, _) in zip(rounds, wanted, strict=True):
        assert params.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["lenet5", "mlp"])
def test_what_was_taken_in_vain_is_given_back_before_fewer_are_tried(monkeypatch, as_on_gpu, name):
    taken, left = [], []

    def take_room(self, places, start):
        left.append(sum(not room.expired() for room in taken))
        params, grads = real(self, places, start)
        taken.extend(StorageWeakRef(tensor.untyped_storage()) for tensor in (params, grads))
        return params, grads

    real = fused.Together.take_room
    monkeypatch.setattr(fused.Together, "take_room", take_room)
    play("fused", name, shards=[np.arange(i, i + 8) for i in range(7)], algorithm=Greedy(lr=0.01, batch_size=4))
    assert left[:3] == [0, 0, 0]
    assert left[3] > 0


def test_one_client_without_room_is_an_error():
    class Greedier(FedAvg):
        def correct(self, grad, params, message, memory, lr):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ClientError, match="out of memory"):
        play("fused", "lenet5", algorithm=Greedier(lr=0.01, batch_size=4))
