"""TOML that settings are written in. Whatever is given as such is read at once, or refused in one sentence.

The parser itself takes minutes over a name of 100,000 parts and gives up with a traceback where lists are nested by the
hundred; a pipe may never end, or never begin.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

from fedray.core.errors import BadInputError

LARGEST_FILE = 100_000  # bytes
MOST_NESTED = 20  # tables and lists in each other, and parts of a name
NAME = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
ENDLESS_NAME = re.compile(rf"(?<![A-Za-z0-9_-]){NAME}(?:[ \t]*\.[ \t]*{NAME}){{{MOST_NESTED}}}")


def read(path: Path) -> dict[str, Any]:
    """The tables of a settings file; FileNotFoundError where there is none."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not a file")
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        text = content.decode("utf-8-sig")  # an editor of Windows begins it with a mark
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a null character in the path
        raise BadInputError(f"the settings file {str(path)[:200]} cannot be read: {error}") from None
    if len(content) > LARGEST_FILE:
        raise BadInputError(f"the settings file {path} is larger than {LARGEST_FILE:,} bytes, as no settings are")
    try:
        return parse(text)
    except ValueError as error:
        raise BadInputError(f"the settings file {path} is not TOML: {error}") from None


def parse(text: str) -> dict[str, Any]:
    """TOML as settings could be; ValueError says what else it is, even where tomllib has no end or no sentence."""
    if ENDLESS_NAME.search(text):
        raise ValueError(f"it has a name of more than {MOST_NESTED} parts")
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise ValueError(f"it is nested more than {MOST_NESTED} deep") from None
    except ValueError:  # Python's own limit on digits
        raise ValueError("it has a whole number of more than 64 bits") from None
    left: list[tuple[Any, int]] = [(tree, 0)]
    while left:
        value, depth = left.pop()
        if depth > MOST_NESTED:
            raise ValueError(f"it is nested more than {MOST_NESTED} deep")
        if isinstance(value, int) and value.bit_length() > 64:
            raise ValueError("it has a whole number of more than 64 bits")
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        left += [(each, depth + 1) for each in inner]
    return tree
