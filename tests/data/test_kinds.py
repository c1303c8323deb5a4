"""Data that are no images, and targets that are no classes: what arrays are taken for, and what is refused."""

import math
import sys

import numpy as np
import pytest
import torch

from fedray.core.errors import BadInputError
from fedray.core.kinds import Kind
from fedray.data import Data, fingerprint, load
from fedray.data.dataset import measure_values
from fedray.data.strata import Strata, by_quantile, by_rarest

RNG = np.random.default_rng(5)
VALUES, TEST_VALUES = RNG.normal(3, 2, (12, 4)).astype(np.float32), RNG.normal(3, 2, (6, 4)).astype(np.float32)
TOKENS, TEST_TOKENS = RNG.integers(0, 9, (12, 5)), RNG.integers(0, 7, (6, 5))
TOKENS[0, 0] = 8
IMAGES, TEST_IMAGES = (RNG.integers(0, 256, (n, 1, 3, 3), dtype=np.uint8) for n in (12, 6))
CLASSES, TEST_CLASSES = np.arange(12) % 3, np.arange(6) % 3
LABELS, TEST_LABELS = (RNG.integers(0, 2, (n, 3)).astype(bool) for n in (12, 6))
REAL, TEST_REAL = RNG.normal(size=12), RNG.normal(size=6)
TABLE = (VALUES, CLASSES, TEST_VALUES, TEST_CLASSES)
TEXT = {"train_inputs": TOKENS, "train_targets": CLASSES, "test_inputs": TEST_TOKENS, "test_targets": TEST_CLASSES}


def named(train, answers, test, test_answers, **more):
    return {"train_inputs": train, "train_targets": answers, "test_inputs": test, "test_targets": test_answers, **more}


