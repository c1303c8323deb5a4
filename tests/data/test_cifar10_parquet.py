"""CIFAR-10 as Parquet: every place it may lie in, both encodings, and every way it can be broken."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedray.core.errors import BadInputError
from fedray.data import Data, load, resolve
from fedray.data.published import CIFAR10

read, locate = CIFAR10.read_split, CIFAR10.locate


def test_png_comes_back_exactly_from_all_files_in_order(tmp_path, write_shards, examples):
    data = load(Data(dataset="cifar10", root=str(write_shards(tmp_path))))
    images, labels = examples
    assert data.format == "png"
    assert data.train_images.flags.c_contiguous
    assert np.array_equal(data.train_images, images[:50])
    assert np.array_equal(data.train_labels, labels[:50])
    assert np.array_equal(data.test_images, images[50:])


@pytest.mark.parametrize("count", [1, 29, 30, 31, 50])
def test_a_prefix_may_end_in_any_file(tmp_path, write_shards, examples, count):
    images, labels, _ = read(write_shards(tmp_path), "train", count)
    assert np.array_equal(images, examples[0][:count])
    assert np.array_equal(labels, examples[1][:count])


def test_jpeg_is_told_from_the_bytes(tmp_path, write_shards):
    assert load(Data(dataset="cifar10", root=str(write_shards(tmp_path, "JPEG")))).format == "jpeg"


def test_more_rows_than_a_batch_keep_their_order(tmp_path, encode, write_parquet):
    colours = [np.full((3, 32, 32), i % 256, np.uint8) for i in range(2500)]
    labels = [i % 10 for i in range(2500)]
    write_parquet(tmp_path / "train-0.parquet", [encode(colour) for colour in colours], labels)
    images, found, _ = read(tmp_path, "train")
    assert np.array_equal(images, np.stack(colours))
    assert found.tolist() == labels


def test_the_files_may_lie_one_folder_down_beside_other_data(tmp_path, write_shards, write_batches, write_parquet):
    write_parquet(tmp_path / "a-mnist" / "train-0.parquet", [b""], [0], column="image")
    assert locate(tmp_path) is None
    with pytest.raises(BadInputError, match=r"there is no CIFAR-10 in .*a-mnist is MNIST, data.dataset = mnist\);"):
        resolve(Data(root=str(tmp_path)))
    folder = write_shards(tmp_path / "plain_text")
    assert locate(tmp_path) == locate(folder) == folder
    write_shards(tmp_path / "another")
    assert locate(tmp_path) == folder
    assert locate(write_batches(tmp_path)) == locate(tmp_path) == tmp_path / "cifar-10-batches-py"


def rewrite(path: Path, encode, write_parquet, row: int, content=None, label=None) -> None:
    table = pq.read_table(path).to_pylist()
    contents, labels = [line["img"]["bytes"] for line in table], [line["label"] for line in table]
    contents[row] = contents[row] if content is None else content
    labels[row] = labels[row] if label is None else label
    write_parquet(path, contents, labels)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"label": 10}, "label 10 in row 7"),
        ({"label": -1}, "label -1 in row 7"),
        ({"content": b"not an image"}, "image in row 7 that is neither PNG nor JPEG"),
        ({"content": b"\x89PNG\r\n\x1a\n"}, "image in row 7 that cannot be decoded"),
        ({"content": "small"}, "image in row 7 that is RGB 16 x 32, not RGB 32 x 32"),
        ({"content": "huge"}, "image in row 7 that is RGB 4000 x 4000"),
        ({"content": "grey"}, "image in row 7 that is L 32 x 32"),
        ({"content": "cut"}, "image in row 7 that cannot be decoded"),
    ],
)
def test_a_wrong_row_is_refused_by_file_and_number(tmp_path, write_shards, encode, write_parquet, wrong, sentence):
    path = write_shards(tmp_path) / "train-00001-of-00002.parquet"
    noise = np.random.default_rng(1).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    made = {
        "small": encode(noise, size=(16, 32)),
        "huge": encode(noise * 0, size=(4000, 4000)) if wrong == {"content": "huge"} else b"",
        "grey": encode(noise, mode="L"),
        "cut": encode(noise)[:800],
    }
    if "content" in wrong:
        wrong = {"content": made.get(wrong["content"], wrong["content"])}
    rewrite(path, encode, write_parquet, 7, **wrong)
    with pytest.raises(BadInputError, match=f"00001-of-00002.parquet has (the|an) {sentence}"):
        load(Data(dataset="cifar10", root=str(tmp_path)))


def test_other_columns_and_missing_values_are_refused(tmp_path, write_parquet, encode):
    path = write_parquet(tmp_path / "train-0.parquet", [b""], [0], column="image")
    with pytest.raises(BadInputError, match=r"train-0.parquet is not CIFAR-10.*has image, label"):
        read(tmp_path, "train")
    pq.write_table(pa.table({"img": [1], "label": [0]}), path)
    with pytest.raises(BadInputError, match=r"train-0.parquet is not CIFAR-10"):
        read(tmp_path, "train")
    image = encode(np.zeros((3, 32, 32), np.uint8))
    for contents, labels in (([image, None], [0, 1]), ([image, image], [0, None])):
        write_parquet(path, contents, labels)
        with pytest.raises(BadInputError, match=r"train-0.parquet has a row without (img|label)"):
            read(tmp_path, "train")
    write_parquet(path, [], [])
    with pytest.raises(BadInputError, match="no train examples"):
        read(tmp_path, "train")
    write_parquet(path, [b"GIF89a"], [0])
    with pytest.raises(BadInputError, match="neither PNG nor JPEG"):
        read(tmp_path, "train")


def test_damaged_files_are_refused_by_name(tmp_path, write_shards):
    path = write_shards(tmp_path) / "test-00000-of-00001.parquet"
    whole = path.read_bytes()
    for content in (b"", b"garbage", whole[:-100], whole[: len(whole) // 2], whole[:4] + os.urandom(500) + whole[-8:]):
        path.write_bytes(content)
        with pytest.raises(BadInputError, match=r"test-00000-of-00001.parquet cannot be read as Parquet") as refusal:
            load(Data(dataset="cifar10", root=str(tmp_path)))
        assert "\n" not in str(refusal.value)


def test_a_missing_file_of_a_split_is_noticed(tmp_path, write_shards):
    folder = write_shards(tmp_path)
    (folder / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(BadInputError, match="has 1 of the 2 files"):
        load(Data(dataset="cifar10", root=str(tmp_path)))
    (folder / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(BadInputError, match=r"has no test\*\.parquet"):
        read(folder, "test")


def test_the_real_cifar10():
    root = os.environ.get("FEDRAY_DATA", "")
    if not root or not locate(Path(root)):
        pytest.skip("FEDRAY_DATA names no folder with CIFAR-10")
    data = load(Data(dataset="cifar10", root=root, train_examples=10_000, test_examples=1000))
    assert data.train_images.shape == (10_000, 3, 32, 32)
    assert data.test_images.shape == (1000, 3, 32, 32)
    assert data.classes == CIFAR10.classes
    files = [*locate(Path(root)).rglob("*.parquet")]
    for split, each in (("train", 5000), ("test", 1000)):
        labels = np.concatenate([pq.read_table(path)["label"] for path in files if split in path.name])
        assert np.bincount(labels).tolist() == [each] * 10
    scaled = data.train_images / 255
    assert np.allclose(scaled.mean((0, 2, 3)), data.mean, atol=0.01)
    assert np.allclose(scaled.std((0, 2, 3)), data.std, atol=0.01)
