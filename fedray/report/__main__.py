"""python -m fedray.report results/lr      writes one page about all runs there, and for papers its figures and table"""

import sys

from fedray.cli.short_help import exit_if_bare, show

if __name__ == "__main__":
    exit_if_bare("fedray.report")  # before the imports below, which take most of the time

import warnings
from argparse import SUPPRESS
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fedray.cli.command_line import Parser, add_options, read_target, report_errors
from fedray.core.atomic import replacing
from fedray.core.errors import BadInputError
from fedray.report.given import FIGURES, check_name, check_output, folders_of, page_of, read_forms, with_forms
from fedray.report.labels import labelled, read_label
from fedray.report.wording import enumerate_words
from fedray.results.analysis import reported
from fedray.results.folder import load_folders
from fedray.results.frames import DamagedResultsWarning, NewerResultsWarning, RepeatedRunsWarning, Results
from fedray.sweep.summary import is_share

if TYPE_CHECKING:
    import pandas as pd

PROGRAM = "python -m fedray.report"
DESCRIPTION = "Write one page about all runs of some results, or of several together."
FLAGS = {
    "latex": "write the answer's table in LaTeX, for \\input in a paper, beside the figures",
    "bands": "draw the bands of more than five curves, too",
}
VALUES = {
    "figures": (
        "pdf,svg,png",
        f"write each figure in these forms, for papers, in the folder {FIGURES}/ beside the page (default: svg,png)",
    ),
    "output": (
        "PAGE.html",
        "where the page goes (default: results/NAME/report.html, of several results/A+B/report.html)",
    ),
    "target": (
        "ACCURACY",
        "accuracy to which rounds, seconds and bytes are counted, a fraction, or the value of what judges instead",
    ),
    "label": (
        "SETTING=VALUE,...: NAME",
        "call the configurations with these settings so, in figures and tables; may be repeated",
    ),
}


def main(argv: list[str]) -> int:
    if not argv:
        return show("fedray.report")
    parser = Parser(prog=PROGRAM, description=DESCRIPTION, allow_abbrev=False, argument_default=SUPPRESS)
    parser.add_argument(
        "results", nargs="+", metavar="results/NAME", help="folders of results, or their names in results/"
    )
    add_options(parser, FLAGS, {name: VALUES[name] for name in VALUES if name != "label"}, {})
    parser.add_argument("--label", action="append", metavar=VALUES["label"][0], help=VALUES["label"][1])
    given = vars(parser.parse_intermixed_args(with_forms(argv)))

    forms = read_forms(given["figures"]) if "figures" in given else []
    labels = [read_label(word) for word in given.get("label", [])]
    folders, output = folders_of(given["results"]), given.get("output")
    check_name(output)
    results, left_out = read(folders)
    target = read_target(given.get("target"), lambda: is_share(reported(results)))
    for sentence in left_out:
        print(f"fedray: {sentence}", file=sys.stderr)

    page = page_of(output, folders)
    check_output(page, new=not output)

    from fedray.report.figure import FORMS
    from fedray.report.latex import latex
    from fedray.report.measured import measured_header
    from fedray.report.page import render
    from fedray.report.sections import all_sections
    from fedray.report.study import make_study

    study = labelled(make_study(enumerate_words(list(folders)), results, target, given["bands"]), labels)
    headers = {name: measured_header(folder, of_folder(results, folder)) for name, folder in folders.items()}
    sections = all_sections(study)
    write(page, render(study, headers, sections, left_out).encode())
    print(page)
    figures = [figure for section in sections for figure in section.figures]
    files = {f"{figure.name}.{form}": (FORMS[form], figure) for figure in figures for form in forms}
    for name, (form, figure) in files.items():
        write(page.parent / FIGURES / name, form(figure))
        print(page.parent / FIGURES / name)
    if given["latex"]:
        write(page.parent / FIGURES / "answer.tex", latex(study).encode())
        print(page.parent / FIGURES / "answer.tex")
    return 0


def read(folders: Mapping[str, Path]) -> tuple[Results, list[str]]:
    """The results, and a sentence for each file or column left out of them; BadInputError if there is no run."""
    left_out = (DamagedResultsWarning, NewerResultsWarning, RepeatedRunsWarning)
    with warnings.catch_warnings(record=True) as caught:
        for category in left_out:
            warnings.simplefilter("always", category)
        results = load_folders(folders, together=len(folders) > 1)
    for warning in caught:
        if not issubclass(warning.category, left_out):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    sentences = [str(warning.message) for warning in caught if issubclass(warning.category, left_out)]
    for folder in folders.values():
        if of_folder(results, folder).empty:
            raise BadInputError(f"{folder} has no run to report on" + (f": {sentences[0]}" if sentences else ""))
    return results, sentences


def of_folder(results: Results, folder: Path) -> "pd.DataFrame":
    """The runs that a folder has, also those that are taken from another one."""
    here = {path.stem for pattern in ("runs/*.parquet", "journal/*.jsonl") for path in folder.glob(pattern)}
    return results.runs[results.runs["run"].isin(here)]


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
