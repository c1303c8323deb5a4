"""Curves over rounds, seconds and bytes: the mean over seeds with its 95 % interval."""

from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from fedray.core.metrics import sign
from fedray.report.figure import (
    ROWS,
    SHOWN,
    Chart,
    Figure,
    Section,
    focused,
    lean,
    legend_params,
    series_colour,
    series_dash,
)
from fedray.report.look import Look
from fedray.report.study import Study
from fedray.report.wording import JUDGES, MEASURES, NAMES, titled
from fedray.results.analysis import curves
from fedray.results.clock import SHARED
from fedray.sweep.summary import is_share

if TYPE_CHECKING:
    import pandas as pd

LONGEST, POINTS = 500, 8000
"""The most points of a curve, and of a chart; longer curves are thinned out."""
OVER: dict[str, tuple[str, dict[str, Any]]] = {
    "round": (
        "round",
        {"tickMinStep": 1, "labelExpr": "datum.value % 1 ? '' : format(datum.value, ',d')"},
    ),  # of few there are halves
    "seconds": ("seconds", {"format": ",~f"}),
    "bytes": ("bytes sent, both ways", {"labelExpr": "format(datum.value, '~s') + 'B'"}),
}
"""The x axes of curves, by column: title and Vega-Lite's properties."""
BANDS = 5
"""The most curves with which bands are drawn, unless all are asked for; more bands would hide one another."""


def curve_sections(study: Study) -> list[Section]:
    """The sections with a figure for each measure that the results have."""
    values = [name for name in measures_of(study) if study.results.rounds[name].notna().any()]
    accuracies = [name for name in values if not name.endswith("loss") or name == study.measure]
    accuracies.sort(key=lambda name: name != study.measure)  # what is compared comes first
    losses = [name for name in values if name not in accuracies]
    by_round = [*accuracies[:1], *losses, *accuracies[1:]]
    figures = [curve_figure(study, name, "round", wide=name == study.measure) for name in by_round]
    sections = [Section("Round by round", tuple(filter(None, figures)), explain_bands(study))]
    if study.measure:
        costs = [curve_figure(study, study.measure, over) for over in ("seconds", "bytes")]
        what = "accuracy" if study.measure.endswith("_accuracy") else NAMES[study.measure]
        note = f"The same {what} against what it cost.{explain_clock(study)}"
        sections.append(Section("Against time and traffic", tuple(filter(None, costs)), note))
    return [section for section in sections if section.figures]


def measures_of(study: Study) -> list[str]:
    """The measures with a figure: accuracies and losses, those that judge, and those that somebody asked for."""
    asked = [name for name in JUDGES if name.endswith(("_auc", "_mae", "_rmse", "_own_metric", "unseen_accuracy"))]
    return list(dict.fromkeys((*MEASURES, *asked, *filter(None, (study.measure, study.chosen_by)))))


def explain_clock(study: Study) -> str:
    if not study.shared:
        return ""
    if study.clock == "time":
        return f" {SHARED} Their seconds say little of what each would take alone."
    return f" {SHARED} So the time here, and in the table, is the CPU time of the clients' training."


def title_of(study: Study, over: str) -> str:
    """The title of the x axis."""
    return "CPU seconds of training" if over == "seconds" and study.clock == "CPU time" else OVER[over][0]


def explain_bands(study: Study) -> str:
    if not (study.configurations["runs"] > 1).any():
        return ""
    hidden = f", drawn while at most {BANDS} curves are on" if len(study.keys) > BANDS and not study.all_bands else ""
    return f"Bands are 95 % intervals of the mean over seeds{hidden}."


