"""Small real things that many tests are made of."""

from typing import Any, Literal, get_args, get_origin

import numpy as np

from fedray.algorithms.fedavg import FedAvg
from fedray.core.scores import Performance
from fedray.data.dataset import Dataset
from fedray.models.model import Model
from fedray.training.spec import Recipe


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
    model_and_more = Model(name=model, **settings), shape, len(dataset.classes), *images, seed, engine, cutout
    return Recipe(*model_and_more, kind=dataset.kind)


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
