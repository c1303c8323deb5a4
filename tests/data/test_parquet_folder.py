"""Any folder of images in Parquet: columns, classes, users, sizes and colours; or one sentence."""

import io
import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making import encoded, write_table
from PIL import Image

from fedray.core.errors import BadInputError
from fedray.data import Data, fingerprint, load, parquet, parquet_folder
from fedray.data.published import CIFAR10

REAL = os.environ.get("FEDRAY_DATA", "")
RNG = np.random.default_rng(5)
GREY_8_BITS = b"\x08\0\0\0\0"
GREY = RNG.integers(0, 256, (30, 1, 8, 10), dtype=np.uint8)
WORDS = [("pear", "apple", "fig")[i % 3] for i in range(30)]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.delenv("FEDRAY_DATA", raising=False)
    monkeypatch.setenv("FEDRAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "own"


def write(folder, images=GREY, **columns):
    """20 training examples in two files and 10 for the test, as PNG where they are arrays."""
    contents = [image if isinstance(image, bytes) else encoded(image) for image in images]
    columns = columns or {"label": WORDS}
    for name, rows in {"train-0": slice(0, 13), "train-1": slice(13, 20), "test-0": slice(20, 30)}.items():
        own = {key: value if isinstance(value, tuple) else value[rows] for key, value in columns.items()}
        write_table(folder / f"{name}.parquet", contents[rows], **own)
    return folder


def read(folder, **settings):
    return load(Data(dataset="parquet", root=str(folder), **settings))


def refuse(folder, sentence, **settings):
    with pytest.raises(BadInputError, match=sentence) as refusal:
        read(folder, **settings)
    assert "\n" not in str(refusal.value)


def test_grey_images_with_labels_in_words_are_read_as_they_are(folder):
    found = read(write(folder))
    assert (found.name, found.format) == ("parquet", "png")
    assert found.classes == ("apple", "fig", "pear")
    assert np.array_equal(found.train_images, GREY[:20])
    assert np.array_equal(found.test_images, GREY[20:])
    assert [found.classes[label] for label in found.train_labels] == WORDS[:20]
    assert [found.classes[label] for label in found.test_labels] == WORDS[20:]
    assert found.train_images.flags.c_contiguous
    assert found.train_labels.dtype == np.int64
    assert found.train_users is None
    assert found.note == "1 x 8 x 10, 3 classes"
    assert found.validation_images.shape == (0, 1, 8, 10)


def test_mean_and_std_are_of_the_training_images_that_are_used(folder):
    """Each exactly rounded, whatever is held out; a channel without any deviation is not divided by zero."""
    write(folder)
    for settings in ({}, {"train_examples": 7}, {"validation_examples": 5}):
        found = read(folder, **settings)
        scaled = found.train_images / 255
        assert found.mean == pytest.approx((scaled.mean(),), rel=1e-12)
        assert found.std == pytest.approx((scaled.std(),), rel=1e-12)
    assert (
        len({read(folder, **settings).mean for settings in ({}, {"train_examples": 7}, {"validation_examples": 5})})
        == 3
    )
    flat = np.stack([np.full((8, 10), value, np.uint8) for value in (0, 51, 255)])
    images = [flat if i % 2 else flat[[0, 0, 2]] for i in range(30)]
    found = read(write(folder, images))
    assert found.mean == (0.0, 0.1, 1.0)
    assert found.std == (1.0, 0.1, 1.0)


@pytest.mark.parametrize("below", ["", "data", "plain_text"])
def test_the_files_may_lie_one_folder_down(folder, below):
    write(folder / below)
    assert len(read(folder).train_labels) == 20


@pytest.mark.parametrize("tested", ["test", "validation"])
def test_numbered_files_may_lie_in_a_folder_for_each_split(folder, tested):
    """As on the branch of Hugging Face's own conversion."""
    before = read(write(folder))
    for old, new in {"train-0": "train/0000", "train-1": "train/0001", "test-0": f"{tested}/0000"}.items():
        path = folder / "default" / f"{new}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{old}.parquet").rename(path)
    for place in (folder, folder / "default"):
        found = read(place)
        for name in ("train_images", "train_labels", "test_images", "test_labels"):
            assert np.array_equal(getattr(found, name), getattr(before, name))
    assert found.note == "1 x 8 x 10, 3 classes" + f", test images from {tested}/0000.parquet" * (tested != "test")
    refuse(folder, f"folders without test files, but .*default has {tested}/0000.parquet", holdout_examples=5)


