"""The answer's table in LaTeX, with the rules of booktabs."""

import itertools
from collections.abc import Sequence

from fedray.report import answer, facts
from fedray.report.answer import Column
from fedray.report.study import Study

SPECIAL = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",  # after the end of a row it would begin an option, and a star would be one
    "*": "{*}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{MINUS SIGN}": r"$-$",
    "\N{NO-BREAK SPACE}": "~",
}
"""What LaTeX reads as something else, or has no letter for, by how it is written there."""


def latex(study: Study) -> str:
    """The table of all configurations, best first, as a tabular, with comments on what is in it."""
    columns = answer.columns(study)
    comments = [
        "Written by python -m fedray.report --latex. It needs \\usepackage{booktabs}.",
        f"{study.name}: {facts.summary(study)}",
        *(f"{headline}. {sentence}" for headline, sentence in facts.banners(study.results)),
        facts.order_of(study),
    ]
    rows = zip(*(column.cells for column in columns), strict=True)
    lines = [
        *(f"% {' '.join(comment.split())}" for comment in comments if comment),
        rf"\begin{{tabular}}{{{''.join('r' if column.numeric else 'l' for column in columns)}}}",
        r"\toprule",
        *groups(columns),
        row([heading(column) for column in columns]),
        r"\midrule",
        *(row([escaped(cell) for cell in cells]) for cells in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def groups(columns: Sequence[Column]) -> list[str]:
    """The row of headings over several columns, and the rules below them; nothing where there is none."""
    cells, rules, first = [], [], 1
    for group, members in itertools.groupby(column.group for column in columns):
        last = first + len(list(members)) - 1
        cells.append(
            rf"\multicolumn{{{last - first + 1}}}{{c}}{{{escaped(group)}}}" if group else "& " * (last - first)
        )
        rules += [rf"\cmidrule(lr){{{first}-{last}}}"] * bool(group)
        first = last + 1
    return [row(cells), " ".join(rules)] if rules else []


def row(cells: Sequence[str]) -> str:
    return " & ".join(cells).strip() + r" \\"


def heading(column: Column) -> str:
    return rf"\multicolumn{{1}}{{c}}{{{escaped(column.heading)}}}" if column.numeric else escaped(column.heading)


def escaped(text: str) -> str:
    """A text as LaTeX prints it; blanks of any kind are single ones."""
    kept = " ".join(text.replace("\N{NO-BREAK SPACE}", "\0").split()).replace("\0", "\N{NO-BREAK SPACE}")
    return "".join(SPECIAL.get(sign, sign) for sign in kept if sign.isprintable() or sign in SPECIAL)
