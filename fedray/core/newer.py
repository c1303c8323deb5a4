"""The settings that are newer than fedray 0.3.0, each with its neutral value: what fedray did before there was one.

A neutral value is left out of a run's id, of its checkpoints and of the column `settings`. So the runs of 0.3.0 keep
their ids and go on. Whoever reads settings back fills the neutral values in.

A new setting of a section or an algorithm that was there before is declared in its section and listed here. A new
section is listed by all its settings; it is left out while all of them are neutral. Settings of a new algorithm or
partition are not listed: its name tells.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Newer:
    """A setting that 0.3.0 did not have."""

    neutral: Any
    """The value under which fedray does what 0.3.0 did. The default may be another one."""
    only: tuple[str, ...] = ()
    """The names in its section (`fedprox`) that have the setting; empty where all have it."""


NEWER: dict[str, Newer] = {
    "aggregator.name": Newer("mean"),
    "data.input_columns": Newer(""),
    "data.target_bins": Newer(10),
    "data.sampling": Newer("shuffle"),
    **{f"evaluation.{name}": Newer(None) for name in ("metrics", "own_metric", "judged_by", "target")},
    **{f"evaluation.{name}": Newer(0.0) for name in ("client_holdout", "unseen_clients")},
    "loss.name": Newer("auto"),
    "loss.delta": Newer(1.0),
    "loss.class_weights": Newer("none"),
    "model.init": Newer(""),
    "model.trainable": Newer(""),
    "model.lr_scale": Newer(""),
    "model.lora_rank": Newer(0),
    "model.lora_alpha": Newer(None),
    "model.lora_layers": Newer("*"),
    "output.client_output": Newer(False),
    "output.keep_checkpoint": Newer(False),
}
"""By dotted name."""


def without_neutral(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings without the newer ones that are neutral, and without sections that so become empty."""
    kept: dict[str, Any] = {}
    for section, value in settings.items():
        if not isinstance(value, Mapping):
            if not _is_neutral(section, value, None):
                kept[section] = value
        else:
            chosen = value.get("name")
            inner = {key: each for key, each in value.items() if not _is_neutral(f"{section}.{key}", each, chosen)}
            if inner or not value:
                kept[section] = inner
    return kept


def with_neutral(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name with the neutral value of each newer one that is absent and that its section has."""
    filled = dict(settings)
    for name, newer in sorted(
        NEWER.items(), key=lambda item: len(item[1].only) > 0
    ):  # names before what depends on them
        if name not in filled and _has(newer, filled.get(f"{name.partition('.')[0]}.name")):
            filled[name] = newer.neutral
    return filled


def _is_neutral(name: str, value: Any, chosen: Any) -> bool:
    newer = NEWER.get(name)
    return newer is not None and _has(newer, chosen) and bool(value == newer.neutral)


def _has(newer: Newer, chosen: Any) -> bool:
    return not newer.only or chosen in newer.only
