"""Dropout with addressed masks: what they are to the bit, that they are as good as random, and whose they are."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_data import make_dataset, make_recipe
from torch import nn

from fedray.algorithms.fedavg import FedAvg
from fedray.core.randomness import generator
from fedray.models import build as networks
from fedray.models.build import build, initial_vectors
from fedray.models.describe import blueprint
from fedray.models.dropout import SHAPES, KeyedDropout, dropout_keys, dropout_layers, keyed, threshold
from fedray.models.flat import FlatModel
from fedray.models.model import Model
from fedray.server.task import Task
from fedray.training.batches import draw_batches
from fedray.training.evaluate import FINE_TUNING, evaluate_client
from fedray.training.trainer import Trainer

KEYS = torch.from_numpy(dropout_keys(5, 1, 2, 300, 1))[:, 0]
LARGE = (4, 32, 14, 14)


def drop(x, key, p=0.5):
    layer = KeyedDropout(p, inplace=False)
    layer.key = key
    return layer(x)


def kept(key, shape=LARGE, p=0.5):
    return drop(torch.ones(shape), key, p) > 0


def agreement(one, other, p):
    """The correlation of two masks, in standard errors of that of independent ones."""
    a, b = one.flatten().float() - (1 - p), other.flatten().float() - (1 - p)
    return float(a @ b) / (p * (1 - p)) / math.sqrt(len(a))


@pytest.mark.parametrize("p", [1e-9, 0.1, 0.25, 0.5, 0.9, 1 - 1e-12])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4, 5), (2, 7, 3)])
def test_the_mask_is_that_of_plain_integers(shape, p):
    for key in KEYS[:20]:
        multiplier, summand = (int(word) % 2**32 for word in key)
        wanted = []
        for i in range(math.prod(shape)):
            word = i  # lowbias32
            word = (word ^ word >> 16) * 0x7FEB352D % 2**32
            word = (word ^ word >> 15) * 0x846CA68B % 2**32
            word ^= word >> 16
            word = (word * multiplier + summand) % 2**32
            high = word >> 16
            word ^= high + (0xFFFF0000 if high >= 2**15 else 0)
            word = 2 * 0x846CA68B * word % 2**32
            share = min(max((1 - p), 2**-31), 1 - 2**-31)
            wanted.append((word + 2**31) % 2**32 < round(share * 2**31) * 2)
        assert kept(key, shape, p).flatten().tolist() == wanted


@pytest.mark.parametrize("p", [0.01, 0.1, 0.25, 1 / 3, 0.5, 0.75, 0.99])
def test_the_share_that_is_kept(p):
    """Of each mask within 4 standard errors; of all of them together, too, and so is each element's over the keys."""
    assert abs((threshold(p) + 2**31) / 2**32 - (1 - p)) <= 2**-32
    shares = torch.stack([kept(key, p=p).float().mean().double() for key in KEYS])
    error = math.sqrt(p * (1 - p) / math.prod(LARGE))
    assert (shares - (1 - p)).abs().max() < 4 * error
    assert abs(float(shares.mean()) - (1 - p)) < 4 * error / math.sqrt(len(KEYS))
    assert 0.85 * error < float(shares.std()) < 1.15 * error
    of_elements = torch.stack([kept(key, (20, 64), p=p) for key in KEYS]).double().sum(0)
    spread = float((of_elements / len(KEYS) - (1 - p)).square().mean()) / (p * (1 - p) / len(KEYS))
    assert abs(spread - 1) < 4 * math.sqrt(2 / 1280) + 0.02


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_masks_of_different_addresses_are_uncorrelated(p):
    """Of other seeds, rounds, clients, calls, steps and layers; pairwise within 4 standard errors, which all of them
    together have the spread of."""
    addresses = [*itertools.product((0, 7), (1, 2), (0, 1, 10**6)), (0, 1, 0, 1), (0, 1, 0, 2), (0, 1, 0, FINE_TUNING)]
    keys = [
        key
        for seed, t, client, *call in addresses
        for key in torch.from_numpy(dropout_keys(seed, t, client, 3, 2, *call)).flatten(0, 1)
    ]
    masks = torch.stack([kept(key, p=p).flatten().float() for key in keys]) - (1 - p)
    found = (masks @ masks.T / (p * (1 - p)) / math.sqrt(math.prod(LARGE)))[*torch.triu_indices(90, 90, 1)]
    assert len({tuple(key.tolist()) for key in keys}) == len(keys) == 90
    assert float(found.abs().max()) < 4.5  # of 4005
    assert (found.abs() > 4).sum() <= 2
    assert 0.95 < float(found.square().mean()) < 1.05


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_neighbours_are_uncorrelated(p):
    """Along a row, down a column, from channel to channel, and from example to example."""
    masks = [kept(key, p=p) for key in KEYS[:100]]
    _, channels, height, width = LARGE
    for lag in (1, 2, 3, width, height * width, channels * height * width):
        flat = [mask.flatten() for mask in masks]
        found = torch.tensor([agreement(mask[:-lag], mask[lag:], p) for mask in flat])
        assert float(found.abs().max()) < 4, lag
        assert 0.6 < float(found.square().mean()) < 1.5, lag


