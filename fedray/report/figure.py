"""A figure of the report: its parts, and its forms as a specification, an SVG, a PDF and a PNG.

Each chart is written once in Vega-Lite. Its look makes it one for the page or one for a paper.
"""

import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

from fedray.report.look import PAGE, PAPER, Look
from fedray.report.study import Study

VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
"""The version of Vega-Lite that Altair writes, as vl_convert names it."""

Chart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.VConcatChart


@dataclass(frozen=True)
class Figure:
    """One chart of the report."""

    name: str
    """The name of its files, and its id on the page."""
    title: str
    rows: list[dict[str, Any]]
    """Its data, ready for JSON."""
    draw: Callable[[Look], Chart]
    """The chart of `ROWS` in Vega-Lite, without a width, for a look."""
    note: str = ""
    """A sentence that helps to read it, shown beside the title."""
    wide: bool = False
    follows: bool = True
    """Whether the legend switches its series."""
    over: str = ""
    """The title of the x axis of curves. The page then shows the point nearest to the pointer. Empty without curves."""
    percent: bool = False
    """Whether the values of its curves are fractions that are written in percent."""

    def specification(self, look: Look) -> dict[str, Any]:
        """The whole Vega-Lite specification for this look, rows included.

        Altair does not validate it, which takes a third of a report's time; vl_convert refuses what it cannot compile.
        """
        sizes = {"width": look.width, "autosize": {"type": "fit-x", "contains": "padding"}}
        specification: dict[str, Any] = self.draw(look).to_dict(validate=False)
        if "vconcat" in specification:  # each part has its own width
            sizes = {}
        return specification | sizes | {"config": look.config(), "datasets": {"rows": self.rows}}

    def vega(self) -> dict[str, Any]:
        """The page's chart compiled to Vega, so that the browser has no Vega-Lite to compile or to warn about."""
        compiled: dict[str, Any] = vl_convert.vegalite_to_vega(self.specification(PAGE), vl_version=VEGA_LITE)
        return compiled

    @functools.cached_property
    def _paper(self) -> str:
        return str(vl_convert.vegalite_to_svg(self.specification(PAPER), vl_version=VEGA_LITE))

    def svg(self) -> str:
        return self._paper

    def pdf(self) -> bytes:
        """The figure as a PDF with its fonts inside."""
        return bytes(vl_convert.svg_to_pdf(self._paper))

    def png(self) -> bytes:
        """The figure as a PNG of 300 pixels an inch, for print."""
        return bytes(vl_convert.svg_to_png(self._paper, ppi=PRINT))


FORMS: dict[str, Callable[[Figure], bytes]] = {
    "svg": lambda figure: figure.svg().encode(),
    "pdf": Figure.pdf,
    "png": Figure.png,
}
"""The forms of a figure's files, by suffix."""
PRINT = 300


@dataclass(frozen=True)
class Section:
    """Figures under a heading."""

    title: str
    figures: tuple[Figure, ...]
    note: str = ""


ROWS = alt.NamedData("rows")
"""The data of each chart: the figure's rows by name. They join the specification last, as Altair validates each row."""


def lean(rows: Iterable[Mapping[Any, Any]]) -> list[dict[str, Any]]:
    """The rows for JSON: floats with five digits, and None for NaN and infinite ones."""
    return [{str(key): lean_value(value) for key, value in row.items()} for row in rows]


def lean_value(value: Any) -> Any:
    if isinstance(value, float):  # NumPy's float64 too
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value.item() if hasattr(value, "item") else value


def mapped(labels: Mapping[str, str], datum: str = "datum.label") -> str:
    """A Vega expression that looks up the label of the key in `datum`."""
    return f"{json.dumps(labels)}[{datum}]"


SHOWN = "indexof(shown, datum.series) >= 0"
"""A Vega expression: whether the legend shows the row's series."""


def legend_params(study: Study) -> tuple[alt.Parameter, alt.Parameter]:
    """The parameters that the page's legend sets: the series that are on, and the highlighted one (empty: none)."""
    return alt.param(name="shown", value=study.shown), alt.param(name="focus", value="")


def focused(faint: float, plain: float = 1.0) -> Any:
    """An opacity: `plain` if no series is highlighted or this one is, otherwise `faint`."""
    return alt.condition("focus == '' || datum.series == focus", alt.value(plain), alt.value(faint))


def series_colour(study: Study, look: Look, legend: bool = True) -> alt.Color:
    return alt.Color(
        "series:N", scale=series_scale(study, look, look.colour), legend=series_legend(study, look, legend)
    )


def series_dash(study: Study, look: Look) -> alt.StrokeDash:
    return alt.StrokeDash("series:N", scale=series_scale(study, look, look.dash), legend=series_legend(study, look))


def series_scale(study: Study, look: Look, style: Callable[[int], Any]) -> alt.Scale:
    keys = study.keys if look.page else study.shown
    return alt.Scale(domain=keys, range=[style(study.keys.index(key)) for key in keys])


def series_legend(study: Study, look: Look, legend: bool = True) -> alt.Legend | None:
    """The legend below a paper's figure, in as many columns as fit; None on the page, which has one for all figures."""
    if look.page or not legend or len(study.keys) == 1:
        return None
    left_out = len(study.keys) - len(study.shown)
    title = f"The best {len(study.shown)} of {len(study.keys)}" if left_out else None
    longest = max(len(study.labels[key]) for key in study.shown)
    wide = LINE + 20 + 0.52 * look.font_size * longest
    return alt.Legend(
        title=title,
        orient="bottom",
        columns=max(1, int(float(look.width) // wide)),
        labelExpr=mapped(study.labels),
        symbolType="stroke",
        symbolOpacity=1,
        symbolSize=LINE**2,
        rowPadding=16 - LINE,  # a symbol is as high as it is long
        offset=4,
    )


LINE = 32
"""The length of a line in a legend on paper, in points: as long as the longest dashes."""
