"""Torch data sets of the user's own: read once into arrays, in any number of threads, with one sentence for a fault."""

import logging
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from fedray.core.errors import BadInputError
from fedray.core.kinds import Kind
from fedray.data import Data, items, load

RNG = np.random.default_rng(4)
PIXELS = RNG.integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)


class Made(Dataset):
    """A data set of n items from a function."""

    def __init__(self, n, make, **attributes):
        self.n, self.make = n, make
        vars(self).update(attributes)

    def __len__(self):
        return self.n

    def __getitem__(self, row):
        return self.make(row)


def pictures(n=12, **attributes):
    return Made(n, lambda row: (Image.fromarray(PIXELS[row]), row % 3), **attributes)


@pytest.fixture
def returning(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own.py").write_text("whole = None\ndef data():\n    return whole\n")

    def make(*whole):
        sys.modules.pop("own", None)
        import own

        own.whole = whole
        return load(Data(dataset="own:data"))

    yield make
    sys.modules.pop("own", None)


def test_pillow_images_are_intensities_and_classes_have_their_names(returning):
    found = returning(pictures(classes=["ant", "bee", "cow"]), pictures(6))
    assert found.kind == Kind()
    assert np.array_equal(found.train_images, PIXELS[:12].transpose(0, 3, 1, 2))
    assert np.array_equal(found.test_images, PIXELS[:6].transpose(0, 3, 1, 2))
    assert found.train_labels.tolist() == [0, 1, 2] * 4
    assert found.classes == ("ant", "bee", "cow")


def test_a_subset_has_the_names_of_what_it_is_a_part_of(returning):
    whole = pictures(classes=("ant", "bee", "cow"))
    found = returning(Subset(Subset(whole, range(9)), [3, 1, 5]), Subset(whole, [0]))
    assert found.classes == ("ant", "bee", "cow")
    assert found.train_labels.tolist() == [0, 1, 2]


def test_the_arrays_of_items_have_the_fingerprint_of_arrays(returning):
    found = returning(pictures(), pictures(6))
    arrays = PIXELS.transpose(0, 3, 1, 2)
    assert returning(arrays[:12], np.arange(12) % 3, arrays[:6], np.arange(6) % 3).fingerprint == found.fingerprint


@pytest.mark.parametrize(
    ("given", "kind", "dtype"),
    [
        (lambda row: (torch.from_numpy(PIXELS[row]).permute(2, 0, 1).div(255), row % 3), Kind("values"), np.float32),
        (lambda row: (PIXELS[row].transpose(2, 0, 1), torch.tensor(row % 3)), Kind(), np.uint8),
        (lambda row: (PIXELS[row].transpose(2, 0, 1), f"class {row % 3}"), Kind(), np.uint8),
        (lambda row: (torch.arange(4) + row, row % 3), Kind("tokens", "classes", 23), np.int64),
        (lambda row: ([0.5 * row, 1.0], 0.25 * row), Kind("values", "values"), np.float32),
        (lambda row: (np.array([row, 2.0]), torch.tensor([row % 2 == 0, True])), Kind("values", "labels"), np.float32),
        (lambda row: (np.array([row, 2.0], np.float16), np.array([row, 0.5])), Kind("values", "values"), np.float32),
    ],
)  # fmt: skip
def test_items_are_of_every_kind(returning, given, kind, dtype):
    found = returning(Made(20, given), Made(6, given))
    assert found.kind == kind
    assert found.train_images.dtype == dtype
    one, target = given(7)
    np.testing.assert_allclose(found.train_images[7], np.asarray(one).astype(dtype))
    if not isinstance(target, str):
        np.testing.assert_allclose(found.train_labels[7].squeeze(), np.asarray(target))
    else:
        assert found.classes[found.train_labels[7]] == target


def test_what_torch_makes_of_tensors_is_read_too(returning):
    x, y = torch.randn(15, 4), torch.randint(0, 2, (15,))
    found = returning(TensorDataset(x[:10], y[:10]), TensorDataset(x[10:], y[10:]))
    assert np.array_equal(found.train_images, x[:10].numpy())
    assert found.test_labels.tolist() == y[10:].tolist()


def test_slow_items_are_read_by_several_threads_to_the_same_arrays_and_progress_is_said(returning, monkeypatch, caplog):
    monkeypatch.setattr(items, "ALONE_SECONDS", 0.0)
    monkeypatch.setattr(items, "SAID_EVERY", 0.0)
    monkeypatch.setattr(items, "TOGETHER", 2)
    monkeypatch.setattr(items, "cores", lambda: 4)
    seen = set()
    everybody = threading.Barrier(3)  # is broken unless three items are read at once

    def make(row):
        if threading.current_thread() is not threading.main_thread() and len(seen) < 3:
            seen.add(threading.get_ident())
            everybody.wait(20)
        return PIXELS[row].transpose(2, 0, 1), row % 3

    said = []
    with items.progress_to(said.append):
        found = returning(Made(20, make), pictures(6))
    assert len(seen) >= 3
    assert np.array_equal(found.train_images, PIXELS.transpose(0, 3, 1, 2))
    assert "data.dataset = own:data: 20 of 20 items of its training set are read" in said
    with caplog.at_level(logging.INFO, logger="fedray"):
        returning(pictures(20), pictures(6))
    assert "20 of 20 items of its training set are read" in caplog.text


def test_fast_items_are_read_in_their_order_by_one_thread(returning):
    rows, threads = [], set()

    def make(row):
        rows.append(row)
        threads.add(threading.get_ident())
        return [float(row)], 0.5

    returning(Made(30, make), Made(4, make))
    assert [row for row in rows[1:] if row is not None][:30] == list(range(30))
    assert threads == {threading.get_ident()}


def failing(row):
    if row == 7:
        raise OSError("the disk is gone")
    return [1.0], row % 2


def odd(value, at=5):
    return lambda row: value if row == at else ([1.0, 2.0], row % 2)


class Stream(IterableDataset):
    def __len__(self):
        return 3

    def __iter__(self):
        yield from [([1.0], 0)] * 3


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        (Made(20, failing), r"item 7 of its training set cannot be read: OSError: the disk is gone, in test_items.py line \d+"),
        (Made(20, odd(([1.0], 1))), r"the input of item 5 of its training set is float32 \[1\], not float32 \[2\] as the first"),
        (Made(20, odd((np.array([1, 2]), 1))), r"the input of item 5 .* is int64 \[2\], not float32 \[2\] as the first"),
        (Made(20, odd(([1.0, 2.0], [1, 0]))), r"the target of item 5 .* is int64 \[2\], not int64 \[\] as the first"),
        (Made(20, odd(([1.0, 2.0], "a"))), "the targets of its training set are text, but int in row 0"),
        (Made(20, odd(([1.0, 2.0],))), r"item 5 of its training set is a tuple of 1, not \(input, target\)"),
        (Made(20, odd({"x": 1})), r"item 5 of its training set is a dict, not \(input, target\)"),
        (Made(20, odd(({1: 2}, 0))), "the input of item 5 of its training set is a dict, not a tensor or an array of numbers, nor a Pillow image"),
        (Made(20, odd(([1.0, 2.0], None))), "the target of item 5 .* is a NoneType, not a tensor or an array of numbers, nor a text"),
        (Made(20, odd(([1.0, float("nan")], 0))), "the inputs of its training set have nan in row 5"),
        (Made(20, odd(([1.0, 2.0], -1))), "the targets of its training set go from -1 to 1"),
        (Made(20, lambda row: (np.random.default_rng().normal(size=3), 0)), "item 0 .* is another one when it is read again, as by a random"),
        (Made(20, lambda row: (Image.fromarray(PIXELS[row][: 4 if row == 3 else 6]), 0)), "item 3 .* is an image 5 x 4, not 5 x 6 as the first$"),
        (Made(20, lambda row: (Image.fromarray(PIXELS[row]).convert("RGB" if row else "L"), 0)), "item 1 .* of Pillow mode RGB, and the training images are grey"),
        (Made(20, lambda row: (Image.fromarray(PIXELS[row, :, :, 0].astype(np.int32)), 0)), "item 0 .* is an image of Pillow mode I, which has more than 8 bits"),
        (Made(0, failing), "no item of its training set is there: it is empty"),
        (Stream(), "its training set, a Stream, is no data set of map style"),
        (DataLoader(pictures()), "its training set, a DataLoader, is no data set of map style"),
        (Made(10**12, odd(None)), r"the 1,000,000,000,000 items of its training set need 8e\+03 GB of memory, and .* GB are free"),
    ],
)  # fmt: skip
def test_a_fault_is_one_sentence_with_its_row(returning, train, sentence):
    with pytest.raises(BadInputError, match=sentence) as refusal:
        returning(train, Made(6, lambda row: ([1.0, 2.0], row % 2)))
    assert "\n" not in str(refusal.value)
    assert "data.dataset = own:data" in str(refusal.value)


def test_a_fault_in_a_thread_is_that_of_the_first_row(returning, monkeypatch):
    monkeypatch.setattr(items, "ALONE_SECONDS", 0.0)

    def make(row):
        if row in (70, 130):
            time.sleep(0.05 * (row == 70))
            raise ValueError(f"row {row}")
        return [1.0], 0

    with pytest.raises(BadInputError, match="item 70 of its training set cannot be read: ValueError: row 70"):
        returning(Made(200, make), Made(6, make))


def test_the_second_sets_images_are_held_to_the_first_ones(returning):
    with pytest.raises(BadInputError, match="item 0 of its test set is an image 5 x 4, not 5 x 6 as the first"):
        returning(pictures(), Made(3, lambda row: (Image.fromarray(PIXELS[row][:4]), 0)))
    grey = Made(3, lambda row: (Image.fromarray(PIXELS[row]).convert("L"), 0))
    assert returning(pictures(), grey).test_images.shape == (3, 3, 6, 5)
