"""Networks for vectors, series and token ids: sizes, padding, both engines, and functions of the user's own."""

import dataclasses

import numpy as np
import pytest
import torch
from small_data import make_recipe, make_tokens, make_values
from torch.func import functional_call, vmap

from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.moon import Moon
from fedray.core.errors import BadInputError
from fedray.core.kinds import CLASSIFIED_IMAGES, Kind
from fedray.experiment.composition import compose
from fedray.models.build import BUILDERS, build
from fedray.models.describe import blueprint
from fedray.models.model import KNOWN, Model
from fedray.run.checks import check_split
from fedray.run.prepared import Job
from fedray.server.task import Task
from fedray.training.block import train_block
from fedray.training.evaluate import measure
from fedray.training.trainer import Trainer

VALUES, TOKENS = Kind(inputs="values"), Kind(inputs="tokens", vocabulary=11, padding=0)
CASES = {
    "logistic on vectors": ("logistic", lambda: make_values("values", (6,))),
    "mlp on vectors": ("mlp", lambda: make_values("classes", (6,))),
    "mlp on arrays": ("mlp", lambda: make_values("labels", (2, 2, 2, 2))),
    "lenet5 on values": ("lenet5", lambda: make_values("values", (2, 16, 16))),
    "cnn1d on series": ("cnn1d", lambda: make_values("classes", (2, 9))),
    "lstm on series": ("lstm", lambda: make_values("values", (2, 9))),
    "lstm on tokens": ("lstm", make_tokens),
    "transformer on tokens": ("transformer", make_tokens),
}


# Sizes.


@pytest.mark.parametrize(
    ("name", "kind", "shape", "params"),
    [
        # 7*2*32+32, 5*32*64+64, 3*64*32+32, 32*3+3.
        ("cnn1d", VALUES, (2, 9), 480 + 10304 + 6176 + 99),
        # Four gates of 64 from 2 inputs, from 64 states and with two biases; 64*3+3.
        ("lstm", VALUES, (2, 9), 4 * 64 * (2 + 64 + 2) + 195),
        # The same from 64 numbers for each of 11 tokens.
        ("lstm", TOKENS, (9,), 11 * 64 + 4 * 64 * (64 + 64 + 2) + 195),
        # 11 tokens and 9 places; two layers of 64*192+192, 64*64+64, 64*128+128, 128*64+64 and two norms; a norm, 195.
        ("transformer", TOKENS, (9,), 20 * 64 + 2 * (12480 + 4160 + 8320 + 8256 + 256) + 128 + 195),
        ("mlp", VALUES, (30,), 30 * 200 + 200 + 200 * 200 + 200 + 200 * 3 + 3),
        ("logistic", VALUES, (2, 3, 4, 5), 120 * 3 + 3),
    ],
)
def test_sizes(name, kind, shape, params):
    module = build(Model(name=name), shape, 3, 0, kind=kind)
    assert sum(parameter.numel() for parameter in module.parameters()) == params


def test_every_network_takes_something_and_every_form_of_inputs_has_a_network():
    assert {form for facts in KNOWN.values() for form in facts.takes} == {
        "images", "vectors", "series", "arrays", "tokens",
    }  # fmt: skip
    assert set(BUILDERS) == {name for name, facts in KNOWN.items() if not facts.weights}


# Padding.


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_what_padding_is_embedded_as_does_not_matter_and_real_tokens_do(name):
    module = build(Model(name=name), (8,), 3, 0, kind=TOKENS).eval()
    tokens = torch.tensor([[3, 4, 5, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7, 8]])
    before = module(tokens)
    with torch.no_grad():
        module.get_submodule("embedding").weight[0] = 7.0
    torch.testing.assert_close(module(tokens), before)
    tokens[0, 2] = 6
    assert (module(tokens)[0] - before[0]).abs().max() > 1e-4
    assert module(torch.zeros(1, 8, dtype=torch.int64)).isfinite().all()  # a text without a token


def test_without_padding_every_token_counts():
    kind = dataclasses.replace(TOKENS, padding=None)
    for name in ("lstm", "transformer"):
        module = build(Model(name=name), (4,), 3, 0, kind=kind).eval()
        first, second = (module(torch.tensor([[1, 2, 0, last]])) for last in (0, 5))
        assert not torch.equal(first, second), name


