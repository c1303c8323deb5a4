"""A data set that a function of the user's returns: what it may return, and one sentence for what it may not."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

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


FLOATS = TRAIN / 255


@pytest.mark.parametrize(
    ("whole", "sentence"),
    [
        (None, "returned a NoneType, not a tuple"),
        (WHOLE[:3], "returned a tuple of 3, not a tuple"),
        ((FLOATS, *WHOLE[1:]), r"train_images are float64, not uint8; return \(x \* 255\).round\(\) as uint8"),
        ((TRAIN.astype(np.int32), *WHOLE[1:]), "train_images are int32, not uint8; return intensities 0..255"),
        ((TRAIN[0, 0], *WHOLE[1:]), r"train_images are \[6, 5\], not \[n, c, h, w\]"),
        ((np.zeros((12, 6, 5, 3), np.uint8), *WHOLE[1:]), r"train_images are \[12, 6, 5, 3\], channels last"),
        ((TRAIN[:0], *WHOLE[1:]), "train_images is empty"),
        ((TRAIN[:, :, :0], *WHOLE[1:]), r"train_images are \[12, 2, 0, 5\], not"),
        ((7, *WHOLE[1:]), "train_images is no array"),
        (([[1], [2, 3]], *WHOLE[1:]), "train_images is no array, ValueError"),
        ((TRAIN, LABELS[:11], TEST, TEST_LABELS), "12 train_images, but 11 train_labels"),
        ((TRAIN, LABELS, TEST[:5], TEST_LABELS), "5 test_images, but 6 test_labels"),
        ((TRAIN, LABELS, TEST[:, :1], TEST_LABELS), r"train_images are \[2, 6, 5\] each, but test_images \[1, 6, 5\]"),
        ((TRAIN, LABELS * 1.0, TEST, TEST_LABELS), r"train_labels are float64 \[12\], not integers"),
        ((TRAIN, LABELS[:, None], TEST, TEST_LABELS), r"train_labels are int64 \[12, 1\], not integers"),
        (
            (TRAIN, LABELS - 1, TEST, TEST_LABELS),
            "train_labels go from -1 to 1; they must be numbers of classes, from 0",
        ),
        ((TRAIN, LABELS, TEST, TEST_LABELS + 2**40), "test_labels go from 1099511627776 to"),
        (
            (TRAIN, LABELS * 2048, TEST, TEST_LABELS),
            "train_labels go from 0 to 4096; they .* and 4,096 classes are the most",
        ),
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
