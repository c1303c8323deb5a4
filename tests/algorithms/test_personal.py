"""Personalised algorithms: neutral settings are FedAvg, a step of each by hand, and their papers' pseudo-code in float64.

The references are plain loops that know nothing of messages, memories and places: models are tensors by name, averaged
where the paper averages them.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from playing import Regression, flat, fresh, play, squared, with_batchnorm, with_dropout
from small_data import make_dataset
from tasks import train
from torch import nn

from fedray.algorithms.ditto import Ditto
from fedray.algorithms.fedavg import FedAvg
from fedray.algorithms.fedbn import FedBN
from fedray.algorithms.fedopt import FedAdam
from fedray.algorithms.fedper import FedPer
from fedray.algorithms.fedprox import FedProx
from fedray.algorithms.finetune import FineTune
from fedray.algorithms.local import Local
from fedray.algorithms.moon import Moon
from fedray.core.errors import BadInputError
from fedray.data.dataset import Dataset
from fedray.experiment.composition import compose
from fedray.models import build as networks
from fedray.models.build import initial_vectors
from fedray.run import run
from fedray.server.rounds import sample_cohort
from fedray.server.task import Task
from fedray.training.batches import draw_batches
from fedray.training.evaluate import evaluate_client

SIZES = (6, 10, 18, 27, 12, 23)
SHARDS = np.split(np.arange(96), np.cumsum(SIZES)[:-1])
OWN_TESTS = [np.arange(40 - 3 * k, 50 + 4 * k) for k in range(6)]
LOCAL = {"lr": 0.05, "batch_size": 8, "epochs": 2, "momentum": 0.5, "weight_decay": 0.01}
WHOLE = {**LOCAL, "batch_size": 0}


@pytest.fixture(scope="module")
def noise():
    return make_dataset(train=96, test=70, classes=3, side=2)


@pytest.fixture
def batchnorm(monkeypatch):
    """Put a network with BatchNorm in mlp's place: "1" and "4" are its Linear layers, "2" is the BatchNorm."""
    monkeypatch.setitem(networks.BUILDERS, "mlp", smooth)


def smooth(shape, classes):
    """Without ReLU's kinks, at which float32 and float64 could part."""
    flatten, first, norm, _, last = with_batchnorm(shape, classes)
    return nn.Sequential(flatten, first, norm, nn.Tanh(), last)


@pytest.fixture
def dropout(monkeypatch):
    monkeypatch.setitem(networks.BUILDERS, "mlp", with_dropout)


def bits(vectors):
    return {name: vector.tobytes() for name, vector in vectors.items()}


def what_is_told(done):
    """All that a round tells of its clients, but for the time it took."""
    return [
        (r.client, r.num_examples, r.steps, r.train_loss, r.update_norm, r.bytes_down, r.bytes_up)
        for r in done.updates.reports
    ]


def scores(algorithm, done, population, own_tests=OWN_TESTS):
    """The scores of all clients in an evaluation after the last of these rounds."""
    population.tests.rows = own_tests
    last = done[-1]
    return population.evaluate_clients(Task(algorithm, algorithm.broadcast(last.state, last.t), last.t, last.lr))


# Laws.


def test_local_with_one_client_is_fedavg_with_one_client(noise, batchnorm):
    """Its personal model is FedAvg's global one, bit for bit."""
    settings = {"weighting": "uniform", **LOCAL}
    (avg, _), (local, population) = (play(a(**settings), noise, SHARDS[5:], 3, model="mlp") for a in (FedAvg, Local))
    memory = dict(population.memories(3))[0]
    assert memory["own_params"].tobytes() == avg[-1].state["params"].tobytes()
    assert memory["own_buffers"].tobytes() == avg[-1].state["buffers"].tobytes()
    for one, other in zip(local, avg, strict=True):
        assert one.updates.reports[0].train_loss == other.updates.reports[0].train_loss
    assert memory["own_buffers"].size
    assert len({done.state["params"].tobytes() for done in avg}) == 3


@pytest.mark.parametrize(
    "server", [{}, {"server_momentum": 0.9, "weighting": "uniform"}, {"server_optimizer": "adam"}], ids=str
)
def test_under_local_the_server_never_changes_and_nothing_is_sent(noise, batchnorm, server):
    done, population = play(Local(**LOCAL, **server), noise, SHARDS, 3, model="mlp", cohort=3)
    params, buffers = initial_vectors(fresh(noise, "mlp"))
    for after in done:
        assert after.state["params"].tobytes() == params.tobytes()
        assert after.state["buffers"].tobytes() == buffers.tobytes()
        assert {(r.bytes_down, r.bytes_up) for r in after.updates.reports} == {(0, 0)}
    assert all(np.abs(memory["own_params"] - params).max() > 0.01 for _, memory in population.memories(3))


