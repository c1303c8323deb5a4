"""Shares of GPUs on several nodes, real raylets on this machine that are told of a GPU each."""

import numpy as np
import pytest
from gpu_shares import at_each, populated, reserved
from head_node import LEAN
from ray.cluster_utils import Cluster as SeveralNodes

from fedray.cluster.needs import Needs
from fedray.cluster.plan import plan
from fedray.cluster.settings import Cluster
from fedray.cluster.start import connected
from fedray.core.errors import BadInputError

pytestmark = pytest.mark.slow  # four processes that each import torch; on one node they are in test_gpu_actors.py

NODE = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 100 * 2**20}


@pytest.fixture(scope="module")
def session():
    cluster = SeveralNodes(initialize_head=True, head_node_args={**NODE, **LEAN})
    cluster.add_node(**NODE)
    with connected(Cluster(address=cluster.address)) as session:
        yield session
    cluster.shutdown()


def test_four_actors_of_a_half_land_two_on_each_of_two_nodes(session, dataset):
    with pytest.raises(BadInputError, match="there are 2 GPUs on 2 nodes, so room for 6;"):
        plan(Cluster(gpus_per_client=0.3, clients_per_actor=1), 7, session.capacity, Needs(250_000))
    with populated(session, dataset, 4, gpus_per_client=0.5) as population:
        assert at_each(population, reserved) == [(0.5, "0")] * 4
        assert sorted(np.unique(list(population.rows()["node"]), return_counts=True)[1]) == [2, 2]
