"""The networks: their sizes, what settings change in them, and functions of the user's own."""

import dataclasses
import importlib
import os
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_data import make_dataset, make_recipe
from tasks import train
from torch import nn

from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.fedper import FedPer
from fedray.algorithms.moon import Moon
from fedray.core import own_code
from fedray.core.errors import BadInputError
from fedray.experiment.composition import compose
from fedray.models.build import build
from fedray.models.describe import blueprint
from fedray.models.model import KNOWN, Model
from fedray.run import run
from fedray.run.checks import check_layers, check_shards
from fedray.run.prepared import Job
from fedray.run.watch import Watch
from fedray.server.task import Task
from fedray.training.batches import draw_batches
from fedray.training.evaluate import evaluate
from fedray.training.in_process import InProcessPopulation
from fedray.training.trainer import Trainer

CIFAR, MNIST = (3, 32, 32), (1, 28, 28)


# Sizes.


@pytest.mark.parametrize(
    ("name", "shape", "classes", "params"),
    [
        # 5*5*32+32, 5*5*32*64+64, 7*7*64*512+512, 512*10+10; McMahan et al. 2017, section 3, give the sum.
        ("mcmahan_cnn", MNIST, 10, 1_663_370),
        ("mlp", MNIST, 10, 199_210),  # the same section
        ("lenet5", CIFAR, 10, 62_006),
        ("cnn", CIFAR, 10, 1_626_442),
        # Eight convolutions of 3*3*in*out+out, and 512*512+512 twice, 512*10+10.
        ("vgg11", CIFAR, 10, 9_750_922),
        # 432, 6 x 2304, 4608 + 5 x 9216, 18432 + 5 x 36864, two for each of 688 channels of BatchNorm, 650.
        ("resnet20", CIFAR, 10, 269_722),
        # 12 more convolutions in each stage, and as many times two for each of their channels.
        ("resnet56", CIFAR, 10, 269_722 + 12 * (2304 + 9216 + 36864) + 12 * 2 * (16 + 32 + 64)),
        # torchvision's own counts for ImageNet, but for the last layer.
        ("resnet18", CIFAR, 10, 11_689_512 - 513 * 990),
        ("resnet50", CIFAR, 10, 25_557_032 - 2049 * 990),
        ("densenet121", CIFAR, 10, 7_978_856 - 1025 * 990),
        ("alexnet", CIFAR, 10, 61_100_840 - 4097 * 990),
        ("googlenet", CIFAR, 10, 6_624_904 - 1025 * 990),
    ],
)
def test_a_network_has_as_many_parameters_as_is_known_of_it(name, shape, classes, params):
    module = build(Model(name=name), shape, classes, 0)
    assert sum(p.numel() for p in module.parameters()) == params


def test_resnet56_has_the_papers_size():
    assert 269_722 + 12 * (2304 + 9216 + 36864) + 12 * 2 * (16 + 32 + 64) == 853_018


def test_shortcuts_of_resnet20_have_no_parameters_and_take_every_other_pixel():
    """Option A of He et al. 2015: with its convolutions at 0, a network is its shortcuts."""
    module = build(Model(name="resnet20"), CIFAR, 10, 0).eval()
    first = module[3]
    with torch.no_grad():
        for conv in (layer for layer in module[3:].modules() if isinstance(layer, nn.Conv2d)):
            conv.weight.zero_()
        x = torch.rand(2, 16, 32, 32)
        assert torch.equal(first(x), x)
        wanted = torch.cat([x[:, :, ::4, ::4], torch.zeros(2, 48, 8, 8)], dim=1)
        assert torch.equal(module[3:12](x), wanted)


@pytest.mark.parametrize("name", [name for name, facts in KNOWN.items() if 1 < facts.least < 70 and "vgg" not in name])
def test_the_least_image_is_the_least(name):
    """A smaller one is resized to it, and would fail if it were not."""
    least = KNOWN[name].least
    for side, resized in ((least, None), (least - 1, least)):
        model = Model(name=name)
        assert model.side((3, side, side)) == resized
        assert model.side((3, side, 200)) == resized
    module = build(model, (3, least, least), 10, 0)
    assert module.train()(torch.rand(2, 3, least, least)).shape == (2, 10)
    with pytest.raises((RuntimeError, ValueError)):
        module(torch.rand(2, 3, least - 1, least - 1))