@pytest.mark.parametrize("kind", [FedPer, FedBN])
def test_where_nothing_is_personal_it_is_fedavg(kind, noise, dropout):
    """Bit for bit, and in what the clients tell and get in their evaluation."""
    algorithms = type("Nothing", (kind,), {"personal": lambda self, names, norms: ()})(**LOCAL), FedAvg(**LOCAL)
    (mine, population), (its, other) = (play(a, noise, SHARDS, 3, model="mlp", cohort=3) for a in algorithms)
    for one, expected in zip(mine, its, strict=True):
        assert bits(one.state) == bits(expected.state)
        assert what_is_told(one) == what_is_told(expected)
    assert scores(algorithms[0], mine, population) == scores(algorithms[1], its, other)


def test_fedavg_with_local_norms_is_fedbn(noise, batchnorm):
    """Bit for bit: states, memories, reports and evaluations; and it is not FedAvg."""
    algorithms = FedAvg(norms="local", **LOCAL), FedBN(**LOCAL)
    (mine, population), (its, other) = (play(a, noise, SHARDS, 3, model="mlp", cohort=3) for a in algorithms)
    for one, expected in zip(mine, its, strict=True):
        assert bits(one.state) == bits(expected.state)
        assert what_is_told(one) == what_is_told(expected)
    memories, expected = (dict(p.memories(3)) for p in (population, other))
    assert {k: bits(memory) for k, memory in memories.items()} == {k: bits(memory) for k, memory in expected.items()}
    assert all(set(memory) == {"own_params", "own_buffers"} for memory in memories.values())
    assert scores(algorithms[0], mine, population) == scores(algorithms[1], its, other)
    averaged, _ = play(FedAvg(**LOCAL), noise, SHARDS, 3, model="mlp", cohort=3)
    assert bits(averaged[0].state) != bits(mine[0].state)


@pytest.mark.parametrize(
    ("algorithm", "kept"),
    [
        (FedProx(mu=0.1, norms="local", **LOCAL), 24),
        (FedAdam(server_lr=0.01, norms="local", **LOCAL), 24),
        (Moon(norms="local", **LOCAL), 24),
        (Ditto(norms="local", **LOCAL), 24),
        (FineTune(norms="local", **LOCAL), 24),
        (FedPer(norms="local", **LOCAL), 24 + 39),  # with the last layer's 12 x 3 + 3
    ],
    ids=lambda a: getattr(a, "name", ""),
)
def test_local_norms_stay_at_the_clients_of_any_algorithm(algorithm, kept, noise, batchnorm):
    """12 channels with a weight and a bias, and as many statistics, are as they were at the server, and not sent."""
    done, population = play(algorithm, noise, SHARDS, 2, model="mlp", cohort=3)
    params, buffers = initial_vectors(fresh(noise, "mlp"))
    own = population.trainer.own_part(algorithm)
    assert len(own.places["params"]) == kept
    for after in done:
        places = own.places["params"].numpy()
        assert after.state["params"][places].tobytes() == params[places].tobytes()
        assert after.state["buffers"].tobytes() == buffers.tobytes()
        each = {report.bytes_up for report in after.updates.reports}
        assert each == {4 * (params.size - kept)}
        assert after.state["params"].tobytes() != params.tobytes()
    memories = [memory["own_params"] for _, memory in population.memories(2)]
    assert all(np.abs(one - other).max() > 1e-4 for one in memories for other in memories if one is not other)


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_what_corrects_shared_parameters_has_no_local_norms(name):
    with pytest.raises(BadInputError, match="algorithm.norms = 'local' must be 'averaged'"):
        compose({"algorithm": {"name": name, "norms": "local"}})
    with pytest.raises(BadInputError, match="algorithm.norms = 'locl' .*did you mean local"):
        compose({"algorithm": {"norms": "locl"}})


@pytest.mark.parametrize(
    "algorithm",
    [Ditto(lam=0.7, personal_epochs=3, **LOCAL), FineTune(fine_tune_epochs=2, **LOCAL)],
    ids=["ditto", "finetune"],
)
def test_the_global_model_is_fedavgs(algorithm, noise, dropout):
    """Bit for bit, dropout masks included, also where everyone is evaluated between the rounds."""
    (mine, population), (its, _) = (
        play(a, noise, SHARDS, 3, model="mlp", cohort=3) for a in (algorithm, FedAvg(**LOCAL))
    )
    for one, expected in zip(mine, its, strict=True):
        assert bits(one.state) == bits(expected.state)
        assert what_is_told(one) == what_is_told(expected)
    scores(algorithm, mine, population)
    state, cohort = mine[-1].state, mine[-1].cohort
    again, plain = (
        train(population, a, cohort, a.broadcast(state, 4), 4, 0.05).sum.vectors for a in (algorithm, FedAvg(**LOCAL))
    )
    assert bits(again) == bits(plain)


def test_finetune_of_0_epochs_evaluates_as_fedavg_does(noise, dropout):
    none, one, avg = (
        scores(a, *play(a, noise, SHARDS, 2, model="mlp", cohort=3))
        for a in (FineTune(fine_tune_epochs=0, **LOCAL), FineTune(**LOCAL), FedAvg(**LOCAL))
    )
    assert none == avg
    assert all(mine[1] != its[1] for mine, its in zip(one, avg, strict=True))


