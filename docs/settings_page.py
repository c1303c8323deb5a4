"""python docs/settings_page.py docs/settings.md      writes every setting and option into a page, between its two marks

What it says is what --help says, from the same declarations.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from fedray import __main__ as one
from fedray import partition
from fedray.cli import verbosity
from fedray.cli.command_line import choices, default, facts, group_order, kind, options, report_errors, variants
from fedray.core.atomic import replacing
from fedray.core.errors import BadInputError
from fedray.experiment.experiment import DEFAULT_NAMES
from fedray.inventory import __main__ as inventory
from fedray.report import __main__ as report
from fedray.sweep import __main__ as sweep

BEGIN = "<!-- settings: begin (`make settings` writes what follows) -->"
END = "<!-- settings: end -->"


def main(argv: list[str]) -> int:
    if len(argv) != 1:
        raise BadInputError("name the page, as in python docs/settings_page.py docs/settings.md")
    path = Path(argv[0])
    try:
        written = replaced(path.read_text())
        with replacing(path) as temporary:
            temporary.write_text(written)
    except OSError as error:
        raise BadInputError(f"{path} cannot be read and written: {error.strerror}") from None
    return 0


def replaced(page: str) -> str:
    """The page with what is between its marks written anew; BadInputError where it has not both."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise BadInputError(f"the page has no lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{render()}\n{END}{after}"


def render() -> str:
    """All settings, a table for each group of them, and the options of the programs."""
    parts = []
    for title, names in grouped().items():
        settings = [(f"`{name}`", explanation(name), default_of(name)) for name in names]
        parts += [f"### {heading(title)}", table(("setting", "what it is", "default"), settings)]
    for title, flags, values in (
        (f"`{one.PROGRAM}` and `{sweep.PROGRAM}`", verbosity.FLAGS, verbosity.VALUES),
        (f"`{one.PROGRAM}`", one.FLAGS, one.VALUES),
        (f"`{sweep.PROGRAM}`", sweep.FLAGS, {**sweep.VALUES, **sweep.LISTS}),
        (f"`{partition.PROGRAM}`", {}, {**partition.LISTS, **partition.VALUES}),
        (f"`{report.PROGRAM}`", report.FLAGS, report.VALUES),
        (f"`{inventory.PROGRAM}`", inventory.FLAGS, inventory.VALUES),
    ):
        shared = (*verbosity.FLAGS, *verbosity.VALUES) if flags.items() > verbosity.FLAGS.items() else ()
        rows = [(f"`--{name}`", text) for name, text in flags.items() if name not in shared]
        rows += [(f"`--{name} {label}`", text) for name, (label, text) in values.items() if name not in shared]
        parts += [f"### {title}", table(("option", "what it does"), rows)]
    return "\n\n".join(parts) + "\n"


def grouped() -> dict[str, list[str]]:
    """The dotted names of all settings by the title of their group, in --help's order."""
    groups: dict[str, list[str]] = {}
    for name, (title, _) in sorted(options().items(), key=lambda item: group_order(item[1][0])):
        groups.setdefault(title, []).append(name)
    return groups


def heading(title: str) -> str:
    section, _, own = title.partition(" ")
    if own:
        return f"[{section}] of {own}"
    return "top level" if section == "experiment" else f"[{section}]"


def explanation(name: str) -> str:
    """A setting's sentence with its unit, limits and choices."""
    _, field = options()[name]
    if field is None:
        return choices(name.partition(".")[0])
    words = kind(field)
    said = [*(fact for fact in facts(field) if fact), *([words.replace("|", ", ")] if "|" in words else [])]
    return " ".join([field.description, *([f"({'; '.join(said)})"] if said else []), *variants(name, field)])


def default_of(name: str) -> str:
    _, field = options()[name]
    written = DEFAULT_NAMES[name.partition(".")[0]] if field is None else default(field)
    return "empty" if written == "empty" else f"`{written}`"


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown, in which a vertical bar would be a border."""
    lines = [list(headings), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    sys.exit(report_errors(lambda: main(sys.argv[1:])))
