"""Hugging Face's `datasets`, from folders: images, tables, series and tokens, chosen by their columns."""

import builtins
import io

import numpy as np
import pytest
from PIL import Image as Pillow

from fedray.core.errors import BadInputError
from fedray.core.kinds import Kind
from fedray.data import Data, fingerprint, load
from fedray.data.hf import _open

datasets = pytest.importorskip("datasets", reason="needs datasets, an extra of fedray's")
RNG = np.random.default_rng(8)
PIXELS = RNG.integers(0, 256, (30, 7, 5, 3), dtype=np.uint8)
NUMBERS = RNG.normal(size=(30, 3))
LABELS = np.arange(30) % 3
NAMES = ["ant", "bee", "cow"]
Value, Lists, ClassLabel = datasets.Value, datasets.Sequence, datasets.ClassLabel


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("FEDRAY_CACHE", str(tmp_path / "cache"))
    _open.cache_clear()


def write(folder, columns, features=None, **splits):
    """A folder of Parquet files, as the Hub has them; `splits` are rows of the columns."""
    folder.mkdir(parents=True, exist_ok=True)
    made = datasets.Features(features) if features else None
    for split, rows in splits.items():
        part = {name: [values[row] for row in rows] for name, values in columns.items()}
        datasets.Dataset.from_dict(part, features=made).to_parquet(folder / f"{split}.parquet")
    return folder


def read(folder, **settings):
    return load(Data(dataset=f"hf:{folder}", **settings))


def refuse(folder, sentence, **settings):
    with pytest.raises(BadInputError, match=sentence) as refusal:
        read(folder, **settings)
    assert "\n" not in str(refusal.value)


def pictures(tmp_path, pixels=PIXELS, labels=LABELS, feature=None, **splits):
    images = [Pillow.fromarray(image) for image in pixels]
    features = {"picture": datasets.Image(), "label": feature or ClassLabel(names=NAMES)}
    splits = splits or {"train": range(20), "test": range(20, 30)}
    return write(tmp_path / "pictures", {"picture": images, "label": list(labels)}, features, **splits)


def table(tmp_path, **splits):
    columns = {
        "user": [f"user {row % 4}" for row in range(30)], "a": NUMBERS[:, 0].tolist(), "b": list(range(30)),
        "c": (NUMBERS[:, 2] > 0).tolist(), "grade": [float(each) for each in NUMBERS[:, 1]], "label": LABELS.tolist(),
    }  # fmt: skip
    features = {"user": Value("string"), "a": Value("float32"), "b": Value("int16"), "c": Value("bool")}
    features |= {"grade": Value("float64"), "label": ClassLabel(names=NAMES)}
    return write(tmp_path / "table", columns, features, **splits or {"train": range(20), "test": range(20, 30)})


def test_images_and_the_names_of_their_classes(tmp_path):
    found = read(pictures(tmp_path))
    assert (found.kind, found.format, found.classes) == (Kind(), "png", tuple(NAMES))
    assert np.array_equal(found.train_images, PIXELS[:20].transpose(0, 3, 1, 2))
    assert np.array_equal(found.test_images, PIXELS[20:].transpose(0, 3, 1, 2))
    assert found.test_labels.tolist() == LABELS[20:].tolist()
    assert found.note == "3 x 7 x 5, 3 classes"
    assert found.fingerprint == fingerprint(Data(dataset=f"hf:{tmp_path / 'pictures'}"))


def test_decoded_images_come_from_the_cache_the_next_time(tmp_path, monkeypatch):
    folder = pictures(tmp_path)
    before = read(folder)
    _open.cache_clear()
    monkeypatch.setattr("fedray.data.hf.decode", None)
    again = read(folder)
    assert np.array_equal(again.train_images, before.train_images)
    assert again.test_labels.tolist() == before.test_labels.tolist()
    assert np.array_equal(read(folder, train_examples=3).train_images, before.train_images[:3])


def test_images_are_resized_and_the_first_ones_taken(tmp_path):
    folder = pictures(tmp_path)
    found = read(folder, image_size=4, train_examples=6, test_examples=2)
    assert (found.train_images.shape, found.test_labels.shape) == ((6, 3, 4, 4), (2,))
    by_hand = np.asarray(Pillow.fromarray(PIXELS[5]).resize((4, 4), Pillow.Resampling.BILINEAR))
    assert np.array_equal(found.train_images[5], by_hand.transpose(2, 0, 1))