def test_steps_keys_do_not_depend_on_how_many_are_drawn():
    assert np.array_equal(dropout_keys(3, 4, 5, 9, 2)[:4], dropout_keys(3, 4, 5, 4, 2))
    assert dropout_keys(3, 4, 5, 9, 2).shape == (9, 2, 2)
    assert dropout_keys(3, 4, 5, 9, 0).shape == (9, 0, 2)
    assert (dropout_keys(3, 4, 5, 9, 2)[..., 0] % 2 == 1).all()


def test_keys_are_not_what_torchs_own_generator_is_seeded_by():
    seeding = generator(3, "dropout", t=4, client=5).integers(0, 2**32, 2, np.uint32).view(np.int32)
    assert seeding[1] not in dropout_keys(3, 4, 5, 9, 2)[..., 1]


@pytest.mark.parametrize("shape", [(6, 8), (6, 4, 5, 3)])
def test_examples_after_the_others_change_nothing(shape):
    layer = KeyedDropout(0.5, inplace=False)
    layer.key = KEYS[0]
    x = torch.randn(shape)
    for rows in (2, 6, 3):  # with the positions of fewer, and of more
        layer.calls = 0
        assert torch.equal(layer(x[:rows]), drop(x, KEYS[0])[:rows])


def test_the_memory_format_changes_nothing_and_is_kept():
    x = torch.randn(6, 8, 5, 3)
    other = x.contiguous(memory_format=torch.channels_last)
    found = drop(other, KEYS[0])
    assert torch.equal(found, drop(x, KEYS[0]))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert drop(x, KEYS[0]).is_contiguous()
    assert torch.equal(drop(x.permute(2, 3, 0, 1), KEYS[0]), drop(x.permute(2, 3, 0, 1).contiguous(), KEYS[0]))