def curve_figure(study: Study, value: str, over: str, wide: bool = False) -> Figure | None:
    """The curves of one measure over `over`; None if no point is finite."""
    found = curves(study.results, by="series", value=value, over=over)
    found = found[np.isfinite(found["mean"])].rename(columns={over: "x", "mean": "y"})
    if found.empty:
        return None
    alone = found["low"].groupby(found["series"]).transform("count") < 2  # an interval of one point is no band
    found[["low", "high"]] = found[["low", "high"]].mask(alone)
    if is_share(value):
        found = found.assign(low=found["low"].clip(0, 1), high=found["high"].clip(0, 1))
    points = thinned(found[["series", "x", "y", "low", "high", "runs"]], len(study.keys))
    seen = window(points) if sign(value) < 0 else None
    return Figure(
        name=f"{value.replace('_', '-')}-over-{over}s".replace("bytess", "bytes").replace("secondss", "seconds"),
        title=f"{titled(NAMES[value])} by {title_of(study, over)}",
        rows=lean(points.to_dict("records")),
        draw=lambda look: draw_curves(study, look, points, value, over, seen, 340 if wide else 250),
        note=f"Values above {seen[1]:.3g} are cut off." if seen else "",
        wide=wide,
        over=title_of(study, over),
        percent=is_share(value),
    )


def thinned(points: "pd.DataFrame", series: int) -> "pd.DataFrame":
    """The curves with at most LONGEST points each, fewer if there are many; evenly chosen, with both ends."""
    most = max(40, min(LONGEST, POINTS // series))
    position = points.groupby("series").cumcount()
    length = points.groupby("series")["x"].transform("size")
    step = (length - 1).clip(lower=1) / (most - 1)
    kept = (length <= most) | (np.floor(position / step) != np.floor((position - 1) / step)) | (position == length - 1)
    return points[kept]


def window(points: "pd.DataFrame") -> tuple[float, float] | None:
    """The range of losses to draw if some curves blew up and would flatten the others; None if none did."""
    highest = points.groupby("series")["y"].max()
    typical = float(np.quantile(highest, 0.5, method="lower"))
    if not max(highest.max(), points["high"].max()) > 4 * typical > 0:
        return None
    lowest, top = float(points["y"].min()), float(highest[highest <= 2 * typical].max())
    room = 0.05 * (top - lowest)
    return max(0.0, lowest - room), top + room


def draw_curves(
    study: Study,
    look: Look,
    points: "pd.DataFrame",
    value: str,
    over: str,
    seen: tuple[float, float] | None,
    height: int,
) -> Chart:
    percent = is_share(value)
    scale = alt.Scale(zero=False) if seen is None else alt.Scale(domain=list(seen), nice=False)
    axis = alt.Axis(format=".0%" if percent else ",~f", tickCount=6)
    x_axis = alt.Axis(grid=False, tickCount=7, **OVER[over][1])
    base = (
        alt.Chart(ROWS)
        .transform_filter(SHOWN)
        .encode(
            x=alt.X("x:Q", title=title_of(study, over), axis=x_axis, scale=alt.Scale(nice=False, zero=over != "round")),
            color=series_colour(study, look),
        )
    )
    y = alt.Y("y:Q", title=NAMES[value], axis=axis, scale=scale)
    dotted = points.groupby("series").size().max() <= 12
    lines = base.mark_line(clip=True, strokeWidth=2, strokeJoin="round", point={"size": 22} if dotted else False)
    layers = [lines.encode(y=y, strokeDash=series_dash(study, look), opacity=focused(0.12))]
    if points["low"].notna().any():
        few = "" if study.all_bands else f" && length(shown) <= {BANDS}"
        band = base.transform_filter(f"isValid(datum.low){few}").mark_area(clip=True)
        faint = 0.16 if len(study.shown) <= BANDS else 0.08
        layers.insert(0, band.encode(y=y.copy(), y2="high:Q", opacity=focused(0.02, faint)))
        layers[0].encoding.y = alt.Y("low:Q", title=NAMES[value], axis=axis, scale=scale)
    return alt.layer(*layers).add_params(*legend_params(study)).properties(height=height if look.page else 0.8 * height)
