"""What many tests share: a small data set, and one Ray with a fake GPU for a file."""

import tempfile

import pytest
from small_data import make_dataset

from fedray.cluster.settings import Cluster
from fedray.data.dataset import Dataset


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_user():
    """Decoded images go to a folder of this test session, also from the processes that tests start."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDRAY_CACHE", folder)
        yield


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture(scope="module")
def session():
    """A connection to a local Ray with two CPUs and one (fake) GPU, for one file: other files start their own."""
    from fedray.cluster.start import connected  # imports ray

    with connected(Cluster(cpus=2, gpus=1, object_store=200, start_timeout=120)) as session:
        yield session
