"""Runs on data sets of the user's own and on grey ones, from the command line to the tables."""

import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from fuzzing import end_of
from making import encoded, write_original, write_table

from fedray import results
from fedray.__main__ import main

SMALL = ["--rounds", "3", "--clients", "4", "--cohort", "2", "--cluster.backend", "in-process", "--output.name", "own"]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.delenv("FEDRAY_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def fedray(*words):
    """The program, in this process."""
    return end_of(main, *SMALL, *words, seconds=100)


def bright_or_dark(n, side=9):
    """Grey images that a linear model tells apart: the left or the right half is brighter."""
    rng = np.random.default_rng(n)
    images, labels = rng.integers(0, 100, (n, 1, side, side), dtype=np.uint8), np.arange(n) % 2
    for image, label in zip(images, labels, strict=True):
        image[0, :, slice(side // 2) if label else slice(side // 2, None)] += 120
    return images, labels


def test_a_folder_of_grey_png_with_labels_in_words_is_trained_on(tmp_path):
    images, labels = bright_or_dark(120)
    words = np.array(["right", "left"])[labels].tolist()
    for name, rows in {"train": slice(0, 80), "validation": slice(80, 120)}.items():
        contents = [encoded(image) for image in images[rows]]
        write_table(tmp_path / "mine" / "data" / f"{name}.parquet", contents, word=words[rows], label=words[rows])
    done = fedray(
        *("--data.dataset", "parquet", "--data.root", "mine", "--model.name", "logistic"),
        *("--data.augment", "none", "--data.validation_examples", "20", "--algorithm.batch_size", "5"),
    )
    assert (done.status, done.err) == (0, "")
    assert (
        "data      parquet, 60 training, 20 validation and 40 test images "
        "(1 x 9 x 9, 2 classes, test images from validation.parquet)\n"
    ) in done.out
    found = results.load("own", tmp_path / "results")
    (row,) = found.runs.to_dict("records")
    assert (row["status"], row["dataset"], row["data_format"], row["judged_by"]) == (
        *("finished", "parquet", "png", "validation"),
    )
    assert row["num_params"] == 81 * 2 + 2
    assert row["final_test_accuracy"] == 1
    assert set(found.partitions["label_name"]) == {"left", "right"}
    assert "not repeated" in fedray(
        *("--data.dataset", "parquet", "--data.root", tmp_path / "mine" / "data", "--model.name", "logistic"),
        *("--data.validation_examples", "20", "--algorithm.batch_size", "5"),
    ).out  # fmt: skip


def test_what_a_function_of_the_current_folder_returns_is_trained_on(tmp_path, monkeypatch):
    images, labels = bright_or_dark(100)
    np.savez(tmp_path / "arrays.npz", images=images, labels=labels)
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
            import numpy as np
            def halves():
                found = np.load("arrays.npz")
                images, labels = found["images"], found["labels"]
                return {"train_images": images[:60], "train_labels": labels[:60], "test_images": images[60:],
                        "test_labels": labels[60:], "classes": ["right", "left"]}
        """)
    )
    words = ("--data.dataset", "mine:halves", "--model.name", "mlp", "--algorithm.batch_size", "5")
    program = [sys.executable, "-m", "fedray", *SMALL, *words]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "data      mine:halves, 60 training and 40 test images (1 x 9 x 9, 2 classes)\n" in done.stdout
    (row,) = results.load("own", tmp_path / "results").runs.to_dict("records")
    assert (row["dataset"], row["data_format"], row["final_test_accuracy"]) == ("mine:halves", "arrays", 1)
    monkeypatch.syspath_prepend(tmp_path)
    assert "not repeated" in fedray(*words).out


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_a_convolution_takes_grey_images_of_another_size(tmp_path, augment):
    write_original(tmp_path / "data", "mnist")
    done = fedray("--data.dataset", "mnist", "--model.name", "lenet5", "--data.augment", augment)
    assert (done.status, done.err) == (0, "")
    (row,) = results.load("own", tmp_path / "results").runs.to_dict("records")
    assert (row["dataset"], row["data_format"], row["num_params"]) == ("mnist", "idx", 44_426)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--data.dataset", "mnits"), "data.dataset = 'mnits' is neither one of .*; did you mean mnist?"),
        (("--data.dataset", "nothing:here"), "data.dataset = nothing:here: nothing cannot be imported"),
        (("--data.dataset", "parquet"), "there is no train"),
        (("--data.dataset", "fashion_mnist"), "there is no Fashion-MNIST in the folder data"),
        (("--data.user_column", "x"), "data.user_column = x goes with data.dataset = parquet or hf:NAME, not auto"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_before_anything_is_on_disk(tmp_path, words, sentence):
    done = fedray(*words)
    assert done.status == 2
    assert re.search(sentence, done.err)
    assert not any(tmp_path.iterdir())