def test_the_mean_output_is_the_input_and_the_gradient_is_scaled_alike():
    x = torch.randn(40, 25, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for p in (0.1, 0.5, 0.8):
        outputs = torch.stack([drop(x, key, p) for key in KEYS])
        error = (x.detach().abs() * math.sqrt(p / (1 - p) / len(KEYS))).clamp(min=1e-6)
        apart = (outputs.mean(0) - x).detach() / error
        assert float(apart.abs().max()) < 5  # of 1000, each of a binomial distribution, which is skew
        assert abs(float(apart.mean())) < 4 / math.sqrt(1000)
        weights = torch.randn(40, 25)
        (gradient,) = torch.autograd.grad((drop(x, KEYS[0], p) * weights).sum(), x)
        noise = kept(KEYS[0], (40, 25), p).float() / (1 - p)
        torch.testing.assert_close(gradient, weights * noise)
        torch.testing.assert_close(drop(x, KEYS[0], p), x * noise)


@pytest.mark.parametrize("inplace", [False, True])
def test_at_its_ends_and_in_evaluation_it_is_torchs(inplace):
    x = torch.randn(50, 20)
    for p, mode in ((0.0, True), (1.0, True), (0.5, False)):
        ours, theirs = KeyedDropout(p, inplace).train(mode), nn.Dropout(p, inplace).train(mode)
        ours.key = KEYS[0]
        mine, its = x.clone(), x.clone()
        assert torch.equal(ours(mine), theirs(its))
        assert torch.equal(mine, its)
    layer = KeyedDropout(0.5, inplace)
    torch.manual_seed(4)  # without a key it draws as torch's does
    mine = layer(x.clone())
    torch.manual_seed(4)
    assert torch.equal(mine, nn.Dropout(0.5)(x))


def test_in_place_writes_to_the_input():
    x = torch.randn(50, 20)
    wanted, layer = drop(x, KEYS[0]), KeyedDropout(0.5, inplace=True)
    layer.key = KEYS[0]
    assert layer(x).data_ptr() == x.data_ptr()
    assert torch.equal(x, wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_have_the_same_mask(dtype):
    found = drop(torch.ones(30, 20, dtype=dtype), KEYS[0], 0.25)
    assert found.dtype == dtype
    assert torch.equal(found > 0, kept(KEYS[0], (30, 20), 0.25))
    assert found.unique().tolist() == [0, torch.tensor(4 / 3).to(dtype).item()]


class Twice(nn.Module):
    """One layer of dropout that is used twice, and one under two names."""

    def __init__(self, shape=None, classes=None):
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(12, 400), nn.Dropout(0.5), nn.Linear(400, 3)
        self.again = self.drop

    def forward(self, x):
        self.seen = [self.drop(torch.ones(len(x), 400)), self.drop(torch.ones(len(x), 400))]
        return self.last(self.again(self.first(x.flatten(1))))


def test_a_layer_that_is_used_twice_draws_two_masks_the_same_in_every_pass(monkeypatch):
    monkeypatch.setitem(networks.BUILDERS, "mlp", Twice)
    module = build(Model(name="mlp"), (3, 2, 2), 3, 0)
    (layer,) = dropout_layers(module).values()
    assert list(module.state_dict()) == ["first.weight", "first.bias", "last.weight", "last.bias"]
    layer.key = KEYS[0]
    x = torch.randn(10, 3, 2, 2)
    passes = [(module(x), *module.seen) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*passes, strict=True))
    _, one, other = passes[0]
    assert abs(agreement(one > 0, other > 0, 0.5)) < 4
    assert torch.equal(one > 0, kept(KEYS[0], (10, 400)))
    module(x), passes.append((module.drop(torch.ones(10, 400)),))  # a fourth use
    assert abs(agreement(passes[2][0] > 0, other > 0, 0.5)) < 4


def layered(shape, classes):
    size = math.prod(shape)
    return nn.Sequential(
        nn.Conv2d(shape[0], 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.25),
        nn.Flatten(), nn.Linear(4 * size // shape[0], 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, classes),
    )  # fmt: skip


@pytest.mark.parametrize("channels_last", [False, True])
def test_under_vmap_each_client_has_its_own_mask_to_the_bit(channels_last):
    """Also while it is differentiated, which is where the layer meets the shape first, and then without transforms."""
    layer, x = KeyedDropout(0.25, inplace=False), torch.randn(5, 6, 8, 4, 3)
    order = torch.channels_last if channels_last else torch.contiguous_format
    x = x.flatten(0, 1).contiguous(memory_format=order).unflatten(0, (5, 6)).requires_grad_()

    def alone(key, images):
        layer.calls = 0
        return torch.func.functional_call(layer, {"key": key}, (images,))

    slopes = torch.func.vmap(torch.func.grad(lambda x, key: alone(key, x).sum()))(x, KEYS[:5])
    together = torch.func.vmap(alone)(KEYS[:5], x)
    shared = torch.func.vmap(alone, in_dims=(0, None))(KEYS[:5], x[0])
    assert layer.key is None
    assert copy.deepcopy(layer).positions.keys() == layer.positions.keys()  # no transform still has them
    for i, key in enumerate(KEYS[:5]):
        assert torch.equal(together[i], drop(x[i], key, 0.25))
        assert torch.equal(slopes[i], drop(torch.ones(x[i].shape), key, 0.25))
        assert torch.equal(shared[i], drop(x[0], key, 0.25))
        assert torch.equal(alone(key, x[i]), together[i])


def test_positions_are_kept_for_few_shapes_only():
    layer = KeyedDropout(0.5, inplace=False)
    layer.key = KEYS[0]
    for rows, width in itertools.product((4, 9, 2), range(1, 30)):
        layer.calls = 0
        x = torch.randn(rows, width)
        assert torch.equal(layer(x), drop(x, KEYS[0]))
        assert len(layer.positions) <= SHAPES
    # The first ones, of the largest batch: a CUDA graph that reads them is not told of others in their place.
    assert list(layer.positions) == [(width, 0, 1, torch.device("cpu")) for width in range(1, SHAPES + 1)]
    assert {len(found) for found in layer.positions.values()} == {9}


# Networks.


class Derived(nn.Dropout):
    pass


def test_every_dropout_is_replaced_and_nothing_else(monkeypatch):
    def network(shape, classes):
        inner = nn.ModuleDict({"a": nn.Dropout(0.1).eval(), "b": nn.Dropout(0.2, inplace=True)})
        body = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Dropout(0.3), Derived(0.4), nn.Dropout2d(0.6))
        return nn.Sequential(body, nn.ModuleList([nn.Dropout(0.5)]), inner)

    monkeypatch.setitem(networks.BUILDERS, "mlp", network)
    module = build(Model(name="mlp"), (3, 2, 2), 3, 0)
    layers = dropout_layers(module)
    assert {name: (layer.p, layer.inplace, layer.training) for name, layer in layers.items()} == {
        "0.2": (0.3, False, True),
        "1.0": (0.5, False, True),
        "2.a": (0.1, False, False),
        "2.b": (0.2, True, True),
    }
    assert [type(layer) for layer in module[0][3:]] == [Derived, nn.Dropout2d]
    assert list(module.state_dict()) == ["0.1.weight", "0.1.bias"]
    assert not list(module.buffers())


@pytest.mark.parametrize(("name", "layers"), [("cnn", 2), ("vgg11", 2), ("googlenet", 1), ("lenet5", 0)])
def test_the_known_networks_draw_nothing_themselves(name, layers):
    module = build(Model(name=name), (3, 32, 32), 10, 0)
    assert len(dropout_layers(module)) == layers
    assert bool(module._forward_pre_hooks) == bool(layers)
    assert not blueprint(Model(name=name), (3, 32, 32), 10, 0).draws


class Drawing(nn.Module):
    def __init__(self, shape, classes, what):
        super().__init__()
        self.last, self.drop, self.what = nn.Linear(math.prod(shape), classes), nn.Dropout(0.5), what

    def forward(self, x):
        x = self.what(x, self.training)
        return self.last(self.drop(x.flatten(1)))


@pytest.mark.parametrize(
    ("what", "draws"),
    [
        (lambda x, training: x, False),
        (lambda x, training: F.dropout(x, 0.5, training), True),
        (lambda x, training: F.dropout(x, 0.5, not training), False),
        (lambda x, training: x + torch.randn_like(x) if training else x, True),
        (lambda x, training: F.dropout2d(x, 0.5, training), True),
    ],
    ids=["nothing", "F.dropout", "in evaluation", "noise", "F.dropout2d"],
)
def test_a_blueprint_tells_whether_a_network_draws_itself(monkeypatch, what, draws):
    monkeypatch.setitem(networks.BUILDERS, "mlp", lambda shape, classes: Drawing(shape, classes, what))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert blueprint(Model(name="mlp"), (3, 4, 4), 10, 0).draws == draws
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_frozen_does_not_draw(monkeypatch):
    def network(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), Derived(0.5), nn.Linear(8, classes))

    monkeypatch.setitem(networks.BUILDERS, "mlp", network)
    assert blueprint(Model(name="mlp"), (3, 4, 4), 10, 0).draws
    assert not blueprint(Model(name="mlp", freeze="backbone"), (3, 4, 4), 10, 0).draws