def test_two_folders_of_files_or_none_are_refused(folder):
    write(folder / "one")
    write(folder / "two")
    refuse(folder, r"2 folders in .*own have a train\*\.parquet \(one, two\); set data.root")
    refuse(folder / "one" / "..", "2 folders")
    (folder / "empty").mkdir()
    refuse(folder / "empty", r"no train\*\.parquet in .*empty nor one level down; set data.root")
    refuse(folder / "nowhere", "nowhere that data.root names does not exist$")


def test_a_validation_file_serves_as_the_test_split_where_there_is_no_test_file(folder):
    write(folder)
    tested = read(folder)
    for name in ("validation-00000-of-00001", "valid", "val-0"):
        path = (folder / "test-0.parquet").rename(folder / f"{name}.parquet")
        found = read(folder)
        assert np.array_equal(found.test_images, tested.test_images)
        assert found.note.endswith(f"test images from {name}.parquet")
        assert found.fingerprint != tested.fingerprint
        path.rename(folder / "test-0.parquet")
    write_table(folder / "validation.parquet", [b"not looked at"], label=["pear"])
    assert read(folder).note == tested.note
    (folder / "validation.parquet").unlink()
    (folder / "test-0.parquet").unlink()
    refuse(folder, r"own has neither test\*\.parquet nor validation\*\.parquet to evaluate on")


def test_columns_are_found_or_named(folder):
    """An image column may be plain bytes; of several none is guessed."""
    numbers = [i % 4 for i in range(30)]
    plain = [encoded(image[:, ::-1]) for image in GREY]
    write(folder, label=numbers, other=plain, word=WORDS, weight=[0.5] * 30)
    refuse(folder, r"data.image_column must say .* has 2 columns that may be \(image, other\)")
    assert np.array_equal(read(folder, image_column="image").train_images, GREY[:20])
    assert np.array_equal(read(folder, image_column="other").train_images, GREY[:20, :, ::-1])
    assert read(folder, image_column="image", label_column="word").classes == ("apple", "fig", "pear")
    refuse(
        folder,
        "data.image_column = imag: .* but image, label, other, word, weight; did you mean image?",
        image_column="imag",
    )
    refuse(folder, "data.image_column = label: in .* holds no encoded images, but int64", image_column="label")
    refuse(folder, "data.label_column = wrd: .*; did you mean word?", image_column="image", label_column="wrd")
    named = {"image_column": "image"}
    refuse(
        folder, "data.label_column = weight: in .* holds double, not integers or text", **named, label_column="weight"
    )
    refuse(folder, "data.user_column = use: .* no such column", **named, user_column="use")
    refuse(folder, "data.user_column = weight: in .* holds double", **named, user_column="weight")
    refuse(
        folder, "data.label_column and data.user_column are both word", **named, label_column="word", user_column="word"
    )


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({"fine_label": 3, "coarse_label": 1}, "fine_label"),
        ({"labels": 3, "year": 1}, "labels"),
        ({"digit": 3}, "digit"),
        ({"digit": 3, "writer": 2}, "digit"),
    ],
)
def test_the_label_column_goes_by_its_name_or_is_the_only_one_of_integers_besides_the_users(folder, columns, label):
    write(folder, **{name: [i % (divisor + 1) for i in range(30)] for name, divisor in columns.items()})
    user = "writer" if "writer" in columns else ""
    assert len(read(folder, user_column=user).classes) == columns[label] + 1
    if user:
        refuse(folder, r"data.label_column must say .* 2 columns that may be \(digit, writer\)")


def test_without_a_label_column_or_an_image_it_is_refused(folder):
    write(folder, word=WORDS)
    refuse(folder, "data.label_column must say which column of .*train-0.parquet is the label, integers: it has none")
    pq.write_table(pa.table({"label": [1]}), folder / "train-0.parquet")
    refuse(folder, "data.image_column must say which column .*: it has none that can be")


