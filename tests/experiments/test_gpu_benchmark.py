"""experiments/speed/gpu.py: its way without a GPU, a dry run of every part, and what its figures rest on."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from fedray.data.augment import SHIFTS, crop_flip_as_drawn
from fedray.models.build import build
from fedray.models.flat import FlatModel
from fedray.models.model import Model
from fedray.run.prepared import Job
from fedray.server.task import Task
from fedray.training.trainer import Trainer

SPEED = Path(__file__).parents[2] / "experiments/speed"
PARTS = (
    "machine cnn-eager cnn-graph cnn-plain cnn-fused resnet-eager resnet-plain resnet-fused waits roofline cnn-whole "
    "book quickstart bits tests actors conv"
)
PRECISIONS = ("float32", "tf32", "bfloat16")


@pytest.fixture(autouse=True)
def beside_the_program(monkeypatch):
    """Its modules can be imported as it imports them."""
    monkeypatch.syspath_prepend(SPEED)


def play(*words):
    command = [sys.executable, SPEED / "gpu.py", *words]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(SPEED.parent.parent)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=580)


def test_without_a_gpu_it_says_so_and_stops():
    done = play()
    assert (done.returncode, done.stdout, done.stderr) == (0, "no GPU: nothing was measured\n", "")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_dry_run_says_a_line_for_all_that_it_measures(tmp_path):
    done = play("--device", "cpu", "--small", "--out", tmp_path / "figures.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    told = [json.loads(line) for line in (tmp_path / "figures.jsonl").read_text().splitlines()]
    assert done.stdout.splitlines()[:-1] == [f"{each['part']:<14}{each['what']}: {each['text']}" for each in told]
    found = {(each["part"], each["what"]): each for each in told}
    assert not [each for each in told if "failed" in each["text"] or each["what"] == "ended"]
    assert list(dict.fromkeys(part for part, _ in found)) == PARTS.split()
    for part in ("cnn-eager", "cnn-graph", "resnet-eager"):
        assert all(len(found[part, precision]["seconds"]) == 3 for precision in PRECISIONS)
    for part in ("cnn-plain", "resnet-plain"):
        assert found[part, "float32"]["num_examples"] > 0
    for workload in ("cnn", "resnet"):
        for precision in PRECISIONS:
            fused, bound = found[f"{workload}-fused", precision], found["roofline", f"{workload} {precision}"]
            assert fused["times_eager"] > 0 and 0 <= fused["padding"] < 1
            assert "share" in bound if "seconds" in fused else "not known" in bound["text"]
    for part, what in (
        ("cnn-whole", "float32"),
        ("cnn-whole", "tf32"),
        ("book", "fused"),
        ("quickstart", "by default"),
    ):
        assert found[part, what]["became"] == "finished" and found[part, what]["first"] > 0
    assert all(found["bits", precision]["same"] for precision in PRECISIONS)
    assert found["actors", "4 actors"]["became"] == found["actors", "packed plain"]["became"] == "finished"
    assert (found["actors", "4 actors"]["actors"], found["actors", "packed plain"]["actors"]) == (4, 1)
    assert found["actors", "packed fused"]["became"] == "finished"
    assert sum(part == "conv" for part, _ in found) == 15 * 4


def test_a_part_that_fails_or_takes_too_long_costs_its_own_lines_only(tmp_path, capfd):
    import gpu
    from on_gpu.bench import Bench

    file = tmp_path / "figures.jsonl"
    file.write_text("")
    gpu.play_part(Bench("machine", "cpu", True, file), limit=0.2)
    gpu.play_part(Bench("roofline", "cuda", True, tmp_path / "none"), limit=100)  # it has no figures to read
    out, err = capfd.readouterr()
    first, second = out.splitlines()
    assert first == "machine       ended: after its 0 s; what it has not said is not measured"
    assert second.startswith("roofline      ended: with status 1: FileNotFoundError: ") and err == ""


def test_one_line_says_why_a_measurement_failed(tmp_path, capsys):
    from on_gpu.bench import Bench

    from fedray.core.errors import BadInputError, ClientError

    bench = Bench("cnn-fused", "cpu", True, tmp_path / "figures.jsonl")
    with bench.attempt("one"):
        raise BadInputError("it cannot be")
    with bench.attempt("two"):
        raise ClientError("client 1 failed:\nTraceback\n") from torch.OutOfMemoryError("CUDA out of memory\nmore")
    assert capsys.readouterr().out == (
        "cnn-fused     one: refused: it cannot be\ncnn-fused     two: failed: OutOfMemoryError: CUDA out of memory\n"
    )


def test_a_ratio_is_of_the_rounds_that_both_have_played():
    from on_gpu.cohorts import how_often

    assert how_often([1.0, 2.0, 3.0], [10.0, 20.0, 30.0, 1000.0, 1000.0]) == 10.0


def test_the_share_of_padding_is_that_of_the_images_computed():
    from on_gpu.cohorts import share_of_padding

    assert share_of_padding(pd.DataFrame({"images": [10, 20], "padding": [0, 10], "train_loss": 1.0})) == 0.25


def test_flops_and_bytes_of_the_cnn_are_those_counted_by_hand():
    """Twice the multiplications, once forward and twice backward, but for the images' own gradient.

    The first convolution makes 30 x 30 x 32 numbers of 27 products each, the second 28 x 28 x 64 of 288, the layers
    128 of 12,544 and 10 of 128.
    """
    from on_gpu.roofline import count_flops, least_bytes

    from fedray.models.activations import measure_activations

    module = build(Model(name="cnn"), (3, 32, 32), 10, 0)
    first, others = 30 * 30 * 32 * 27, 28 * 28 * 64 * 288 + 128 * 12544 + 10 * 128
    assert count_flops(module, (3, 32, 32)) == 2 * (2 * first + 3 * others) == 99_456_000
    assert next(module.parameters()).device.type == "cpu"
    kept, *_ = measure_activations(FlatModel(module), (3, 32, 32))
    moved = 2500 * (3072 + 2 * kept) + 250 * 16 * 1_626_442
    assert least_bytes(module, (3, 32, 32), 2500, 250, halved=False) == moved
    assert least_bytes(module, (3, 32, 32), 2500, 250, halved=True) == moved - 2500 * kept


def test_the_roofline_is_the_larger_of_two_times(tmp_path, capsys):
    from on_gpu.bench import Bench
    from on_gpu.roofline import tell_bound

    bench = Bench("roofline", "cpu", True, tmp_path / "figures.jsonl")
    tell_bound(bench, "one", flops=2e12, moved=3e9, peak=1e14, bandwidth=1e12, seconds=[0.04, 0.05, 1.0])
    told = bench.told("roofline", "one")
    assert (told["seconds_by_arithmetic"], told["seconds_by_bytes"]) == (0.02, 0.003)
    assert told["share"] == pytest.approx(0.4)
    assert "40.0% of the bound by arithmetic" in capsys.readouterr().out


def test_the_plain_loop_is_the_step_of_fedray():
    """Whole shards as batches, so that their order does not matter, and a model without dropout."""
    from on_gpu.bench import Bench
    from on_gpu.eager import Loop, Shards
    from on_gpu.workloads import settings_of

    job = Job(settings_of("cnn", True, **{"model.name": "logistic", "algorithm.batch_size": 100}), writes=False)
    loop, shards = Loop(Bench("cnn-eager", "cpu", True, Path("none")), job, "float32"), Shards(job, "cpu")
    trainer = Trainer(job.recipe)
    params, buffers = job.vectors
    rows = job.shards[1]
    images, labels = job.dataset.train_images[rows], job.dataset.train_labels[rows]
    message = {"params": params, "buffers": buffers}
    update, _, _ = trainer.train(Task(job.experiment.algorithm, message, 1, 0.1), 1, images, labels, {})
    for _ in range(2):  # each time from the start
        loop.train(*shards.of(1), loop.step)
    after = torch.cat([p.detach().flatten() for p in loop.params]).numpy()
    assert after - params == pytest.approx(update["params"], abs=1e-6)
    assert abs(update["params"]).max() > 1e-3


def test_crop_and_flip_in_the_plain_loop_give_what_fedray_gives():
    from on_gpu.eager import crop_flip

    torch.manual_seed(0)
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    count = 2 * SHIFTS**2
    possible = crop_flip_as_drawn(image.expand(count, -1, -1, -1), torch.arange(count).numpy())
    found = crop_flip(image.expand(2000, -1, -1, -1).contiguous())
    known, drawn = ({each.numpy().tobytes() for each in images} for images in (possible, found))
    assert len(known) == count and drawn <= known
    assert len(drawn) > 0.99 * count  # 2,000 draws leave out one of 162 with probability 4e-6


@pytest.mark.parametrize("settings", [{"is_first": True}, {}, {"kernel": 5, "stride": 2}])
def test_every_form_of_convolution_gives_the_gradients_of_each_client_alone(settings):
    from on_gpu.convolutions import FORMS, Conv, directions

    conv, count = Conv("small", 3, 5, 8, 1, batch=2, **settings), 4
    for precision, forms in FORMS.items():
        for form in forms:
            torch.manual_seed(0)
            calls = directions(form, conv, count, "cpu", precision)
            found = [calls[name]() for name in ("images", "kernels") if name in calls]
            torch.manual_seed(0)
            x = torch.randn(2, count, 3, 8, 8, requires_grad=True)
            w = torch.randn(count, 5, 3, conv.kernel, conv.kernel, requires_grad=True)
            alone = [F.conv2d(x[:, i], w[i], padding=1, stride=conv.stride) for i in range(count)]
            wanted = torch.autograd.grad(torch.stack(alone).sum(), [w] if conv.is_first else [x, w])
            assert len(found) == len(wanted)
            loose = {"rtol": 0.02, "atol": 0.2} if precision == "bfloat16" else {"rtol": 1e-4, "atol": 1e-4}
            for one, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(one.float(), other, **loose)


def test_precision_is_what_it_was_after_a_measurement():
    from on_gpu.bench import float32_as

    places = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [place.fp32_precision for place in places]
    with float32_as("tf32"):
        assert [place.fp32_precision for place in places] == ["tf32", "tf32"]
    with pytest.raises(KeyError), float32_as("float32"):
        assert [place.fp32_precision for place in places] == ["ieee", "ieee"]
        raise KeyError
    assert [place.fp32_precision for place in places] == before


def test_rounds_end_when_patience_does_but_not_before_three_count(monkeypatch, tmp_path):
    from on_gpu import bench

    played = []
    one = bench.Bench("cnn-eager", "cpu", True, tmp_path / "figures.jsonl")
    assert len(one.rounds(played.append, most=6)) == 6 and played == list(range(1, 9))
    monkeypatch.setattr(bench, "PATIENCE", 0.0)
    assert len(one.rounds(played.append, most=6)) == 3
    assert statistics.median(one.clock_often(lambda: None)) < 1e-3
