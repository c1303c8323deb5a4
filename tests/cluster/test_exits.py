"""SystemExit in a client's code is an error of that code, as any other, and costs no actor."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_data import make_dataset, make_recipe
from tasks import train

from fedray.algorithms.fedavg import FedAvg
from fedray.cluster.actor import BY_VALUE
from fedray.cluster.needs import Needs
from fedray.cluster.plan import plan
from fedray.cluster.population import RayPopulation
from fedray.cluster.settings import Cluster
from fedray.core.errors import BadInputError, ClientError
from fedray.core.settings import section, setting
from fedray.models.build import build, initial_vectors
from fedray.models.describe import blueprint
from fedray.models.model import Model
from fedray.training.in_process import InProcessPopulation

SHARDS = [np.arange(0, 16), np.arange(16, 33), np.arange(33, 49)]  # client 1 alone has a third batch, of one image
MODEL = """
import sys
import torch
from fedray.models.small import logistic

def net(shape, classes):
    return Exiting(logistic(shape, classes))

class Exiting(torch.nn.Module):
    def __init__(self, body, limit=1):
        super().__init__()
        self.body, self.limit = body, limit

    def forward(self, x):
        if self.training and len(x) == self.limit:
            sys.exit("forward ends")
        return self.body(x)

def at_once(shape, classes):
    return Exiting(logistic(shape, classes), limit=2)

class Leaving(Exiting):
    def __init__(self, shape, classes):
        super().__init__(logistic(shape, classes))

    def train(self, mode=True):
        sys.exit("training ends")