def test_ditto_at_lam_0_trains_as_local_does(noise, batchnorm):
    """Whole shards as batches, since the personal model sees its images in an order of its own. Within rounding:
    a local model is kept as a start and an update that add up to it.
    """
    algorithms = Ditto(lam=0, **WHOLE), Local(**WHOLE)
    played = [play(a, noise, SHARDS, 3, model="mlp", cohort=3) for a in algorithms]
    mine, its = (dict(population.memories(3)) for _, population in played)
    start = flat(fresh(noise, "mlp"))
    assert mine.keys() == its.keys()
    for client in mine:
        moved = np.abs(its[client]["own_params"] - start).max()
        assert moved > 0.01
        np.testing.assert_allclose(mine[client]["params"], its[client]["own_params"], rtol=0, atol=1e-5 * moved)
        np.testing.assert_allclose(mine[client]["buffers"], its[client]["own_buffers"], atol=1e-6)
    one, other = (scores(algorithm, *rounds) for algorithm, rounds in zip(algorithms, played, strict=True))
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_dittos_personal_model_sees_its_images_in_an_order_of_its_own(noise):
    """In round 1 both models start as the same: at lam = 0 only the order of the batches tells them apart."""
    apart = {}
    for size in (8, 0):
        done, population = play(Ditto(lam=0, lr=0.05, batch_size=size), noise, SHARDS[5:], 1, model="logistic")
        apart[size] = np.abs(dict(population.memories(1))[0]["params"] - done[0].state["params"]).max()
    assert apart[0] < 1e-7
    assert apart[8] > 1e-4


def test_fine_tuning_sees_the_images_in_an_order_of_its_own(noise):
    """From one model, a round and the fine-tuning after it differ only by that."""
    apart = {}
    for size in (8, 0):
        settings = {"lr": 0.05, "batch_size": size}
        done, population = play(FineTune(**settings), noise, SHARDS[5:], 1, model="logistic")
        start = FedAvg().init(*initial_vectors(fresh(noise, "logistic")))
        population.tests.rows = OWN_TESTS[:1]
        ((_, tuned, _),) = population.evaluate_clients(Task(FineTune(**settings), start, 1, 0.05))
        ((_, trained, _),) = population.evaluate_clients(Task(FedAvg(**settings), done[0].state, 1, 0.05))
        apart[size] = abs(tuned - trained)
    assert apart[0] < 1e-6
    assert apart[8] > 1e-4


def test_fine_tunings_random_numbers_are_addressed_and_leave_torchs_own_generator_alone(noise, dropout):
    done, population = play(FineTune(**LOCAL), noise, SHARDS, 1, model="mlp", cohort=3)
    seen = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        seen.append(scores(FineTune(**LOCAL), done, population))
        after = torch.rand(3)
        torch.manual_seed(seed)
        assert torch.equal(after, torch.rand(3))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("settings", [{"epochs": 1}, {"steps": 2}], ids=str)
def test_epochs_of_their_own_are_passes_over_the_shard(noise, settings):
    """Of 23 images, 3 batches of 8 and less, whatever a round is: Ditto's after the round's, FineTune's without it."""
    seen = []

    class Seeing:
        def loss(self, output, targets):
            seen.append(len(targets))
            return F.cross_entropy(output, targets)

    local = {"lr": 0.05, "batch_size": 8, **settings}
    in_a_round = [8, 8] if "steps" in settings else [8, 8, 7]
    ditto, finetune = (type(kind.__name__, (Seeing, kind), {}) for kind in (Ditto, FineTune))
    for epochs, own in ((None, in_a_round), (2, [8, 8, 7] * 2)):
        play(ditto(personal_epochs=epochs, **local), noise, SHARDS[5:], 1, model="logistic")
        assert seen == in_a_round + own
        seen.clear()
    done, population = play(finetune(**local), noise, SHARDS[5:], 1, model="logistic")
    assert seen == in_a_round
    scores(finetune(fine_tune_epochs=2, **local), done, population, OWN_TESTS[:1])
    assert seen == in_a_round + [8, 8, 7] * 2


def test_the_larger_lam_the_nearer_the_personal_model_is_to_the_global_one():
    """Of a quadratic, each component of the distance after K steps is lr g sum_j (1 - lr (h + lam))^j: it falls in lam.

    At lam = 1/lr the pull makes up for all that was before the last step: v = w_t - lr grad F_k(v).
    """
    problem = Regression(SIZES)
    apart = []
    for lam in (0.0, 0.3, 1.0, 4.0, 10.0):
        _, population = problem.play(Ditto, 1, lam=lam, lr=0.1, steps=5, batch_size=0)
        away = [problem.matrix(memory["params"]) - problem.start for _, memory in population.memories(1)]
        apart.append([np.abs(v).max() for v in away])
    assert (np.diff(apart, axis=0) < 0).all()
    for k, far in enumerate(away):
        v = problem.start
        for _ in range(5):
            v = problem.start - 0.1 * problem.gradient(k, v)
        np.testing.assert_allclose(far, v - problem.start, atol=1e-6)