def test_the_lstm_written_out_is_torchs():
    """Under vmap, where it is written out, for three clients with weights of their own; outputs and gradients."""
    module, x = build(Model(name="lstm"), (2, 7), 3, 0, kind=VALUES), torch.randn(3, 4, 2, 7)
    weights = {
        name: torch.stack([p.detach() * scale for scale in (1.0, 1.5, 0.5)]).requires_grad_()
        for name, p in module.named_parameters()
    }
    found = vmap(lambda tensors, x: functional_call(module, tensors, (x,)))(weights, x)
    slopes = torch.autograd.grad(found.square().sum(), list(weights.values()))
    for i in range(3):
        own = {name: each[i].detach().requires_grad_() for name, each in weights.items()}
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.copy_(own[name])
        output = module(x[i])
        torch.testing.assert_close(found[i], output, rtol=1e-4, atol=1e-5)
        for slope, expected in zip(
            slopes, torch.autograd.grad(output.square().sum(), module.parameters()), strict=True
        ):
            torch.testing.assert_close(slope[i], expected, rtol=1e-3, atol=1e-4)


# In both engines.

SHARDS = [np.arange(0, 21), np.arange(21, 24), np.arange(24, 64), np.arange(64, 72), np.arange(72, 96)]


def trained(recipe, algorithm, dataset, clients=(0, 1, 2, 3, 4)):
    """The updates and reports of these clients in a round."""
    trainer, clients = Trainer(recipe), list(clients)
    flat = trainer.network.flat
    message = {"params": flat.params.numpy().copy(), "buffers": flat.buffers.numpy().copy()}
    shard = lambda client: (dataset.train_images[SHARDS[client]], dataset.train_labels[SHARDS[client]])  # noqa: E731
    task = Task(algorithm, message, 1, algorithm.lr)
    return train_block(trainer, task, clients, shard, [{}] * len(clients), summed=False)[0]