# The plain engine.


@pytest.fixture
def trainer(monkeypatch):
    """Of a small network, and the keys that its layers have in each forward pass in training."""
    monkeypatch.setitem(networks.BUILDERS, "mlp", layered)
    trainer = Trainer(make_recipe(make_dataset(train=23, test=2, classes=3, side=4), "mlp", seed=3))
    trainer.seen = []
    trainer.network.flat.module.register_forward_pre_hook(
        lambda module, _: (
            trainer.seen.append([layer.key for layer in trainer.network.dropouts]) if module.training else None
        )
    )
    return trainer


class Thrice(FedAvg):
    """A client descends, then anew, and then differentiates its whole shard."""

    def local_round(self, client, message, memory, lr):
        end, _ = client.descend(message, None)
        update = {name: end[name] - message[name] for name in end}
        client.descend(message, None, epochs=2)
        client.gradient(message)
        return update, memory

    def own_model(self, client, message, memory, lr):
        return client.descend(message, None)[0]


def train(trainer, algorithm, client=4, t=2):
    data = make_dataset(train=23, test=2, classes=3, side=4)
    params, buffers = initial_vectors(trainer.network.build().module)
    message = {"params": params, "buffers": buffers}
    return trainer.train(Task(algorithm, message, t, 0.1), client, data.train_images, data.train_labels, {})[0][
        "params"
    ]


