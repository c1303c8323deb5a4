"""Runs that start from a file, train a part of the network, or adapters beside it."""

import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import assert_same_tables, small, stopped_after

from fedray.cli.console import describe_network
from fedray.cli.dry_run import plan_of
from fedray.core.errors import BadInputError
from fedray.models.build import build
from fedray.models.model import Model
from fedray.results import merged_model
from fedray.run import run
from fedray.run.prepared import Job
from fedray.run.watch import Watch

HEAD = 11  # lenet5's last layer, of 84 x 10 weights and 10 biases
LOW = {"0": (3 * 25, 6), "3": (6 * 25, 16), "7": (400, 120), "9": (120, 84), "11": (84, 10)}
"""lenet5's layers: what each reads at a place, and what it gives."""


class Noting(Watch):
    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The model that a run of lenet5 saved."""
    path = tmp_path_factory.mktemp("base")
    job = Job(small(path, model__name="lenet5", rounds=2, seed=7))
    run(job.experiment)
    return job.model


def of(root, base, seed=0, rounds=2, engine="plain", algorithm=None, **model):
    """A run of lenet5 from that model."""
    model = {"name": "lenet5", "init": str(base), **model}
    given = {"algorithm": {"lr": 0.02, "batch_size": 10, **(algorithm or {})}}
    return small(root, model=model, rounds=rounds, seed=seed, engine=engine, **given)


def saved(experiment, watch=None):
    """The tables of a run, and its final model."""
    return run(experiment, watch), load_file(Job(experiment).model)


def test_adapters_alone_are_trained_and_sent_and_the_rest_never_changes(tmp_path, base):
    """r (in + out) numbers for each layer, four bytes each, down and up, for each of three clients."""
    watch = Noting()
    experiment = of(tmp_path, base, lora_rank=2, lora_alpha=4, algorithm={"lr": 0.3})
    tables, model = saved(experiment, watch)
    number = sum(2 * (read + out) for read, out in LOW.values())
    assert tables.runs["num_params"].item() == number
    assert tables.rounds[["bytes_down", "bytes_up"]].to_numpy().tolist() == [[3 * 4 * number] * 2] * 2
    before = load_file(base)
    assert all(torch.equal(model[name], tensor) for name, tensor in before.items())
    assert {name for name in model if name not in before} == {f"{n}.lora_{x}" for n in LOW for x in "AB"}
    assert all(model[f"{name}.lora_B"].any() for name in LOW)
    assert f"model.init = {base}: 10 of the model's 10 tensors start from that file" in watch.notices
    assert f"{number:,} parameters (all others are frozen)" in describe_network(Job(experiment))
    # The merged model is the same network: alpha / r is 2.
    merged = merged_model(Job(experiment).model)
    plain = build(Model(name="lenet5"), (3, 32, 32), 10, 0)
    plain.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in merged.items()})
    own = build(experiment.model, (3, 32, 32), 10, 0)
    own.load_state_dict(model)
    x = torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(plain(x), own(x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain(x), build(Model(name="lenet5", init=str(base)), (3, 32, 32), 10, 0)(x), atol=1e-3)
    # Another run goes on from the adapters.
    again = build(Model(name="lenet5", init=str(Job(experiment).model), lora_rank=2), (3, 32, 32), 10, 1)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.items())


def test_merging_what_is_no_saved_model_is_one_sentence(tmp_path, base):
    assert merged_model(base).keys() == load_file(base).keys()
    (tmp_path / "text").write_text("no model")
    for name, said in (("none", "there is no model"), ("text", "is no model that a run saved")):
        with pytest.raises(BadInputError, match=said):
            merged_model(tmp_path / name)


@pytest.mark.parametrize("model", [{"lora_rank": 2}, {"trainable": "9.*,11.*"}, {"lora_rank": 3, "trainable": "11.*"}])
def test_both_engines_train_a_part_alike(tmp_path, base, model):
    algorithm = {"momentum": 0.5, "name": "scaffold"}
    (_, one), (_, other) = (
        saved(of(tmp_path / engine, base, engine=engine, algorithm=algorithm, **model)) for engine in ("plain", "fused")
    )
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=2e-3, atol=2e-4)
    moved = [name for name, tensor in load_file(base).items() if not torch.equal(one[name], tensor)]
    assert moved == sorted(f"{n}.{x}" for n in model.get("trainable", "").replace(".*", "").split(",") if n for x in ("bias", "weight"))  # fmt: skip


@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_the_last_layer_by_name_is_freeze_backbone_and_all_is_the_base_to_the_bit(tmp_path, base, engine):
    def bits(number, **model):
        return saved(of(tmp_path / str(number), base, engine=engine, **model))[0].runs["model_fingerprint"].item()

    assert bits(0, trainable=f"{HEAD}.*") == bits(1, freeze="backbone")
    assert bits(2, trainable="*") == bits(3) == bits(4, lr_scale="0.*=1,*=1") != bits(5, lr_scale="0.*=0")


def test_a_written_out_network_goes_through_its_layers_where_a_part_trains(tmp_path):
    """mlp is written out otherwise: the fused engine is its own program, which knows weights and biases alone."""
    first = small(tmp_path, model={"name": "mlp"}, rounds=1, seed=7)
    run(first)
    path = str(Job(first).model)
    for number, model in enumerate(({"lora_rank": 2}, {"freeze": "backbone"}, {"trainable": "1.*"})):
        given = {"model": {"name": "mlp", "init": path, **model}, "rounds": 1, "cohort": 4}
        one, other = (saved(small(tmp_path / f"{number}{e}", engine=e, **given))[1] for e in ("plain", "fused"))
        for name, tensor in one.items():
            torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=1e-4)
        assert small(tmp_path, **given).chosen_engine == "plain"


def test_a_run_is_known_by_the_files_content_and_not_by_its_place(tmp_path, base):
    first = Job(of(tmp_path, base, trainable="11.*"))
    shutil.copy(base, tmp_path / "moved.safetensors")
    assert Job(of(tmp_path, tmp_path / "moved.safetensors", trainable="11.*")).run == first.run
    tensors = load_file(base)
    torch.save(tensors | {"0.bias": tensors["0.bias"] + 1}, tmp_path / "other.pt")
    others = {Job(of(tmp_path, path, trainable="11.*")).run for path in (base, tmp_path / "other.pt")}
    assert len(others) == 2
    without = {Job(small(tmp_path, model={"name": "lenet5"})).run, Job(of(tmp_path, base)).run, first.run}
    assert len(without) == 3


def test_a_run_goes_on_with_the_file_elsewhere_and_to_the_same_bits(tmp_path, base):
    model = {"name": "lenet5", "init": str(base), "lora_rank": 2, "trainable": "11.*", "lr_scale": "*.lora_A=0.5"}
    stopped_after(tmp_path / "stopped", 3, model=model)
    os.renames(base.with_suffix(".safetensors"), tmp_path / "moved" / "m.safetensors")
    try:
        moved = {**model, "init": str(tmp_path / "moved" / "m.safetensors")}
        watch = Noting()
        going_on = run(small(tmp_path / "stopped", model=moved), watch)
        assert any("continuing run" in said and "after round" in said for said in watch.notices)
        whole = run(small(tmp_path / "whole", model=moved))
    finally:
        os.renames(tmp_path / "moved" / "m.safetensors", base)
    one, other = (tables.runs["model_fingerprint"].item() for tables in (going_on, whole))
    assert one == other
    assert_same_tables(going_on, whole)


def test_another_file_at_the_place_is_another_run_and_refused_by_the_one_that_began(tmp_path, base):
    path = tmp_path / "mine.pt"
    torch.save(load_file(base), path)
    late = Job(of(tmp_path, path))
    torch.save({name: tensor + 1 for name, tensor in load_file(base).items()}, path)
    with pytest.raises(BadInputError, match="mine.pt is not the file that this run began with"):
        late.blueprint  # noqa: B018  it is made by asking for it
    path.unlink()
    with pytest.raises(BadInputError, match="there is no such file on this machine"):
        Job(of(tmp_path, path))
    assert not (tmp_path / "small").exists()


def test_an_edited_file_is_said(tmp_path, base):
    path = tmp_path / "mine.pt"
    torch.save(load_file(base), path)
    run(of(tmp_path, path, rounds=1))
    torch.save({name: tensor * 2 for name, tensor in load_file(base).items()}, path)
    watch = Noting()
    run(of(tmp_path, path, rounds=1), watch)
    assert any("mine.pt was edited since run" in said for said in watch.notices), watch.notices


OWN = """
from torch import nn

