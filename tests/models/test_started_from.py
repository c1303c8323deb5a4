"""The model that a run starts from, model.init, and which parameters are trained, model.trainable."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedray.core.errors import BadInputError
from fedray.experiment.composition import compose
from fedray.models.build import build
from fedray.models.describe import blueprint
from fedray.models.model import Model
from fedray.models.weights import fingerprint

SHAPE = (3, 32, 32)


@pytest.fixture(scope="module")
def base():
    return build(Model(name="lenet5"), SHAPE, 10, 5).state_dict()


def saved(path, tensors):
    (save_file if path.suffix == ".safetensors" else torch.save)(tensors, path)
    return str(path)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.pth", "a.bin"])
def test_what_fits_is_taken_to_the_bit(name, tmp_path, base):
    path = saved(tmp_path / name, base)
    found = blueprint(Model(name="lenet5", init=path), SHAPE, 10, 0)
    for key, tensor in found.state_dict(found.params, found.buffers).items():
        assert np.array_equal(tensor, base[key].numpy()), key
    assert found.start == f"model.init = {path}: 10 of the model's 10 tensors start from that file"


def test_the_others_start_fresh_and_it_is_said_which(tmp_path, base):
    """A last layer of other classes, a tensor of integers, and one that the file lacks: as without a file, by the seed."""
    tensors = {**base, "9.bias": base["9.bias"].to(torch.int64), "elsewhere": torch.zeros(2)}
    del tensors["7.bias"]
    path = saved(tmp_path / "a.safetensors", tensors)
    module = build(Model(name="lenet5", init=path), SHAPE, 12, 0).state_dict()
    fresh = build(Model(name="lenet5"), SHAPE, 12, 0).state_dict()
    names = {"11.weight", "11.bias", "9.bias", "7.bias"}
    assert all(torch.equal(module[name], (fresh if name in names else base)[name]) for name in module)
    assert blueprint(Model(name="lenet5", init=path), SHAPE, 12, 0).start == (
        f"model.init = {path}: 6 of the model's 10 tensors start from that file; 9.bias, 11.weight, 11.bias, of another "
        "shape or type there, start fresh; 7.bias, which it lacks, start fresh; elsewhere of it are none of the model's"
    )


def test_statistics_are_taken_and_old_files_may_lack_counters(tmp_path):
    base = build(Model(name="resnet20"), SHAPE, 10, 5)
    base(torch.rand(4, *SHAPE))
    tensors = {name: tensor for name, tensor in base.state_dict().items() if "num_batches" not in name}
    found = blueprint(Model(name="resnet20", init=saved(tmp_path / "a.pt", {"state_dict": tensors})), SHAPE, 10, 0)
    start = found.state_dict(found.params, found.buffers)
    assert all(np.array_equal(start[name], tensor.numpy()) for name, tensor in tensors.items())
    assert "fresh" not in found.start


class Runs:
    def __reduce__(self):
        return print, ("this ran",)


BAD = {
    "none.safetensors": "there is no such file on this machine, .*; did you mean nine.safetensors",
    "folder.safetensors": "it is no file",
    "text.safetensors": "cannot be read",
    "text.pt": "cannot be read",
    "code.pt": "cannot be read",
    "number.pt": "holds no tensors by name",
    "others.pt": "nothing that fits the model: it has fc.weight, and the model 10 tensors .0.weight is one.",
    "wide.safetensors": r"nothing that fits the model: .*; 0.weight is \(2, 2\) there",
    "nan.safetensors": "11.bias there has numbers that are not finite",
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_taken_is_one_sentence(name, tmp_path, base, capsys):
    saved(tmp_path / "nine.safetensors", base)
    (tmp_path / "folder.safetensors").mkdir()
    for text in ("text.safetensors", "text.pt"):
        (tmp_path / text).write_text("weights")
    torch.save(Runs(), tmp_path / "code.pt")
    torch.save(3, tmp_path / "number.pt")
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "others.pt")
    save_file({"0.weight": torch.zeros(2, 2)}, tmp_path / "wide.safetensors")
    save_file({**base, "11.bias": torch.full((10,), torch.nan)}, tmp_path / "nan.safetensors")
    with pytest.raises(BadInputError, match=BAD[name]) as error:
        blueprint(Model(name="lenet5", init=str(tmp_path / name)), SHAPE, 10, 0)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_another_file_than_the_one_that_was_asked_for_is_refused(tmp_path, base):
    path = tmp_path / "a.safetensors"
    model = Model(name="lenet5", init=saved(path, base))
    wanted = model.fingerprint()
    assert wanted == f"+{fingerprint(path)}"
    build(model, SHAPE, 10, 0, wanted)
    saved(path, {**base, "11.bias": base["11.bias"] + 1})
    with pytest.raises(BadInputError, match="is not the file that this run began with"):
        build(model, SHAPE, 10, 0, wanted)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "resnet18", "pretrained": True, "init": "a.pt"}, "are two models to start from"),
        ({"init": "weights.npz"}, r"must be a file that ends in one of .safetensors"),
        ({"init": "a.pt", "freeze": "backbone", "trainable": "11.*"}, "both say what is trained"),
        ({"init": "a.pt", "freeze": "backbone", "lora_rank": 2}, "model.lora_rank = 2 both say what is trained"),
        ({"lora_alpha": 2}, "model.lora_alpha is for adapters"),
        ({"lora_layers": "fc"}, "model.lora_layers is for adapters"),
        ({"lora_rank": 2, "lora_layers": ""}, "model.lora_layers is empty"),
        ({"trainable": "a,,b"}, "patterns of names, separated by commas"),
        ({"lr_scale": "11.*"}, "each with a factor"),
        ({"lr_scale": "11.*=-1"}, "each with a factor"),
        ({"lr_scale": "=1"}, "each with a factor"),
        ({"lr_scale": "*=nan"}, "each with a factor"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, said):
    with pytest.raises(BadInputError, match=said):
        compose({"model": {"name": "lenet5", **settings}})


def trained(path, **settings):
    module = build(Model(name="lenet5", init=path, **settings), SHAPE, 10, 0)
    return {name for name, p in module.named_parameters() if p.requires_grad}


def test_what_patterns_name_is_trained_and_no_more(tmp_path, base):
    path = saved(tmp_path / "a.pt", base)
    assert trained(path, trainable="9.*, 11.weight") == {"9.weight", "9.bias", "11.weight"}
    assert trained(path, trainable="*.bias") == {name for name in base if name.endswith("bias")}
    assert trained(path, trainable="*") == set(base)
    assert trained(path, trainable="11.*", lora_rank=2, lora_layers="[39],11") == {
        *("11.weight", "11.bias"), *("3.lora_A", "3.lora_B", "9.lora_A", "9.lora_B"),
    }  # fmt: skip
    with pytest.raises(BadInputError, match="model.trainable: '11.wieght' is the name of no .*did you mean 11.weight"):
        trained(path, trainable="11.wieght")


@pytest.mark.parametrize("freezing", [{"trainable": "7.*"}, {"lora_rank": 2, "trainable": "9.*"}])
def test_a_layer_that_starts_fresh_and_is_frozen_is_refused(tmp_path, base, freezing):
    path = saved(tmp_path / "a.pt", base)
    with pytest.raises(BadInputError, match=r"11.weight, 11.bias would stay random for good: .* name it in model.trai"):
        build(Model(name="lenet5", init=path, **freezing), SHAPE, 12, 0)
    build(Model(name="lenet5", init=path, **{**freezing, "trainable": "11.*"}), SHAPE, 12, 0)
    build(Model(name="lenet5", init=path, freeze="backbone"), SHAPE, 12, 0)


def top(name):
    return name.partition(".")[0]


def head_of(module):
    return top(list(module.state_dict())[-1])


def test_frozen_layers_are_in_evaluation_mode_and_their_statistics_stay(tmp_path):
    base = build(Model(name="resnet20"), SHAPE, 10, 5)
    path, head = saved(tmp_path / "a.pt", base.state_dict()), head_of(base)
    model = Model(name="resnet20", init=path, trainable=f"11.*,{head}.*")
    modes = {name: m.training for name, m in build(model, SHAPE, 10, 0).named_modules() if name}
    assert {top(name) for name, training in modes.items() if not training} == {str(i) for i in range(11)}
    found = blueprint(model, SHAPE, 10, 0)
    assert {top(name) for name in found.places} == {"11", head}
    assert found.buffers.size == 4 * 64  # the means and variances of the last block's two norms


def test_the_last_layer_by_its_name_is_freeze_backbone(tmp_path):
    """The dropout before it is off in both."""
    cnn = build(Model(name="cnn"), SHAPE, 10, 5)
    path = saved(tmp_path / "cnn.pt", cnn.state_dict())
    backbone = build(Model(name="cnn", init=path, freeze="backbone"), SHAPE, 10, 0)
    named = build(Model(name="cnn", init=path, trainable=f"{head_of(cnn)}.*"), SHAPE, 10, 0)
    modes = [[m.training for m in each.children()] for each in (backbone, named)]
    assert modes[0] == modes[1] and modes[0].count(True) == 1