PERSONAL = {
    "local": (Local(**LOCAL), {"1.weight", "1.bias", "2.weight", "2.bias", "2.running_mean", "2.running_var", "4.weight", "4.bias"}),
    "fedbn": (FedBN(**LOCAL), {"2.weight", "2.bias", "2.running_mean", "2.running_var"}),
    "fedper": (FedPer(**LOCAL), {"4.weight", "4.bias"}),
    "fedper, by name": (FedPer(personal_layers="1.bias,2.running_var", **LOCAL), {"1.bias", "2.running_var"}),
    "fedper, patterns": (
        FedPer(personal_layers="1.w*, 2.*", **LOCAL),
        {"1.weight", "2.weight", "2.bias", "2.running_mean", "2.running_var"},
    ),
}  # fmt: skip
personal = pytest.mark.parametrize("case", PERSONAL)


@personal
def test_what_a_message_says_of_the_personal_part_is_never_read(case, noise, batchnorm):
    """Whether the client has trained before or not, nothing changes where NaN stands there; its update is 0 there."""
    algorithm, kept = PERSONAL[case]
    done, population = play(algorithm, noise, SHARDS, 2, model="mlp", cohort=2)
    message = algorithm.broadcast(done[-1].state, 3)
    module = fresh(noise, "mlp")
    mine = {
        "params": np.concatenate([np.full(p.numel(), name in kept) for name, p in module.named_parameters()]),
        "buffers": np.concatenate(
            [np.full(b.numel(), name in kept) for name, b in module.named_buffers() if b.is_floating_point()]
        ),
    }
    spoiled = {name: np.where(mine[name], np.float32("nan"), vector) for name, vector in message.items()}
    memories = dict(population.memories(2))
    old, new = min(memories), min(set(range(6)) - set(memories))
    for client in (old, new):
        memory = memories.get(client, {})
        one, other = (
            population.trainer.train(Task(algorithm, sent, 3, 0.05), client, *population.shards.of(client), memory)
            for sent in (message, spoiled)
        )
        assert bits(one[0]) == bits(other[0])
        assert bits(one[1]) == bits(other[1])
        assert not any(one[0][name][mine[name]].any() for name in mine)
        tests = noise.test_images[OWN_TESTS[client]], noise.test_labels[OWN_TESTS[client]]
        evaluated = [
            evaluate_client(
                population.trainer,
                population.trainer.received(Task(algorithm, sent, 3, 0.05)),
                client,
                population.shards.of(client),
                tests,
                memory,
            )
            for sent in (message, spoiled)
        ]
        assert evaluated[0] == evaluated[1]
    shared = 4 * sum((~places).sum() for places in mine.values())
    for report in done[-1].updates.reports:
        assert report.bytes_down == report.bytes_up == shared


# A step by hand.


def made_of(pixels, labels, classes):
    """A data set of images of one pixel, which a model gets as they are; the test set is the training set."""
    images, labels = np.array(pixels, np.uint8).reshape(-1, 1, 1, 1), np.array(labels)
    rest = {"mean": (0.0,), "std": (1 / 255,), "classes": tuple("ab"[:classes]), "fingerprint": "by hand"}
    return Dataset("by hand", "made", images, labels, images, labels, **rest)


def starting_at(**values):
    """Makes a module with these parameters, by name."""

    def of(module):
        module.load_state_dict({**module.state_dict(), **{name: torch.tensor(v) for name, v in values.items()}})
        return module

    return of


def bias_only(shape, classes):
    """Of images that are 0, a regression's outputs are its bias, which starts as 0."""
    return starting_at(**{"1.weight": [[0.0]] * 2, "1.bias": [0.0, 0.0]})(nn.Sequential(nn.Flatten(), nn.Linear(1, 2)))


BLACK = made_of([0, 0], [0, 1], 2)
"""Client 0 has label 0 and client 1 label 1: F_0(b) = |b - (1, 0)|^2 / 2 and F_1(b) = |b - (0, 1)|^2 / 2."""
HALF = {"lr": 0.5, "weighting": "uniform"}


def play_by_hand(algorithm, builder, dataset, rounds, monkeypatch, shards=([0], [1])):
    monkeypatch.setitem(networks.BUILDERS, "mlp", builder)
    return play(algorithm, dataset, [np.array(shard) for shard in shards], rounds, model="mlp")


def biases(memory, name="params"):
    return memory[name][2:].tolist()


def test_local_by_hand(monkeypatch):
    """Two steps of 0.5 towards (1, 0), then two more from there: (1/2, 0), (3/4, 0), (7/8, 0), (15/16, 0)."""
    algorithm = squared(Local)(steps=2, **HALF)
    for rounds, far in ((1, 0.75), (2, 0.9375)):
        done, population = play_by_hand(algorithm, bias_only, BLACK, rounds, monkeypatch)
        memories = dict(population.memories(rounds))
        assert [biases(memories[k], "own_params") for k in (0, 1)] == [[far, 0], [0, far]]
        assert biases(done[-1].state) == [0, 0]