def test_grey_images_among_coloured_ones_have_their_colours(tmp_path):
    mixed = [PIXELS[0, :, :, 0], *PIXELS[1:]]
    found = read(pictures(tmp_path, mixed))
    assert found.train_images.shape[1] == 3
    assert np.array_equal(found.train_images[0], np.broadcast_to(PIXELS[0, :, :, 0], (3, 7, 5)))


def test_images_in_files_of_their_own_are_read_there(tmp_path):
    for row in range(30):
        folder = tmp_path / "files" / ("train" if row < 20 else "test") / NAMES[row % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(PIXELS[row]).save(folder / f"{row:02}.png")
    found = read(tmp_path / "files")
    assert found.classes == tuple(NAMES)
    order = sorted(range(20), key=lambda row: (NAMES[row % 3], row))
    assert np.array_equal(found.train_images, PIXELS[order].transpose(0, 3, 1, 2))


def test_the_fingerprint_is_of_the_columns_that_are_read(tmp_path):
    prints = [fingerprint(Data(dataset=f"hf:{pictures(tmp_path)}"))]
    for pixels, labels in ((255 - PIXELS, LABELS), (PIXELS, LABELS[::-1])):
        _open.cache_clear()
        prints.append(fingerprint(Data(dataset=f"hf:{pictures(tmp_path / str(len(prints)), pixels, labels)}")))
    _open.cache_clear()
    prints.append(fingerprint(Data(dataset=f"hf:{pictures(tmp_path / 'again')}")))
    assert len(set(prints[:3])) == 3
    assert prints[3] == prints[0]


def test_columns_of_a_table_are_those_named_or_all_numbers(tmp_path):
    folder = table(tmp_path)
    found = read(folder)
    assert found.kind == Kind("values")
    by_hand = np.column_stack([NUMBERS[:, 0], np.arange(30), NUMBERS[:, 2] > 0, NUMBERS[:, 1]]).astype(np.float32)
    assert np.array_equal(found.train_images, by_hand[:20])
    assert (found.classes, found.train_labels.tolist()) == (tuple(NAMES), LABELS[:20].tolist())
    found = read(folder, input_columns="grade, b")
    assert np.array_equal(found.test_images, by_hand[20:][:, [3, 1]])
    assert found.note == "2 values, 3 classes"


def test_real_targets_and_users_have_their_columns(tmp_path):
    found = read(table(tmp_path), label_column="grade", input_columns="a,b", user_column="user")
    assert found.kind == Kind("values", "values")
    assert np.array_equal(found.train_labels[:, 0], NUMBERS[:20, 1].astype(np.float32))
    assert found.train_users.tolist() == [row % 4 for row in range(20)]


@pytest.mark.parametrize(
    ("values", "feature", "classes", "targets"),
    [
        ([10 * (row % 3) for row in range(30)], Value("int64"), ("0", "10", "20"), [0, 1, 2]),
        ([NAMES[2 - row % 3] for row in range(30)], Value("string"), ("ant", "bee", "cow"), [2, 1, 0]),
        ([row % 3 == 1 for row in range(30)], Value("bool"), ("False", "True"), [0, 1, 0]),
    ],
)
def test_integers_texts_and_booleans_are_classes(tmp_path, values, feature, classes, targets):
    columns = {"x": NUMBERS[:, 0].tolist(), "label": values}
    folder = write(
        tmp_path / "t", columns, {"x": Value("float32"), "label": feature}, train=range(20), test=range(20, 30)
    )
    found = read(folder)
    assert (found.classes, found.train_labels[:3].tolist()) == (classes, targets)


def test_lists_of_classes_are_labels_and_lists_of_floats_real_targets(tmp_path):
    several = [[0, 2], [1], []] * 10
    columns = {"x": NUMBERS[:, 0].tolist(), "several": several, "real": NUMBERS.tolist()}
    features = {"x": Value("float32"), "several": Lists(ClassLabel(names=NAMES)), "real": Lists(Value("float64"))}
    folder = write(tmp_path / "t", columns, features, train=range(20), test=range(20, 30))
    found = read(folder, label_column="several", input_columns="x")
    assert (found.kind, found.classes) == (Kind("values", "labels"), tuple(NAMES))
    assert found.train_labels[:3].tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    found = read(folder, label_column="real", input_columns="x")
    assert np.array_equal(found.train_labels, NUMBERS[:20].astype(np.float32))


def test_lists_of_integers_are_tokens_padded_to_the_longest(tmp_path):
    ids = [list(range(row % 4 + 1)) for row in range(30)]
    mask = [[1] * len(each) for each in ids]
    columns = {"input_ids": ids, "attention_mask": mask, "label": LABELS.tolist()}
    folder = write(tmp_path / "t", columns, train=range(20), test=range(20, 30))
    found = read(folder)
    assert found.kind == Kind("tokens", "classes", vocabulary=5, padding=4)
    assert found.train_images[:4].tolist() == [[0, 4, 4, 4], [0, 1, 4, 4], [0, 1, 2, 4], [0, 1, 2, 3]]
    even = write(tmp_path / "u", {"words": [[row, 1] for row in range(30)], "label": LABELS.tolist()}, train=range(20), test=range(20, 30))  # fmt: skip
    assert read(even).kind == Kind("tokens", "classes", vocabulary=30)


def test_lists_and_arrays_of_floats_are_series(tmp_path):
    series = RNG.normal(size=(30, 2, 4)).astype(np.float32)
    columns = {"flat": series[:, 0].tolist(), "whole": list(series), "label": LABELS.tolist()}
    features = {"flat": Lists(Value("float32")), "whole": datasets.Array2D((2, 4), "float32"), "label": Value("int8")}
    folder = write(tmp_path / "t", columns, features, train=range(20), test=range(20, 30))
    assert np.array_equal(read(folder, input_columns="flat").train_images, series[:20, 0])
    assert np.array_equal(read(folder, input_columns="whole").train_images, series[:20])


def test_what_datasets_saved_itself_is_read_and_a_split_of_another_name_is_the_test_set(tmp_path, monkeypatch):
    whole = datasets.Dataset.from_dict({"x": NUMBERS[:, 0].tolist(), "label": LABELS.tolist()})
    parts = {"train": whole.select(range(29, 9, -1)), "validation": whole.select(range(10))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "root" / "saved")
    found = load(Data(dataset="hf:saved", root=str(tmp_path / "root")))
    assert np.array_equal(found.train_images[:, 0], NUMBERS[29:9:-1, 0].astype(np.float32))
    assert found.note == "1 value, 3 classes, test examples from validation"


@pytest.mark.parametrize("kind", ["table", "pictures"])
def test_without_a_test_split_training_examples_are_held_out(tmp_path, kind):
    folder = {"table": table, "pictures": pictures}[kind](tmp_path, train=range(30))
    refuse(folder, "has no split test or validation, but train; data.holdout_examples holds out")
    _open.cache_clear()
    found = read(folder, holdout_examples=8)
    assert (len(found.train_labels), len(found.test_labels)) == (22, 8)
    held = {each.tobytes() for each in found.test_images}
    assert len(held) == 8
    assert not held & {each.tobytes() for each in found.train_images}
    assert "held out of the training examples" in found.note
    tested = {"table": table, "pictures": pictures}[kind](tmp_path / "tested")
    refuse(tested, "data.holdout_examples is for data without test examples, but .* has test", holdout_examples=3)


def two_lists(tmp_path):
    return write(
        tmp_path / "t", {"a": [[1]] * 9, "b": [[1.5]] * 9, "label": [0, 1, 2] * 3}, train=range(5), test=range(5, 9)
    )


def text(tmp_path):
    return write(tmp_path / "t", {"text": ["words"] * 9, "label": [0, 1, 2] * 3}, train=range(5), test=range(5, 9))


def gaps(values, **others):
    def make(tmp_path):
        columns = {"x": [1.0] * 9, "label": [0, 1, 2] * 3, **others, "y": values}
        return write(tmp_path / "t", columns, train=range(5), test=range(5, 9))

    return make


@pytest.mark.parametrize(
    ("make", "settings", "sentence"),
    [
        (table, {"label_column": "grad"}, r"data.label_column = grad: hf:.* has user \(text\), a \(floats\), .*; did you mean grade\?"),
        (table, {"input_columns": "a,x"}, "data.input_columns = x: hf:"),
        (table, {"image_column": "a"}, "data.image_column = a: hf:"),
        (table, {"input_columns": "a,user"}, "data.input_columns of a table are numbers, and user of .* is text"),
        (table, {"input_columns": "a,label", "label_column": "label"}, "label is among the inputs and is the label or the user, too"),
        (table, {"label_column": "user", "user_column": "user"}, "data.label_column and data.user_column are both user"),
        (table, {"user_column": "grade"}, "data.user_column = grade is neither integers nor text"),
        (pictures, {"image_column": "picture", "input_columns": "picture"}, "both say what the inputs are"),
        (two_lists, {}, "data.input_columns must say which columns of .* are the inputs"),
        (text, {}, r"data.input_columns must say .*: it has text \(text\), label \(integers\)"),
        (text, {"input_columns": "text"}, "text is turned into lists of token ids first"),
        (gaps([1.0, None] * 4 + [2.0]), {}, "its split train has no value in row 1 of y, and nothing fills it in"),
        (gaps([[1.0, 2.0]] * 6 + [[1.0]] * 3), {"input_columns": "y"}, "its split test has 1 numbers in row 1 of y, not 2 as in the first"),
        (gaps([0, -1, 1] * 3), {"input_columns": "x", "label_column": "y"}, "data.label_column = y has -1: a number below 0 is no class"),
        (gaps([1.0, float("nan")] * 4 + [2.0]), {}, "the inputs of its split train have nan in row 1"),
    ],
)  # fmt: skip
def test_what_is_open_or_does_not_fit_is_one_sentence(tmp_path, make, settings, sentence):
    refuse(make(tmp_path), sentence, **settings)


def test_an_image_that_is_damaged_has_its_row(tmp_path):
    good, bad = io.BytesIO(), io.BytesIO()
    Pillow.fromarray(PIXELS[0]).save(good, "png")
    Pillow.fromarray(PIXELS[0]).save(bad, "gif")
    columns = {
        "picture": [{"bytes": (bad if row == 3 else good).getvalue()} for row in range(9)],
        "label": [0, 1, 2] * 3,
    }
    features = {"picture": datasets.Image(), "label": Value("int64")}
    folder = write(tmp_path / "t", columns, features, train=range(5), test=range(5, 9))
    refuse(folder, "its split train has an image in row 3 that is neither PNG nor JPEG, but GIF")


def test_what_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    refuse("./nowhere", "data.dataset = hf:./nowhere: there is no folder nowhere")
    monkeypatch.setattr(datasets, "load_dataset", offline_as_datasets_is)
    refuse(
        "nobody/nothing",
        "hf:nobody/nothing cannot be read, ConnectionError: Couldn't reach .*; without a network a folder",
    )
    with pytest.raises(ValueError, match="data.dataset = hf: has no name after hf:"):
        Data(dataset="hf:")
    with pytest.raises(ValueError, match="data.input_columns = a goes with data.dataset = hf:NAME, not parquet"):
        Data(dataset="parquet", input_columns="a")


def offline_as_datasets_is(name, config):
    raise ConnectionError(f"Couldn't reach '{name}' on the Hub (OfflineModeIsEnabled)\nand more")


def test_a_configuration_follows_the_name(monkeypatch):
    asked = []

    def found(name, config):
        asked.append((name, config))
        return datasets.DatasetDict(
            {split: datasets.Dataset.from_dict({"x": [1.0, 2.0], "label": [0, 1]}) for split in ("train", "test")}
        )

    monkeypatch.setattr(datasets, "load_dataset", found)
    assert read("glue:sst2").classes == ("0", "1")
    assert read("nobody/x").classes == ("0", "1")
    assert asked == [("glue", "sst2"), ("nobody/x", None)]


def test_without_the_library_it_is_one_sentence(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *more):
        if name == "datasets":
            raise ImportError("No module named 'datasets'")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    refuse(tmp_path, r"needs the library datasets, which is not installed; pip install 'fedray\[hf\]'")
