"""Charts with a row for each configuration: its name, and a bar below it."""

import altair as alt

from fedray.report.figure import ROWS, SHOWN, Chart, focused, legend_params, mapped
from fedray.report.look import Look
from fedray.report.study import Study

ROW = 38
"""The height of a row in pixels: a line of text and a bar."""
BELOW = 9
"""The distance from the middle of a row down to its bar, in pixels."""


def rows_of(study: Study, tooltip: list[alt.Tooltip]) -> alt.Chart:
    """A chart with a row for each series that is on, best first. It has no axis: `layered` writes the rows' names."""
    named = alt.Tooltip("label:N", title=" ")
    return (
        alt.Chart(ROWS)
        .transform_filter(SHOWN)
        .transform_calculate(label=mapped(study.labels, "datum.series"))
        .encode(y=alt.Y("series:N", axis=None), tooltip=[named, *tooltip])
    )


def layered(study: Study, look: Look, base: alt.Chart, *layers: alt.Chart) -> Chart:
    names = (
        base.transform_aggregate(groupby=["series", "label"])
        .mark_text(align="left", dy=-8, color=look.ink, fontSize=look.font_size)
        .encode(x=alt.value(0), text="label:N", opacity=focused(0.3))
    )
    return alt.layer(names, *layers).add_params(*legend_params(study)).properties(height=alt.Step(ROW))
