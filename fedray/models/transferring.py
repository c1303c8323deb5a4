"""What follows from the settings of a model that was trained before: model.init, trainable, lr_scale and lora_*."""

from typing import TYPE_CHECKING

from fedray.core.errors import BadInputError
from fedray.models import rates, weights
from fedray.models.patterns import patterns_of

EVERY = "*"


class Transferring:
    """A part of Model, which has the settings."""

    if TYPE_CHECKING:
        pretrained: bool
        freeze: str
        init: str
        trainable: str
        lr_scale: str
        lora_rank: int
        lora_alpha: float | None
        lora_layers: str

    def check_transfer(self) -> None:
        """BadInputError where these settings are none, or contradict others of the model."""
        if self.init and self.pretrained:
            raise BadInputError(f"model.init = {self.init} and model.pretrained = true are two models to start from")
        if self.init and not self.init.endswith(weights.MODEL_FILES):
            endings = ", ".join(weights.MODEL_FILES)
            raise BadInputError(f"model.init = {self.init!r} must be a file that ends in one of {endings}")
        if self.freeze == "backbone" and self.trains_a_part:
            said = f"model.trainable = {self.trainable!r}" if self.trainable.strip() else self.adapted
            raise BadInputError(
                f"model.freeze = backbone and {said} both say what is trained; the last layer by its name in "
                "model.trainable is what freeze = backbone trains"
            )
        if not self.lora_rank and (self.lora_alpha is not None or self.lora_layers != EVERY):
            which = "layers" if self.lora_alpha is None else "alpha"
            raise BadInputError(f"model.lora_{which} is for adapters, and model.lora_rank = 0 makes none")
        patterns_of(self.trainable, "model.trainable")
        if not patterns_of(self.lora_layers, "model.lora_layers"):
            raise BadInputError("model.lora_layers is empty; model.lora_rank = 0 makes no adapters")
        rates.parse(self.lr_scale)

    @property
    def adapted(self) -> str:
        return f"model.lora_rank = {self.lora_rank}"

    @property
    def trains_a_part(self) -> bool:
        """Whether model.trainable or adapters say what is trained."""
        return bool(self.trainable.strip() or self.lora_rank)

    @property
    def transfers(self) -> bool:
        """Whether trainable.py has something to do with the network."""
        return bool(self.init) or self.trains_a_part

    @property
    def freezes(self) -> str:
        """The setting that leaves parameters untrained; empty where there is none."""
        if self.freeze == "backbone":
            return "model.freeze = backbone"
        patterns = patterns_of(self.trainable, "model.trainable")
        if EVERY in patterns:
            return ""
        return self.adapted if self.lora_rank else f"model.trainable = {self.trainable!r}" if patterns else ""

    @property
    def lora_scale(self) -> float:
        """alpha / r."""
        return 1.0 if self.lora_alpha is None else self.lora_alpha / self.lora_rank

    @property
    def init_fingerprint(self) -> str:
        """The SHA-256 of the file of model.init; BadInputError where there is none."""
        return weights.fingerprint(weights.given(self.init)) if self.init else ""