def test_integers_are_what_hugging_face_names_them_and_otherwise_the_values_that_occur(folder):
    write(folder, label=[(7, 3, 20)[i % 3] for i in range(30)])
    found = read(folder)
    assert found.classes == ("3", "7", "20")
    assert found.train_labels[:3].tolist() == [1, 0, 2]
    names = ("cat", "dog", "bird", "fish")
    write(folder, label=[i % 2 for i in range(30)], classes=names)
    found = read(folder)
    assert found.classes == names
    assert found.train_labels[:3].tolist() == [0, 1, 0]
    write(folder, label=[i % 5 for i in range(30)], classes=names)
    refuse(folder, "train-0.parquet has the label 4 in row 4, outside 0..3")
    write(folder, label=[-1 if i == 25 else 0 for i in range(30)], classes=names)
    refuse(folder, "test-0.parquet has the label -1 in row 5, outside 0..3")


def test_a_class_that_only_the_test_split_has_is_a_class(folder):
    write(folder, label=[*WORDS[:29], "zebra"])
    found = read(folder, train_examples=4)
    assert found.classes == ("apple", "fig", "pear", "zebra")
    assert found.test_labels[-1] == 3


def test_labels_that_are_not_known_are_no_class(folder):
    """As a competition's test files have them, -1 throughout."""
    write(folder, label=[i % 3 for i in range(20)] + [-1] * 10)
    refuse(folder, "data.label_column = label has -1 in the split of .*test-0.parquet: a number below 0 is no class")
    write(folder, label=[-1 if i == 15 else 0 for i in range(30)], who=[-i for i in range(30)])
    refuse(folder, "data.label_column = label has -1 in the split of .*train-0.parquet", label_column="label")


def test_classes_that_are_never_trained_on_are_told_of(folder):
    write(folder, label=[*WORDS[:28], "zebra", "yak"])
    assert read(folder).note == "1 x 8 x 10, 5 classes, 2 of the test images' classes in no training image"
    assert read(folder, train_examples=2).note.endswith("3 of the test images' classes in no training image")
    assert read(folder, test_examples=8).note == "1 x 8 x 10, 5 classes"


def write_untested(folder, **columns):
    """20 training examples, and no others."""
    write(folder, **columns)
    (folder / "test-0.parquet").unlink()
    return folder


def test_without_test_files_training_examples_are_held_out_for_it(folder):
    """The same ones for any number that is trained on or validated with; no example is in two splits."""
    write_untested(folder)
    refuse(folder, "own has neither .* to evaluate on; data.holdout_examples holds out that many examples of train")
    place = {image.tobytes(): row for row, image in enumerate(GREY[:20])}
    whole = read(folder, holdout_examples=6)
    rows = {
        split: [place[image.tobytes()] for image in getattr(whole, f"{split}_images")] for split in ("train", "test")
    }
    assert rows["test"] == sorted(rows["test"]) not in (list(range(6)), list(range(14, 20)))
    assert rows["train"] == sorted(set(range(20)) - set(rows["test"]))
    for split, found in rows.items():
        assert [whole.classes[label] for label in getattr(whole, f"{split}_labels")] == [WORDS[row] for row in found]
    assert whole.note == "1 x 8 x 10, 3 classes, test images held out of the training files"
    scaled = whole.train_images / 255
    assert whole.mean == pytest.approx((scaled.mean(),), rel=1e-12)
    fewer = read(folder, holdout_examples=6, train_examples=5, validation_examples=2, test_examples=4)
    assert np.array_equal(fewer.test_images, whole.test_images[:4])
    held = {place[image.tobytes()] for image in (*fewer.train_images, *fewer.validation_images)}
    assert held == set(rows["train"][:5])
    alike = read(folder, validation_examples=6, holdout_examples=1)
    assert [place[image.tobytes()] for image in alike.validation_images] != rows["test"]  # an address of its own
    refuse(folder, "data.holdout_examples is 20, which leaves none of the 20 training examples", holdout_examples=20)
    refuse(folder, "data.test_examples is 7, but there are only 6 test", holdout_examples=6, test_examples=7)


def test_examples_that_are_held_out_leave_their_users_behind(folder):
    names = [f"user {'zyx'[i % 3]}" for i in range(20)]
    write_untested(folder, label=WORDS, who=[*names, *names[:10]])
    place = {image.tobytes(): row for row, image in enumerate(GREY)}
    found = read(folder, user_column="who", holdout_examples=7)
    owners = [names[place[image.tobytes()]] for image in found.train_images]
    assert [sorted(set(names))[user] for user in found.train_users] == owners
    assert len(owners) == 13
    assert found.note.endswith("3 users")


