"""A data set that a function of the user's returns: what it may return, and one sentence for what it may not."""

import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from making import encoded, write_table

from fedray.core.errors import BadInputError
from fedray.data import Data, fingerprint, load

RNG = np.random.default_rng(3)
TRAIN, TEST = (RNG.integers(0, 256, (n, 2, 6, 5), dtype=np.uint8) for n in (12, 6))
LABELS, TEST_LABELS = np.arange(12) % 3, np.arange(6) % 2
WHOLE = (TRAIN, LABELS, TEST, TEST_LABELS)
NAMED = dict(zip(("train_images", "train_labels", "test_images", "test_labels"), WHOLE, strict=True))


@pytest.fixture
def returning(tmp_path, monkeypatch):
    """Makes `own:data` return something, and counts its calls."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own.py").write_text(
        "calls = 0\nwhole = None\ndef data():\n    global calls\n    calls += 1\n    return whole\n"
    )

    def make(whole):
        sys.modules.pop("own", None)
        import own

        own.whole = whole
        return own

    yield make
    sys.modules.pop("own", None)


def read(**settings):
    return load(Data(dataset="own:data", **settings))


def refuse(sentence, **settings):
    with pytest.raises(BadInputError, match=sentence) as refusal:
        read(**settings)
    assert "\n" not in str(refusal.value)
    assert "data.dataset = own:data" in str(refusal.value)


@pytest.mark.parametrize("kind", ["tuple", "list", "mapping", "tensors"])
def test_arrays_and_tensors_come_as_they_are(returning, kind):
    returning(
        {
            "tuple": WHOLE,
            "list": [TRAIN, LABELS.tolist(), TEST, TEST_LABELS.astype(np.uint8)],
            "mapping": NAMED,
            "tensors": tuple(map(torch.from_numpy, WHOLE)),
        }[kind]
    )
    found = read()
    assert (found.name, found.format, found.note) == ("own:data", "arrays", "2 x 6 x 5, 3 classes")
    assert np.array_equal(found.train_images, TRAIN)
    assert np.array_equal(found.test_images, TEST)
    assert found.train_labels.dtype == found.test_labels.dtype == np.int64
    assert found.train_labels.tolist() == LABELS.tolist()
    assert found.test_labels.tolist() == TEST_LABELS.tolist()
    assert found.classes == ("0", "1", "2")
    assert found.train_users is None
    assert found.mean == pytest.approx((TRAIN / 255).mean((0, 2, 3)), rel=1e-12)
    assert found.std == pytest.approx((TRAIN / 255).std((0, 2, 3)), rel=1e-12)
    assert found.fingerprint == fingerprint(Data(dataset="own:data"))


def test_images_without_channels_have_one_and_strides_do_not_matter(returning):
    returning((TRAIN[::-1, 0], LABELS, TEST[:, 1, ::-1], TEST_LABELS))
    found = read()
    assert found.train_images.shape == (12, 1, 6, 5)
    assert found.train_images.flags.c_contiguous
    assert np.array_equal(found.train_images[:, 0], TRAIN[::-1, 0])
    assert np.array_equal(found.test_images[:, 0], TEST[:, 1, ::-1])


def test_it_is_called_once_for_its_fingerprint_and_its_arrays(returning):
    own = returning(WHOLE)
    identity = fingerprint(Data(dataset="own:data"))
    for settings in ({}, {"train_examples": 4}, {"validation_examples": 2}):
        assert load(Data(dataset="own:data", **settings), identity).fingerprint == identity
    assert own.calls == 1


def test_the_fingerprint_is_of_everything_that_it_returns(returning):
    other = TRAIN.copy()
    other[-1, -1, -1, -1] ^= 1
    versions = [
        *(WHOLE, (other, *WHOLE[1:]), (TRAIN, LABELS[::-1], *WHOLE[2:]), (*WHOLE, LABELS)),
        *({**NAMED, "classes": ["a", "b", "c"]}, {**NAMED, "mean": (0.1, 0.2)}, {**NAMED, "std": (0.1, 0.2)}),
    ]
    found = []
    for whole in versions:
        returning(whole)
        found.append(fingerprint(Data(dataset="own:data")))
    assert len(set(found)) == len(versions)
    returning(tuple(map(torch.from_numpy, WHOLE)))
    assert fingerprint(Data(dataset="own:data")) == found[0]


def test_names_of_classes_and_normalisation_may_be_returned_too(returning):
    returning({**NAMED, "classes": ("a", "b", "c", "d"), "mean": [0.1, 0.2], "std": np.array([0.3, 0.4])})
    found = read()
    assert found.classes == ("a", "b", "c", "d")
    assert (found.mean, found.std) == ((0.1, 0.2), (0.3, 0.4))
    returning({**NAMED, "mean": [0.1, 0.2]})
    assert read().mean == (0.1, 0.2)
    assert read().std == pytest.approx((TRAIN / 255).std((0, 2, 3)))


@pytest.mark.parametrize(
    "users",
    [["bob", "al", "cy"] * 4, [30, 10, 90] * 4, np.array(["b", "a", "c"] * 4, object), torch.tensor([5, 1, 7] * 4)],
)
def test_users_are_numbered_and_stay_with_their_examples(returning, users):
    returning((*WHOLE, users))
    found = read()
    assert found.train_users.dtype == np.int64
    assert found.train_users.tolist() == [1, 0, 2] * 4
    assert found.note.endswith("3 classes, 3 users")
    held = read(train_examples=9, validation_examples=4)
    place = {image.tobytes(): row for row, image in enumerate(TRAIN)}
    rows = [place[image.tobytes()] for image in held.train_images]
    kept = [found.train_users[row] for row in rows]
    assert [sorted(set(kept)).index(user) for user in kept] == held.train_users.tolist()


def test_the_first_examples_are_taken_and_more_than_there_are_refused(returning):
    returning(WHOLE)
    found = read(train_examples=5, test_examples=2)
    assert np.array_equal(found.train_images, TRAIN[:5])
    assert found.test_labels.tolist() == [0, 1]
    assert found.classes == ("0", "1", "2")
    with pytest.raises(BadInputError, match="data.train_examples is 13, but there are only 12 train examples"):
        read(train_examples=13)


TEXTS = ["dog", "ant", "cow"]


@pytest.mark.parametrize("kind", ["list", "U", "object", "series", "categorical", "string", "arrow", "numpy string"])
def test_text_becomes_classes_in_sorted_order(returning, kind):
    make = {
        "list": list,
        "U": np.array,
        "object": lambda texts: np.array(texts, object),
        "series": pd.Series,
        "categorical": pd.Categorical,
        "string": lambda texts: pd.Series(texts, dtype="string"),
        "arrow": pa.array,
        "numpy string": lambda texts: np.array(texts, np.dtypes.StringDType()),
    }[kind]
    returning((TRAIN, make([TEXTS[label] for label in LABELS]), TEST, make([*TEXTS, "bee", "dog", "ant"])))
    found = read()
    assert found.classes == ("ant", "bee", "cow", "dog")
    assert found.train_labels.dtype == found.test_labels.dtype == np.int64
    assert found.train_labels.tolist() == [3, 0, 2] * 4
    assert found.test_labels.tolist() == [3, 0, 2, 1, 3, 0]
    assert found.note == "2 x 6 x 5, 4 classes, 1 of the test images' classes in no training image"


def test_text_is_taken_as_from_parquet(returning, tmp_path):
    """Also where it looks like numbers, has capitals or accents, or is empty."""
    texts = ["10", "9", "b", "B", "é", "", "z", "9", "10", "B", "z", "é"]
    own = ["b", "9", "", "only here", "z", "z"]
    for split, labels in (("train", texts), ("test", own)):
        contents = [encoded(image[:1]) for image in TRAIN[: len(labels)]]
        write_table(tmp_path / f"{split}.parquet", contents, label=labels)
    stored = load(Data(dataset="parquet", root=str(tmp_path)))
    returning((TRAIN, texts, TEST, own))
    found = read()
    assert found.classes == stored.classes
    assert found.train_labels.tolist() == stored.train_labels.tolist()
    assert found.test_labels.tolist() == stored.test_labels.tolist()
    assert found.train_labels.dtype == stored.train_labels.dtype


def test_names_of_classes_say_which_number_a_text_is(returning):
    texts = [TEXTS[label] for label in LABELS]
    returning({**NAMED, "train_labels": texts, "test_labels": texts[:6], "classes": ["eel", "dog", "cow", "ant"]})
    found = read()
    assert found.classes == ("eel", "dog", "cow", "ant")
    assert found.train_labels.tolist() == [1, 3, 2] * 4


def test_a_text_is_part_of_the_fingerprint_and_numbers_have_the_one_they_had(returning):
    texts = [TEXTS[label] for label in LABELS]
    found = []
    for one, other in (("dog", "dog"), ("dog", "fox")):
        returning((TRAIN, [other if text == one else text for text in texts], TEST, texts[1:3] * 3))
        found.append(fingerprint(Data(dataset="own:data")))
    assert found[0] != found[1]
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    returning((images, [1, 0], images, [0, 2]))
    assert fingerprint(Data(dataset="own:data")) == "896cbf1ed1bd52f0b9b3a23cd68abc64"


FLOATS = TRAIN / 255


@pytest.mark.parametrize(
    ("whole", "sentence"),
    [
        (None, "returned a NoneType, not a tuple"),
        (WHOLE[:3], "returned a tuple of 3, not a tuple"),
        ((FLOATS, *WHOLE[1:]), "train_images are values, but test_images images"),
        (
            (TRAIN.astype(np.int32), *WHOLE[1:]),
            r"train_images are int32 \[12, 2, 6, 5\], not uint8; return intensities 0..255",
        ),
        ((TRAIN[0, 0], *WHOLE[1:]), r"train_images are \[6, 5\], not \[n, c, h, w\]"),
        ((np.zeros((12, 6, 5, 3), np.uint8), *WHOLE[1:]), r"train_images are \[12, 6, 5, 3\], channels last"),
        ((TRAIN[:0], *WHOLE[1:]), "train_images is empty"),
        ((TRAIN[:, :, :0], *WHOLE[1:]), r"train_images are \[12, 2, 0, 5\], not"),
        ((7, *WHOLE[1:]), "train_images is no array"),
        (([[1], [2, 3]], *WHOLE[1:]), "train_images is no array, ValueError"),
        ((TRAIN, LABELS[:11], TEST, TEST_LABELS), "12 train_images, but 11 train_labels"),
        ((TRAIN, LABELS, TEST[:5], TEST_LABELS), "5 test_images, but 6 test_labels"),
        ((TRAIN, LABELS, TEST[:, :1], TEST_LABELS), r"train_images are \[2, 6, 5\] each, but test_images \[1, 6, 5\]"),
        ((TRAIN, LABELS * 1.0, TEST, TEST_LABELS), "train_labels are values, but test_labels integers"),
        (
            (TRAIN, LABELS[:, None], TEST, TEST_LABELS),
            r"train_labels have 2 in row 2; int64 \[12, 1\] are labels of which",
        ),
        (
            (TRAIN, LABELS - 1, TEST, TEST_LABELS),
            "train_labels go from -1 to 1; they must be numbers of classes, from 0",
        ),
        ((TRAIN, LABELS, TEST, TEST_LABELS + 2**40), "test_labels go from 1099511627776 to"),
        (
            (TRAIN, LABELS * 2048, TEST, TEST_LABELS),
            "train_labels go from 0 to 4096; they .* and 4,096 classes are the most",
        ),
        ((TRAIN, ["a"] * 12, TEST, TEST_LABELS), "train_labels are text, but test_labels integers"),
        ((TRAIN, LABELS, TEST, ["a"] * 6), "train_labels are integers, but test_labels text"),
        ((TRAIN, [*["a"] * 11, 3], TEST, ["a"] * 6), "train_labels are text, but int in row 11"),
        ((TRAIN, [*["a"] * 11, ["b"]], TEST, ["a"] * 6), "train_labels are text, but list in row 11"),
        ((TRAIN, [None, *["a"] * 11], TEST, ["a"] * 6), "train_labels are text, but NoneType in row 0"),
        ((TRAIN, ["a"] * 12, TEST, pd.Series(["a", None] * 3)), "test_labels are text, but float in row 1"),
        ((TRAIN, [["a"]] * 12, TEST, ["a"] * 6), r"train_labels are <U1 \[12, 1\], not integers or text"),
        ((TRAIN, [b"a"] * 12, TEST, [b"a"] * 6), r"train_labels are \|S1 \[12\], not integers or text"),
        ({**NAMED, "train_labels": ["a"] * 12, "test_labels": ["b"] * 6, "classes": ["a"]}, "at least 2 texts"),
        (
            {**NAMED, "train_labels": ["cow"] * 12, "test_labels": ["cow"] * 6, "classes": ["cov", "ant"]},
            "'cow' is a label, but not in classes; did you mean cov?",
        ),
        ({**NAMED, "train_labels": ["a"] * 12, "test_labels": ["a"] * 6, "classes": ["a", "a"]}, "a name twice"),
        ({**NAMED, "classes": ["x"] * 4097}, "4,097 classes are named, and 4,096 are the most"),
        ((*WHOLE, [0.5] * 12), r"train_users are float64 \[12\], not integers or text for 12 train_labels"),
        ((*WHOLE, [0] * 11), r"train_users are int64 \[11\], not integers or text for 12"),
        ({**NAMED, "class": ["a"]}, "returned 'class', which is none of .*; did you mean classes?"),
        ({"train_images": TRAIN}, "returned no train_labels"),
        ({**NAMED, "classes": ["a", "b"]}, "classes are not a list of at least 3 texts"),
        ({**NAMED, "classes": "abc"}, "classes are not a list of at least 3 texts"),
        ({**NAMED, "mean": [0.5]}, r"mean is \[0.5\], not 2 numbers"),
        ({**NAMED, "std": [0.5, 0.0]}, r"std is \[0.5, 0.0\], not 2 numbers"),
        ({**NAMED, "mean": [0.5, float("nan")]}, "mean is .*, not 2 numbers"),
    ],
)
def test_anything_else_is_one_sentence(returning, whole, sentence):
    returning(whole)
    refuse(sentence)


def test_what_the_function_or_its_module_raises_is_said_with_its_place(tmp_path, returning, monkeypatch):
    own = returning(WHOLE)
    monkeypatch.setattr(own, "data", 7)
    refuse("own has no function data")
    with pytest.raises(BadInputError, match="own has no function dat; did you mean data?"):
        monkeypatch.undo()
        monkeypatch.syspath_prepend(tmp_path)
        fingerprint(Data(dataset="own:dat"))
    with pytest.raises(
        BadInputError,
        match="data.dataset = owm:data: owm cannot be imported, ModuleNotFoundError: No module named 'owm';",
    ):
        fingerprint(Data(dataset="owm:data"))
    (tmp_path / "own.py").write_text("import math\n\ndef data():\n    return math.sqrt(-1)\n")
    sys.modules.pop("own")
    refuse(r"raised ValueError: .* \(own.py, line 4\)")
    (tmp_path / "own.py").write_text("x = 1 / 0\n")
    sys.modules.pop("own")
    refuse(r"own cannot be imported, ZeroDivisionError: division by zero \(own.py, line 1\)")
    (tmp_path / "own.py").write_text("import sys\n\ndef data():\n    sys.exit(3)\n")
    sys.modules.pop("own", None)
    refuse(r"raised SystemExit: 3 \(own.py, line 4\)")
    (tmp_path / "own.py").write_text("raise SystemExit('no data')\n")
    sys.modules.pop("own", None)
    refuse(r"own cannot be imported, SystemExit: no data \(own.py, line 1\)")


def test_the_driver_does_not_import_torch_for_it(tmp_path):
    """From the current folder, as `python -m` finds modules."""
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
            import numpy as np
            def data():
                return np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1], np.zeros((2, 8, 8), np.uint8), [0, 1]
        """)
    )
    program = (
        "import sys; from fedray.data import Data, load; found = load(Data(dataset='mine:data'));"
        "print(found.std, 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert out.stdout == "(1.0,) False\n"


def test_more_classes_than_can_be_told_apart_are_refused(returning):
    images = np.zeros((5000, 1, 1, 1), np.uint8)
    returning((images, [str(number) for number in range(5000)], images[:1], ["0"]))
    refuse("labels tell 5,000 classes apart, and 4,096 are the most")