"""


class Loss(FedAvg):
    def loss(self, output, targets):
        if len(targets) == 1:
            raise SystemExit
        return super().loss(output, targets)


class Finish(FedAvg):
    def finish(self, start, end, steps, lr, message, memory):
        if steps == 3:
            sys.exit(0)
        return super().finish(start, end, steps, lr, message, memory)


class Ending(torch.optim.SGD):
    def step(self, closure=None):
        sys.exit(3)


class Optimizer(FedAvg):
    def make_optimizer(self, parameters, lr):
        return Ending(parameters, lr=lr)


class Weight(FedAvg):
    def weight(self, num_examples):
        if num_examples == 17:
            sys.exit("no weight")
        return super().weight(num_examples)


def leave():
    sys.exit("on the way in")


class Unreadable(FedAvg):
    def __reduce__(self):
        return leave, ()


def on_ray(session, dataset, recipe, clients_per_actor=3):
    planned = plan(Cluster(clients_per_actor=clients_per_actor), len(SHARDS), session.capacity, Needs(250_000))
    return RayPopulation(session.pool, planned, dataset, SHARDS, recipe, 2)


def round_four(population, recipe, algorithm):
    """The update of all clients in round 4."""
    state = algorithm.init(*initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed)))
    return train(population, algorithm, [0, 1, 2], algorithm.broadcast(state, 4), 4, 0.05)


@pytest.fixture(scope="module")
def tiny():
    return make_dataset(side=8)


@pytest.fixture(scope="module", autouse=True)
def own(tmp_path_factory):
    """A module of models. Actors look for it where the driver did when they were started."""
    folder = tmp_path_factory.mktemp("own")

    (folder / "exiting.py").write_text(MODEL)

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield
    sys.modules.pop("exiting", None)


def population_of(request, where, dataset, recipe):
    if where == "in-process":
        return InProcessPopulation(dataset, SHARDS, recipe, 2)
    return on_ray(request.getfixturevalue("session"), dataset, recipe, 1 if where == "an actor each" else 3)


def assert_blamed(population, recipe, algorithm, said, line):
    """The error begins so and has this line, and no actor was lost."""
    with pytest.raises(ClientError) as error:
        round_four(population, recipe, algorithm)
    text = str(error.value)
    assert text.startswith(said), text
    assert text.count("Traceback") == 1
    assert text.endswith(line + "\n"), text
    assert population.events() == []


WHERE = ["in-process", "packed", "an actor each"]


@pytest.mark.parametrize("where", WHERE)
def test_it_names_client_and_round_and_leaves_the_actors_usable(request, tiny, where):
    recipe, failed = make_recipe(tiny, "logistic"), "client 1 failed in round 4:\n"
    population = population_of(request, where, tiny, recipe)
    assert_blamed(population, recipe, Loss(batch_size=8), failed, "SystemExit")
    assert_blamed(population, recipe, Finish(batch_size=8), failed, "SystemExit: 0")
    assert_blamed(population, recipe, Optimizer(batch_size=8), "client ", "SystemExit: 3")
    if where == "packed":  # elsewhere the server weighs
        assert_blamed(population, recipe, Weight(batch_size=8), failed, "SystemExit: no weight")
    found = round_four(population, recipe, FedAvg(batch_size=8))
    assert [report.status for report in found.reports] == ["ok"] * 3
    population.close()


@pytest.mark.parametrize("where", WHERE)
def test_of_an_own_model_too(request, tiny, where):
    recipe = make_recipe(tiny, "exiting:net")
    population = population_of(request, where, tiny, recipe)
    failed = "client 1 failed in round 4:\n"
    assert_blamed(population, recipe, FedAvg(batch_size=8), failed, "SystemExit: forward ends")
    population.close()


@pytest.mark.parametrize("side", [8, 32], ids=["with the call", "by reference"])
def test_an_algorithm_that_exits_when_an_actor_reads_it_is_an_error(request, side):
    dataset = make_dataset(side=side)
    recipe = make_recipe(dataset, "logistic")
    population = population_of(request, "packed", dataset, recipe)
    params, _ = initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed))
    assert (params.nbytes > BY_VALUE) == (side == 32)
    said = "a client's algorithm and message could not be unpickled:\n"
    assert_blamed(population, recipe, Unreadable(), said, "SystemExit: on the way in")
    population.close()


def test_clients_that_are_trained_together_are_all_named(tiny):
    recipe = make_recipe(tiny, "logistic", engine="fused")
    population = InProcessPopulation(tiny, SHARDS, recipe, 1)
    said = "one of the clients 0, 1, 2, which train as one program, failed in round 4:\n"
    assert_blamed(population, recipe, Loss(batch_size=8), said, "SystemExit")


def test_a_model_that_exits_when_an_actor_builds_it_is_an_error_of_the_run(request, tiny):
    with pytest.raises(ClientError, match="a model could not be built:") as error:
        on_ray(request.getfixturevalue("session"), tiny, make_recipe(tiny, "exiting:Leaving"))
    assert str(error.value).endswith("SystemExit: training ends\n")


def test_one_that_exits_when_it_is_tried_is_refused():
    name = "exiting:Leaving"
    with pytest.raises(
        BadInputError, match=f"model.name = {name} failed for images .* \\(SystemExit: training ends, in"
    ):
        blueprint(Model(name=name), (3, 8, 8), 10, 0)
    name = "exiting:at_once"
    with pytest.raises(BadInputError, match=f"model.name = {name} fails for images .* \\(SystemExit: forward ends, in"):
        blueprint(Model(name=name), (3, 8, 8), 10, 0)


@section
class Told(FedAvg):
    """Has the first process that trains client 1 told to go meanwhile, as an administrator may."""

    flag: str = setting("", "A file that says that it was done.")

    def finish(self, start, end, steps, lr, message, memory):
        if steps == 3 and not Path(self.flag).exists():
            Path(self.flag).touch()
            os.kill(os.getpid(), signal.SIGTERM)
        return super().finish(start, end, steps, lr, message, memory)


@pytest.mark.parametrize("where", WHERE[1:])
def test_an_actor_that_is_told_to_go_is_a_lost_one_and_its_call_is_made_again(request, tiny, tmp_path, where):
    """Ray raises SystemExit in whatever the process is at."""
    recipe = make_recipe(tiny, "logistic")
    population = population_of(request, where, tiny, recipe)
    found = round_four(population, recipe, Told(batch_size=8, flag=str(tmp_path / "flag")))
    assert [report.status for report in found.reports] == ["ok"] * 3
    assert found.retries >= 1
    assert population.events()[0].kind == "actor_lost"
    population.close()


class Interrupted(FedAvg):
    def loss(self, output, targets):
        raise KeyboardInterrupt


def test_an_interrupt_stays_one(tiny):
    recipe = make_recipe(tiny, "logistic")
    with pytest.raises(KeyboardInterrupt):
        round_four(InProcessPopulation(tiny, SHARDS, recipe, 2), recipe, Interrupted(batch_size=8))