# What settings change.


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"name": "resnet"}, ["'resnet'", "vgg11", "package.module:function", "did you mean resnet"]),
        ({"name": "mine.net"}, ["'mine.net' is neither"]),
        ({"name": "mine:"}, ["'mine:' is neither"]),
        ({"name": "a b:net"}, ["is neither"]),
        ({"pretrained": True}, ["model.pretrained = true is for resnet18,", "googlenet, not for model.name = lenet5"]),
        ({"name": "mine:net", "pretrained": True}, ["model.pretrained", "not for model.name = mine:net"]),
        ({"name": "resnet18", "pretrained": True, "norm": "group"}, ["not with model.norm = group"]),
        ({"name": "resnet18", "pretrained": True, "stem": "cifar"}, ["not with model.stem = cifar"]),
        ({"name": "vgg11", "norm": "group"}, ["model.norm = group", "BatchNorm", "not for model.name = vgg11"]),
        ({"norm": "grup"}, ["model.norm = 'grup'", "did you mean group?"]),
        ({"name": "resnet18", "groups": 4}, ["model.groups = 4 is for model.norm = group"]),
        ({"name": "resnet18", "norm": "group", "groups": 0}, ["model.groups = 0", "greater than or equal to 1"]),
        ({"name": "resnet20", "stem": "cifar"}, ["model.stem = cifar is for resnet18, resnet50, not"]),
        ({"freeze": "all"}, ["model.freeze = 'all'"]),
        ({"name": "alexnet", "resize": 62}, ["model.resize = 62 is less than the 63 pixels of alexnet"]),
        ({"name": "inception_v3", "resize": 128, "aux_weight": 0.4}, ["model.resize = 128 is less than the 299"]),
        ({"resize": -1}, ["model.resize = -1"]),
        ({"name": "resnet18", "aux_weight": 0.3}, ["model.aux_weight = 0.3 is for inception_v3, googlenet, not"]),
        ({"name": "googlenet", "aux_weight": -1}, ["model.aux_weight = -1", "greater than or equal to 0"]),
        ({"name": "googlenet", "aux_weight": 0.3, "freeze": "backbone"}, ["aux_weight = 0.3", "freeze = backbone"]),
    ],
    ids=str,
)
def test_a_wrong_setting_is_one_sentence(settings, parts):
    with pytest.raises(BadInputError) as error:
        compose({"model": settings})
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("algorithm", "model", "parts"),
    [
        ("fedavg", {"freeze": "backbone"}, ["model.freeze = backbone", "lenet5", "model.pretrained = true"]),
        ("moon", {"name": "logistic"}, ["algorithm.name = moon", "model.name = logistic", "set model.projection"]),
        ("moon", {"name": "mine:net", "freeze": "backbone"}, ["algorithm.name = moon", "freeze = backbone; set model.proj"]),
    ],
)  # fmt: skip
def test_features_that_nothing_trains_are_refused_where_they_would_have_to_be(algorithm, model, parts):
    with pytest.raises(BadInputError) as error:
        compose({"algorithm": {"name": algorithm}, "model": model})
    assert all(part in str(error.value) for part in parts), str(error.value)
    compose({"algorithm": {"name": "moon"}, "model": {"name": "logistic", "projection": 8}})
    compose({"algorithm": {"name": "moon"}, "model": {"name": "mine:net", "freeze": "backbone", "projection": 8}})


def test_the_fused_engine_is_chosen_for_what_is_written_out():
    for engine, model in (
        ("fused", {"name": "mlp"}),
        ("fused", {"name": "logistic", "precision": "tf32"}),
        ("plain", {"name": "mlp", "resize": 28}),
        ("plain", {"name": "mlp", "projection": 8}),
        ("plain", {"name": "mlp", "precision": "bfloat16"}),
        ("plain", {"name": "lenet5"}),
        ("plain", {"name": "resnet20"}),
    ):
        assert compose({"model": model}).resolved().engine == engine
        if engine == "plain":
            with pytest.raises(BadInputError, match="chunk_size = 2 is for engine = fused, and this is plain"):
                compose({"model": model, "chunk_size": 2})
        compose({"model": model, "chunk_size": 2, "engine": "fused"})


def test_torchs_optimizers_are_fused_where_that_is_asked_for():
    settings = {"model": {"name": "mlp"}, "algorithm": {"optimizer": "adam"}}
    assert compose(settings).resolved().engine == "plain"
    assert compose({**settings, "engine": "fused"}).resolved().engine == "fused"


