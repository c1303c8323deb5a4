"""Small real things that many tests are made of."""

from typing import Any, Literal, get_args, get_origin

import numpy as np

from fedray.algorithms.fedavg import FedAvg
from fedray.core.kinds import Kind
from fedray.core.scores import Performance
from fedray.data.dataset import Dataset
from fedray.models.model import KNOWN, Model
from fedray.training.spec import Recipe

OF_IMAGES = [name for name, facts in KNOWN.items() if "images" in facts.takes]
"""The networks that take images."""


def make_dataset(
    train: int = 96, test: int = 1100, classes: int = 10, side: int = 32, channels: int = 3, validation: int = 450
) -> Dataset:
    """Random images with random labels: enough for anything that compares bits."""
    rng = np.random.default_rng(7)
    return Dataset(
        name="noise",
        format="generated",
        train_images=rng.integers(0, 256, (train, channels, side, side), dtype=np.uint8),
        train_labels=rng.integers(0, classes, train),
        test_images=rng.integers(0, 256, (test, channels, side, side), dtype=np.uint8),
        test_labels=rng.integers(0, classes, test),
        mean=(0.5, 0.4, 0.45)[:channels],
        std=(0.25, 0.2, 0.3)[:channels],
        classes=tuple(f"class {i}" for i in range(classes)),
        fingerprint="noise",
        validation_images=rng.integers(0, 256, (validation, channels, side, side), dtype=np.uint8),
        validation_labels=rng.integers(0, classes, validation),
    )


def make_values(
    targets: Literal["classes", "labels", "values"] = "values",
    shape: tuple[int, ...] = (6,),
    outputs: int = 3,
    train: int = 96,
    test: int = 40,
) -> Dataset:
    """Random numbers with targets that a linear function of them gives, and some noise."""
    rng = np.random.default_rng(5)
    inputs = rng.standard_normal((train + test, *shape), np.float32)
    true = rng.standard_normal((inputs[0].size, outputs), np.float32)
    scores = inputs.reshape(len(inputs), -1) @ true + rng.standard_normal((len(inputs), outputs), np.float32) / 4
    found = {"classes": scores.argmax(1), "labels": (scores > 0.5).astype(np.float32), "values": scores}[targets]
    names = tuple(f"target {i}" for i in range(outputs))
    return of_arrays(inputs, found, train, names, Kind(inputs="values", targets=targets), shape[0])


def make_tokens(length: int = 12, train: int = 96, test: int = 40) -> Dataset:
    """Texts of several lengths, of 11 tokens of which 0 is padding. The class is whether there are more of 1 than of 2."""
    rng = np.random.default_rng(6)
    tokens = rng.choice(11, (train + test, length), p=[0, 0.3, 0.3, *[0.05] * 8])
    tokens[np.arange(length) >= rng.integers(3, length + 1, len(tokens))[:, None]] = 0
    labels = ((tokens == 1).sum(1) > (tokens == 2).sum(1)).astype(np.int64)
    return of_arrays(tokens, labels, train, ("no", "yes"), Kind(inputs="tokens", vocabulary=11, padding=0))


def of_arrays(
    inputs: np.ndarray, targets: np.ndarray, train: int, classes: tuple[str, ...], kind: Kind, channels: int = 0
) -> Dataset:
    """A data set of its first rows to train on and the rest to test on, whose channels are normal already."""
    return Dataset(
        name=f"some {kind.inputs}",
        format="arrays",
        train_images=inputs[:train],
        train_labels=targets[:train],
        test_images=inputs[train:],
        test_labels=targets[train:],
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        classes=classes,
        fingerprint=f"some {kind.inputs}",
        kind=kind,
    )


def make_recipe(
    dataset: Dataset,
    model: str = "lenet5",
    augment: str = "none",
    seed: int = 3,
    engine: str = "plain",
    cutout: int = 16,
    **settings,
) -> Recipe:
    shape, images = dataset.train_images.shape[1:], (dataset.mean, dataset.std, augment)
    network, kind = Model(name=model, **settings), dataset.kind
    return Recipe(network, shape, len(dataset.classes), *images, seed, engine, cutout, kind=kind)


def bits_of(found: Performance) -> tuple[Any, ...]:
    """An evaluation as something that can be compared."""
    return found.loss, found.accuracy, found.top_k_accuracy, found.confusion.tobytes()


def make_algorithm(kind: type[FedAvg], **settings) -> FedAvg:
    """An algorithm with these settings, but for those that it has only one value of."""
    fields: dict[str, Any] = kind.__pydantic_fields__
    return kind(**{name: value for name, value in settings.items() if not has_one_value(fields[name].annotation)})


def has_one_value(annotation: Any) -> bool:
    """Whether a setting of this type is fixed, as batch_size is by FedSGD."""
    return annotation is type(None) or (get_origin(annotation) is Literal and len(get_args(annotation)) == 1)
