"""python -m fedray.report results/lr      writes one page about all runs there; with --figures SVG and PNG files too"""

import sys

from fedray.cli.short_help import exit_if_bare, show

if __name__ == "__main__":
    exit_if_bare("fedray.report")  # before the imports below, which take most of the time

import tempfile
import warnings
from pathlib import Path

from fedray.cli.command_line import Parser, add_options, read_fraction, report_errors
from fedray.core.atomic import replacing
from fedray.core.errors import BadInputError
from fedray.results.folder import load
from fedray.results.frames import DamagedResultsWarning, NewerResultsWarning, Results

PROGRAM = "python -m fedray.report"
FLAGS = {"figures": "write each figure as SVG and PNG too, for papers"}
VALUES = {
    "output": ("PAGE.html", "where the page goes (default: results/NAME/report.html)"),
    "target": ("ACCURACY", "accuracy to which rounds, seconds and bytes are counted, a fraction"),
}


def main(argv: list[str]) -> int:
    if not argv:
        return show("fedray.report")
    parser = Parser(prog=PROGRAM, description="Write one page about all runs of some results.", allow_abbrev=False)
    parser.add_argument("results", metavar="results/NAME", help="the folder of the results, or their name in results/")
    add_options(parser, FLAGS, VALUES, {})
    given = parser.parse_args(argv)
    target = read_fraction("target", given.target)
    folder = folder_of(given.results)
    results, damages = read(folder)
    for damage in damages:
        print(f"fedray: {damage}", file=sys.stderr)
    page = Path(given.output) if given.output else folder / "report.html"
    check_output(page)

    from fedray.report.header import read_header
    from fedray.report.page import render
    from fedray.report.sections import all_sections
    from fedray.report.study import make_study

    study = make_study(folder.name, results, target)
    sections = all_sections(study)
    write(page, render(study, read_header(folder), sections, damages).encode())
    print(page)
    if given.figures:
        for figure in (figure for section in sections for figure in section.figures):
            for suffix, content in (("svg", figure.svg().encode()), ("png", figure.png())):
                write(folder / "figures" / f"{figure.name}.{suffix}", content)
                print(folder / "figures" / f"{figure.name}.{suffix}")
    return 0


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


def read(folder: Path) -> tuple[Results, list[str]]:
    """The results, and a sentence for each file or column left out of them; BadInputError if there is no run."""
    left_out = (DamagedResultsWarning, NewerResultsWarning)
    place = folder.resolve()
    with warnings.catch_warnings(record=True) as caught:
        for category in left_out:
            warnings.simplefilter("always", category)
        results = load(place.name, folder.parent if folder.name == place.name else place.parent)
    for warning in caught:
        if not issubclass(warning.category, left_out):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    damages = [str(warning.message) for warning in caught if issubclass(warning.category, left_out)]
    if results.runs.empty:
        raise BadInputError(f"{folder} has no run to report on" + (f": {damages[0]}" if damages else ""))
    return results, damages


def check_output(page: Path) -> None:
    """Check the path of the page before anything is drawn; BadInputError if it cannot be written."""
    try:
        if page.is_dir():
            raise OSError("it is a folder")
        with tempfile.TemporaryFile(dir=page.parent):
            pass
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadInputError(f"the page cannot be written to {page}: {why}") from None


def write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror}") from None


def program() -> int:
    """The console script fedray-report; returns the exit status."""
    return report_errors(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(program())
