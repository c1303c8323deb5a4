"""What cannot fit the disk is refused with the arithmetic, before anything is written."""

import shutil
from collections import namedtuple

import pytest
from small_runs import small

from fedray.core.errors import BadInputError
from fedray.run import disk, needs, run
from fedray.run.disk import check_disk, parts_of
from fedray.run.needs import memory_bytes, remembering
from fedray.run.prepared import Job
from fedray.run.watch import Watch
from fedray.sweep.__main__ import main as sweep

Usage = namedtuple("Usage", "total used free")
MIB = 2**20
SCAFFOLD = {"algorithm__name": "scaffold", "algorithm__momentum": 0.0, "output__checkpoint_every": 1}


@pytest.fixture
def free(monkeypatch):
    """Sets the bytes that are free on every disk."""
    return lambda size: monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40 - size, size))


class Noting(Watch):
    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


def test_the_parts_of_a_run_of_the_issue(tmp_path):
    """resnet18, 1,000 clients, scaffold, a checkpoint each round; on a cluster's disks nothing is known of spilling."""
    changes = SCAFFOLD | {"clients": 1000, "cohort": 100, "rounds": 50, "model__name": "resnet18"}
    job = Job(small(tmp_path, **changes, data__train_examples=2000, algorithm__batch_size=32))
    vector = 4 * (11_181_642 + 9_600)
    kept, models = parts_of(job)
    assert (memory_bytes(job), remembering(job.experiment, 1)) == (vector, 100)
    assert kept.sum == "3 x 86 MiB of the server's state, and of 995 clients up to 2,985 memories x 42.7 MiB"
    assert kept.size == 3 * (vector + 4 * 11_181_642) + 2985 * vector
    assert models.size == 2 * (vector + 160)
    once = Job(small(tmp_path, **changes | {"rounds": 4}, data__train_examples=2000, algorithm__batch_size=32))
    assert parts_of(once)[0].size == 3 * (vector + 4 * 11_181_642) + 300 * vector  # of whom none was there twice


def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path, free):
    job = Job(small(tmp_path, **SCAFFOLD))
    size = sum(part.size for part in parts_of(job))
    free(size - 1)
    with pytest.raises(BadInputError, match=r"checkpoints of \d+ MiB \(3 x 1 MiB .* are free; raise output.checkpoint"):
        run(job.experiment)
    assert not list(tmp_path.iterdir())
    watch = Noting()
    free(size)
    assert run(job.experiment, watch).runs["status"].tolist() == ["finished"]
    assert len(watch.notices) == 1 and watch.notices[0].startswith("the disk may become full: checkpoints of ")
    free(0)
    run(job.experiment)  # it has ended, and writes nothing


def test_without_checkpoints_and_models_little_is_needed(tmp_path, free):
    free(0)
    e = small(tmp_path, rounds=3, output__checkpoint_every=3, output__save_model=False)
    assert parts_of(Job(e)) == []
    run(e)


def test_of_a_run_that_goes_on_the_files_that_are_there_count(tmp_path, free):
    e = small(tmp_path, **SCAFFOLD)
    whole = sum(part.size for part in parts_of(Job(e)))
    run(e, until=4)
    left = sum(part.size for part in parts_of(Job(e)))
    there = sum(path.stat().st_size for path in (tmp_path / "small" / "checkpoints").iterdir())
    assert left == whole - there < whole
    assert sum(part.size for part in parts_of(Job(e), fresh=True)) == whole


def test_the_models_of_a_sweep_count_together(tmp_path, free, capsys):
    file = tmp_path / "many.toml"
    file.write_text("grid.seed = [0, 1, 2]\n")
    words = ["--rounds=2", "--clients=4", "--cohort=3", "--data.dataset=synthetic", "--data.train_examples=160"]
    words += ["--data.test_examples=120", "--model.name=logistic", "--cluster.backend=in-process"]
    free(4 * 123_000)
    with pytest.raises(BadInputError, match=r"models of 1 MiB \(of 3 runs\) need 1 MiB on the disk of .*, but 0 MiB"):
        sweep([str(file), *words, "--output.root", str(tmp_path / "r")])
    assert not (tmp_path / "r").exists()


def test_what_ray_spills_counts_on_the_disk_of_its_session(tmp_path, monkeypatch):
    """The store has room for 80 MiB; two disks are checked one by one."""
    changes = {"clients": 4000, "cohort": 1000, "rounds": 3, "output__checkpoint_every": 5}
    tree = SCAFFOLD | changes | {"cluster__backend": "ray", "cluster__object_store": 80, "data__train_examples": 4000}
    job = Job(small(tmp_path, **tree))
    models, spilled = parts_of(job)
    store = needs.needs_of(job).object_store
    assert store > (2313 + 2 * 1000) * 123_000 and spilled.size == int(store - 0.8 * 80 * MIB)
    assert spilled.folder.name == "ray" and spilled.left_free == 0.05
    monkeypatch.setattr(
        disk.Part, "disk", property(lambda part: (hash(part.kind), {"models": 2**30}.get(part.kind, 5)))
    )
    with pytest.raises(BadInputError, match="^objects that Ray spills of .* set RAY_TMPDIR"):
        check_disk([models, spilled])


def test_what_clients_remember_has_to_fit_the_memory_of_one_process(tmp_path, monkeypatch):
    e = small(tmp_path, **SCAFFOLD)
    monkeypatch.setattr(needs, "available_memory", lambda: 3 * MIB // 2)
    with pytest.raises(
        BadInputError, match=r"4 clients' memories x 0.117 MiB and \d+ MiB to train with need \d+ MiB, but 2"
    ):
        run(e)
    assert not (tmp_path / "small" / "runs").exists()
    run(small(tmp_path))  # who remembers nothing is not asked


def test_a_part_of_the_model_is_what_its_clients_remember(tmp_path):
    for name, kept in (("fedper", 850), ("local", 62_006), ("ditto", 62_006), ("fedavg", 0)):
        e = small(tmp_path, algorithm__name=name, model__name="lenet5")
        assert memory_bytes(Job(e)) == 4 * kept