def test_finetune_by_hand(monkeypatch):
    """A round takes client 0 to (1/2, 0) and client 1 to (0, 1/2): w = (1/4, 1/4), of which either label is as likely.

    To be evaluated, client 0 goes on to w + ((1, 0) - w) / 2 = (5/8, 1/8), so that the cross-entropy of its label is
    log(1 + exp(1/8 - 5/8)); with another epoch to (13/16, 1/16).
    """
    for epochs, margin in ((0, 0.0), (1, 0.5), (2, 0.75)):
        algorithm = squared(FineTune)(fine_tune_epochs=epochs, **HALF)
        done, population = play_by_hand(algorithm, bias_only, BLACK, 1, monkeypatch)
        assert biases(done[0].state) == [0.25, 0.25]
        evaluated = scores(algorithm, done, population, [np.array([0]), np.array([1])])
        assert [count for count, _, _ in evaluated] == [1, 1]
        assert [loss for _, loss, _ in evaluated] == pytest.approx([np.log1p(np.exp(-margin))] * 2)
        if epochs:
            assert [accuracy for _, _, accuracy in evaluated] == [1, 1]


def test_ditto_by_hand(monkeypatch):
    """With lam = 1/2. Round 1, from w = v_0 = 0: w = (1/4, 1/4) as above, and v_0 = (1/2, 0), since the pull is 0.

    Round 2: the gradient at v_0 is (-1/2, 0), the pull to this round's w is (v_0 - w) / 2 = (1/8, -1/8), so that
    v_0 <- (1/2, 0) - (-3/8, -1/8) / 2 = (11/16, 1/16). Client 0 sends (5/8, 1/8) - w, and w becomes (3/8, 3/8).
    """
    algorithm = squared(Ditto)(lam=0.5, **HALF)
    for rounds, w, v in ((1, 0.25, [0.5, 0]), (2, 0.375, [0.6875, 0.0625])):
        done, population = play_by_hand(algorithm, bias_only, BLACK, rounds, monkeypatch)
        memories = dict(population.memories(rounds))
        assert biases(done[-1].state) == [w, w]
        assert [biases(memories[k]) for k in (0, 1)] == [v, v[::-1]]
    evaluated = scores(algorithm, done, population, [np.array([0]), np.array([0])])
    margins = np.array([0.625, -0.625])  # of label 0, which client 1's model does not expect
    np.testing.assert_allclose([loss for _, loss, _ in evaluated], np.log1p(np.exp(-margins)), rtol=1e-6)
    assert [accuracy for _, _, accuracy in evaluated] == [1, 0]


def two_layers(shape, classes):
    """y = c a x with a = 1, c = 1/2, and F = (y - 1)^2 / 2."""
    layers = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    return starting_at(**{"1.weight": [[1.0]], "2.weight": [[0.5]]})(nn.Sequential(nn.Flatten(), *layers))


def test_fedper_by_hand(monkeypatch):
    """Client 0 has x = 1 and client 1 x = 3; dF/da = (c a x - 1) c x and dF/dc = (c a x - 1) a x; steps of 1/2.

    Round 1: client 0 has y - 1 = -1/2, a <- 1 + 1/8, c <- 1/2 + 1/4. Client 1 has y - 1 = 1/2, a <- 1 - 3/8 and
    c <- 1/2 - 3/4. The server's a is (9/8 + 5/8) / 2 = 7/8, its c stays 1/2, the clients keep 3/4 and -1/4.
    Round 2, from a = 7/8: client 0 has y - 1 = -11/32, a <- 7/8 + 33/256 and c <- 3/4 + 77/512 = 461/512. Client 1 has
    y - 1 = -53/32, a <- 7/8 - 159/256 and c <- -1/4 + 1113/512 = 985/512. The server's a is 7/8 - 63/256 = 161/256.
    One number travels, of 4 bytes.
    """
    algorithm = squared(FedPer)(**HALF)
    pixels = made_of([1, 3], [0, 0], 1)
    expected = {1: (7 / 8, 3 / 4, -1 / 4), 2: (161 / 256, 461 / 512, 985 / 512)}
    for rounds, (a, c_0, c_1) in expected.items():
        done, population = play_by_hand(algorithm, two_layers, pixels, rounds, monkeypatch)
        memories = dict(population.memories(rounds))
        np.testing.assert_allclose(done[-1].state["params"], [a, 0.5], rtol=1e-6)
        np.testing.assert_allclose([memories[k]["own_params"] for k in (0, 1)], [[c_0], [c_1]], rtol=1e-6)
        assert [(r.bytes_down, r.bytes_up) for r in done[-1].updates.reports] == [(4, 4)] * 2


def normalised(shape, classes):
    """y = a (gamma z + beta), where z is a batch's pixels with mean 0 and variance 1; a = (1/2, 0)."""
    norm = nn.BatchNorm1d(1, eps=1e-12, momentum=0.5)
    return starting_at(**{"2.weight": [[0.5], [0.0]]})(nn.Sequential(nn.Flatten(), norm, nn.Linear(1, 2, bias=False)))


