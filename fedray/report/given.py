"""What the command line of a report names: folders of results, forms of figures, and where the page goes."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedray.core.errors import BadInputError
from fedray.core.settings import nearest

FORMS = ("svg", "pdf", "png")
USUAL = "svg,png"
"""What `--figures` alone stands for."""
FIGURES = "figures"
"""The folder of figures, beside the page."""
LONGEST = 100
"""The most characters of a folder's name that is made of several results' names."""


def with_forms(argv: Sequence[str]) -> list[str]:
    """The words of a command line in which `--figures` has its forms, as it may be given without."""
    words, found = list(argv), []
    while words:
        word = words.pop(0)
        if word == "--figures":
            follows = bool(words) and is_forms(words[0])
            word = f"{word}={words.pop(0) if follows else USUAL}"
        found.append(word)
    return found


def is_forms(word: str) -> bool:
    """Whether a word after `--figures` is meant as forms of figures and not as results."""
    if set(word.split(",")) <= set(FORMS):
        return True
    return bool(re.fullmatch(r"[A-Za-z, ]+", word)) and not (folder_of(word) / "runs").is_dir()


def read_forms(given: str) -> list[str]:
    """The forms of `pdf,svg,png`; BadInputError for another one."""
    forms = [word.strip().lower() for word in given.split(",")]
    if wrong := next((word for word in forms if word not in FORMS), None) if given else "":
        raise BadInputError(f"--figures {wrong} is none of the forms {', '.join(FORMS)}{nearest(wrong, FORMS)}")
    if not given:
        raise BadInputError(f"--figures needs forms, some of {','.join(FORMS)}")
    return list(dict.fromkeys(forms))


def folders_of(given: Sequence[str]) -> dict[str, Path]:
    """The folders of the results by their names, or by their paths where two have the same name; each once."""
    places = {folder.resolve(): folder for folder in reversed([folder_of(word) for word in given])}
    names = [place.name for place in places]
    return {
        place.name if names.count(place.name) == 1 else str(folder): folder
        for place, folder in reversed(places.items())
    }


def folder_of(given: str) -> Path:
    """The folder of the results, given as a path or as a name in results/."""
    path = Path(given)
    try:
        path.resolve()
        (path / "runs").is_dir()
    except (OSError, ValueError) as error:  # a name too long, a null character
        raise BadInputError(f"the folder {given[:200]!r} cannot be looked into: {error}") from None
    if (path / "runs").is_dir() or len(path.parts) > 1:
        return path.parent.resolve() / path.name if path.name == ".." else path
    return Path("results") / path


def page_of(output: str | None, folders: Mapping[str, Path]) -> Path:
    """The path of the page: of several results it is in a folder of its own beside the first ones'."""
    first, *others = folders.values()
    if output:
        return Path(output)
    if not others:
        return first / "report.html"
    name = "+".join(folder.resolve().name for folder in folders.values())
    if len(name) > LONGEST:
        name = f"{first.resolve().name}+{len(others)}-others"
    return (first if first.name else first.resolve()).parent / name / "report.html"


def check_name(output: str | None) -> None:
    """BadInputError where the page is given another form's name."""
    suffix = Path(output or "").suffix.lower()
    if suffix not in ("", ".html", ".htm"):
        advice = {
            ".pdf": "; --figures pdf writes its figures as PDF, and a browser prints a page as one",
            ".tex": "; --latex writes its table",
        }.get(suffix, "")
        raise BadInputError(f"the page is HTML, so that --output {output} must end in .html{advice}")


def check_output(page: Path, new: bool) -> None:
    """Check the path of the page before anything is drawn; BadInputError if it cannot be written.

    `new`: its folder is made where it is missing.
    """
    try:
        if page.is_dir():
            raise OSError("it is a folder")
        with tempfile.TemporaryFile(dir=page.parent.parent if new and not page.parent.exists() else page.parent):
            pass
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadInputError(f"the page cannot be written to {page}: {why}") from None
