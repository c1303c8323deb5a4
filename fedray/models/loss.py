"""The section `loss` of the settings: what training minimises. No torch is imported here, as in model.py.

training/objective.py computes the losses. Huber's: Huber 1964, "Robust Estimation of a Location Parameter". Balanced
weights of classes are those of King, Zeng 2001, "Logistic Regression in Rare Events Data", as scikit-learn has them.
"""

import dataclasses
import math

import numpy as np

from fedray.core import own_code
from fedray.core.errors import BadInputError
from fedray.core.kinds import Kind
from fedray.core.settings import nearest, section, setting

SUITED: dict[str, tuple[str, ...]] = {
    "classes": ("cross_entropy",),
    "labels": ("bce",),
    "values": ("mse", "huber"),
}
"""For each kind of targets the losses that suit it. The first is what `auto` is. An own loss suits all."""
NAMES = tuple(name for names in SUITED.values() for name in names)
WEIGHTED = ("cross_entropy", "bce")
"""The losses that class_weights is for."""
DELTA = 1.0  # the default of loss.delta

OTHER_NAMES = {
    **dict.fromkeys(("ce", "nll", "softmax", "log_loss", "categorical_crossentropy"), "cross_entropy"),
    **dict.fromkeys(("binary_cross_entropy", "bce_with_logits", "sigmoid", "multilabel"), "bce"),
    **dict.fromkeys(("l2", "squared_error", "mean_squared_error"), "mse"),
    **dict.fromkeys(("smooth_l1", "l1", "mae", "robust"), "huber"),
}
"""Other names of losses, where the most similar one is another or there is none."""


@section
class Loss:
    """What clients minimise: the mean over a batch's examples, and over the outputs of an example where it has many."""

    name: str = setting(
        "auto",
        "The loss: cross_entropy for classes; bce for labels, the binary cross-entropy of each; mse or huber for "
        "values, the squared error, or Huber's; or your own, package.module:function, called as "
        "function(output, targets), which gives the mean over the batch's examples; auto: cross_entropy, bce or mse, "
        "as the targets are.",
    )
    delta: float = setting(
        DELTA, "Error above which Huber's loss grows linearly, in the unit of the targets.", gt=0, le=1e6
    )
    class_weights: str = setting(
        "none",
        "Weights of classes in training: none; balanced, which is n / (classes x examples of the class) over all "
        "training examples, and for bce negatives / positives of each label; or a number for each class, 1, 2.5, 1. "
        "An example's cross-entropy counts as often as its class's weight says, and with bce what a label's positives "
        "lose. Evaluation uses no weights.",
    )

    def __post_init__(self) -> None:
        if self.name != "auto" and self.name not in NAMES and not self.is_own:
            raise BadInputError(
                f"loss.name = {self.name!r} is neither one of auto, {', '.join(NAMES)} nor package.module:function"
                f"{nearest(self.name, NAMES, OTHER_NAMES)}"
            )
        if self.delta != DELTA and self.name != "huber":
            raise BadInputError(f"loss.delta = {self.delta:g} is for loss.name = huber, not {self.name}")
        if self.class_weights not in ("none", "balanced"):
            self.read_weights()
        if self.is_weighted and self.name not in ("auto", *WEIGHTED):
            raise BadInputError(self.unweighted(self.name))

    @property
    def is_own(self) -> bool:
        """Whether the loss is a function of the user's."""
        return own_code.is_address(self.name)

    @property
    def is_weighted(self) -> bool:
        return self.class_weights != "none"

    @property
    def changed(self) -> str:
        """The first setting that is not neutral, with its value; empty where all are."""
        values = {"name": self.name, "class_weights": self.class_weights}
        neutral = {"name": "auto", "class_weights": "none"}
        return next((f"loss.{name} = {value}" for name, value in values.items() if value != neutral[name]), "")

    def unweighted(self, name: str) -> str:
        return f"loss.class_weights = {self.class_weights} is for {' and '.join(WEIGHTED)}, not for loss.name = {name}"

    def chosen(self, kind: Kind) -> str:
        """The loss for such targets, "auto" replaced; BadInputError where it does not suit them."""
        suited = SUITED[kind.targets]
        name = suited[0] if self.name == "auto" else self.name
        if name not in suited and not self.is_own:
            raise BadInputError(
                f"loss.name = {name} is for {suited_by(name)}, and the targets are {kind.targets}; for those there is "
                f"{' or '.join(suited)}, or a function of your own"
            )
        if self.is_weighted and name not in WEIGHTED:
            raise BadInputError(self.unweighted(name))
        return name

    def read_weights(self) -> tuple[float, ...]:
        """The weights as they are listed; BadInputError where they are none."""
        try:
            found = tuple(float(word) for word in self.class_weights.split(","))
        except ValueError:
            found = ()
        if not found or not all(0 <= weight < math.inf for weight in found) or not any(found):
            raise BadInputError(
                f"loss.class_weights = {self.class_weights!r} is neither none nor balanced nor a list of numbers from "
                "0 up with a comma between them, of which one is above 0"
            )
        return found

    def weights(self, kind: Kind, targets: np.ndarray, classes: tuple[str, ...]) -> tuple[float, ...]:
        """The weight of each class or label, from all training targets; () without weights.

        A class without an example, and a label without positives, has the weight 1, which nothing is multiplied by.
        BadInputError where there are not as many weights as classes, or a label that is always 1 would weigh nothing.
        """
        name = self.chosen(kind)
        if not self.is_weighted:
            return ()
        if self.class_weights != "balanced":
            found = self.read_weights()
            if len(found) != len(classes):
                raise BadInputError(
                    f"loss.class_weights = {self.class_weights} are {len(found)} numbers, and there are "
                    f"{len(classes)} {kind.targets}"
                )
            return found
        if name == "cross_entropy":
            counts = np.bincount(targets, minlength=len(classes))
            return tuple(len(targets) / (len(classes) * int(count)) if count else 1.0 for count in counts)
        positives = targets.sum(0, dtype=np.float64)
        if (always := positives == len(targets)).any():
            raise BadInputError(
                f"loss.class_weights = balanced gives the label {classes[int(always.argmax())]} no weight, since all "
                "training examples have it"
            )
        return tuple((len(targets) - float(count)) / float(count) if count else 1.0 for count in positives)

    def fingerprint(self) -> str:
        """A digest of the file of the user's own loss; empty where it is not one's own."""
        return own_code.fingerprint(self.name, "loss.name") if self.is_own else ""

    def as_chosen(self, kind: Kind) -> "Loss":
        """The same with "auto" replaced."""
        return dataclasses.replace(self, name=self.chosen(kind))


def suited_by(name: str) -> str:
    """The kind of targets that a loss suits."""
    return next(targets for targets, names in SUITED.items() if name in names)