def test_examples_are_held_out_of_no_folder_with_test_files(folder):
    write(folder)
    refuse(folder, "data.holdout_examples is for folders without test files, but .*own has test-0.parquet",
           holdout_examples=5)  # fmt: skip
    with pytest.raises(
        ValueError, match="data.holdout_examples = 5 goes with data.dataset = parquet or hf:NAME, not synthetic"
    ):
        Data(dataset="synthetic", holdout_examples=5)


def test_images_of_another_encoding_are_refused_by_its_name(folder):
    for name in ("WebP", "GIF", "BMP", "TIFF"):
        write(folder, [encoded(GREY[0], name), *GREY[1:]])
        refuse(folder, f"train-0.parquet has an image in row 0 that is neither PNG nor JPEG, but {name}$")


def test_a_split_of_no_images_is_refused(folder):
    write(folder)
    write_table(folder / "test-0.parquet", [], label=pa.array([], pa.string()))
    refuse(folder, "test-0.parquet and the other files of its split have no images")


def test_more_classes_than_a_model_can_have_are_refused(folder, monkeypatch):
    monkeypatch.setattr(parquet_folder, "MOST_CLASSES", 29)
    write(folder, label=list(range(30)))
    refuse(folder, "data.label_column = label tells 30 classes apart in .*own, and 29 are the most")


def test_text_may_be_of_any_length_and_kept_as_categories(folder):
    kinds = {
        "large": pa.array(WORDS, pa.large_string()),
        "categories": pa.array(WORDS).dictionary_encode(),
        "numbers": pa.array([len(word) for word in WORDS]).dictionary_encode(),
    }
    for kind, values in kinds.items():
        write(folder, label=values)
        assert len(read(folder).classes) == 3, kind


@pytest.mark.parametrize("users", ["names", "numbers"])
def test_users_are_numbered_in_the_order_of_their_names_and_stay_with_their_examples(folder, users):
    names = {"names": [f"user {'zyx'[i % 3]}" for i in range(30)], "numbers": [(900, 10, 9)[i % 3] for i in range(30)]}[
        users
    ]
    write(folder, label=WORDS, who=names)
    place = {image.tobytes(): row for row, image in enumerate(GREY)}
    order = sorted(set(names))
    for settings in (
        {},
        {"train_examples": 11},
        {"validation_examples": 6},
        {"train_examples": 15, "validation_examples": 3},
    ):
        found = read(folder, user_column="who", **settings)
        assert found.train_users.dtype == np.int64
        assert len(found.train_users) == len(found.train_labels)
        owners = [names[place[image.tobytes()]] for image in found.train_images]
        assert [order[user] for user in found.train_users] == owners
    assert found.note.endswith("3 classes, 3 users")


def test_users_of_whom_nothing_is_left_are_neither_numbered_nor_counted(folder):
    write(folder, label=WORDS, who=["d", "b", *["c"] * 10, *["a"] * 18])
    found = read(folder, user_column="who", train_examples=4)
    assert found.train_users.tolist() == [2, 0, 1, 1]
    assert found.note.endswith("3 classes, 3 users")
    assert read(folder, user_column="who").note.endswith("3 classes, 4 users")


def png(image, mode=None):
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["png", "palette", "jpeg"])
def test_where_any_training_image_has_colours_all_have(folder, kind):
    """However many are used, and whichever is the first."""
    colour = Image.fromarray(RNG.integers(0, 256, (8, 10, 3), dtype=np.uint8))
    one = {"png": png(colour), "palette": png(colour.quantize(16)), "jpeg": encoded(np.asarray(colour).transpose(2, 0, 1), "JPEG")}[kind]  # fmt: skip
    grey = [encoded(image, "JPEG" if kind == "jpeg" else "PNG") for image in GREY]
    write(folder, [one if i == 17 else grey[i] for i in range(30)])
    for settings in ({"train_examples": 3}, {}, {"train_examples": 3}):
        found = read(folder, **settings)
        assert found.train_images.shape[1] == found.test_images.shape[1] == 3
    assert (found.train_images == found.train_images[:, :1]).all()
    write(folder, grey)
    assert read(folder).train_images.shape[1] == 1


