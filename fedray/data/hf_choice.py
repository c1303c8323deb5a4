"""The choice of the columns of a data set of Hugging Face's: its inputs and its label."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedray.core.errors import BadInputError
from fedray.core.settings import nearest
from fedray.data.hf_columns import LISTS, NUMBERS

PREFIX = "hf:"
TOKENS = "input_ids"
LABELS = ("label", "labels", "fine_label", "target", "targets")


@dataclass(frozen=True)
class Wanted:
    """What the settings ask for. Empty and None leave it open."""

    dataset: str
    root: Path
    image_column: str | None
    input_columns: str
    label_column: str | None
    user_column: str
    image_size: int | None
    tested: bool
    """Whether there has to be a test split; otherwise examples are held out for it, and there must be none."""

    @property
    def wrong(self) -> str:
        return f"data.dataset = {self.dataset}"


def choose(wanted: Wanted, kinds: Mapping[str, str]) -> tuple[list[str], str]:
    """The columns of the inputs, and that of the label; BadInputError where that is open."""
    has = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    named = [name.strip() for name in wanted.input_columns.split(",") if name.strip()]
    for setting, names in (
        ("image_column", [wanted.image_column]), ("input_columns", named), ("label_column", [wanted.label_column]),
        ("user_column", [wanted.user_column]),
    ):  # fmt: skip
        if missing := next((name for name in names if name and name not in kinds), None):
            raise BadInputError(f"data.{setting} = {missing}: {wanted.dataset} has {has}{nearest(missing, kinds)}")
    if wanted.image_column and kinds[wanted.image_column] != "image":
        raise BadInputError(f"data.image_column = {wanted.image_column}: {wanted.dataset} has {has}")
    if wanted.image_column and named:
        raise BadInputError("data.image_column and data.input_columns both say what the inputs are")
    if wanted.user_column and kinds[wanted.user_column] not in ("integers", "text", "class"):
        raise BadInputError(f"data.user_column = {wanted.user_column} is neither integers nor text in {has}")
    given = [wanted.image_column] if wanted.image_column else named
    label = wanted.label_column or _find_label(wanted, {name: kinds[name] for name in kinds if name not in given}, has)
    inputs = [str(name) for name in given] or _find_inputs(wanted, kinds, label, has)
    if both := next((name for name in inputs if name in (label, wanted.user_column)), None):
        raise BadInputError(f"{wanted.wrong}: {both} is among the inputs and is the label or the user, too")
    if label == wanted.user_column:
        raise BadInputError(f"data.label_column and data.user_column are both {label}")
    if len(inputs) > 1 and (odd := next((name for name in inputs if kinds[name] not in NUMBERS), None)):
        raise BadInputError(f"data.input_columns of a table are numbers, and {odd} of {wanted.dataset} is {kinds[odd]}")
    if kinds[inputs[0]] not in ("image", *NUMBERS, *LISTS):
        raise BadInputError(
            f"data.input_columns = {inputs[0]}: {wanted.dataset} has {has}, and inputs are images, numbers, lists or "
            "arrays of them; text is turned into lists of token ids first"
        )
    return inputs, label


def _find_label(wanted: Wanted, kinds: Mapping[str, str], has: str) -> str:
    known = {name: kind for name, kind in kinds.items() if name != wanted.user_column}
    usual = [name for name in LABELS if name in known][:1] or [name for name, kind in known.items() if kind == "class"]
    if "image" in kinds.values() or any(kind in LISTS for kind in kinds.values()):
        usual = usual or [name for name, kind in known.items() if kind == "integers"]
    if len(usual) != 1:
        raise BadInputError(f"data.label_column must say which column of {wanted.dataset} is the label: it has {has}")
    return usual[0]


def _find_inputs(wanted: Wanted, kinds: Mapping[str, str], label: str, has: str) -> list[str]:
    free = {name: kind for name, kind in kinds.items() if name not in (label, wanted.user_column)}
    images = [name for name, kind in free.items() if kind == "image"]
    lists = [TOKENS] if free.get(TOKENS) in LISTS else [name for name, kind in free.items() if kind in LISTS]
    numbers = [name for name, kind in free.items() if kind in NUMBERS]
    found = images or lists or numbers
    if len(images) > 1 or (not images and len(lists) > 1) or not found or (lists and numbers and lists != [TOKENS]):
        raise BadInputError(
            f"data.input_columns must say which columns of {wanted.dataset} are the inputs, one of images, of lists or "
            f"of arrays, or several of numbers: it has {has}"
        )
    return found