def test_group_norm_takes_the_place_of_every_batchnorm_and_leaves_all_else():
    own, grouped = (build(Model(name="resnet18", norm=norm), CIFAR, 10, 0) for norm in ("own", "group"))
    kinds = [type(layer) for layer in own.modules()], [type(layer) for layer in grouped.modules()]
    assert [nn.GroupNorm if kind is nn.BatchNorm2d else kind for kind in kinds[0]] == kinds[1]
    assert kinds[0].count(nn.BatchNorm2d) == 20
    ours, theirs = dict(grouped.named_parameters()), dict(own.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not list(grouped.buffers())
    assert {layer.num_groups for layer in grouped.modules() if isinstance(layer, nn.GroupNorm)} == {2}
    four = build(Model(name="resnet18", norm="group", groups=4), CIFAR, 10, 0)
    assert {layer.num_groups for layer in four.modules() if isinstance(layer, nn.GroupNorm)} == {4}


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "inception_v3", "googlenet", "resnet56"])
def test_two_groups_divide_the_channels_of_every_network_with_batchnorm(name):
    found = blueprint(Model(name=name, norm="group"), CIFAR, 10, 0)
    assert (found.norms, found.buffers.size) == ([], 0)


def test_groups_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(BadInputError, match="model.groups = 3 does not divide the 64 channels of layer bn1"):
        build(Model(name="resnet18", norm="group", groups=3), CIFAR, 10, 0)


def test_a_batch_of_one_image_suits_group_norm_and_frozen_norms(tmp_path, own):
    """It is refused for BatchNorm layers that train."""
    tree = {
        "cluster": {"backend": "in-process"}, "output": {"root": str(tmp_path), "name": "mine"}, "clients": 2, "cohort": 2,
        "data": {"dataset": "synthetic", "train_examples": 10, "test_examples": 10}, "algorithm": {"batch_size": 2},
    }  # fmt: skip
    with pytest.raises(BadInputError, match="BatchNorm fails"):
        check_shards(Job(compose({**tree, "model": {"name": f"{own[0]}:net"}})))
    for settings in ({"norm": "group"}, {"freeze": "backbone"}):
        check_shards(Job(compose({**tree, "model": {"name": f"{own[0]}:net", **settings}})))


def test_the_stem_for_small_images_keeps_them_large():
    own, cifar = (build(Model(name="resnet18", stem=stem), CIFAR, 10, 0) for stem in ("own", "cifar"))
    sizes = {}
    for name, module in {"own": own, "cifar": cifar}.items():
        module.layer1.register_forward_pre_hook(lambda _, x, name=name: sizes.update({name: tuple(x[0].shape[2:])}))
        module.eval()(torch.rand(1, *CIFAR))
    assert sizes == {"own": (8, 8), "cifar": (32, 32)}
    assert sum(p.numel() for p in cifar.parameters()) == 11_173_962  # 3*64*(49-9) fewer
    assert (cifar.conv1.kernel_size, cifar.conv1.stride) == ((3, 3), (1, 1))


def test_images_are_resized_inside_the_network_and_tensors_keep_their_names():
    small, large = (build(Model(name="resnet18", resize=side), CIFAR, 10, 0).eval() for side in (0, 64))
    images = torch.rand(2, 3, 32, 32)
    by_hand = F.interpolate(images, size=(64, 64), mode="bilinear", align_corners=False)
    assert torch.equal(large(images), small(by_hand))
    assert small.state_dict().keys() == large.state_dict().keys()
    # Where images shrink, every pixel counts: of a column that alternates the mean is left.
    shrunk = build(Model(name="logistic", resize=8), CIFAR, 10, 0)
    stripes = torch.zeros(1, 3, 32, 32)
    stripes[:, :, ::4] = 1.0
    seen = []
    shrunk[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    shrunk(stripes)
    torch.testing.assert_close(seen[0].view(3, 8, 8)[:, 2:-2], torch.full((3, 4, 8), 0.25))
    # A network whose size depends on the images is built for those that come in.
    assert build(Model(name="logistic", resize=8), CIFAR, 10, 0)[1].in_features == 3 * 8 * 8


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_grey_image_is_repeated_for_torchvisions_networks(channels_last):
    module = build(Model(name="resnet18", channels_last=channels_last), MNIST, 10, 0).eval()
    order = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.rand(2, *MNIST)
    wanted = module(images)
    assert torch.equal(wanted, module(images.expand(-1, 3, -1, -1).contiguous(memory_format=order)))
    of_two_clients = torch.func.vmap(module)(torch.stack([images, images]))
    torch.testing.assert_close(of_two_clients, torch.stack([wanted, wanted]))
    assert build(Model(name="resnet20"), MNIST, 10, 0)[0].in_channels == 1
    with pytest.raises(BadInputError, match="takes images of 1 or 3 channels, not of 2"):
        build(Model(name="resnet18"), (2, 32, 32), 10, 0)


INCEPTION = pytest.param("inception_v3", 1, marks=pytest.mark.slow)  # whose classifier takes 299 x 299 pixels


@pytest.mark.parametrize(("name", "heads"), [("googlenet", 2), INCEPTION])
def test_auxiliary_classifiers_count_by_their_weight_and_only_in_training(name, heads):
    """A step descends the main loss plus the weight times theirs; the loss that is reported is the main one."""
    side = KNOWN[name].least_aux
    dataset = make_dataset(train=2, test=2, side=side, validation=0)
    trainer, other = (Trainer(make_recipe(dataset, name, aux_weight=0.25)) for _ in range(2))
    for layer in (*trainer.network.flat.module.modules(), *other.network.flat.module.modules()):
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    state = {
        "params": trainer.network.flat.params.numpy().copy(),
        "buffers": trainer.network.flat.buffers.numpy().copy(),
    }
    algorithm, data = FedAvg(batch_size=0), (dataset.train_images, dataset.train_labels)
    update, _, report = trainer.train(Task(algorithm, state, 1, 0.1), 0, *data, {})
    other.network.flat.train()
    ((inputs, targets),) = draw_batches(other.network, algorithm, 0, *data, 1)
    main, *others = (F.cross_entropy(output, targets) for output in other.network.flat.module(inputs))
    assert len(others) == heads
    of_main, of_others = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, other.network.flat.trainable, retain_graph=True, allow_unused=True, materialize_grads=True)])
        for loss in (main, sum(others))
    )  # fmt: skip
    wanted = -0.1 * (of_main + 0.25 * of_others).numpy()
    assert np.linalg.norm(update["params"] - wanted) < 1e-3 * np.linalg.norm(wanted)
    assert np.linalg.norm(update["params"] + 0.1 * of_main.numpy()) > 1e-2 * np.linalg.norm(wanted)
    assert report.train_loss == pytest.approx(main.item(), rel=1e-6)
    (loss,) = evaluate(trainer, state, *data).losses
    with torch.no_grad():
        output = other.network.flat.module.eval()(inputs)  # the main one alone
    assert np.isfinite(loss)
    assert output.shape == (2, 10)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_without_a_weight_auxiliary_classifiers_are_not_built(name):
    assert not [n for n, _ in build(Model(name=name), CIFAR, 10, 0).named_parameters() if n.lower().startswith("aux")]