def test_fedbn_by_hand(monkeypatch):
    """Both clients have two images of z = -1 and z = 1, and squared errors e = y - label.

    Client 0 has pixels 0 and 2 and label 0 twice: e = (-3/2, 0) and (-1/2, 0), so that the means over the batch are
    dF/da = mean(e z) = (1/2, 0), dF/dgamma = mean(e.a z) = 1/4, dF/dbeta = mean(e.a) = -1/2. Steps of 1/2: a = (1/4, 0),
    gamma = 7/8, beta = 1/4. The running mean is (0 + 1) / 2, the running variance, without bias, (1 + 2) / 2.
    Client 1 has pixels 0 and 4 and labels 0 and 1: e = (-3/2, 0) and (1/2, -1), dF/da = (1, -1/2), dF/dgamma = 1/2,
    dF/dbeta = -1/4: a = (0, 1/4), gamma = 3/4, beta = 1/8, running mean 1 and variance (1 + 8) / 2.
    The server's a is the mean (1/8, 1/8), all else is as it was.
    """
    algorithm = squared(FedBN)(**HALF, batch_size=0)
    pixels = made_of([0, 2, 0, 4], [0, 0, 0, 1], 2)
    done, population = play_by_hand(algorithm, normalised, pixels, 1, monkeypatch, shards=([0, 1], [2, 3]))
    np.testing.assert_allclose(done[0].state["params"], [1, 0, 1 / 8, 1 / 8], rtol=1e-6)
    assert done[0].state["buffers"].tolist() == [0, 1]
    memories = dict(population.memories(1))
    np.testing.assert_allclose([memories[k]["own_params"] for k in (0, 1)], [[7 / 8, 1 / 4], [3 / 4, 1 / 8]], rtol=1e-6)
    np.testing.assert_allclose([memories[k]["own_buffers"] for k in (0, 1)], [[0.5, 1.5], [1, 4.5]], rtol=1e-6)
    assert [(r.bytes_down, r.bytes_up) for r in done[0].updates.reports] == [(8, 8)] * 2


# The papers' pseudo-code.

ROUNDS = 4
COHORTS = [sample_cohort(3, t, 6, 2) for t in range(1, ROUNDS + 1)]


def test_the_cohorts_are_worth_a_test():
    """Someone takes part again after a pause, and someone never does."""
    seen = set().union(*COHORTS)
    assert 0 < len(seen) < 6
    assert any(
        k in COHORTS[i] and k not in COHORTS[j] and k in COHORTS[n]
        for k in seen for i in range(ROUNDS) for j in range(i, ROUNDS) for n in range(j, ROUNDS)
    )  # fmt: skip


def descend(gradient, w, steps, lr, a):
    """SGD with momentum and weight decay."""
    velocity = 0.0
    for _ in range(steps):
        velocity = a.momentum * velocity + gradient(w) + a.weight_decay * w
        w = w - lr * velocity
    return w


def mean(of, problem, a):
    p = problem.weights(a.weighting)
    return sum(p[k] * w for k, w in of.items()) / sum(p[k] for k in of)


def local(problem, a, lrs, steps):
    """Everyone alone, in the rounds that it takes part in: the models that clients use, and the server's."""
    v = dict.fromkeys(range(6), problem.start)
    for cohort, lr in zip(COHORTS, lrs, strict=True):
        v |= {k: descend(lambda y, k=k: problem.gradient(k, y), v[k], steps, lr, a) for k in cohort}
    return problem.start, v


def finetune(problem, a, lrs, steps):
    """FedAvg; then everyone goes on from its model for so many epochs, of one step each, as in the last round."""
    w = problem.start
    for cohort, lr in zip(COHORTS, lrs, strict=True):
        w = mean({k: descend(lambda y, k=k: problem.gradient(k, y), w, steps, lr, a) for k in cohort}, problem, a)
    return w, {k: descend(lambda y, k=k: problem.gradient(k, y), w, a.fine_tune_epochs, lr, a) for k in range(6)}


def ditto(problem, a, lrs, steps):
    """Algorithm 1: w^t goes out; w_k and v_k descend, v_k along grad F_k(v_k) + lam (v_k - w^t)."""
    w, v = problem.start, dict.fromkeys(range(6), problem.start)
    for cohort, lr in zip(COHORTS, lrs, strict=True):
        w_k = {}
        for k in cohort:
            w_k[k] = descend(lambda y, k=k: problem.gradient(k, y), w, steps, lr, a)
            pulled = lambda y, k=k, w=w: problem.gradient(k, y) + a.lam * (y - w)  # noqa: E731
            v[k] = descend(pulled, v[k], a.personal_epochs or steps, lr, a)
        w = mean(w_k, problem, a)
    return w, v


STEPS = {"lr": 0.1, "steps": 3, "batch_size": 0}
FALLING = {"lr_schedule": "exponential", "lr_decay": 0.6}
CASES = {
    "local": (Local, local, STEPS),
    "local, momentum": (Local, local, {**STEPS, "momentum": 0.5, "weight_decay": 0.3, **FALLING}),
    "finetune": (FineTune, finetune, STEPS),
    "finetune, 4 epochs": (FineTune, finetune, {**STEPS, "fine_tune_epochs": 4, **FALLING}),
    "finetune, momentum": (FineTune, finetune, {**STEPS, "fine_tune_epochs": 3, "momentum": 0.5, "weight_decay": 0.3}),
    "ditto": (Ditto, ditto, {**STEPS, "lam": 1.5}),
    "ditto, epochs": (Ditto, ditto, {"lr": 0.1, "epochs": 2, "batch_size": 0, "lam": 1.5, "personal_epochs": 5}),
    "ditto, momentum": (Ditto, ditto, {**STEPS, "lam": 1.5, "momentum": 0.5, "weight_decay": 0.3, **FALLING}),
}


