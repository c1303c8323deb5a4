"""The generated data set: the same bytes everywhere, hard for a linear model, easy for a small convolution."""

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from fedray.data.augment import normalise
from fedray.data.synthetic import CLASSES, MEAN, SIZES, STD, generate


@pytest.fixture(scope="module")
def splits():
    return {split: generate(split, size) for split, size in SIZES.items()}


def test_the_bytes_are_pinned(splits):
    digest = hashlib.sha256()
    for images, labels in splits.values():
        digest.update(images.tobytes() + labels.astype("<i8").tobytes())
    assert digest.hexdigest() == "b1509323f7b18a9a97b741366473dfcb6aae4c935bf2fb12f1709a59024d1c2b"


def test_shapes_and_balance(splits):
    for split, (images, labels) in splits.items():
        assert images.shape == (SIZES[split], 3, 32, 32)
        assert images.dtype == np.uint8
        assert images.flags.c_contiguous
        assert labels.dtype == np.int64
        assert np.bincount(labels).tolist() == [SIZES[split] // 10] * len(CLASSES)
    assert len(np.unique(splits["train"][0][:, 0, 0], axis=0)) == SIZES["train"]  # no image is drawn twice


@pytest.mark.parametrize("count", [1, 499, 500, 501, 1700])
def test_an_example_does_not_depend_on_how_many_are_drawn(splits, count):
    for split, (images, labels) in splits.items():
        few, few_labels = generate(split, count)
        assert np.array_equal(few, images[:count])
        assert np.array_equal(few_labels, labels[:count])


def test_the_splits_differ(splits):
    assert not np.array_equal(splits["train"][0][:100], splits["test"][0][:100])


def train(model, images, labels, epochs, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(normalise(images[rows], MEAN, STD)), labels[rows]).backward()
            optimizer.step()


def accuracy(model, images, labels):
    with torch.no_grad():
        return (model(normalise(images, MEAN, STD)).argmax(1) == labels).float().mean().item()


@pytest.fixture
def tensors(splits):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield {split: tuple(map(torch.from_numpy, arrays)) for split, arrays in splits.items()}
    torch.set_num_threads(threads)


def test_a_linear_model_learns_something_but_stays_far_behind(tensors):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    train(model, *tensors["train"], epochs=3, lr=0.005)
    assert 0.2 < accuracy(model, *tensors["test"]) < 0.6


@pytest.mark.slow
def test_a_small_convolution_passes_85_percent_but_is_not_perfect(tensors):
    model = nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )
    train(model, *tensors["train"], epochs=2, lr=0.03)
    assert 0.85 < accuracy(model, *tensors["test"]) < 0.995
