"""What many tests share: a small data set, one Ray with a fake GPU, and lanes for those with Ray and for the rest."""

import os
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from lanes import Lanes, SharedRay, place, shares_ray, starts_ray, write_durations
from rare import is_rare, stale
from small_data import make_dataset
from warm import Warm

from fedray.cluster.settings import Cluster
from fedray.core.interrupt import SIGNALS
from fedray.data.dataset import Dataset

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # each worker has a core


def pytest_addoption(parser):
    parser.addoption("--durations-file", type=Path, help="write how long each lane, file and test took to this file")


@pytest.hookimpl(tryfirst=True)  # before pytest leaves the slow ones out
def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: place(item.nodeid))
    for item in items:
        if starts_ray(item.nodeid):
            item.add_marker("ray")
        if is_rare(item.nodeid):
            item.add_marker("slow")
    whole = config.args == [str(config.rootpath / "tests")] or config.args == config.getini("testpaths")
    if whole and (gone := stale(item.nodeid for item in items)):
        raise pytest.UsageError(f"tests/helpers/rare.py names cases that there are not: {', '.join(gone)}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Lanes(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if not shares_ray(item.nodeid):
        shared_ray.close()


def pytest_sessionfinish():
    shared_ray.close()


def pytest_terminal_summary(terminalreporter, config):
    if path := config.getoption("durations_file"):
        reports = (each for found in terminalreporter.stats.values() for each in found if hasattr(each, "duration"))
        write_durations(path, reports)


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_user():
    """Decoded images go to a folder of this test session, also from the processes that tests start."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDRAY_CACHE", folder)
        yield


@pytest.fixture(autouse=True)
def signals_as_before():
    """A program that was run in this process ignores signals from its end on, and so would all programs after it."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler and handler is not None:
            signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def no_idle_workers():
    """A Ray starts no worker for each core before one is asked for: actors are forks, and so those stay idle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_prestart_worker_first_driver", "0")
        yield


@pytest.fixture(autouse=True)
def no_ray_in_the_other_lane(request, monkeypatch):
    """Ray has no place for its files, here and in programs, where a test is not known to start it."""
    if not starts_ray(request.node.nodeid):
        monkeypatch.setenv("RAY_TMPDIR", "/dev/null/tests that start Ray are listed in tests/helpers/lanes.py")


@pytest.fixture(scope="session")
def warm():
    """A process with everything imported, of which fedray's programs are forks."""
    with Warm() as warm:
        yield warm


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return make_dataset()


def own_ray():
    """A local Ray with two CPUs and one (fake) GPU."""
    from fedray.cluster.start import connected  # imports ray

    return connected(Cluster(cpus=2, gpus=1, object_store=200, start_timeout=120))


shared_ray = SharedRay(own_ray)


@pytest.fixture(autouse=True)
def nobody_waits_for_what_a_failed_test_left(request):
    """A population that a test did not close would keep the actors, for which the next test would wait for ever."""
    yield
    if shares_ray(request.node.nodeid) and shared_ray.session:
        abandon(shared_ray.session.pool)


def abandon(pool):
    """Have the runs that still use actors leave."""
    for run, use in {run: use for slot in pool.slots for run, use in slot.uses.items()}.items():
        pool.dispatcher.withdraw(use.traffic)
        pool.leave(run, pool.slots)


@pytest.fixture(scope="module")
def session(request):
    """A connection to such a Ray for one file, or for all that share one."""
    if shares_ray(request.node.nodeid):
        yield shared_ray.get()
    else:
        with own_ray() as session:
            yield session
