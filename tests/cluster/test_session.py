"""A session: runs that differ in what they want share one Ray, and each has the bits that it has in one process."""

import contextlib
import os
from dataclasses import replace

import pytest
import ray
from small_runs import small

import fedray
from fedray.cluster.settings import Cluster
from fedray.core.errors import BadInputError
from fedray.run import run
from fedray.run import session as sessions

AN_ACTOR_EACH = {"cluster__clients_per_actor": 1, "cluster__cpus_per_actor": 0.25, "cluster__gpus_per_client": 0}
NET = "from torch import nn\nfrom {helper} import width\n\n"
NET += "def net(shape, classes):\n    hidden = [nn.Linear(3072, width), nn.ReLU(), nn.Linear(width, classes)]\n"
NET += "    return nn.Sequential(nn.Flatten(), *hidden)\n"


@pytest.fixture
def kept(session, monkeypatch):
    """An open session on the tests' own Ray, and how often that was started and ended."""
    counts = []

    @contextlib.contextmanager
    def connected(cluster, client_output):
        counts.append("start")
        yield session
        counts.append("end")

    monkeypatch.setattr("fedray.cluster.start.connected", connected)
    with fedray.session() as kept:
        yield kept, counts
    assert sessions.open_session() is None


def on_ray(root, **changes):
    return small(root / "ray", rounds=1, cluster__backend="ray", **changes)


def in_one_process(e, root):
    output = replace(e.output, root=str(root / "here"))
    return replace(e, cluster=Cluster(backend="in-process"), output=output)


def pids(tables):
    return set(tables.population["pid"])


def test_runs_that_want_other_things_each_have_what_they_want(kept, tmp_path, session):
    _, counts = kept
    packed = {"cluster__clients_per_actor": 3, "cluster__gpus_per_client": 0}
    other_data = {"dataset": "synthetic", "train_examples": 90, "test_examples": 50}
    wanted = [
        AN_ACTOR_EACH,
        {**AN_ACTOR_EACH, "data": other_data, "seed": 3},
        {**AN_ACTOR_EACH, "clients": 6, "cohort": 5},
        {**AN_ACTOR_EACH, "clients": 2, "cohort": 2, "algorithm": {"name": "scaffold"}},
        {**packed, "clients": 6, "cohort": 5, "model": {"name": "mlp"}},
    ]
    found = []
    for changes in wanted:
        e = on_ray(tmp_path, **changes)
        tables = run(e)
        alone = run(in_one_process(e, tmp_path))
        assert tables.runs["model_fingerprint"].item() == alone.runs["model_fingerprint"].item(), changes
        found.append(pids(tables))
    assert counts == ["start"]
    assert [len(each) for each in found] == [4, 4, 6, 2, 2]
    assert found[0] == found[1] < found[2] > found[3]  # warm, and joined by two more
    assert not found[4] & found[2]  # other shares, other actors
    assert len(session.pool.slots) == 2


def test_a_module_that_is_edited_in_between_is_what_the_next_run_trains(kept, tmp_path, tmp_path_factory, monkeypatch):
    """The file of the model is imported anew by warm actors. For one that it imports itself, actors are started anew.

    The folder of these files comes to Python's path after the actors are up.
    """
    shape = {**AN_ACTOR_EACH, "clients": 2, "cohort": 2}
    before = run(on_ray(tmp_path, **shape))
    folder = tmp_path_factory.mktemp("mine")
    monkeypatch.syspath_prepend(folder)
    (folder / "wide_e.py").write_text("width = 3\n")
    os.utime(folder / "wide_e.py", (1, 1))  # older than the actors
    (folder / "net_e.py").write_text(NET.format(helper="wide_e"))
    e = on_ray(tmp_path, **shape, model={"name": "net_e:net"})
    first = run(e)
    assert first.runs["num_params"].item() == 3072 * 3 + 3 + 3 * 10 + 10
    assert pids(first) == pids(before)
    (folder / "net_e.py").write_text(NET.format(helper="wide_e").replace("nn.ReLU()", "nn.Tanh(), nn.Identity()"))
    second = run(e)
    assert second.runs["run"].item() != first.runs["run"].item()  # a model with a file of its own
    assert pids(second) == pids(first)
    (folder / "wide_e.py").write_text("width = 4\n")
    ahead = (folder / "wide_e.py").stat().st_mtime + 2
    os.utime(folder / "wide_e.py", (ahead, ahead))
    third = run(replace(e, seed=1))
    assert third.runs["num_params"].item() == 3072 * 4 + 4 + 4 * 10 + 10
    assert not pids(third) & pids(second)
    alone = run(in_one_process(replace(e, seed=1), tmp_path))
    assert third.runs["model_fingerprint"].item() == alone.runs["model_fingerprint"].item()


def test_a_run_that_wants_another_ray_is_refused_and_writes_nothing(kept, tmp_path):
    shape = {"cluster__clients_per_actor": 2, "cluster__gpus_per_client": 0}
    _, counts = kept
    run(on_ray(tmp_path / "a", **shape))
    said = "cluster.cpus = 1, but the session's Ray has auto; close the session and open another one"
    with pytest.raises(BadInputError, match=said):
        run(on_ray(tmp_path / "b", **shape, cluster__cpus=1))
    assert not (tmp_path / "b").exists()
    run(on_ray(tmp_path / "b", **shape, cluster__deadline_factor=5))  # a run's own
    with pytest.raises(BadInputError, match=r"cluster\.forked = false, but the session's Ray has auto"):
        run(on_ray(tmp_path / "c", **shape, cluster__forked=False))
    with pytest.raises(BadInputError, match="a session is open in this process already"):
        fedray.session()
    assert counts == ["start"]


class Stop(BaseException):
    """What is no Exception, as KeyboardInterrupt is none."""


def test_a_session_ends_however_its_block_does_and_only_then(session, monkeypatch):
    counts = []

    @contextlib.contextmanager
    def connected(cluster, client_output):
        try:
            yield session
        finally:
            counts.append("end")

    monkeypatch.setattr("fedray.cluster.start.connected", connected)
    for error in (Stop, ValueError):
        with pytest.raises(error), fedray.session() as kept:
            assert kept.connect(Cluster()) is kept.connect(Cluster()) is session
            assert not counts
            raise error
        assert counts.pop() == "end"
    kept.close()
    with pytest.raises(BadInputError, match="this session is closed"):
        kept.connect(Cluster())
    kept = fedray.session()  # without a `with`, as in a notebook
    kept.connect(Cluster())
    with monkeypatch.context() as patch:
        patch.setattr(ray, "is_initialized", lambda: False)  # the user has called ray.shutdown()
        kept.connect(Cluster(cpus=3))
    assert counts == ["end"]  # of the first, and there is a second
    kept.close()
    assert counts == ["end", "end"]
    assert sessions.open_session() is None


def test_runs_in_one_process_start_no_ray_in_a_session(kept, tmp_path):
    run(in_one_process(on_ray(tmp_path), tmp_path))
    assert kept[1] == []
