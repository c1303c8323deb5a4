"""Which data set is taken, from where, and what its fingerprint says."""

import dataclasses
import time

import numpy as np
import pytest
from making import write_original
from pydantic import ValidationError

from fedray.core.errors import BadInputError
from fedray.data import Data, fingerprint, load, resolve


@pytest.fixture(autouse=True)
def no_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("FEDRAY_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def test_auto_is_cifar10_where_it_is_on_disk_and_synthetic_elsewhere(tmp_path, write_batches):
    assert resolve(Data()).dataset == "synthetic"
    write_batches(tmp_path / "data")
    assert resolve(Data()).dataset == "cifar10"
    assert resolve(Data(dataset="synthetic")).dataset == "synthetic"


def test_the_environment_names_the_folder_and_the_setting_goes_before_it(tmp_path, write_batches, monkeypatch):
    write_batches(tmp_path / "there")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("FEDRAY_DATA", str(tmp_path / "there"))
    assert resolve(Data()).dataset == "cifar10"
    assert resolve(Data(root=str(tmp_path / "empty"))).dataset == "synthetic"


def test_a_folder_that_was_named_must_exist_even_under_auto(monkeypatch):
    with pytest.raises(BadInputError, match=r"nowhere that data\.root names does not exist"):
        resolve(Data(root="nowhere"))
    monkeypatch.setenv("FEDRAY_DATA", "nowhere")
    with pytest.raises(BadInputError, match="nowhere that FEDRAY_DATA names does not exist"):
        resolve(Data())


def test_auto_takes_nothing_else_than_a_named_folder_has(tmp_path, write_parquet, monkeypatch):
    """Of other data only it says what it is; data/, which nobody named, may hold any."""
    write_original(tmp_path / "data", "fashion_mnist")
    assert resolve(Data()).dataset == "synthetic"
    there = "FashionMNIST/raw is Fashion-MNIST, data.dataset = fashion_mnist"
    with pytest.raises(BadInputError, match=f"no CIFAR-10 in the folder data .*{there}.*--data.dataset synthetic$"):
        resolve(Data(root="data"))
    monkeypatch.setenv("FEDRAY_DATA", "data")
    with pytest.raises(BadInputError, match=there):
        resolve(Data())
    write_parquet(tmp_path / "mine" / "birds" / "train-0.parquet", [b""], [0], "picture")
    with pytest.raises(
        BadInputError, match=r"Parquet files in mine/birds are other data, which data.dataset = parquet reads"
    ):
        resolve(Data(root="mine"))


@pytest.mark.parametrize("augment", ["cutout", "crop-flip-cutout"])
def test_cutout_must_leave_something_of_an_image(augment):
    with pytest.raises(BadInputError, match="data.cutout = 32 can blank whole images, which have 32 x 32 pixels"):
        load(Data(dataset="synthetic", train_examples=10, test_examples=1, augment=augment, cutout=32))
    load(Data(dataset="synthetic", train_examples=10, test_examples=1, augment=augment, cutout=31))
    with pytest.raises(
        ValueError, match="data.cutout = 31 is for data.augment = cutout and crop-flip-cutout, not none"
    ):
        Data(cutout=31)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "cifar11",
            "data.dataset = 'cifar11' is neither one of auto, cifar10, .* nor hf:NAME nor package.module:function; did you mean cifar10?",
        ),
        ("fashion-mnist", "did you mean fashion_mnist?"),
        ("CIFAR10", "is neither one of"),
        ("", "data.dataset = '' is neither"),
        ("a b:c", "is neither"),
        ("module:", "is neither"),
        (":function", "is neither"),
        ("a:b:c", "is neither"),
        ("a..b:c", "is neither"),
    ],
)
def test_a_data_set_that_there_is_not_is_refused_with_the_nearest_name(name, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Data(dataset=name)


def test_missing_cifar10_is_one_sentence_with_both_remedies():
    with pytest.raises(BadInputError) as refusal:
        load(Data(dataset="cifar10"))
    sentence = str(refusal.value)
    assert "folder data:" in sentence
    assert "make data" in sentence
    assert "--data.dataset synthetic" in sentence
    assert "\n" not in sentence


def test_a_prefix_of_the_examples_is_taken_and_too_many_are_refused(tmp_path, write_batches):
    write_batches(tmp_path / "data")
    whole = load(Data(dataset="cifar10"))
    for count in (1, 10, 13, 50):
        part = load(Data(dataset="cifar10", train_examples=count, test_examples=3))
        assert np.array_equal(part.train_images, whole.train_images[:count])
        assert np.array_equal(part.test_labels, whole.test_labels[:3])
        assert part.fingerprint == whole.fingerprint
    with pytest.raises(BadInputError, match="train_examples is 51, but there are only 50"):
        load(Data(dataset="cifar10", train_examples=51))
    with pytest.raises(BadInputError, match="test_examples is 10001, but there are only 10000"):
        load(Data(dataset="synthetic", test_examples=10_001))
    with pytest.raises(ValidationError):
        Data(train_examples=-1)


def test_the_fingerprint_is_of_the_content_not_of_the_place(tmp_path, write_batches):
    here, there = (write_batches(tmp_path / name) for name in ("here", "there"))
    first = Data(dataset="cifar10", root=str(here))
    second = Data(dataset="cifar10", root=str(there.parent))
    assert fingerprint(first) == fingerprint(second) == load(second).fingerprint
    content = bytearray((there / "test_batch").read_bytes())
    content[-500] ^= 1
    (there / "test_batch").write_bytes(content)
    assert fingerprint(first) != fingerprint(second)


def test_synthetic_needs_no_folder_and_is_told_apart():
    data = load(Data(dataset="synthetic", root="nowhere", train_examples=20, test_examples=10))
    assert (data.name, data.format) == ("synthetic", "generated")
    assert data.fingerprint == fingerprint(Data(dataset="synthetic"))
    assert len(data.classes) == 10
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "cifar10"


def test_a_fingerprint_of_180_megabytes_takes_a_moment(tmp_path, write_batches):
    folder = write_batches(tmp_path / "data")
    for path in folder.iterdir():
        with path.open("ab") as file:
            file.truncate(30_000_000)
    start = time.perf_counter()
    fingerprint(Data(dataset="cifar10"))
    assert time.perf_counter() - start < 3  # half a second on an idle machine


def test_a_validation_split_is_held_out_of_the_training_images_the_same_for_every_run():
    """Every example of the training split is in exactly one of the two, in its old order."""
    whole = load(Data(dataset="synthetic", train_examples=300, test_examples=10))
    held = load(Data(dataset="synthetic", train_examples=300, test_examples=10, validation_examples=60))
    again = load(Data(dataset="synthetic", train_examples=300, test_examples=10, validation_examples=60))
    place = {image.tobytes(): row for row, image in enumerate(whole.train_images)}
    trained, kept = ([place[image.tobytes()] for image in part] for part in (held.train_images, held.validation_images))
    assert len(kept) == 60
    assert sorted(trained + kept) == list(range(300))
    assert trained == sorted(trained) and kept == sorted(kept)
    assert kept != list(range(240, 300))
    np.testing.assert_array_equal(held.validation_labels, whole.train_labels[kept])
    np.testing.assert_array_equal(held.train_labels, whole.train_labels[trained])
    np.testing.assert_array_equal(held.validation_images, again.validation_images)


def test_a_validation_split_that_leaves_nothing_to_train_on_is_refused():
    with pytest.raises(BadInputError, match="data.validation_examples is 300, which leaves none of the 300"):
        load(Data(dataset="synthetic", train_examples=300, test_examples=10, validation_examples=300))
