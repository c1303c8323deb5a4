"""Pretrained weights, from a file server of this machine: torchvision's own networks, randomly initialised."""

import os
import socket
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from serving import Quiet, serve

from fedray.cli.command_line import report_errors
from fedray.core.errors import BadInputError
from fedray.experiment.composition import compose
from fedray.models.build import build
from fedray.models.describe import blueprint
from fedray.models.imagenet import read
from fedray.models.model import IMAGENET_MEAN, IMAGENET_STD, KNOWN, Model, imagenet_statistics
from fedray.models.weights import ORIGIN, folder
from fedray.run import run
from fedray.run.checks import check_shards
from fedray.run.needs import needs_of
from fedray.run.prepared import Job
from fedray.sweep import __main__ as sweep
from fedray.training.in_process import InProcessPopulation

CIFAR = (3, 32, 32)
PRETRAINED = [name for name, facts in KNOWN.items() if facts.weights]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with weights of resnet18 and googlenet under torchvision's names, and the state dicts."""
    from torchvision import models

    path, states = tmp_path_factory.mktemp("weights"), {}
    for name, settings in {"resnet18": {}, "googlenet": {"init_weights": True, "aux_logits": True}}.items():
        torch.manual_seed(99)
        states[name] = getattr(models, name)(**settings).state_dict()
        torch.save(states[name], path / KNOWN[name].weights)
    return path, states


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """torch's cache folder is this test's own, and no proxy stands between it and this machine."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("FEDRAY_WEIGHTS_URL", nobody())
    return tmp_path / "torch"


def nobody():
    """An address where nobody answers."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


def settings(tmp_path, **model):
    return {
        "data": {"dataset": "synthetic", "train_examples": 12, "test_examples": 10}, "clients": 2, "cohort": 2, "rounds": 1,
        "algorithm": {"batch_size": 3}, "model": {"name": "resnet18", "pretrained": True, **model},
        "cluster": {"backend": "in-process"}, "output": {"root": str(tmp_path / "results"), "name": "mine"},
    }  # fmt: skip


@pytest.mark.parametrize("name", PRETRAINED)
def test_files_and_folder_are_torchs_own(name, monkeypatch):
    from torchvision.models import get_model_weights

    assert get_model_weights(name).IMAGENET1K_V1.url == f"{ORIGIN}/{KNOWN[name].weights}"
    assert str(folder()) == f"{torch.hub.get_dir()}/checkpoints"
    monkeypatch.delenv("TORCH_HOME")
    assert str(folder()) == f"{torch.hub.get_dir()}/checkpoints"
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert str(folder()) == f"{torch.hub.get_dir()}/checkpoints"


def test_images_are_normalised_as_torchvision_says(tmp_path, made, monkeypatch):
    from torchvision.models import ResNet18_Weights

    preset = ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert (tuple(preset.mean), tuple(preset.std)) == (IMAGENET_MEAN, IMAGENET_STD)
    assert imagenet_statistics(3) == (IMAGENET_MEAN, IMAGENET_STD)
    assert imagenet_statistics(1) == ((pytest.approx(0.449),), (pytest.approx(0.226),))
    with serve(made[0]) as url:
        monkeypatch.setenv("FEDRAY_WEIGHTS_URL", url)
        recipe = Job(compose(settings(tmp_path))).recipe
    assert (recipe.mean, recipe.std) == (IMAGENET_MEAN, IMAGENET_STD)
    plain = Job(compose(settings(tmp_path, pretrained=False)))
    assert plain.recipe.mean == plain.dataset.mean != IMAGENET_MEAN


def test_a_frozen_pretrained_resnet18_sends_its_last_layer_and_is_saved_whole(tmp_path, made, monkeypatch):
    """Bytes are 4 x (512 x 10 + 10) for each client and way; all but the last layer is what was served."""
    served = made[1]["resnet18"]
    with serve(made[0]) as url:
        monkeypatch.setenv("FEDRAY_WEIGHTS_URL", f"{url}/")
        job = Job(compose(settings(tmp_path, freeze="backbone")))
        results = run(job.experiment)
    each = 4 * (512 * 10 + 10)
    assert results.rounds[["bytes_down", "bytes_up"]].to_numpy().tolist() == [[2 * each, 2 * each]]
    assert results.runs[["num_params", "num_buffers"]].to_numpy().tolist() == [[5130, 0]]
    saved = load_file(job.model)
    assert saved.keys() == served.keys()
    same = {name for name in saved if torch.equal(saved[name], served[name])}
    assert saved.keys() - same == {"fc.weight", "fc.bias"}
    assert saved["fc.weight"].shape == (10, 512)
    # What was evaluated is what was saved: the frozen part was in it.
    from torchvision.models import resnet18

    module = resnet18(num_classes=10)
    module.load_state_dict(saved)
    population = InProcessPopulation(job.dataset, job.shards, job.recipe, 1)
    inputs = population.trainer.network.inputs(torch.from_numpy(job.dataset.test_images))
    with torch.no_grad():
        output = module.eval()(inputs)
    loss = torch.nn.functional.cross_entropy(output, torch.from_numpy(job.dataset.test_labels))
    assert results.rounds["test_loss"].iloc[-1] == pytest.approx(loss.item(), rel=1e-5)