def net(shape, classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, classes))
"""


def test_a_network_of_ones_own_is_adapted_and_its_norms_stay_frozen(tmp_path, monkeypatch):
    (tmp_path / "adapted_net.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    model = {"name": "adapted_net:net", "lora_rank": 2, "trainable": "4.*"}
    for engine in ("plain", "fused"):
        experiment = small(tmp_path / engine, model=model, rounds=2, engine=engine, cohort=4)
        tables, found = saved(experiment)
        assert tables.runs[["num_params", "num_buffers"]].to_numpy().tolist() == [[2 * (27 + 4) + 2570, 0]]
        assert torch.equal(found["1.running_mean"], torch.zeros(4)) and "0.lora_A" in found
    with pytest.raises(BadInputError, match=r"algorithm.norms = local: .* keeps BatchNorm layers at the clients"):
        run(small(tmp_path, model=model, algorithm__norms="local"))


def test_what_a_part_cannot_be_combined_with_is_refused_by_name(tmp_path, base):
    for model, said in (
        ({"lora_rank": 2}, "model.lora_rank = 2 would leave lenet5 random features for good"),
        ({"trainable": "11.*"}, "model.trainable = '11.*' would leave lenet5 random features for good"),
    ):
        with pytest.raises(BadInputError, match=said.replace("*", r"\*")):
            small(tmp_path, model={"name": "lenet5", **model})
    small(tmp_path, model={"name": "lenet5", "trainable": "*"})
    for model in ({"trainable": "11.*"}, {"lora_rank": 2, "lora_layers": "11"}):
        with pytest.raises(BadInputError, match="moon compares .* nothing before that layer, 11, is trained"):
            run(of(tmp_path, base, algorithm={"name": "moon"}, **model))
    with pytest.raises(BadInputError, match="lr_scale: '0.weight' is the name of no parameter that is trained"):
        run(of(tmp_path, base, trainable="11.*", lr_scale="0.weight=0.1"))
    with pytest.raises(BadInputError, match="lora_layers: 'fc' is the name of no Linear or Conv2d layer"):
        run(of(tmp_path, base, lora_rank=2, lora_layers="fc"))
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("algorithm", ["moon", "ditto", "fedper", "local", "finetune", "feddyn"])
def test_algorithms_train_adapters(tmp_path, base, algorithm):
    experiment = of(tmp_path, base, rounds=2, lora_rank=2, algorithm={"name": algorithm})
    tables, model = saved(experiment)
    assert tables.runs["status"].item() == "finished"
    assert all(torch.equal(model[name], tensor) for name, tensor in load_file(base).items())
    if algorithm == "fedper":  # the adapter of the last layer stays at the clients
        number = sum(2 * (read + out) for name, (read, out) in LOW.items() if name != "11")
        assert tables.rounds["bytes_up"].tolist() == [3 * 4 * number] * 2


def test_a_dry_run_says_what_is_taken(tmp_path, base):
    said = dict(plan_of(Job(of(tmp_path, base, lora_rank=2)), fresh=False))
    assert said["note"].startswith(f"model.init = {base}: 10 of the model's 10 tensors")
    number = sum(2 * (read + out) for read, out in LOW.values())
    assert f"{3 * 4 * number / 1e6:,.3g} MB up a round" in said["traffic"]


def test_the_first_step_of_an_adapter_by_hand(tmp_path):
    """B = 0, so that A has no gradient, and B's is alpha / r times the weight's gradient times A^T."""
    logistic = small(tmp_path, model={"name": "logistic"}, rounds=1, seed=7)
    run(logistic)
    init = {"name": "logistic", "init": str(Job(logistic).model)}
    fedsgd = {"algorithm": {"name": "fedsgd", "lr": 0.1}, "rounds": 1}
    whole = saved(small(tmp_path / "whole", model={**init, "trainable": "1.weight"}, **fedsgd))[1]
    low = saved(small(tmp_path / "low", model={**init, "lora_rank": 3, "lora_alpha": 6}, **fedsgd))[1]
    step = (whole["1.weight"] - load_file(init["init"])["1.weight"]).double()  # -lr times the weight's gradient
    wanted = 2 * step @ low["1.lora_A"].double().T
    np.testing.assert_allclose(low["1.lora_B"], wanted, rtol=1e-3, atol=1e-6)
    fresh = build(Model(**init, lora_rank=3), (3, 32, 32), 10, 0).state_dict()
    assert torch.equal(low["1.lora_A"], fresh["1.lora_A"])