# What is frozen.


def test_only_the_head_of_a_frozen_model_trains_and_is_sent():
    """Bytes are 4 for each number of the last layer; the backbone stays as it was, BatchNorm statistics included."""
    dataset = make_dataset(train=8, test=6, validation=0)
    population = InProcessPopulation(
        dataset, [np.arange(4), np.arange(4, 8)], make_recipe(dataset, "resnet18", freeze="backbone"), 1
    )
    flat = population.trainer.network.flat
    before = {name: value.clone() for name, value in flat.module.state_dict().items()}
    assert flat.layout.names == ("fc.weight", "fc.bias")
    message = {"params": flat.params.numpy().copy(), "buffers": flat.buffers.numpy().copy()}
    updates = train(population, FedAvg(batch_size=2), [0, 1], message, 1, 0.05)
    assert [(r.bytes_down, r.bytes_up) for r in updates.reports] == [(4 * (512 * 10 + 10),) * 2] * 2
    after = flat.module.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {"fc.weight", "fc.bias"}


def test_the_last_layer_trains_as_multinomial_regression_on_frozen_features():
    """One step by hand: with the backbone in evaluation mode, features are a function of the image alone."""
    dataset = make_dataset(train=6, test=6, validation=0)
    trainer = Trainer(make_recipe(dataset, "resnet18", freeze="backbone"))
    message = {
        "params": trainer.network.flat.params.numpy().copy(),
        "buffers": trainer.network.flat.buffers.numpy().copy(),
    }
    data = dataset.train_images, dataset.train_labels
    update, _, _ = trainer.train(Task(FedAvg(batch_size=0), message, 1, 0.1), 0, *data, {})
    module = build(Model(name="resnet18"), CIFAR, 10, 3).eval()
    module.fc = nn.Identity()
    with torch.no_grad():
        features = module(trainer.network.inputs(torch.from_numpy(data[0])))
        weight, bias = torch.from_numpy(message["params"]).split([5120, 10])
        error = (features @ weight.view(10, 512).T + bias).softmax(1) - F.one_hot(torch.from_numpy(data[1]), 10)
        wanted = torch.cat([(error.T @ features / 6).flatten(), error.mean(0)])
    np.testing.assert_allclose(update["params"], -0.1 * wanted.numpy(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["lenet5", "googlenet", "densenet121"])
def test_a_projection_head_trains_though_the_backbone_is_frozen(name):
    found = blueprint(Model(name=name, freeze="backbone", projection=16), CIFAR, 10, 0)
    (head,) = {tensor.rpartition(".")[0].rpartition(".")[0] for tensor in found.names}
    assert [tensor.removeprefix(f"{head}.") for tensor in found.names] == [
        f"{layer}.{kind}" for layer in (0, 2, 3) for kind in ("weight", "bias")
    ]
    assert (
        found.state_dict(found.params, found.buffers).keys()
        == dict(build(Model(name=name, projection=16), CIFAR, 10, 0).state_dict()).keys()
    )
    assert found.frozen_bytes > 0


@pytest.mark.parametrize("algorithm", [Moon(batch_size=4), FedPer(batch_size=4)], ids=lambda a: a.name)
def test_algorithms_that_look_for_the_last_layer_find_it(algorithm):
    dataset = make_dataset(train=8, test=6, validation=0, channels=1, side=28)
    settings = {"freeze": "backbone", "projection": 8} if algorithm.compares else {"aux_weight": 0.3}
    population = InProcessPopulation(
        dataset, [np.arange(4), np.arange(4, 8)], make_recipe(dataset, "googlenet", **settings), 1
    )
    flat = population.trainer.network.flat
    state = algorithm.init(flat.params.numpy().copy(), flat.buffers.numpy().copy())
    updates = train(population, algorithm, [0, 1], algorithm.broadcast(state, 1), 1, 0.05)
    assert [report.status for report in updates.reports] == ["ok", "ok"]
    if not algorithm.compares:
        unsent = 4 * (1024 * 10 + 10)
        assert updates.reports[0].bytes_up == 4 * (flat.params.numel() + flat.buffers.numel()) - unsent


# Functions of the user's own.

OWN = """
import torch
from torch import nn

def net(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 4), nn.BatchNorm1d(4), nn.Linear(4, classes))

def text(shape, classes):
    return "net"

def narrow(shape, classes):
    return net(shape, classes - 1)

def broken(shape, classes):
    return classes / 0

def lame(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(7, classes))

def silent(shape, classes):
    return nn.Flatten()

def tied(shape, classes):
    one, two = nn.Linear(classes, classes), nn.Linear(classes, classes)
    two.weight = one.weight
    return nn.Sequential(net(shape, classes), one, two)

def convolutional(shape, classes):
    return nn.Sequential(nn.Conv2d(shape[0], classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def counting(shape, classes):
    inner = nn.BatchNorm1d(4, momentum=None)
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 4), inner, nn.Linear(4, classes))

def plain_norm(shape, classes):
    inner = nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Dropout())
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 4), inner, nn.Linear(4, classes))

class Shifted(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.register_buffer("shift", torch.ones(shape[0], 1, 1), persistent=False)
        self.body = net(shape, classes)

    def forward(self, x):
        return self.body(x - self.shift)

class Odd(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.body, self.aside = net(shape, classes), nn.Linear(4, 7)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        return self.body(x)

class Named(Odd):
    def forward(self, x):
        return {"output": self.body(x)} if self.training else self.body(x)

class Pair(Odd):
    def forward(self, x):
        return (self.body(x), self.body(x)) if self.training else self.body(x)

class Half(Odd):
    def forward(self, x):
        return self.body(x)[:, :5] if self.training else self.body(x)

class Viewing(Odd):
    def forward(self, x):
        return self.body(x.view(len(x), -1, 1, 1))

class Counting(Odd):
    def forward(self, x):
        self.seen = self.seen + 1
        return self.body(x)

class Deaf(Odd):
    def forward(self, x):
        return self.body(x).detach()

class Rooted(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.first = nn.Parameter(torch.zeros(shape[0] * shape[1] * shape[2], classes))
        self.second = nn.Parameter(torch.zeros(classes))

    def forward(self, x):
        return x.flatten(1) @ self.first + self.second

def lazy(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))

def double(shape, classes):
    return net(shape, classes).double()

made = []

def same(shape, classes):
    made[:] = made or [net(shape, classes)]
    return made[0]

def leaving(shape, classes):
    raise SystemExit(3)

def linear(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

class Centred(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.body = linear(shape, classes)

    def forward(self, x):
        return self.body(x) - self.body(x).mean(0)

class Stepping(Centred):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.steps += 1
        return self.body(x) / self.steps

class Branching(Centred):
    def forward(self, x):
        return self.body(x) if x.mean() > 0 else -self.body(x)

class Drawing(Centred):
    def forward(self, x):
        return self.body(x + torch.rand_like(x))

class Seldom(Centred):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.register_buffer("mean", torch.zeros(classes))
        self.register_buffer("variance", torch.ones(classes))

    def forward(self, x):
        return nn.functional.batch_norm(self.body(x), self.mean, self.variance, training=self.training)

class Folding(Centred):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.norm = nn.BatchNorm1d(classes // 2)

    def forward(self, x):
        return self.norm(self.body(x).view(2 * len(x), -1)).view(len(x), -1)

class Writing(Centred):
    def forward(self, x):
        return self.body(x.sub_(0.5))

number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The name of a module of the user's own, and its file."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / f"{name}.py"
    path.write_text(OWN)
    yield name, path
    sys.modules.pop(name, None)


def own_job(tmp_path, name, algorithm="fedavg", **more):
    return Job(
        compose(
            {
                "data": {"dataset": "synthetic", "train_examples": 40, "test_examples": 20}, "clients": 2, "cohort": 2,
                "rounds": 1, "model": {"name": name, **more}, "algorithm": {"name": algorithm}, "cluster": {"backend": "in-process"},
                "output": {"root": str(tmp_path / "results"), "name": "mine"},
            }
        )
    )  # fmt: skip


def test_a_function_of_the_users_own_is_built_trained_and_saved(tmp_path, own):
    from safetensors.numpy import load_file

    job = own_job(tmp_path, f"{own[0]}:net")
    results = run(job.experiment)
    assert results.runs["model"].tolist() == [f"{own[0]}:net"]
    assert results.runs["model_source_fingerprint"].tolist() == [job.model_source] != [""]
    assert results.runs["num_params"].tolist() == [3072 * 4 + 4 + 8 + 50]
    saved = load_file(job.model)
    module = importlib.import_module(own[0]).net((3, 32, 32), 10)
    assert saved.keys() == module.state_dict().keys()


def test_a_function_that_was_changed_is_another_run_and_another_network(tmp_path, own):
    name, path = own
    first = own_job(tmp_path, f"{name}:net")
    assert first.vectors[0].size == 3072 * 4 + 4 + 8 + 50
    assert own_job(tmp_path, f"{name}:net").run == first.run
    assert own_job(tmp_path, f"{name}:narrow").run != first.run
    path.write_text(OWN.replace("4), nn.BatchNorm1d(4), nn.Linear(4", "16), nn.BatchNorm1d(16), nn.Linear(16"))
    second = own_job(tmp_path, f"{name}:net")
    assert second.run != first.run
    assert second.vectors[0].size == 3072 * 16 + 16 + 32 + 170


def test_a_clients_work_is_the_same_whoever_worked_before_it_in_the_process(own):
    """With BatchNorm whose average counts batches, which is no part of a message."""
    dataset = make_dataset(train=8, test=6, validation=0)
    trainer = Trainer(make_recipe(dataset, f"{own[0]}:counting"))
    message = {
        "params": trainer.network.flat.params.numpy().copy(),
        "buffers": trainer.network.flat.buffers.numpy().copy(),
    }
    data, algorithm = (dataset.train_images, dataset.train_labels), FedAvg(batch_size=4)
    one, again = (trainer.train(Task(algorithm, message, 1, 0.1), 0, *data, {})[0] for _ in range(2))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert np.abs(one["buffers"]).max() > 0


def test_all_outside_the_head_of_a_frozen_model_is_frozen_also_what_has_no_parameters(own):
    found = blueprint(Model(name=f"{own[0]}:plain_norm", freeze="backbone"), CIFAR, 10, 0)
    assert (found.names, found.norms, found.buffers.size) == (["3.weight", "3.bias"], [], 0)
    trainer = Trainer(make_recipe(make_dataset(test=6, validation=0), f"{own[0]}:plain_norm", freeze="backbone"))
    trainer.network.flat.train()
    assert [layer.training for layer in trainer.network.flat.module] == [False, False, False, True]
    assert not any(layer.training for layer in trainer.network.flat.module[2])
    assert blueprint(Model(name=f"{own[0]}:plain_norm"), CIFAR, 10, 0).buffers.size == 8


def test_a_buffer_that_is_not_persistent_is_not_in_the_saved_model(own):
    name = f"{own[0]}:Shifted"
    found = blueprint(Model(name=name), CIFAR, 10, 0)
    assert found.buffers.size == 3 + 8
    state = found.state_dict(found.params + 1, found.buffers + 2)
    module = build(Model(name=name), CIFAR, 10, 1)
    module.load_state_dict({key: torch.from_numpy(tensor) for key, tensor in state.items()})
    assert module.body[2].running_mean.tolist() == [2] * 4
    assert float(module.body[3].bias[0].detach()) == float(found.params[-10] + 1)


def test_it_is_initialised_from_the_seed_and_can_be_frozen_and_grouped(own):
    name = f"{own[0]}:net"
    one, again, other = (build(Model(name=name), CIFAR, 10, seed)[1].weight for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    frozen = blueprint(Model(name=name, freeze="backbone"), CIFAR, 10, 0)
    assert frozen.names == ["3.weight", "3.bias"]
    assert isinstance(build(Model(name=name, norm="group"), CIFAR, 10, 0)[2], nn.GroupNorm)
    assert build(Model(name=name, resize=8), CIFAR, 10, 0)[1].in_features == 3 * 8 * 8


@pytest.mark.parametrize(
    ("function", "parts"),
    [
        ("nett", ["has no function nett; did you mean net?"]),
        ("text", ["gives a str, not a torch.nn.Module"]),
        ("narrow", ["gives (2, 9) for 2 images in training, not an output (2, 10)"]),
        ("broken", ["failed for images (3, 32, 32)", "ZeroDivisionError: division by zero, in own_", "line 15"]),
        ("lame", ["fails for images (3, 32, 32)", "RuntimeError"]),
        ("silent", ["without parameters to train"]),
        ("tied", ["parameters that have two names"]),
        ("Named", ["gives dict for 2 images in training"]),
        ("Pair", ["gives tuple for 2 images in training"]),
        ("Half", ["gives (2, 5) for 2 images in training"]),
        ("Counting", ["its buffer seen", "must write to it"]),
        ("Deaf", ["has no gradient"]),
        ("lazy", ["1.weight has no size yet"]),
        ("double", ["1.weight is float64 on cpu, not float32"]),
        ("same", ["gives the same parameters whenever it is called"]),
        ("leaving", ["failed for images (3, 32, 32) (SystemExit: 3, in own_", "line "]),
        ("number", ["has no function number"]),
    ],
)
def test_what_a_function_does_wrong_is_one_sentence(own, function, parts):
    with pytest.raises(BadInputError) as error:
        blueprint(Model(name=f"{own[0]}:{function}"), CIFAR, 10, 0)
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert str(error.value).startswith(f"model.name = {own[0]}:{function} ") or "has no" in str(error.value)
    assert "did you mean number" not in str(error.value)
    assert "\n" not in str(error.value)


def test_it_is_tried_in_its_memory_format_and_arithmetic(own):
    name = f"{own[0]}:Viewing"
    assert blueprint(Model(name=name, channels_last=False), CIFAR, 10, 0).idle == ("aside.weight", "aside.bias")
    with pytest.raises(BadInputError, match="fails for images .* in training .*view size is not compatible"):
        blueprint(Model(name=name, channels_last=True), CIFAR, 10, 0)
    blueprint(Model(name=f"{own[0]}:net", precision="bfloat16"), CIFAR, 10, 0)


def test_a_trial_leaves_the_model_as_it_was_built(own):
    name = f"{own[0]}:net"
    found, module = blueprint(Model(name=name), CIFAR, 10, 0), build(Model(name=name), CIFAR, 10, 0)
    state = found.state_dict(found.params, found.buffers)
    assert all(np.array_equal(state[key], tensor.numpy()) for key, tensor in module.state_dict().items())


@pytest.mark.parametrize(
    ("function", "algorithm", "settings", "parts"),
    [
        ("Odd", "fedavg", {"freeze": "backbone"}, ["model.freeze", "Odd, aside, does not give its output"]),
        ("Odd", "fedavg", {"projection": 4}, ["model.projection", "Odd, aside.3, does not give its output"]),
        ("Odd", "moon", {}, ["algorithm.name = moon compares", "Odd, aside, does not give its output"]),
        ("Odd", "fedper", {}, ["algorithm.name = fedper keeps aside.bias, aside.weight", "does not use"]),
        ("convolutional", "moon", {}, ["algorithm.name = moon compares", "the model has none"]),
        ("linear", "moon", {}, ["algorithm.name = moon compares", "nothing before that layer, 1, is trained"]),
        ("linear", "fedper", {}, ["algorithm.name = fedper", "keeps all that is trained", "algorithm.name = local"]),
        ("net", "fedper", {"freeze": "backbone"}, ["algorithm.name = fedper", "keeps all that is trained"]),
        ("linear", "fedavg", {"norm": "group"}, ["model.norm = group", "has none"]),
    ],
)  # fmt: skip
def test_what_would_come_to_nothing_is_refused_before_anything_is_on_disk(
    tmp_path, own, function, algorithm, settings, parts
):
    with pytest.raises(BadInputError) as error:
        run(own_job(tmp_path, f"{own[0]}:{function}", algorithm, **settings).experiment)
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("function", "algorithm", "settings"),
    [
        ("Odd", "fedavg", {}), ("net", "moon", {}), ("linear", "moon", {"projection": 4}), ("linear", "local", {}),
        ("net", "moon", {"freeze": "backbone", "projection": 4}), ("Rooted", "fedper", {}),
    ],
)  # fmt: skip
def test_what_comes_to_something_is_not(tmp_path, own, function, algorithm, settings):
    check_shards(own_job(tmp_path, f"{own[0]}:{function}", algorithm, **settings))


@pytest.mark.parametrize(
    ("function", "parts"),
    [
        ("Centred", ["its output for an example depends on the rest of the batch"]),
        ("Stepping", ["it changes its buffers in training"]),
        ("Branching", ["it fails for many clients at a time", "data-dependent control flow"]),
        ("Drawing", ["it draws random numbers in training other than by nn.Dropout"]),
        ("Seldom", ["F.batch_norm running statistics that are not those of a BatchNorm layer"]),
        ("Folding", ["it gives a BatchNorm 6 rows for 3 images"]),
        ("net", []),
        ("counting", []),
        ("plain_norm", []),
        ("Writing", []),
        ("linear", []),
    ],
)
def test_the_fused_engine_refuses_what_it_would_train_otherwise_than_the_plain_one(tmp_path, own, function, parts):
    """Batches are padded there, and a network is called once for many clients."""
    experiment = own_job(tmp_path, f"{own[0]}:{function}").experiment
    for engine in ("plain", "fused"):
        job = Job(dataclasses.replace(experiment, engine=engine))
        if engine == "fused" and parts:
            with pytest.raises(BadInputError, match=f"engine = fused cannot train model.name = {own[0]}:") as error:
                check_layers(job)
            assert all(part in str(error.value) for part in parts), str(error.value)
        else:
            check_layers(job)


def test_the_last_layer_of_a_model_without_layers_is_its_last_parameter():
    assert FedPer().personal(["first", "second"], []) == ["second"]


def test_a_model_is_built_from_the_file_that_the_run_is_named_by_or_not_at_all(tmp_path, own):
    name, path = own
    jobs = [own_job(tmp_path, f"{name}:net") for _ in range(2)]
    assert Trainer(jobs[0].recipe).network.flat.module[1].out_features == 4
    path.write_text(OWN.replace("4), nn.BatchNorm1d(4), nn.Linear(4", "16), nn.BatchNorm1d(16), nn.Linear(16"))
    # What was imported is what the run began with.
    assert Trainer(jobs[0].recipe).network.flat.module[1].out_features == 4
    del sys.modules[name]  # another process
    for build_it in (
        lambda: check_shards(jobs[1]),
        lambda: Trainer(jobs[1].recipe),
        lambda: run(jobs[1].experiment, Edited(path)),
    ):
        with pytest.raises(BadInputError, match=f"{path} is not the file that this run began with"):
            build_it()
    assert not (tmp_path / "results").exists()


class Edited(Watch):
    """Somebody who edits a file while a run begins."""

    def __init__(self, path):
        self.path = path

    def prepare(self, job):
        self.path.write_text(OWN + "# edited")


def test_a_module_that_the_user_imported_is_imported_anew_only_where_its_file_has_changed(own, monkeypatch):
    name, path = own
    os.utime(path, (1, 1))
    mine = importlib.import_module(name).Odd
    blueprint(Model(name=f"{name}:net"), CIFAR, 10, 0)
    assert sys.modules[name].Odd is mine
    path.write_text(OWN + "number = 4")
    blueprint(Model(name=f"{name}:net"), CIFAR, 10, 0)
    assert sys.modules[name].number == 4
    sys.modules.pop(name)
    monkeypatch.delitem(own_code.loaded, name)
    importlib.import_module(name)
    path.write_text(OWN + "number = 55")  # after fedray was imported: what the user imported may be older
    blueprint(Model(name=f"{name}:net"), CIFAR, 10, 0)
    assert sys.modules[name].number == 55


def test_what_needs_a_linear_layer_is_refused_without_one(own):
    for settings in ({"freeze": "backbone"}, {"projection": 8}):
        with pytest.raises(BadInputError, match="need a last Linear layer, and the model has none"):
            build(Model(name=f"{own[0]}:convolutional", **settings), CIFAR, 10, 0)


@pytest.mark.parametrize(
    ("text", "name", "parts"),
    [
        (None, "nowhere:net", ["there is no module nowhere"]),
        (None, "nowhere.inside:net", ["there is no module nowhere.inside"]),
        (None, "__main__:net", ["__main__"]),
        ("import nowhere_at_all", "", ["cannot be imported (ModuleNotFoundError: No module named 'nowhere_at_all'"]),
        ("\ndef net(:", "", ["cannot be imported (SyntaxError: invalid syntax, in own_", ".py line 2)"]),
        ("raise SystemExit(5)", "", ["cannot be imported (SystemExit: 5, in own_", "line 1)"]),
    ],
)
def test_a_module_that_cannot_be_had_is_one_sentence(tmp_path, own, text, name, parts):
    if text is not None:
        own[1].write_text(text)
    with pytest.raises(BadInputError) as error:
        check_shards(own_job(tmp_path, name or f"{own[0]}:net"))
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results").exists()
