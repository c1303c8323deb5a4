"""The file of a model that is edited while a run is under way on Ray."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from small_data import make_recipe
from tasks import train

from fedray.algorithms.fedavg import FedAvg
from fedray.cluster.needs import Needs
from fedray.cluster.plan import plan
from fedray.cluster.population import RayPopulation
from fedray.cluster.settings import Cluster
from fedray.cluster.tickets import Patience
from fedray.core.errors import ClientError
from fedray.models.build import build, initial_vectors

SHARDS = [np.arange(0, 30), np.arange(30, 60)]
TEXT = "from fedray.models.small import logistic\n\ndef net(shape, classes):\n    return logistic(shape, classes)\n"


@pytest.mark.parametrize("clients_per_actor", [2, 1])
def test_actors_that_come_after_it_do_not_train_another_model_under_the_runs_name(
    dataset, tmp_path_factory, monkeypatch, request, clients_per_actor
):
    """Nobody waits for the enrolment of an actor that takes a lost one's place: the next call says why that failed."""
    folder = tmp_path_factory.getbasetemp()
    monkeypatch.syspath_prepend(folder)  # before there are actors, which look for modules where the driver did
    session = request.getfixturevalue("session")
    name = f"edited_{clients_per_actor}"
    (folder / f"{name}.py").write_text(TEXT)
    recipe = make_recipe(dataset, f"{name}:net")
    recipe = replace(recipe, fingerprint=recipe.model.fingerprint())
    planned = plan(Cluster(clients_per_actor=clients_per_actor), 2, session.capacity, Needs(250_000))

    def enrolled():
        return RayPopulation(session.pool, planned, dataset, SHARDS, recipe, 2, None, Patience(), lambda _: None)

    population, algorithm = enrolled(), FedAvg(batch_size=10)
    message = algorithm.init(*initial_vectors(build(recipe.model, recipe.shape, recipe.classes, recipe.seed)))
    assert [r.status for r in train(population, algorithm, [0, 1], message, 1, 0.1).reports] == ["ok", "ok"]
    (folder / f"{name}.py").write_text(TEXT + "# edited")
    assert [r.status for r in train(population, algorithm, [0, 1], message, 2, 0.1).reports] == ["ok", "ok"]
    for slot in population.slots:
        os.kill(slot.where["pid"], signal.SIGKILL)
    said = f"{name}.py is not the file that this run began with"
    with pytest.raises(ClientError, match=said) as error:
        train(population, algorithm, [0, 1], message, 3, 0.1)
    assert "\n" not in str(error.value)
    population.close()
    with pytest.raises(ClientError, match=said):
        enrolled()
