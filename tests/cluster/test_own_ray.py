"""A Ray of a run's own is nobody else's."""

import pytest
import ray
from test_start import refused

from fedray.cluster.settings import Cluster
from fedray.cluster.start import connected
from fedray.core.errors import BadInputError


def test_the_private_ray_of_another_program_is_not_joined(session, tmp_path):
    address = ray.get_runtime_context().gcs_address
    assert "that Ray is another program's own" in refused("--cluster.address", address, folder=tmp_path)


def test_a_second_connection_in_one_process_is_refused(session):
    with pytest.raises(BadInputError, match="connected to Ray already"), connected(Cluster()):
        raise AssertionError("connected twice")