def test_without_freezing_all_of_it_trains(made, monkeypatch):
    with serve(made[0]) as url:
        monkeypatch.setenv("FEDRAY_WEIGHTS_URL", url)
        found = blueprint(Model(name="resnet18", pretrained=True), CIFAR, 10, 0)
        other = blueprint(Model(name="resnet18", pretrained=True), CIFAR, 10, 1)
    assert found.params.size == 11_181_642
    start = found.state_dict(found.params, found.buffers)
    for name, tensor in made[1]["resnet18"].items():
        if not name.startswith("fc."):
            assert np.array_equal(start[name], tensor.numpy()), name
    scratch = build(Model(name="resnet18"), CIFAR, 10, 0).state_dict()
    assert np.array_equal(start["fc.weight"], scratch["fc.weight"].numpy())  # fresh, from the seed
    assert (found.params != other.params).mean() == pytest.approx(5130 / 11_181_642)


def test_adapters_of_pretrained_weights_need_the_last_layer_trained(made, monkeypatch):
    """It starts fresh. r (in k k + out) numbers for each of the 20 convolutions, and the last layer's."""
    with serve(made[0]) as url:
        monkeypatch.setenv("FEDRAY_WEIGHTS_URL", url)
        adapted = {"name": "resnet18", "pretrained": True, "lora_rank": 1}
        with pytest.raises(BadInputError, match=r"fc.weight, fc.bias would stay random .* pretrained weights lack"):
            blueprint(Model(**adapted), CIFAR, 10, 0)
        found = blueprint(Model(**adapted, trainable="fc.*"), CIFAR, 10, 0)
    shapes = {name: shape for name, (_, shape) in found.places.items()}
    layers = [name for name, tensor in made[1]["resnet18"].items() if tensor.dim() == 4]
    assert len(layers) == 20
    wanted = sum(made[1]["resnet18"][name][0].numel() + len(made[1]["resnet18"][name]) for name in layers)
    assert found.params.size == wanted + 5130 and found.buffers.size == 0
    assert shapes["layer2.0.downsample.0.lora_A"] == (1, 64, 1, 1)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_auxiliary_classifiers_start_fresh(made, monkeypatch, weight):
    with serve(made[0]) as url:
        monkeypatch.setenv("FEDRAY_WEIGHTS_URL", url)
        module = build(Model(name="googlenet", pretrained=True, aux_weight=weight), CIFAR, 10, 0)
    served, have = made[1]["googlenet"], module.state_dict()
    assert any(name.startswith("aux") for name in have) == (weight > 0)
    fresh = {
        name for name in have if served[name].shape != have[name].shape or not torch.equal(served[name], have[name])
    }
    assert {name.partition(".")[0] for name in fresh} == ({"fc", "aux1", "aux2"} if weight else {"fc"})
    assert module.transform_input  # it was trained on images that were normalised otherwise


def test_a_file_that_is_there_is_used_without_a_network_and_is_in_the_run_id(tmp_path, made):
    path = folder() / KNOWN["resnet18"].weights
    path.parent.mkdir(parents=True)
    path.write_bytes((made[0] / path.name).read_bytes())
    first = Job(compose(settings(tmp_path)))
    assert first.vectors[0].size == 11_181_642
    assert Job(compose(settings(tmp_path))).run == first.run
    torch.save({name: x + 1 for name, x in made[1]["resnet18"].items()}, path)
    assert Job(compose(settings(tmp_path))).run != first.run
    late = Job(compose(settings(tmp_path)))
    torch.save(made[1]["resnet18"], path)
    for build_it in (
        lambda: check_shards(late),
        lambda: InProcessPopulation(late.dataset, late.shards, late.recipe, 1),
    ):
        with pytest.raises(BadInputError, match=f"resnet18 in {path} are not those that this run began with"):
            build_it()
    InProcessPopulation(first.dataset, first.shards, first.recipe, 1)


