"""The question of an experiment and its author's answer, both from the comment at the top of its TOML file."""

from dataclasses import dataclass
from pathlib import Path

from fedray.core.errors import BadInputError

EXPERIMENT = "experiment.toml"
"""The name of the copy of the experiment's file in its results folder."""


@dataclass(frozen=True)
class Block:
    """A paragraph, or lines that are shown as they are."""

    text: str
    verbatim: bool = False


@dataclass(frozen=True)
class Header:
    question: str
    answer: tuple[Block, ...] = ()
    note: str = ""
    """A sentence on the answer: why it is not shown, or which runs it is not about."""
    settings: str = ""
    """The digest of the file's settings (measured.py); empty without a file."""


def read_header(folder: Path) -> Header:
    """The header of the experiment with its results in `folder`. Without one, the question is the folder's name.

    BadInputError if the file cannot be read.
    """
    path = folder / EXPERIMENT
    try:
        text = path.read_text("utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"the experiment {path} cannot be read: {error}") from None
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:].removeprefix(" ").rstrip())
    while lines and not lines[0]:
        del lines[0]
    return Header(lines[0], tuple(blocks(lines[1:]))) if lines else Header(folder.name)


def blocks(lines: list[str]) -> list[Block]:
    """The lines grouped into blocks: an empty line ends one, and so does a change of indentation. Indented ones are
    verbatim."""
    found: list[list[str]] = [[]]
    for line in lines:
        if not line:
            found.append([])
        elif found[-1] and is_indented(line) != is_indented(found[-1][-1]):
            found.append([line])
        else:
            found[-1].append(line)
    return [
        Block("\n".join(line[4:] for line in block), verbatim=True) if is_indented(block[0]) else Block(" ".join(block))
        for block in found
        if block
    ]


def is_indented(line: str) -> bool:
    return line.startswith("    ")
