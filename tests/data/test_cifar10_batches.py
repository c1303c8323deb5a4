"""CIFAR-10 as pickles: what is in them comes out, and nothing of them is run."""

import io
import os
import pickle
import pickletools
import tracemalloc

import numpy as np
import pytest

from fedray.core.errors import BadInputError
from fedray.data import Data, load
from fedray.data.batches import CIFAR10

read = CIFAR10.read


def test_what_was_written_is_read(tmp_path, write_batches, examples):
    data = load(Data(dataset="cifar10", root=str(write_batches(tmp_path))))
    images, labels = examples
    assert data.format == "pickle"
    assert data.train_images.dtype == np.uint8
    assert data.train_images.flags.c_contiguous
    assert data.train_labels.dtype == np.int64
    assert np.array_equal(data.train_images, images[:50])
    assert np.array_equal(data.train_labels, labels[:50])
    assert np.array_equal(data.test_images, images[50:])
    assert np.array_equal(data.test_labels, labels[50:])


def test_a_batch_as_python_2_wrote_it_is_read(tmp_path, write_batches):
    """The opcodes of the published files: byte strings of Python 2, which Python 3 never writes."""
    folder = write_batches(tmp_path)
    pixels = bytes(range(256)) * 12 * 2

    def string(text: bytes) -> bytes:
        return b"T" + len(text).to_bytes(4, "little") + text if len(text) > 255 else b"U" + bytes([len(text)]) + text

    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R(K\x03" + string(b"|")
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01K\x02M\x00\x0c\x86" + dtype + b"\x89" + string(pixels) + b"tb"
    batch = b"\x80\x02}(" + string(b"data") + array + state + string(b"labels") + b"](K\x07K\x03eu."
    pickletools.dis(batch, out=io.StringIO())  # it is a well-formed pickle
    (folder / "test_batch").write_bytes(batch)
    images, labels = read(folder, "test")
    assert images.tobytes() == pixels
    assert labels.tolist() == [7, 3]


def test_columns_first_arrays_and_the_old_module_name_are_read(tmp_path, write_batches, examples):
    folder = write_batches(tmp_path)
    flat = np.asfortranarray(examples[0][:10].reshape(10, 3072))
    written = pickle.dumps({b"data": flat, b"labels": [1] * 10}, protocol=2)
    (folder / "test_batch").write_bytes(written.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert np.array_equal(read(folder, "test")[0], examples[0][:10])


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_runs_a_command_is_refused_and_does_not_run(tmp_path, write_batches):
    folder, sign = write_batches(tmp_path), tmp_path / "was-here"
    bomb = pickle.dumps({b"data": Touch(sign), b"labels": []}, protocol=2)
    (folder / "data_batch_3").write_bytes(bomb)
    with pytest.raises(BadInputError, match=r"data_batch_3 .*system.*nothing of it was run"):
        read(folder, "train")
    assert not sign.exists()
    pickle.loads(bomb)
    assert sign.exists()  # the bomb was live


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02r\xff\xff\xff\x7fN.",  # an item for memo number 2**31 - 1
        b"\x80\x02NrN\xff\xff\x7f.",
        b"\x80\x02T\xff\xff\xff\x7f.",  # a string of 2 GB in a file of ten bytes
        b"\x80\x02\x8e\xff\xff\xff\xff\xff\xff\x00\x00.",
        b"\x80\x02cnumpy\nndarray\n\x8a\x06\xff\xff\xff\xff\xff\x00\x85R.",  # numpy.ndarray of 2**40 items
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nN\x8a\x06\xff\xff\xff\xff\xff\x00\x85U\x01b\x87R.",
    ],
)
def test_a_file_cannot_name_more_memory_than_it_has(tmp_path, write_batches, content):
    folder = write_batches(tmp_path)
    (folder / "test_batch").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(BadInputError, match="test_batch is not a CIFAR-10 batch"):
            read(folder, "test")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


GOOD = np.zeros((4, 3072), np.uint8)


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        ({b"data": GOOD, b"labels": [0, 1, 2]}, "4 images but not a list of as many labels"),
        ({b"data": GOOD, b"labels": [0, 1, 2, 10]}, "label outside 0..9 in row 3"),
        ({b"data": GOOD, b"labels": [0, -1, 2, 3]}, "label outside 0..9 in row 1"),
        ({b"data": GOOD, b"labels": [0, True, 2, 3]}, "label outside 0..9 in row 1"),
        ({b"data": GOOD, b"fine_labels": [0, 1, 2, 3]}, "no array b'data' with a list b'labels'"),
        ({b"data": [1, 2], b"labels": [0]}, "no array b'data'"),
        ({b"data": GOOD[:, 1:], b"labels": [0] * 4}, r"images are u1 \[4, 3071\]"),
        ({b"data": GOOD.reshape(4, 3, 32, 32), b"labels": [0] * 4}, "not a matrix"),
        ({b"data": GOOD.astype(np.float32), b"labels": [0] * 4}, r"images are f4 \[4, 3072\]"),
        ({b"data": GOOD[:0], b"labels": []}, r"images are u1 \[0, 3072\]|encodes|asks for"),
        ([1, 2], "no array b'data'"),
    ],
)
def test_a_batch_of_another_shape_is_refused_by_name(tmp_path, write_batches, batch, sentence):
    folder = write_batches(tmp_path)
    (folder / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(BadInputError, match=f"test_batch .*({sentence})"):
        read(folder, "test")


def test_a_truncated_or_scrambled_batch_is_refused_by_name(tmp_path, write_batches):
    folder = write_batches(tmp_path)
    path = folder / "test_batch"
    whole = path.read_bytes()
    for end in (*range(0, 200, 7), len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(BadInputError, match="test_batch is not a CIFAR-10 batch"):
            read(folder, "test")
    rng = np.random.default_rng(0)
    for _ in range(300):
        scrambled = bytearray(whole)
        scrambled[rng.integers(0, 300)] = rng.integers(0, 256)
        path.write_bytes(scrambled)
        try:
            images, labels = read(folder, "test")  # the change may be in a name that nobody reads, or in a label
            assert images.shape == (10, 3, 32, 32)
            assert labels.shape == (10,)
        except BadInputError as refusal:
            assert "test_batch" in str(refusal)
            assert "\n" not in str(refusal)


def test_a_missing_batch_is_named(tmp_path, write_batches):
    folder = write_batches(tmp_path)
    (folder / "data_batch_4").unlink()
    with pytest.raises(BadInputError, match="data_batch_4 is missing"):
        load(Data(dataset="cifar10", root=str(tmp_path)))