def test_what_a_mirror_has_is_fetched_once_and_not_taken_for_the_original(made, monkeypatch):
    with serve(made[0]) as url:
        monkeypatch.setenv("FEDRAY_WEIGHTS_URL", url)
        first = build(Model(name="resnet18", pretrained=True), CIFAR, 10, 0)
    again = build(Model(name="resnet18", pretrained=True), CIFAR, 10, 0)  # the server has gone
    assert torch.equal(first.conv1.weight, again.conv1.weight)
    (kept,) = folder().iterdir()
    assert kept.name.startswith("resnet18-f37072fd.of-")
    monkeypatch.setenv("FEDRAY_WEIGHTS_URL", nobody())  # another mirror
    with pytest.raises(BadInputError, match="could not be fetched"):
        build(Model(name="resnet18", pretrained=True), CIFAR, 10, 0)


def test_what_has_the_hash_of_the_original_is_kept_as_the_original(tmp_path, made, monkeypatch):
    content = (made[0] / KNOWN["resnet18"].weights).read_bytes()
    name = f"resnet18-{sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setitem(KNOWN, "resnet18", __import__("dataclasses").replace(KNOWN["resnet18"], weights=name))
    (tmp_path / name).write_bytes(content)
    with serve(tmp_path) as url:
        monkeypatch.setenv("FEDRAY_WEIGHTS_URL", url)
        build(Model(name="resnet18", pretrained=True), CIFAR, 10, 0)
    assert [path.name for path in folder().iterdir()] == [name]


def test_from_the_origin_only_the_original_is_taken(made, monkeypatch):
    with serve(made[0]) as url:
        monkeypatch.delenv("FEDRAY_WEIGHTS_URL")
        monkeypatch.setattr("fedray.models.weights.ORIGIN", url)
        with pytest.raises(BadInputError, match="its hash is [0-9a-f]{8}, not the one in its name"):
            build(Model(name="resnet18", pretrained=True), CIFAR, 10, 0)
    assert list(folder().iterdir()) == []


class Short(Quiet):
    """A server that says how long a file is and ends after a tenth of it."""

    def copyfile(self, source, outputfile):
        outputfile.write(source.read(1_000_000))


@pytest.mark.parametrize("damage", ["absent", "short", "cut", "page", "other network", "no tensors"])
def test_what_is_not_whole_or_not_the_networks_weights_leaves_nothing_behind(tmp_path, made, monkeypatch, damage):
    name = KNOWN["resnet18"].weights
    content, served = (made[0] / name).read_bytes(), tmp_path / "served"
    served.mkdir()
    if damage == "other network":
        content = (made[0] / KNOWN["googlenet"].weights).read_bytes()
    if damage == "no tensors":
        torch.save(["text"], served / name)
        content = (served / name).read_bytes()
    if damage != "absent":
        (served / name).write_bytes({"cut": content[:100_000], "page": b"<html>not found</html>"}.get(damage, content))
    with serve(served, Short if damage == "short" else Quiet) as url:
        monkeypatch.setenv("FEDRAY_WEIGHTS_URL", url)
        with pytest.raises(BadInputError) as error:
            check_shards(Job(compose(settings(tmp_path))))
    parts = {
        "absent": ["404", url, "--model.pretrained false"],
        "short": [f"only 1000000 of {len(content)} bytes arrived", url],
        "cut": ["the file received holds no weights", url],
        "page": ["the file received holds no weights", url],
        "other network": [
            "does not hold the weights of resnet18",
            "FEDRAY_WEIGHTS_URL, and was removed",
            "tensors are missing, unknown or of another shape",
        ],
        "no tensors": ["does not hold the weights of resnet18"],
    }
    assert all(part in str(error.value) for part in parts[damage]), str(error.value)
    assert "\n" not in str(error.value)
    assert list(folder().iterdir()) == []
    assert not (tmp_path / "results").exists()


def test_a_damaged_file_of_the_users_is_named_and_left_alone(tmp_path):
    path = folder() / KNOWN["resnet18"].weights
    path.parent.mkdir(parents=True)
    path.write_bytes(b"junk")
    with pytest.raises(BadInputError, match=f"{path} does not hold the weights of resnet18 .*remove it"):
        check_shards(Job(compose(settings(tmp_path))))
    assert path.read_bytes() == b"junk"


