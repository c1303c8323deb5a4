"""What is derived from an experiment before it runs."""

import sys

import pytest

from fedray.cluster.capacity import Capacity
from fedray.cluster.forks import ForkServer
from fedray.cluster.plan import plan
from fedray.cluster.settings import Cluster
from fedray.core.errors import BadInputError
from fedray.experiment.composition import compose
from fedray.run import run
from fedray.run.checks import check_shards
from fedray.run.needs import needs_of, vectors_held
from fedray.run.prepared import Job, preload
from fedray.run.run_columns import partition_columns


@pytest.mark.parametrize(
    "partition", [{"name": "dirichlet", "alpha": 0.1}, {"name": "sampled", "examples": 30}], ids=str
)
def test_the_partitions_table_counts_every_label_of_every_client(tmp_path, partition):
    data = {"dataset": "synthetic", "train_examples": 120, "test_examples": 10}
    output = {"root": str(tmp_path), "name": "mine"}
    job = Job(compose({"clients": 7, "data": data, "partition": partition, "output": output}))
    rows = [
        (client, label, name, sum(job.dataset.train_labels[row] == label for row in shard))
        for client, shard in enumerate(job.shards)
        for label, name in enumerate(job.dataset.classes)
    ]
    columns = partition_columns(job)
    assert list(columns) == ["client", "label", "label_name", "count"]
    assert list(zip(*columns.values(), strict=True)) == rows


def wrong_optimizer(root, backend, **settings):
    data = {"dataset": "synthetic", "train_examples": 120, "test_examples": 10}
    tree = {"data": data, "algorithm": settings, "model": {"name": "logistic"}, "cluster": {"backend": backend}}
    return compose({**tree, "output": {"root": str(root), "name": "mine"}})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"optimizer": "adamm"}, "algorithm.optimizer = 'adamm' is not in torch.optim, .*; did you mean adam?"),
        ({"optimizer": "adam", "optimizer_options": "eps=-1"}, "cannot train this model: Invalid epsilon value"),
        ({"optimizer": "muon"}, r"Muon only supports 2D parameters .*\[10\]"),  # the layer's own bias
    ],
)
def test_an_optimizer_is_tried_before_anything_is_on_disk(tmp_path, settings, sentence):
    with pytest.raises(BadInputError, match=sentence):
        run(wrong_optimizer(tmp_path, "in-process", **settings))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked there")
def test_an_optimizer_is_tried_where_torch_is(tmp_path):
    job = Job(wrong_optimizer(tmp_path, "ray", optimizer="adamm"))
    assert job.fork_server()
    for _ in range(2):
        with pytest.raises(BadInputError, match="did you mean adam"):
            check_shards(job)
    check_shards(Job(wrong_optimizer(tmp_path, "ray", optimizer="Adam", optimizer_options="eps=1e-3")))


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked there")
def test_what_any_run_of_a_sweep_imports_is_imported_before_actors_are_forked(tmp_path):
    """Where the first run does not need it: it took the first round with Adam 4 s."""
    plain, adam = (Job(wrong_optimizer(tmp_path, "ray", optimizer=name)) for name in ("sgd", "adam"))
    for jobs in ([plain], [plain, adam]):
        server = ForkServer()  # one that no other test has had import anything
        jobs[0].fork_server = lambda server=server: server
        try:
            preload(jobs)
            assert server.ask(eval, "'torch._dynamo' in __import__('sys').modules").result() == (adam in jobs)
        finally:
            server.close()


def test_the_recipe_has_the_square_that_is_cut_out(tmp_path):
    tree = {"data": {"dataset": "synthetic", "train_examples": 120, "test_examples": 10, "augment": "cutout"}}
    tree["output"] = {"root": str(tmp_path), "name": "mine"}
    assert Job(compose(tree)).recipe.cutout == 16
    tree["data"]["cutout"] = 5
    recipe = Job(compose(tree)).recipe
    assert (recipe.augment, recipe.cutout) == ("cutout", 5)


def needs(tmp_path, clients=2, algorithm=None, train=20, **model):
    data = {"dataset": "synthetic", "train_examples": train, "test_examples": 10}
    tree = {"data": data, "clients": clients, "cohort": 2, "model": model, "algorithm": algorithm or {}}
    tree |= {"output": {"root": str(tmp_path), "name": "mine"}, "cluster": {"backend": "in-process"}}
    return needs_of(Job(compose(tree)))