def test_the_keys_of_a_clients_steps_are_those_of_their_addresses(trainer):
    data = make_dataset(train=23, test=2, classes=3, side=4)
    train(trainer, Thrice(batch_size=8))
    shard = data.train_images, data.train_labels
    message = dict(zip(("params", "buffers"), initial_vectors(trainer.network.build().module), strict=True))
    evaluate_client(trainer, trainer.received(Task(Thrice(batch_size=8), message, 2, 0.1)), 4, shard, shard, {})
    wanted = [
        dropout_keys(3, 2, 4, steps, 2, call) for steps, call in ((3, 0), (6, 1), (3, 2), (3, FINE_TUNING))
    ]  # fmt: skip
    found = torch.stack([torch.stack(keys) for keys in trainer.seen]).numpy()
    assert np.array_equal(found, np.concatenate(wanted))
    assert len(np.unique(found.reshape(-1, 2), axis=0)) == 2 * 15
    assert all(layer.key is None for layer in trainer.network.dropouts)


class OwnLoop(FedAvg):
    """Trains without the engine's loop, as an algorithm may, after it: its masks are torch's, and addressed, too."""

    def local_round(self, client, message, memory, lr):
        client.descend(message, None)
        flat = client.network.flat
        assert client.trainer is client.network  # as algorithms of 0.3.0 knew it
        self.outputs.append([flat.module(torch.ones(8, 3, 4, 4)).detach() for _ in range(2)])
        return dict.fromkeys(message, flat.params * 0), memory


def test_a_loop_of_an_algorithms_own_has_masks_too(trainer):
    algorithm = OwnLoop(batch_size=8)
    object.__setattr__(algorithm, "outputs", [])
    for seed in (1, 2):
        torch.manual_seed(seed)
        train(trainer, algorithm)
    one, other = algorithm.outputs
    assert not torch.equal(*one)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_clients_as_one_batch_train_as_one_after_another(trainer):
    """torch.func.vmap of the same module, with the keys [clients, steps, layers, 2] that dropout_keys gives."""
    flat, algorithm = trainer.network.flat, FedAvg(batch_size=8)
    data = make_dataset(train=23, test=2, classes=3, side=4)
    clients = [4, 0, 9]
    apart = [train(trainer, algorithm, client) for client in clients]
    start = torch.from_numpy(initial_vectors(trainer.network.build().module)[0])
    keys = torch.from_numpy(np.stack([dropout_keys(3, 2, client, 3, 2) for client in clients]))
    names = [f"{name}.key" for name in dropout_layers(flat.module)]
    batches = [
        list(draw_batches(trainer.network, algorithm, client, data.train_images, data.train_labels, 2))
        for client in clients
    ]

    def loss(params, images, targets, keys):
        tensors = {**flat.layout.views(params), **dict(zip(names, keys.unbind(), strict=True))}
        return F.cross_entropy(torch.func.functional_call(flat.module, tensors, (images,)), targets)

    flat.train()
    params = start.expand(3, -1).clone()
    for step in range(3):
        images, targets = (torch.stack(tensors) for tensors in zip(*(batch[step] for batch in batches), strict=True))
        params -= 0.1 * torch.func.vmap(torch.func.grad(loss))(params, images, targets, keys[:, step])
    np.testing.assert_allclose((params - start).numpy(), np.stack(apart), rtol=1e-4, atol=1e-6)
    assert np.abs(apart[0] - apart[1]).max() > 1e-2


def test_a_network_without_dropout_takes_no_keys(dataset, monkeypatch):
    monkeypatch.setattr("fedray.models.dropout.generator", None)
    trainer = Trainer(make_recipe(dataset, "logistic"))
    params, buffers = initial_vectors(trainer.network.flat.module)
    message = {"params": params.copy(), "buffers": buffers.copy()}
    trainer.train(Task(FedAvg(), message, 1, 0.1), 0, dataset.train_images, dataset.train_labels, {})


def test_keyed_gives_each_item_with_its_keys_and_then_none():
    module = nn.Sequential(KeyedDropout(0.5, False), KeyedDropout(0.5, False))
    keys = torch.from_numpy(dropout_keys(0, 1, 0, 3, 2))
    flat = FlatModel(nn.Sequential(nn.Linear(2, 2), module))
    layers = list(dropout_layers(flat.module).values())
    for i, item in enumerate(keyed("abc", layers, keys)):
        assert item == "abc"[i]
        assert torch.equal(torch.stack([layer.key for layer in layers]), keys[i])
    assert [layer.key for layer in layers] == [None, None]
    assert flat.others == []