@pytest.mark.parametrize("case", CASES)
def test_the_fused_engine_trains_as_the_plain_one(case):
    """Also dropout: the masks of a client are the same."""
    name, made = CASES[case]
    dataset, algorithm = made(), FedAvg(lr=0.02, batch_size=8)
    recipe = make_recipe(dataset, name)
    plain = trained(recipe, algorithm, dataset)
    fused = trained(dataclasses.replace(recipe, engine="fused"), algorithm, dataset)
    for a, b, report, expected in zip(fused.each, plain.each, fused.reports, plain.reports, strict=True):
        far = np.abs(b["params"]).max()
        assert far > 1e-4
        np.testing.assert_allclose(a["params"], b["params"], rtol=1e-3, atol=5e-4 * far)
        assert report.train_loss == pytest.approx(expected.train_loss, rel=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_a_client_trained_after_another_has_the_same_bits(case):
    name, made = CASES[case]
    dataset, algorithm = made(), FedAvg(lr=0.02, batch_size=8)
    recipe = make_recipe(dataset, name)
    first, again = trained(recipe, algorithm, dataset, [1]), trained(recipe, algorithm, dataset, [4, 1])
    assert first.each[0]["params"].tobytes() == again.each[1]["params"].tobytes()


@pytest.mark.parametrize("case", [case for case in CASES if "lenet5" not in case])
def test_each_learns_and_its_vector_is_all_of_it(case):
    """Some epochs on 96 examples take a quarter off the loss; another network with the same vector has the same outputs."""
    name, made = CASES[case]
    dataset = made()
    trainer = Trainer(make_recipe(dataset, name))
    flat = trainer.network.flat
    before = {"params": flat.params.clone(), "buffers": flat.buffers.clone()}
    examples = dataset.train_images, dataset.train_labels
    lr = 0.1 if dataset.kind.targets == "values" else 0.3
    algorithm = FedAvg(lr=lr, batch_size=8, epochs=6 if name == "transformer" else 20, momentum=0.5, clip_norm=1.0)
    message = {name: vector.numpy().copy() for name, vector in before.items()}
    update, _, _ = trainer.train(Task(algorithm, message, 1, lr), 0, *examples, {})
    after = {"params": before["params"] + torch.from_numpy(update["params"]), "buffers": before["buffers"]}
    first, last = (sum(measure(trainer.network, model, *examples).losses) for model in (before, after))
    assert last < 0.75 * first
    other = Trainer(make_recipe(dataset, name, seed=9)).network
    again = measure(other, after, dataset.test_images, dataset.test_labels)
    assert again.losses == measure(trainer.network, after, dataset.test_images, dataset.test_labels).losses


@pytest.mark.parametrize("case", ["lstm on series", "lstm on tokens", "transformer on tokens", "cnn1d on series"])
@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_half_precision_trains_them_too(case, engine):
    name, made = CASES[case]
    dataset = made()
    recipe = dataclasses.replace(make_recipe(dataset, name, precision="bfloat16"), engine=engine)
    found = trained(recipe, FedAvg(lr=0.05, batch_size=8), dataset)
    assert [report.status for report in found.reports] == ["ok"] * len(SHARDS)


@pytest.mark.parametrize("case", ["mlp on vectors", "cnn1d on series", "lstm on tokens", "transformer on tokens"])
def test_moon_compares_what_the_last_layer_is_given(case):
    name, made = CASES[case]
    found = trained(make_recipe(made(), name), Moon(lr=0.05, batch_size=8), made())
    assert [report.status for report in found.reports] == ["ok"] * len(SHARDS)


# What a driver knows of them.


@pytest.mark.parametrize("case", CASES)
def test_the_blueprint_is_made_of_inputs_of_the_kind(case):
    name, made = CASES[case]
    dataset = made()
    shape = dataset.train_images.shape[1:]
    found = blueprint(Model(name=name), shape, len(dataset.classes), 0, kind=dataset.kind)
    assert found.kept_bytes > 0
    assert found.widest_bytes > 0
    assert not found.unfit_to_fuse
    assert not found.norms


# What does not fit.


@pytest.mark.parametrize(
    ("name", "kind", "shape", "said"),
    [
        ("lenet5", VALUES, (30,), r"lenet5 takes images, .* vectors of shape \(30,\); .* is logistic, mlp, or a fun"),
        (
            "lenet5",
            VALUES,
            (3, 100),
            r"takes images, and the inputs are series .* there is logistic, mlp, cnn1d, lstm,",
        ),
        ("resnet18", TOKENS, (100,), r"takes images, and the inputs are tokens .* is lstm, transformer, or a function"),
        ("cnn1d", VALUES, (3, 8, 8), r"cnn1d takes series, and the inputs are images"),
        ("lstm", CLASSIFIED_IMAGES, (3, 8, 8), r"lstm takes series and tokens, and the inputs are images"),
        ("mlp", TOKENS, (9,), r"takes images and vectors and series and arrays, and the inputs are tokens"),
        ("transformer", VALUES, (2, 2, 2, 2), r"takes tokens, and the inputs are arrays .* there is logistic, mlp, or"),
    ],
)
def test_a_network_that_does_not_suit_the_inputs_is_refused_with_those_that_do(name, kind, shape, said):
    with pytest.raises(BadInputError, match=said):
        build(Model(name=name), shape, 3, 0, kind=kind)


def test_that_is_before_anything_is_built():
    job = Job(compose({"output": {"name": "x"}, "data": {"dataset": "synthetic"}}), writes=False)
    job.__dict__["dataset"] = make_values("classes", (6,))
    with pytest.raises(BadInputError, match="model.name = lenet5 takes images"):
        check_split(job)


# One's own.

OWN = """
import torch
from torch import nn

class Bag(nn.Module):
    def __init__(self, vocabulary, padding, classes):
        super().__init__()
        self.embedding, self.last = nn.Embedding(vocabulary, 4, padding_idx=padding), nn.Linear(4, classes)
    def forward(self, tokens):
        return self.last(self.embedding(tokens).mean(1))

def bag(shape, classes, vocabulary, padding):
    return Bag(vocabulary, padding, classes)

def known_vocabulary(shape, classes):
    return Bag(11, 0, classes)

def too_few(shape, classes, vocabulary):
    return Bag(vocabulary - 5, 0, classes)

def table(shape, classes, padding=1):
    assert padding == 1
    return nn.Sequential(nn.Linear(shape[0], 5), nn.ReLU(), nn.Linear(5, classes))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_networks.py").write_text(OWN)


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("bag", make_tokens),
        ("known_vocabulary", make_tokens),
        ("table", lambda: make_values("values", (6,))),
    ],
)
def test_a_function_of_ones_own_makes_networks_for_every_kind(name, made, own):
    dataset = made()
    recipe = make_recipe(dataset, f"own_networks:{name}")
    found = blueprint(recipe.model, recipe.shape, recipe.classes, 0, kind=dataset.kind)
    assert not found.unfit_to_fuse
    for engine in ("plain", "fused"):
        reports = trained(dataclasses.replace(recipe, engine=engine), FedAvg(batch_size=8), dataset).reports
        assert [report.status for report in reports] == ["ok"] * len(SHARDS)


def test_ones_own_network_is_tried_on_tokens(own):
    with pytest.raises(BadInputError, match=r"too_few fails for tokens \(12,\) in training \(IndexError"):
        blueprint(Model(name="own_networks:too_few"), (12,), 2, 0, kind=TOKENS)
    with pytest.raises(BadInputError, match=r"own_networks:table failed for tokens|gives|fails for tokens"):
        blueprint(Model(name="own_networks:table"), (12,), 2, 0, kind=TOKENS)