def test_colours_are_brought_to_those_of_the_training_images(folder):
    """Grey ones become colour, palettes and inks too, and transparency is dropped; what is drawn stays."""
    colour = RNG.integers(0, 256, (3, 8, 10), dtype=np.uint8)
    image = Image.fromarray(colour.transpose(1, 2, 0))
    palette = image.quantize(16)
    transparent = image.convert("RGBA")
    transparent.putalpha(7)
    see_through = palette.copy()
    see_through.info["transparency"] = bytes(range(16))
    cmyk = io.BytesIO()
    image.convert("CMYK").save(cmyk, "JPEG")
    first = {
        0: png(image),
        1: encoded(GREY[0]),
        2: png(palette),
        3: png(transparent),
        4: png(see_through),
        5: cmyk.getvalue(),
    }
    found = read(write(folder, [first.get(i, png(image)) for i in range(30)])).train_images
    assert found.shape == (20, 3, 8, 10)
    assert np.array_equal(found[0], colour)
    assert np.array_equal(found[1], np.repeat(GREY[0], 3, axis=0))
    assert np.array_equal(found[2], np.asarray(palette.convert("RGB")).transpose(2, 0, 1))
    assert np.array_equal(found[3], colour)
    assert np.array_equal(found[4], found[2])
    assert np.abs(found[5].astype(int) - colour).mean() < 60  # JPEG of noise


def test_black_and_white_is_grey_and_what_grey_cannot_show_is_refused(folder):
    image = Image.fromarray(GREY[0, 0])
    black = png(image, "1")
    found = read(write(folder, [black if i == 3 else png(image, "LA") if i == 4 else GREY[i] for i in range(30)]))
    assert set(found.train_images[3].ravel()) == {0, 255}
    assert np.array_equal(found.train_images[4], GREY[0])
    for kind, why in ((png(image, "RGB"), "of Pillow mode RGB, and the training images are grey"), (
        png(Image.fromarray(np.full((8, 10), 70_00, np.uint16))), "of Pillow mode I;16, which has more than 8 bits a channel")):  # fmt: skip
        write(folder, [kind if i == 25 else GREY[i] for i in range(30)])
        refuse(folder, f"test-0.parquet has an image in row 5 that is {why}")
    write(folder, [png(Image.fromarray(np.full((8, 10), 9, np.uint16))), *GREY[1:]])
    refuse(folder, "train-0.parquet has an image in row 0 that is of Pillow mode I;16")


def test_sizes_are_equal_or_made_so(folder):
    """Bilinearly, as Pillow does; a setting of its own place in the cache."""
    images = [*GREY[:15], RNG.integers(0, 256, (1, 12, 6), dtype=np.uint8), *GREY[16:]]
    write(folder, images)
    refuse(folder, r"train-1.parquet has an image in row 2 that is 6 x 12, not 10 x 8 as the first: data.image_size")
    for side in (5, 16, 5):
        found = read(folder, image_size=side)
        expected = [
            np.asarray(Image.fromarray(image[0]).resize((side, side), Image.Resampling.BILINEAR))
            for image in images[:20]
        ]
        assert np.array_equal(found.train_images[:, 0], np.stack(expected))
    assert found.note == "1 x 5 x 5, 3 classes"


def test_too_many_pixels_are_refused_before_they_are_decoded(folder):
    head = b"IHDR" + (30_000).to_bytes(4, "big") * 2 + GREY_8_BITS  # beyond Pillow's own limits too
    whole = encoded(GREY[0])
    bomb = whole[:12] + head + zlib.crc32(head).to_bytes(4, "big") + whole[33:]
    for settings in ({}, {"image_size": 8}):
        write(folder, [bomb if i == (0 if not settings else 7) else GREY[i] for i in range(30)])
        refuse(folder, r"an image in row [07] that is 30000 x 30000, more than 16,777,216 pixels", **settings)


def test_what_would_not_fit_into_memory_is_refused_with_the_numbers(folder, monkeypatch):
    """A small file can speak of very many rows."""
    import psutil

    write(folder)
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=1599))
    refuse(
        folder,
        r"the 20 rows of .*train-0.parquet .* need 1.6e-06 GB of memory, and 1.6e-06 GB are free: use fewer with data.train_examples",
    )
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=1600))
    assert len(read(folder).train_labels) == 20