@pytest.fixture
def returning(tmp_path, monkeypatch):
    """Makes `own:data` return something."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own.py").write_text("whole = None\ndef data():\n    return whole\n")

    def make(whole):
        sys.modules.pop("own", None)
        import own

        own.whole = whole

    yield make
    sys.modules.pop("own", None)


def read(**settings):
    return load(Data(dataset="own:data", **settings))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", torch.float64])
@pytest.mark.parametrize("shape", [(4,), (2, 2), (1, 2, 2)])
def test_floats_are_values_in_float32(returning, dtype, shape):
    arrays = [each.reshape(-1, *shape) for each in (VALUES, TEST_VALUES)]
    given = [torch.from_numpy(each).to(dtype) if dtype is torch.float64 else each.astype(dtype) for each in arrays]
    returning((given[0], CLASSES, given[1], TEST_CLASSES))
    found = read()
    assert found.kind == Kind("values", "classes")
    assert (found.train_images.dtype, found.train_images.shape) == (np.float32, (12, *shape))
    rough = 2e-3 if dtype is np.float16 else 0
    np.testing.assert_allclose(found.train_images, arrays[0], rtol=rough)
    np.testing.assert_allclose(found.test_images, arrays[1], rtol=rough)
    assert len(found.mean) == len(found.std) == shape[0]
    assert found.note == f"{' x '.join(map(str, shape))} values, 3 classes"
    assert found.unit == "examples"


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint16, np.int64])
def test_integers_n_by_length_are_token_ids(returning, dtype):
    returning((TOKENS.astype(dtype), CLASSES, TEST_TOKENS.astype(dtype), TEST_CLASSES))
    found = read()
    assert found.kind == Kind("tokens", "classes", vocabulary=9, padding=None)
    assert (found.train_images.dtype, found.mean, found.std) == (np.int64, (), ())
    assert np.array_equal(found.train_images, TOKENS)
    assert found.note == "5 tokens of 9, 3 classes"


def test_a_mapping_says_what_the_tokens_are(returning):
    returning({**TEXT, "vocabulary": 5000, "padding": 0})
    assert read().kind == Kind("tokens", "classes", vocabulary=5000, padding=0)
    assert read().note == "5 tokens of 5,000, padded with 0, 3 classes"
    returning({**TEXT, "padding": 11})
    assert read().kind == Kind("tokens", "classes", vocabulary=12, padding=11)
    small = {name: array.astype(np.uint8) if "inputs" in name else array for name, array in TEXT.items()}
    returning({**small, "vocabulary": 9})  # bytes, which would be refused without
    assert read().kind == Kind("tokens", "classes", vocabulary=9)
    assert read().train_images.dtype == np.int64


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint8])
def test_zeros_and_ones_n_by_k_are_labels(returning, dtype):
    returning(named(VALUES, LABELS.astype(dtype), TEST_VALUES, TEST_LABELS.astype(dtype), classes=["a", "b", "c"]))
    found = read()
    assert found.kind == Kind("values", "labels")
    assert found.classes == ("a", "b", "c")
    assert found.train_labels.dtype == np.float32
    assert np.array_equal(found.train_labels, LABELS)
    assert np.array_equal(found.test_labels, TEST_LABELS)
    assert found.note == "4 values, 3 labels"


@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_floats_are_real_targets_with_two_axes(returning, shape):
    width = shape[0] if shape else 1
    one, other = (np.stack([each] * width, 1).reshape(-1, *shape) for each in (REAL, TEST_REAL))
    returning((IMAGES, one, TEST_IMAGES, other))
    found = read()
    assert found.kind == Kind("images", "values")
    assert (found.train_labels.dtype, found.train_labels.shape) == (np.float32, (12, width))
    assert np.array_equal(found.train_labels[:, -1], REAL.astype(np.float32))
    assert found.classes == ("0", "1")[:width]
    assert found.note == f"1 x 3 x 3, {width} real target{'s' * (width > 1)}"


def test_targets_says_what_zeros_and_ones_are(returning):
    one_hot, test_one_hot = np.eye(3)[CLASSES], np.eye(3)[TEST_CLASSES]
    kinds = {}
    for said in ("labels", "values"):
        returning(named(VALUES, one_hot, TEST_VALUES, test_one_hot, targets=said))
        kinds[said] = read().kind.targets
    assert kinds == {"labels": "labels", "values": "values"}
    returning(named(VALUES, one_hot.astype(int), TEST_VALUES, test_one_hot.astype(int), targets="labels"))
    assert read().kind.targets == "labels"


def changed(array, row, value):
    array = array.copy()
    array[row] = value
    return array


@pytest.mark.parametrize(
    ("whole", "sentence"),
    [
        ((changed(VALUES, (7, 2), math.nan), *TABLE[1:]), "train_images have nan in row 7; float32 has no such number"),
        ((VALUES, CLASSES, changed(TEST_VALUES, 1, math.inf), TEST_CLASSES), "test_images have inf in row 1"),
        ((changed(VALUES.astype(float), 3, 1e39), *TABLE[1:]), r"train_images have 1e\+39 in row 3"),
        ((VALUES[:, 0], *TABLE[1:]), r"train_images are float32 \[12\], not \[n, ...\]; return \[n, 1\]"),
        ((VALUES[:, :0], *TABLE[1:]), r"train_images are float32 \[12, 0\], not"),
        ((VALUES > 3, *TABLE[1:]), r"train_images are bool \[12, 4\], not uint8; return numbers as floats"),
        ((VALUES * 1j, *TABLE[1:]), r"train_images are complex64 \[12, 4\], not uint8"),
        ((CLASSES, CLASSES, TEST_CLASSES, TEST_CLASSES), r"train_images are int64 \[12\], not uint8; return numbers as"),
        ((VALUES, CLASSES, TEST_VALUES[:, :3], TEST_CLASSES), r"train_images are \[4\] each, but test_images \[3\]"),
        ((VALUES, CLASSES, TEST_TOKENS, TEST_CLASSES), "train_images are values, but test_images tokens"),
        ((IMAGES[:, 0, 0], *TABLE[1:]), r"train_images are \[12, 3\], not \[n, c, h, w\] .*; with vocabulary beside them"),
        ((changed(TOKENS, (4, 1), -2), CLASSES, TEST_TOKENS, TEST_CLASSES), "have -2 in row 4; .* are token ids, from 0"),
        ((changed(TOKENS, 4, 2**24), CLASSES, TEST_TOKENS, TEST_CLASSES), "a vocabulary of 16,777,217 is larger than 16,777,216"),
        ({**TEXT, "vocabulary": 8}, "vocabulary is 8, and the id 8 is beyond it"),
        ({**TEXT, "vocabulary": 10, "padding": 10}, "vocabulary is 10, and padding = 10 is beyond it"),
        ({**TEXT, "vocabulary": 0}, "vocabulary is 0, not a number of tokens"),
        ({**TEXT, "vocabulary": True}, "vocabulary is True, not a number of tokens"),
        ({**TEXT, "padding": -100}, "padding is -100, not a token id"),
        ({**TEXT, "train_inputs": changed(TOKENS, 3, 7), "padding": 7}, "train_inputs have nothing but padding in row 3"),
        ({**TEXT, "mean": [0.5]}, "mean is for images and values, and token ids are not normalised"),
        (named(*TABLE, vocabulary=9), r"train_inputs are float32 \[12, 4\], and vocabulary and padding are for token ids"),
        (named(*TABLE, mean=[1.0]), r"mean is \[1.0\], not 4 numbers, one for each index of the first axis"),
        ((VALUES, changed(REAL, 2, math.nan), TEST_VALUES, TEST_REAL), "train_labels have nan in row 2"),
        ((VALUES, REAL, TEST_VALUES, TEST_CLASSES), "train_labels are values, but test_labels integers"),
        ((VALUES, np.ones((12, 2)) * 0.5, TEST_VALUES, np.ones((6, 3)) * 0.5), "have 2 columns, but test_labels 3"),
        ((VALUES, CLASSES == 1, TEST_VALUES, TEST_CLASSES == 1), r"train_labels are bool \[12\], .* for two classes return int"),
        ((VALUES, LABELS + 1, TEST_VALUES, TEST_LABELS), r"train_labels have 2 in row \d+; int64 \[12, 3\] are labels"),
        ((VALUES, LABELS * 1.0, TEST_VALUES, TEST_LABELS * 1.0), r"are floats \[n, 3\] of 0 and 1; return bool, or targets"),
        ((VALUES, np.eye(3, dtype=int)[CLASSES], TEST_VALUES, np.eye(3, dtype=int)[TEST_CLASSES]), "have one 1 in every row"),
        (named(*TABLE, targets="labels"), "targets says labels, but train_targets are classes"),
        (named(*TABLE, targets="regression"), "targets is 'regression', none of classes, labels, values"),
        (named(VALUES, LABELS, TEST_VALUES, TEST_LABELS, classes=["a"]), "classes are not a list of 3 texts, a name for each label"),
        ({**TEXT, "train_images": TOKENS}, "returned both train_images and train_inputs, which are the same"),
        ({key: value for key, value in TEXT.items() if "test" not in key}, "returned no test_images"),
    ],
)  # fmt: skip
def test_anything_else_is_one_sentence(returning, whole, sentence):
    returning(whole)
    with pytest.raises(BadInputError, match=sentence) as refusal:
        read()
    assert "\n" not in str(refusal.value)
    assert "data.dataset = own:data" in str(refusal.value)


def test_the_fingerprint_tells_kinds_apart_and_names_do_not_matter(returning):
    tokens = named(TOKENS, CLASSES, TEST_TOKENS, TEST_CLASSES)
    bits = LABELS.astype(np.float32), TEST_LABELS.astype(np.float32)
    versions = [
        *(TABLE, TEXT, {**TEXT, "vocabulary": 10}, {**TEXT, "padding": 9, "vocabulary": 10}),
        *(named(VALUES, bits[0], TEST_VALUES, bits[1], targets=said) for said in ("labels", "values")),
        (changed(VALUES, (0, 0), 7.0), *TABLE[1:]),
    ]
    found = []
    for whole in versions:
        returning(whole)
        found.append(fingerprint(Data(dataset="own:data")))
    assert len(set(found)) == len(versions)
    for again, at in ((named(*TABLE), 0), ((TOKENS, CLASSES, TEST_TOKENS, TEST_CLASSES), 1), (tokens, 1)):
        returning(again)
        assert fingerprint(Data(dataset="own:data")) == found[at]


def test_values_are_measured_per_index_of_their_first_axis_to_the_last_digits():
    """Against exact sums, also far from 0, where the squares of float32 would lose everything."""
    values = RNG.normal((0, 1e6, -3), (1, 0.5, 1e-3), (500, 7, 3)).astype(np.float32).transpose(0, 2, 1)
    mean, std = measure_values(values)
    for channel in range(3):
        numbers = values[:, channel].ravel().tolist()
        exact = math.fsum(numbers) / len(numbers)
        deviation = math.sqrt(math.fsum((x - exact) ** 2 for x in numbers) / len(numbers))
        assert mean[channel] == pytest.approx(exact, rel=1e-12)
        assert std[channel] == pytest.approx(deviation, rel=1e-9)


def test_sums_go_from_one_number_to_the_next_whatever_their_cuts(monkeypatch):
    values = RNG.normal(2, 3, (301, 2, 5)).astype(np.float32)
    found = measure_values(values)
    for together in (10, 70, 1000):
        monkeypatch.setattr("fedray.data.dataset.SUMMED", together)
        assert measure_values(values) == found
    by_hand = 0.0
    for number in values[:, 1].astype(float).ravel():
        by_hand += number
    assert found[0][1] == by_hand / values[:, 1].size


def test_a_constant_feature_has_the_deviation_1_and_becomes_0(returning):
    table = np.full((12, 3), 0.1, np.float32)
    table[:, 1], table[:, 2], table[::2, 2] = VALUES[:, 0], 0, 1e-44
    returning((table, CLASSES, table[:6], TEST_CLASSES))
    found = read()
    assert found.mean[0] == np.float32(0.1)
    assert (found.std[0], found.std[2]) == (1, 1)  # float32 has no number as small as the last one's deviation
    assert found.std[1] == pytest.approx(VALUES[:, 0].std(), rel=1e-6)


def test_normalisation_may_be_given(returning):
    returning(named(*TABLE, mean=[0, 1, 2, 3], std=[1, 2, 3, 4]))
    assert (read().mean, read().std) == ((0, 1, 2, 3), (1, 2, 3, 4))


def test_quantile_bins_by_hand():
    """Eight targets in four bins of two; a bin begins with a target, and test targets may lie outside."""
    train = np.array([5, 1, 3, 2, 8, 7, 6, 4], np.float32)
    found = by_quantile(train, np.array([0, 2.5, 3, 9, 6.99], np.float32), 4)
    assert found.names == ("below 3", "3 to 5", "5 to 7", "from 7")
    assert found.train.tolist() == [2, 0, 1, 0, 3, 3, 2, 1]
    assert found.test.tolist() == [0, 0, 1, 3, 2]


@pytest.mark.parametrize("bins", [1, 2, 3, 10, 1000])
def test_quantile_bins_are_about_even_and_never_empty(bins):
    for train in (RNG.normal(size=100), RNG.integers(0, 4, 100), np.zeros(100), RNG.normal(1e5, 1e-1, 100)):
        train = train.astype(np.float32)
        found = by_quantile(train, train[:7], bins)
        counts = np.bincount(found.train, minlength=len(found.names))
        assert len(counts) == len(found.names) == len(set(found.names)) <= bins
        assert counts.min() > 0
        assert found.train[:7].tolist() == found.test.tolist()
        if len(np.unique(train)) == 100 and bins <= 100:
            assert len(counts) == bins
            assert counts.max() - counts.min() <= 1
        order = np.argsort(train, kind="stable")
        assert (np.diff(found.train[order]) >= 0).all()


def test_an_example_counts_under_its_rarest_label_by_hand():
    train = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]], np.float32)  # 4, 3 and 2 of each
    test = np.array([[1, 0, 0], [0, 1, 1]], np.float32)
    found = by_rarest(train, test, ("a", "b", "c"))
    assert found.names == ("a", "b", "c", "none")
    assert found.train.tolist() == [1, 2, 1, 3, 2]
    assert found.test.tolist() == [0, 2]
    bare: Strata = by_rarest(train[:3], test, ("a", "b", "c"))
    assert bare.names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("whole", "settings", "sentence"),
    [
        (TABLE, {"augment": "crop-flip"}, "data.augment = crop-flip is for uint8 images, and the inputs of own:data are values"),
        (TEXT, {"augment": "cutout"}, "data.augment = cutout is for uint8 images, and the inputs of own:data are tokens"),
        (TABLE, {"target_bins": 4}, "data.target_bins = 4 is for real targets, and own:data has classes"),
        ((VALUES, LABELS, TEST_VALUES, TEST_LABELS), {"target_bins": 4}, "and own:data has labels"),
    ],
)  # fmt: skip
def test_settings_for_other_kinds_are_refused_by_name(returning, whole, settings, sentence):
    returning(whole)
    with pytest.raises(BadInputError, match=sentence):
        read(**settings)


def test_examples_are_held_out_together_with_their_targets(returning):
    returning((VALUES, np.stack([REAL, VALUES[:, 0]], 1), TEST_VALUES, np.stack([TEST_REAL, TEST_REAL], 1)))
    found = read(train_examples=10, validation_examples=4, test_examples=3, target_bins=2)
    assert (len(found.train_labels), found.validation_labels.shape, len(found.test_labels)) == (6, (4, 2), 3)
    assert np.array_equal(found.train_labels[:, 1], found.train_images[:, 0])
    assert np.array_equal(found.validation_labels[:, 1], found.validation_images[:, 0])
    assert found.mean[0] == pytest.approx(found.train_images[:, 0].astype(float).mean())
    assert np.bincount(found.strata.train).tolist() == [3, 3]