def test_without_a_network_a_run_ends_with_one_sentence_and_nothing_on_disk(tmp_path, monkeypatch, capsys):
    """As its user sees it, with Ray and the fork server: exit status 2."""
    from fedray.__main__ import main

    monkeypatch.chdir(tmp_path)
    words = ["--data.dataset", "synthetic", "--clients", "2", "--cohort", "2", "--model.name", "resnet18"]
    assert report_errors(lambda: main([*words, "--model.pretrained", "true"])) == 2
    err = capsys.readouterr().err
    assert err.startswith("fedray: the ImageNet weights of resnet18 could not be fetched from http://127.0.0.1:")
    assert err.count("\n") == 1
    assert all(part in err for part in ("FEDRAY_WEIGHTS_URL", str(folder()), "--model.pretrained false", "refused"))
    assert not (tmp_path / "results").exists()


def test_names_of_old_files_are_read_as_todays(tmp_path):
    """densenet121's file is from a time when names of modules could have dots."""
    old = {
        "features.denseblock1.denselayer1.norm.1.weight": "features.denseblock1.denselayer1.norm1.weight",
        "features.denseblock4.denselayer16.conv.2.weight": "features.denseblock4.denselayer16.conv2.weight",
        "features.norm5.running_mean": "features.norm5.running_mean",
        "features.transition1.norm.weight": "features.transition1.norm.weight",
        "classifier.bias": "classifier.bias",
    }
    torch.save({name: torch.zeros(1) for name in old}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert list(read(tmp_path / "old.pth")) == list(old.values())
    from torchvision.models import densenet121

    names = densenet121().state_dict()
    assert names.keys() >= set(old.values())


def test_weights_of_before_batchnorm_counted_its_batches_fit(made, tmp_path, monkeypatch):
    state = {name: x for name, x in made[1]["resnet18"].items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / KNOWN["resnet18"].weights, _use_new_zipfile_serialization=False)
    with serve(tmp_path) as url:
        monkeypatch.setenv("FEDRAY_WEIGHTS_URL", url)
        module = build(Model(name="resnet18", pretrained=True), CIFAR, 10, 0)
    assert torch.equal(module.conv1.weight, state["conv1.weight"])


def test_the_driver_fetches_them_without_torch(made, tmp_path):
    with serve(made[0]) as url:
        code = (
            "import sys\n"
            "from fedray.models.model import Model\n"
            "assert len(Model(name='resnet18', pretrained=True).fingerprint()) == 64\n"
            "assert not {'torch', 'torchvision'} & set(sys.modules)\n"
        )
        environment = {**os.environ, "FEDRAY_WEIGHTS_URL": url, "TORCH_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(Path(tmp_path, "hub", "checkpoints").iterdir())) == 1


def test_only_weights_that_cannot_be_mapped_count_for_memory(made, tmp_path):
    """Files as torch wrote them before 1.6 are read whole, beside the model that is built."""
    (tmp_path / "torch/hub/checkpoints").mkdir(parents=True)
    path = tmp_path / "torch/hub/checkpoints" / KNOWN["resnet18"].weights
    frozen = []
    for new in (True, False):
        torch.save(made[1]["resnet18"], path, _use_new_zipfile_serialization=new)
        frozen.append(needs_of(Job(compose(settings(tmp_path, freeze="backbone")))).frozen)
    assert frozen[1] == 2 * frozen[0] > 2**25


def test_a_dry_run_fetches_nothing(made, tmp_path, monkeypatch, capsys):
    file = tmp_path / "sweep.toml"
    file.write_text(
        'clients = 2\ncohort = 2\n[data]\ndataset = "synthetic"\n[grid]\nmodel.pretrained = [false, true]\n'
    )
    words = [str(file), "--model.name", "resnet18", "--dry-run", "--output.root", str(tmp_path / "results")]
    with serve(made[0]) as url:
        monkeypatch.setenv("FEDRAY_WEIGHTS_URL", url)
        for here in (False, True):
            assert sweep.main(words) == 0
            *commands, last = capsys.readouterr().out.splitlines()
            assert len(commands) == 2
            said = "cannot be estimated: the weights of resnet18 are not here yet, and a dry run fetches nothing"
            assert last.endswith(said) != here
            assert folder().exists() == here
            Job(compose(settings(tmp_path)))  # it fetches them


def test_the_runs_table_says_which_weights_a_run_began_with(made, tmp_path, monkeypatch):
    with serve(made[0]) as url:
        monkeypatch.setenv("FEDRAY_WEIGHTS_URL", url)
        found = run(compose(settings(tmp_path, freeze="backbone"))).runs["model_source_fingerprint"]
    assert found.tolist() == [sha256((made[0] / KNOWN["resnet18"].weights).read_bytes()).hexdigest()]
    plain = run(compose(settings(tmp_path, name="logistic", pretrained=False)))
    assert plain.runs["model_source_fingerprint"].isna().all()
