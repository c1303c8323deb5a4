"""The published data sets in both of their layouts: found where they lie, never one for another."""

import gzip
import pickle
import shutil
import tracemalloc

import numpy as np
import pytest
from making import SHAPES, SPLITS, encoded, idx_bytes, make_examples, write_original, write_published, write_table

from fedray.core.errors import BadInputError
from fedray.data import Data, fingerprint, load, resolve
from fedray.data.published import CIFAR10, FASHION_MNIST, MNIST, PUBLISHED

OTHERS = ("cifar100", "mnist", "fashion_mnist")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.delenv("FEDRAY_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def root(tmp_path):
    """A folder whose name says nothing, as a test's own does."""
    (tmp_path / "x").mkdir()
    return tmp_path / "x"


def read(root, name):
    return load(Data(dataset=name, root=str(root)))


def assert_is(found, name):
    images, labels = make_examples(name)
    assert found.name == name
    assert found.train_images.dtype == np.uint8
    assert found.train_images.flags.c_contiguous
    assert found.train_labels.dtype == found.test_labels.dtype == np.int64
    assert np.array_equal(found.train_images, images[SPLITS["train"]])
    assert np.array_equal(found.train_labels, labels[SPLITS["train"]])
    assert np.array_equal(found.test_images, images[SPLITS["test"]])
    assert np.array_equal(found.test_labels, labels[SPLITS["test"]])
    assert found.validation_images.shape == (0, *SHAPES[name])


@pytest.mark.parametrize("name", OTHERS)
def test_torchvisions_files_are_read_from_the_root_and_from_their_own_folder(root, name):
    folder = write_original(root, name)
    found = read(root, name)
    assert_is(found, name)
    assert found.format == ("pickle" if name == "cifar100" else "idx")
    for place in (folder, folder.parent):
        assert_is(read(place, name), name)
        assert read(place, name).fingerprint == found.fingerprint


@pytest.mark.parametrize("name", ["cifar10", *OTHERS])
def test_parquet_is_read_with_the_columns_of_the_public_data_set(root, name):
    assert_is(read(write_published(root / f"a-{name}", name), name), name)
    assert_is(read(root, name), name)
    assert read(root, name).format == "png"
    part = load(Data(dataset=name, root=str(root), train_examples=5, test_examples=3))
    assert np.array_equal(part.train_images, make_examples(name)[0][:5])
    assert len(part.test_labels) == 3


def test_plain_idx_files_are_as_good_as_gzipped_ones_which_go_first(root):
    zipped = write_original(root, "mnist")
    known = fingerprint(Data(dataset="mnist", root=str(root)))
    write_original(root / "plain", "mnist", zipped=False)
    assert_is(read(root / "plain", "mnist"), "mnist")
    for path in zipped.iterdir():
        path.with_suffix("").write_bytes(b"not looked at")
    assert_is(read(root, "mnist"), "mnist")
    assert fingerprint(Data(dataset="mnist", root=str(root))) == known


def test_each_finds_its_own_where_several_lie_under_one_root(root, write_batches):
    write_batches(root)
    for name in OTHERS:
        write_original(root, name)
    for name in OTHERS:
        assert_is(read(root, name), name)
    assert read(root, "cifar10").train_images.shape == (50, 3, 32, 32)
    shutil.rmtree(root)
    for name in ("cifar10", *OTHERS):
        write_published(root / name, name)
    for name in ("cifar10", *OTHERS):
        assert_is(read(root, name), name)
    assert len({fingerprint(Data(dataset=name, root=str(root))) for name in PUBLISHED}) == 4


@pytest.mark.parametrize(("there", "asked"), [("mnist", "fashion_mnist"), ("fashion_mnist", "mnist")])
def test_the_two_of_equal_shape_are_not_taken_for_each_other(root, there, asked):
    """By the folder's name; where it says nothing, files that lie in it directly are believed, others are not."""
    folder = write_original(root, there)
    for place in (root, folder, folder.parent):
        with pytest.raises(BadInputError, match=f"there is no {PUBLISHED[asked].title} in the folder"):
            read(place, asked)
    named = write_published(root / "others" / there, there)
    for place in (named, named.parent):
        with pytest.raises(BadInputError, match=f"there is no {PUBLISHED[asked].title} in the folder"):
            read(place, asked)
    unnamed = write_published(root / "nameless" / "data", there)
    assert read(unnamed, asked).name == asked
    with pytest.raises(BadInputError, match=r"data.dataset = parquet reads\)"):
        read(unnamed.parent, asked)
    shutil.copytree(folder, root / "raw-files")
    assert read(root / "raw-files", asked).name == asked


def test_names_of_classes_tell_data_sets_apart_but_for_spelling(root):
    """As Hugging Face keeps them; a public CIFAR-100 has "cra" for crab, a public Fashion-MNIST "T - shirt / top"."""
    spelt = ("T - shirt / top", *FASHION_MNIST.classes[1:-1], "Ankle_Boot")
    write_published(root / "data", "fashion_mnist", spelt)
    assert_is(read(root, "fashion_mnist"), "fashion_mnist")
    assert read(root, "fashion_mnist").classes == FASHION_MNIST.classes
    with pytest.raises(BadInputError, match="there is no MNIST"):
        read(root / "data", "mnist")
    crabs = tuple("cra" if name == "crab" else name for name in PUBLISHED["cifar100"].classes)
    assert_is(read(write_published(root / "y", "cifar100", crabs), "cifar100"), "cifar100")
    with pytest.raises(BadInputError, match="there is no CIFAR-10 in"):
        read(write_published(root / "z", "cifar10", tuple("abcdefghij")), "cifar10")
    write_published(root / "digits" / "data", "mnist", MNIST.classes)
    assert_is(read(root / "digits", "mnist"), "mnist")


def test_other_parquet_is_not_taken_for_cifar10_even_by_auto(root):
    folder = write_published(root / "own", "mnist")
    for data in (Data(root=str(folder)), Data(dataset="cifar10", root=str(folder)), Data(root=str(root))):
        with pytest.raises(
            BadInputError, match=r"no CIFAR-10 in the folder .*own are other data, which data.dataset = parquet"
        ):
            fingerprint(resolve(data))
    write_published(root / "cifar100", "cifar100")
    with pytest.raises(BadInputError, match=r"no CIFAR-10 in .*cifar100 is CIFAR-100, data.dataset = cifar100\)"):
        resolve(Data(root=str(root)))
    write_published(root / "third", "cifar10")
    assert resolve(Data(root=str(root))).dataset == "cifar10"
    assert CIFAR10.locate(root) == root / "third"


def test_images_of_another_shape_are_refused_by_file_and_row(root):
    colour = write_published(root / "mnist", "cifar100")
    images, labels = make_examples("cifar100")
    for split, rows in SPLITS.items():
        contents = [image.tobytes() for image in images[rows]]
        write_table(colour / f"{split}-00000-of-00001.parquet", contents, label=labels[rows] % 10)
    with pytest.raises(BadInputError, match=r"train-00000-of-00001.parquet has an image in row 0 that is neither PNG"):
        read(root, "mnist")
    write_published(root / "mnist", "mnist")
    wrong = [encoded(image) for image in make_examples("cifar10")[0][:3]]
    write_table(colour / "test-00000-of-00001.parquet", wrong, label=[0, 1, 2])
    with pytest.raises(BadInputError, match=r"test-0.* has an image in row 0 that is RGB 32 x 32, not L 28 x 28"):
        read(root, "mnist")


GOOD = np.zeros((5, 28, 28), np.uint8)
HEAD = idx_bytes(GOOD)[:16]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "does not begin with the idx header of bytes n x 28 x 28"),
        (HEAD[:10], "does not begin with the idx header"),
        (idx_bytes(GOOD[:, 0]), "does not begin with the idx header"),
        (idx_bytes(np.zeros((5, 32, 32), np.uint8)), "does not begin with the idx header"),
        (b"\1" + idx_bytes(GOOD)[1:], "does not begin with the idx header"),
        (idx_bytes(GOOD)[:-1], "fewer bytes than the 5 examples"),
        (idx_bytes(GOOD) + b"x", "more bytes than the 5 examples"),
        (idx_bytes(GOOD[:0]), "its header says 0 examples"),
        (HEAD[:4] + b"\xff" * 4 + HEAD[8:], "its header says 4,294,967,295 examples, not 1 to 60,000"),
        (idx_bytes(GOOD), "has 5 images, but .* 12 labels"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_an_idx_file_that_is_none_is_refused_by_name(root, content, sentence, zipped):
    folder = write_original(root, "mnist", zipped)
    path = next(folder.glob("train-images*"))
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(BadInputError, match=f"train-images-idx3-ubyte.*{sentence}") as refusal:
        read(root, "mnist")
    assert "\n" not in str(refusal.value)


def test_a_damaged_gzip_and_a_label_of_ten_are_refused_by_name(root):
    folder = write_original(root, "fashion_mnist")
    path = folder / "t10k-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    for content in (whole[:20], b"garbage", whole[:-6] + b"\0" * 6):
        path.write_bytes(content)
        with pytest.raises(BadInputError, match=r"t10k-labels-idx1-ubyte.gz"):
            read(root, "fashion_mnist")
    path.write_bytes(gzip.compress(idx_bytes(np.array([0, 1, 10, 3, 4, 5, 6, 7], np.uint8))))
    with pytest.raises(BadInputError, match=r"t10k-labels-idx1-ubyte.gz has a label outside 0..9 in row 2"):
        read(root, "fashion_mnist")
    path.unlink()
    with pytest.raises(BadInputError, match=r"t10k-labels-idx1-ubyte.gz is missing: .*download fashion_mnist"):
        read(root, "fashion_mnist")


def test_a_gzip_bomb_is_not_inflated_beyond_what_it_says_it_holds(root):
    folder = write_original(root, "mnist")
    bomb = gzip.compress(idx_bytes(GOOD) + bytes(300_000_000), 1)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(bomb)
    tracemalloc.start()
    try:
        with pytest.raises(BadInputError, match="more bytes than the 5 examples"):
            MNIST.original.read(folder, "train")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]}, r"no array b'data' with a list b'fine_labels'"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [0, 100]}, r"a label outside 0..99 in row 1"),
    ],
)
def test_a_cifar100_batch_needs_its_own_labels(root, batch, sentence):
    folder = write_original(root, "cifar100")
    (folder / "test").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(BadInputError, match=sentence):
        read(root, "cifar100")


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_missing_is_one_sentence_with_its_own_remedy(root, name):
    with pytest.raises(BadInputError) as refusal:
        read(root, name)
    sentence = str(refusal.value)
    assert f"there is no {PUBLISHED[name].title} in the folder {root}" in sentence
    assert f"python -m fedray.data.download {name}`" in sentence
    assert "\n" not in sentence


def test_the_constants_are_of_the_right_length():
    for published in PUBLISHED.values():
        assert len(published.classes) == len(set(published.classes)) == published.original.classes
        assert len(published.mean) == len(published.std) == published.shape[0]
    assert PUBLISHED["cifar100"].classes == tuple(sorted(PUBLISHED["cifar100"].classes))