@pytest.fixture(scope="module")
def regression():
    return Regression(SIZES)


@pytest.mark.parametrize("weighting", ["num_examples", "uniform"])
@pytest.mark.parametrize("case", CASES)
def test_linear_regressions_are_those_of_the_papers_pseudo_code(regression, case, weighting):
    """The server's model, every client's, and its loss and accuracy on test images of its own: within 1e-5 of float64."""
    kind, reference, settings = CASES[case]
    algorithm = squared(kind)(weighting=weighting, **settings)
    dataset = regression.dataset
    done, population = play(algorithm, dataset, regression.shards, ROUNDS, model="logistic", cohort=2)
    lrs = [algorithm.lr * (0.6**t if algorithm.lr_schedule == "exponential" else 1) for t in range(ROUNDS)]
    w, v = reference(regression, algorithm, lrs, algorithm.steps or algorithm.epochs)
    scale = max(np.abs(v[k] - regression.start).max() for k in range(6))
    assert scale > 0.05
    np.testing.assert_allclose(done[-1].state["params"], regression.vector(w), rtol=0, atol=1e-5 * scale)
    memories = dict(population.memories(ROUNDS))
    assert memories.keys() == (set().union(*COHORTS) if kind is not FineTune else set())
    for k, memory in memories.items():
        model = memory["params" if kind is Ditto else "own_params"]
        np.testing.assert_allclose(model, regression.vector(v[k]), rtol=0, atol=1e-5 * scale)
    own_tests = [np.arange(k, 10 - k // 2) for k in range(6)]
    for k, (count, loss, accuracy) in enumerate(scores(algorithm, done, population, own_tests)):
        images, labels = dataset.test_images[own_tests[k]], dataset.test_labels[own_tests[k]]
        pixels = (images.reshape(-1, 3) / 255 - np.array(dataset.mean)) / np.array(dataset.std)
        output = np.hstack([pixels, np.ones((len(labels), 1))]) @ v[k]
        right = output[np.arange(len(labels)), labels]
        assert count == len(labels)
        assert loss == pytest.approx((np.log(np.exp(output).sum(1)) - right).mean(), rel=1e-5)
        assert accuracy == (output.argmax(1) == labels).mean()


@personal
def test_networks_are_averaged_but_for_what_is_personal(case, noise, batchnorm):
    """In torch with float64, by names: server, what each client keeps, and every client's loss on its own images."""
    algorithm, kept = PERSONAL[case]
    done, population = play(algorithm, noise, SHARDS, ROUNDS, model="mlp", cohort=2)
    module = fresh(noise, "mlp").double()
    start = {name: x.clone() for name, x in module.state_dict().items() if x.is_floating_point()}
    server, clients = dict(start), {k: {name: start[name] for name in kept} for k in range(6)}
    for t, cohort in enumerate(COHORTS, 1):
        ends = {}
        for k in cohort:
            module.load_state_dict({**server, **clients[k]}, strict=False)
            module.train()
            parameters = list(module.parameters())
            velocities = [torch.zeros_like(p) for p in parameters]
            data = noise.train_images[SHARDS[k]], noise.train_labels[SHARDS[k]]
            for x, y in draw_batches(population.trainer.network, algorithm, k, *data, t):
                gradients = torch.autograd.grad(F.cross_entropy(module(x.double()), y), parameters)
                with torch.no_grad():
                    for p, g, v in zip(parameters, gradients, velocities, strict=True):
                        v.copy_(0.5 * v + g + 0.01 * p)
                        p -= 0.05 * v
            ends[k] = {name: module.state_dict()[name].clone() for name in start}
            clients[k] = {name: ends[k][name] for name in kept}
        n = {k: len(SHARDS[k]) / sum(len(SHARDS[c]) for c in cohort) for k in cohort}
        server |= {name: sum(n[k] * ends[k][name] for k in cohort) for name in start if name not in kept}
    orders = {"params": [name for name, _ in module.named_parameters()]}
    orders["buffers"] = [name for name, b in module.named_buffers() if b.is_floating_point()]
    for vector, names in orders.items():
        assert_near(done[-1].state[vector], [server[name] for name in names])
    memories = dict(population.memories(ROUNDS))
    assert memories.keys() == set().union(*COHORTS)
    for k, memory in memories.items():
        for vector, names in orders.items():
            assert_near(memory[f"own_{vector}"], [clients[k][name] for name in names if name in kept])
    for k, (_, loss, accuracy) in enumerate(scores(algorithm, done, population)):
        module.load_state_dict({**server, **clients[k]}, strict=False)
        mean, std = (np.array(v).reshape(3, 1, 1) for v in (noise.mean, noise.std))
        x = torch.from_numpy((noise.test_images[OWN_TESTS[k]] / 255 - mean) / std)
        y = torch.from_numpy(noise.test_labels[OWN_TESTS[k]])
        with torch.no_grad():
            output = module.eval()(x)
        assert loss == pytest.approx(float(F.cross_entropy(output, y)), rel=1e-4)
        assert accuracy == float((output.argmax(1) == y).double().mean())
    assert len({memory["own_params"].tobytes() for memory in memories.values()}) == len(memories)


def assert_near(vector, tensors):
    expected = np.concatenate([np.zeros(0), *(tensor.flatten().numpy() for tensor in tensors)])
    np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)


# FedBN of a real network, and the names of FedPer's layers.


def test_fedbn_keeps_exactly_the_batchnorm_layers_of_resnet18():
    """4,800 channels, each with a weight, a bias, a mean and a variance; of 11,181,642 parameters 11,172,042 travel."""
    dataset = make_dataset(train=24, test=10, side=8)
    algorithm = FedBN(lr=1e-2, batch_size=0)
    shards = [np.arange(0, 6), np.arange(6, 24)]
    done, population = play(algorithm, dataset, shards, 1, model="resnet18")
    module = fresh(dataset, "resnet18")
    norms = {name for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    mine = np.concatenate(
        [np.full(p.numel(), name.rpartition(".")[0] in norms) for name, p in module.named_parameters()]
    )
    assert mine.sum() == 9600
    start = algorithm.init(*initial_vectors(module))
    state = done[0].state
    assert start["buffers"].size == 9600
    assert state["buffers"].tobytes() == start["buffers"].tobytes()
    assert state["params"][mine].tobytes() == start["params"][mine].tobytes()
    alone = [
        population.trainer.train(Task(FedAvg(lr=1e-2, batch_size=0), start, 1, 1e-2), k, *population.shards.of(k), {})[
            0
        ]
        for k in (0, 1)
    ]
    average = start["params"] + alone[0]["params"] / 4 + alone[1]["params"] * 3 / 4
    np.testing.assert_allclose(state["params"][~mine], average[~mine], atol=1e-6)
    assert np.abs(average - start["params"])[mine].max() > 1e-3
    memories = dict(population.memories(1))
    for k in (0, 1):
        np.testing.assert_allclose(memories[k]["own_params"], (start["params"] + alone[k]["params"])[mine], atol=1e-6)
        np.testing.assert_allclose(memories[k]["own_buffers"], start["buffers"] + alone[k]["buffers"], atol=1e-6)
    for name in ("own_params", "own_buffers"):
        assert np.abs(memories[0][name] - memories[1][name]).max() > 1e-3
    assert {(r.bytes_down, r.bytes_up) for r in done[0].updates.reports} == {(4 * 11_172_042, 4 * 11_172_042)}


NAMES = [f"{layer}.{kind}" for layer in ("stem", "layer1.0", "layer1.11", "fc1", "fc11") for kind in ("weight", "bias")]


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        ("last", ["fc11.weight", "fc11.bias"]),
        ("last,stem.*", ["stem.weight", "stem.bias", "fc11.weight", "fc11.bias"]),
        ("fc1.*", ["fc1.weight", "fc1.bias"]),
        ("stem.bias", ["stem.bias"]),
        ("fc1.*,layer1.0.weight", ["layer1.0.weight", "fc1.weight", "fc1.bias"]),
        (" stem.* , fc11.bias ", ["stem.weight", "stem.bias", "fc11.bias"]),
        ("layer1.1*", ["layer1.11.weight", "layer1.11.bias"]),
        ("*.bias,fc*", [name for name in NAMES if name.endswith("bias") or name.startswith("fc")]),
    ],
)
def test_fedpers_patterns(patterns, kept):
    assert FedPer(personal_layers=patterns).personal(NAMES, []) == kept


