"""The wording of numbers and settings in a report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedray.sweep.summary import is_share, written

BARE = ("algorithm", "model", "partition", "dataset", "data_format", "weighting")
"""Settings whose value stands in a label without the setting's name."""

ALL_AT_ZERO = ("data.train_examples", "data.test_examples")
"""Settings whose value 0 means all examples."""

MEASURES = {
    "test_accuracy": "test accuracy",
    "validation_accuracy": "validation accuracy",
    "client_accuracy": "clients' accuracy",
    "test_loss": "test loss",
    "train_loss": "train loss",
}
JUDGES = {
    **{
        f"{split}_{measure}": f"{split} {said}"
        for split in ("test", "validation")
        for measure, said in {
            "f1": "F1",
            "balanced_accuracy": "balanced accuracy",
            "auc": "AUC",
            "mae": "MAE",
            "rmse": "RMSE",
            "own_metric": "own metric",
        }.items()
    },
    "validation_loss": "validation loss",
    "client_loss": "clients' loss",
    "unseen_accuracy": "unseen clients' accuracy",
}
"""Measures that are shown where they judge the runs, or where somebody asked for them."""
NAMES = MEASURES | JUDGES


def titled(words: str) -> str:
    """Words with a capital in front."""
    return words[:1].upper() + words[1:]


def short(name: str) -> str:
    """A setting's name without its section."""
    return name.rpartition(".")[2].replace("_", " ")


def setting(name: str, given: Any) -> str:
    """A value of the setting `name` in words; `all` if it is 0 and means all examples."""
    return "all" if name in ALL_AT_ZERO and given == 0 else written(given)


def label(settings: Mapping[str, Any]) -> str:
    """A configuration's name from the settings that tell it apart; missing ones are left out: `fedprox, lr 0.1`."""
    words = [
        written(given) if name in BARE else f"{short(name)} {setting(name, given)}" for name, given in settings.items()
    ]
    return ", ".join(word for word, given in zip(words, settings.values(), strict=True) if not is_missing(given))


def is_missing(given: Any) -> bool:
    return given is None or (isinstance(given, float) and math.isnan(given))


def percent(mean: float, std: float = math.nan) -> str:
    """A fraction and its spread in percent, without the sign: `97.9 ± 0.3`."""
    return "" if is_missing(mean) else f"{100 * mean:.1f}" + ("" if is_missing(std) else f" ± {100 * std:.1f}")


def measure(name: str, mean: float, std: float = math.nan) -> str:
    """A value of a measure: a share in percent, with the sign, any other as a number."""
    said = percent(mean, std) if is_share(name) else number(mean, std)
    return f"{said} %" if said and is_share(name) else said


def number(mean: float, std: float = math.nan) -> str:
    """A mean and its spread with about three digits: `12.3 ± 0.6`, `1,204 ± 31`."""
    if is_missing(mean):
        return ""
    digits = max(0, 2 - math.floor(math.log10(abs(mean)))) if 0 < abs(mean) < 100 else 0
    written = f"{mean:,.{min(digits, 4)}f}"
    written = written if mean != round(mean) or not is_missing(std) else f"{mean:,.0f}"
    return written + ("" if is_missing(std) else f" ± {std:,.{min(digits, 4)}f}")


def duration(seconds: float) -> str:
    """A time in words: `0.84 s`, `12.3 s`, `4 min 10 s`, `2 h 5 min`."""
    if is_missing(seconds):
        return ""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return (
        f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{int(seconds) // 60} min {int(seconds) % 60} s"
    )


def size(count: float) -> str:
    """Bytes in decimal units: `24.8 MB`."""
    if is_missing(count):
        return ""
    power = min(4, int(math.log10(count) // 3)) if count >= 1 else 0
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def enumerate_words(words: Sequence[str]) -> str:
    """A list of words as text: `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 run`, `1,200 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