def test_rows_without_a_value_are_refused(folder):
    who = ["x"] * 30
    write(folder, label=[*WORDS[:16], None, *WORDS[17:]], who=who)
    refuse(folder, "train-1.parquet has a row without label among rows 0 to 6")
    write(folder, label=WORDS, who=[*who[:4], None, *who[5:]])
    refuse(folder, "train-0.parquet has a row without who among rows 0 to 12", user_column="who")
    write(folder, [*GREY[:28], b"", GREY[29]])
    refuse(folder, "test-0.parquet has an image in row 8 that is neither PNG nor JPEG")
    write_table(folder / "test-0.parquet", [None, encoded(GREY[0])], label=["pear", "fig"])
    refuse(folder, "test-0.parquet has a row without image among rows 0 to 1")


def test_a_file_of_other_columns_than_the_first_is_refused(folder):
    write(folder)
    write_table(folder / "train-1.parquet", [encoded(GREY[0])], word=["pear"])
    refuse(folder, "the column label must hold integers or text in all files, but holds .*neither in .*train-1.parquet")
    write_table(folder / "train-1.parquet", [encoded(GREY[0])], label=[3])
    refuse(folder, "the column label must hold .*text in .*test-0.parquet and integers in .*train-1.parquet")
    write_table(folder / "train-1.parquet", [encoded(GREY[0])], image="picture", label=["pear"])
    refuse(folder, "train-1.parquet has no column image of encoded images, but picture, label")


def test_decoded_images_are_kept_by_columns_and_size(folder, monkeypatch):
    write(folder, label=WORDS, other=[encoded(image[:, ::-1]) for image in GREY])
    one, other = (read(folder, image_column=name) for name in ("image", "other"))
    assert one.fingerprint == other.fingerprint

    def refuse_to(*_):
        raise AssertionError("it was decoded")

    monkeypatch.setattr(parquet, "read_images", refuse_to)
    for name, first in (("image", one), ("other", other)):
        again = read(folder, image_column=name)
        assert np.array_equal(again.train_images, first.train_images)
        assert np.array_equal(again.test_labels, first.test_labels)
        assert again.mean == first.mean
        assert np.array_equal(read(folder, image_column=name, train_examples=3).train_images, first.train_images[:3])
    with pytest.raises(AssertionError, match="it was decoded"):
        read(folder, image_column="image", image_size=8)
    with pytest.raises(AssertionError, match="it was decoded"):
        read(folder, image_column="image", label_column="label", image_size=9)


def test_the_fingerprint_is_of_the_content(folder, tmp_path):
    data = Data(dataset="parquet", root=str(write(folder)))
    assert fingerprint(data) == fingerprint(replace(data, root=str(write(tmp_path / "elsewhere"))))
    before = fingerprint(data)
    write(folder, GREY[::-1])
    assert fingerprint(data) != before


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"image_column": "x"}, "data.image_column = x goes with data.dataset = parquet or hf:NAME, not auto"),
        (
            {"label_column": "x", "dataset": "mnist"},
            "data.label_column = x goes with data.dataset = parquet or hf:NAME, not mnist",
        ),
        (
            {"user_column": "x", "dataset": "a:b"},
            "data.user_column = x goes with data.dataset = parquet or hf:NAME, not a:b",
        ),
        (
            {"image_size": 9, "dataset": "synthetic"},
            "data.image_size = 9 goes with data.dataset = parquet or hf:NAME, not synthetic",
        ),
        ({"image_size": 0, "dataset": "parquet"}, "image_size"),
        ({"image_size": 5000, "dataset": "parquet"}, "image_size"),
    ],
)
def test_settings_of_parquet_go_with_nothing_else(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Data(**settings)


def test_the_real_cifar10_is_the_same_through_its_name_and_as_a_folder():
    folder = CIFAR10.locate(Path(REAL)) if REAL else None
    if not folder or not parquet.holds_parquet(folder):
        pytest.skip("FEDRAY_DATA names no folder with CIFAR-10 as Parquet")
    some = {"root": str(folder), "train_examples": 4000, "test_examples": 2000}
    known, found = (load(Data(dataset=name, **some)) for name in ("cifar10", "parquet"))
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        assert np.array_equal(getattr(found, name), getattr(known, name))
    assert found.classes == known.classes
    assert found.mean == pytest.approx(known.mean, abs=0.01)
    assert found.std == pytest.approx(known.std, abs=0.01)