def test_needs_count_a_batch_of_images(tmp_path):
    """logistic keeps its input, 4 * 3072 bytes, which is its largest tensor, too; so does an evaluation of 100."""

    def images(batch_size, train):
        return needs(tmp_path, algorithm={"batch_size": batch_size}, train=train, name="logistic").activations

    each = 4 * 3072
    for batch_size, train, largest in ((4, 20, 4), (16, 20, 10), (0, 20, 10), (0, 40, 20)):
        assert images(batch_size, train) == 1.5 * largest * each + 3 * (largest + 100) * each


def test_clients_that_train_as_one_program_have_batches_of_images_each_and_one_evaluation_between_them(tmp_path):
    """cnn, 50 clients at once in batches of 10: 2465 MiB were measured, vectors and all."""

    def found(chunk_size):
        data = {"dataset": "synthetic", "train_examples": 2500, "test_examples": 100}
        tree = {"data": data, "clients": 50, "cohort": 50, "blocks": 1, "chunk_size": chunk_size, "engine": "fused"}
        tree |= {"model": {"name": "cnn"}, "algorithm": {"batch_size": 10}}
        return needs_of(Job(compose({**tree, "output": {"root": str(tmp_path), "name": "mine"}})))

    one, two, many = map(found, (1, 2, 50))
    assert one.activations == two.activations  # an evaluation of 100 takes more than that
    vectors = many.at_once * many.vectors * many.model
    assert 2465 < (vectors + many.activations) / 2**20 < 2 * 2465


def test_ten_clients_with_inception_are_packed_and_a_hundred_with_lenet5_are_not(tmp_path):
    large = needs(tmp_path, 10, train=400, name="inception_v3", aux_weight=0.4)
    assert 4168 - 744 < large.activations / 2**20 < 2 * 4168  # 4168 MiB were measured, 744 of them vectors
    machine = Capacity((8.0,), 0, 16 * 2**30)
    assert plan(Cluster(), 10, machine, large).actors == 2
    with pytest.raises(BadInputError, match=r"10 actors x 7\d\d\d MiB, .* MiB for batches of images, .* 16384 MiB are"):
        plan(Cluster(clients_per_actor=1), 10, machine, large)
    small = needs(tmp_path, 100, train=3200, name="lenet5")
    assert small.activations < 20 * 2**20
    assert plan(Cluster(), 100, Capacity((2.0,), 0, 24e9), small).actors == 100


OWN_RESNET = (
    "def net(shape, classes):\n    from torchvision.models import resnet18\n    return resnet18(num_classes=classes)\n"
)


def test_what_is_frozen_counts_again_where_another_model_is_built(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_frozen.py").write_text(OWN_RESNET)
    once, again = (
        needs(tmp_path, algorithm={"name": name}, name="own_frozen:net", freeze="backbone", projection=width).frozen
        for name, width in (("fedavg", 8), ("moon", 8))
    )
    assert again == 2 * once > 2**25


def test_needs_count_the_vectors_of_a_process_and_what_is_frozen(tmp_path, monkeypatch):
    """As long as params and buffers: 8 of plain SGD, more where the direction is another, or models are kept."""
    tree = {
        "data": {"dataset": "synthetic", "train_examples": 20, "test_examples": 10}, "clients": 2, "cohort": 2,
        "model": {"name": "resnet18"}, "output": {"root": str(tmp_path), "name": "mine"}, "cluster": {"backend": "in-process"},
    }  # fmt: skip
    needs = needs_of(Job(compose(tree)))
    assert (needs.model, needs.vectors) == (4 * (11_181_642 + 9_600), 8)
    assert needs.frozen == 8 * 20  # the counters of BatchNorm layers
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_resnet.py").write_text(
        "def net(shape, classes):\n    from torchvision.models import resnet18\n    return resnet18(num_classes=classes)\n"
    )
    tree["model"] = {"name": "own_resnet:net", "freeze": "backbone"}
    needs = needs_of(Job(compose(tree)))
    assert needs.model == 4 * 5130
    assert needs.frozen == 4 * (11_181_642 - 5130 + 9_600) + 8 * 20
    held = {
        "fedavg": {}, "momentum": {"momentum": 0.9}, "decay": {"weight_decay": 0.1, "momentum": 0.9}, "fedprox": {"name": "fedprox"},
        "scaffold": {"name": "scaffold"}, "ditto": {"name": "ditto"}, "moon": {"name": "moon"},
    }  # fmt: skip
    assert {name: vectors_held(compose({"algorithm": settings}).algorithm) for name, settings in held.items()} == {
        "fedavg": 8, "momentum": 9, "decay": 9, "fedprox": 11, "scaffold": 15, "ditto": 12, "moon": 16,
    }  # fmt: skip