@pytest.mark.parametrize("patterns", ["fc2.*", "last.*,stem.*", "stem.*,FC1.*", "fc1", "", "stem.*,"])
def test_a_pattern_that_matches_nothing_is_named(patterns):
    unknown = next(p for p in patterns.split(",") if p not in ("stem.*",))
    with pytest.raises(
        BadInputError, match=f"nothing in the model is called '{unknown}'; it has stem.weight, ".replace("*", r"\*")
    ):
        FedPer(personal_layers=patterns).personal(NAMES, [])


@pytest.mark.parametrize(
    ("algorithm", "sentence"),
    [
        (
            {"name": "fedper", "personal_layers": "1.*,fc.*"},
            r"nothing in the model is called 'fc\.\*'; it has 1\.weight, 1\.bias",
        ),
        ({"name": "fedbn"}, "fedbn keeps BatchNorm layers at the clients, but the model has none"),
        ({"norms": "local"}, "algorithm.norms = local: fedavg keeps BatchNorm layers .*, but the model has none"),
    ],
)
def test_a_run_with_nothing_to_keep_is_refused_and_leaves_nothing_on_disk(tmp_path, algorithm, sentence):
    tree = {
        "rounds": 1, "clients": 2, "cohort": 1, "model": {"name": "logistic"}, "algorithm": algorithm,
        "data": {"dataset": "synthetic", "train_examples": 20, "test_examples": 20},
        "cluster": {"backend": "in-process"}, "output": {"root": str(tmp_path), "name": "refused"},
    }  # fmt: skip
    with pytest.raises(BadInputError, match=sentence):
        run(compose(tree))
    assert not list(tmp_path.iterdir())
