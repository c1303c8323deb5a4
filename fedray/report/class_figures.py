"""Figures by class: the accuracy of each configuration on each class, or the confusion matrix of a single one."""

from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from fedray.report.figure import ROWS, Chart, Figure, Section, lean
from fedray.report.look import Look
from fedray.report.study import Study
from fedray.report.wording import percent
from fedray.results.by_class import confusion, per_class

if TYPE_CHECKING:
    import pandas as pd

WRITTEN = 12
"""The most classes with which each cell has its number written into it."""


def class_section(study: Study) -> list[Section]:
    """The section on the server's model after the last evaluated round, on the test set."""
    classes = per_class(study.as_loaded).dropna(subset="recall").merge(study.counted[["run", "series"]], on="run")
    if classes["label"].nunique() < 2:
        return []
    if len(study.keys) == 1:
        return [Section("Class by class", (confusion_figure(study, classes["run"].unique()),))]
    return [Section("Class by class", (recall_figure(study, classes),))]


def recall_figure(study: Study, classes: "pd.DataFrame") -> Figure:
    """The accuracy on each class: a row for each configuration, a column for each class."""
    shown = classes[classes["series"].isin(study.shown)]
    found = shown.groupby(["series", "label", "label_name"])["recall"].agg(["mean", "std"]).reset_index()
    rows = [
        cell(study.labels[row["series"]], row["label_name"], row["mean"], f"{percent(row['mean'], row['std'])} %")
        for row in found.to_dict("records")
    ]
    notes = ["Share of each class's test examples that are classified correctly after the last evaluated round, in %."]
    if len(study.shown) < len(study.keys):
        notes.append(f"The best {len(study.shown)} of {len(study.keys)} configurations.")
    orders = [study.labels[key] for key in study.shown], names_in_order(found)
    return heat("classes", "Accuracy on each class", rows, ("", ""), orders, " ".join(notes))


def confusion_figure(study: Study, runs: "np.ndarray[Any, Any]") -> Figure:
    """The confusion matrix, summed over seeds: a row for each true class, a column for each predicted one."""
    of_runs = [confusion(study.as_loaded, str(run)) for run in runs]
    names, counts = list(map(str, of_runs[0])), np.sum([each.to_numpy() for each in of_runs], axis=0)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows = [
        cell(names[label], names[predicted], share, f"{counts[label, predicted]:,} examples, {percent(share)} %")
        for (label, predicted), share in np.ndenumerate(shares)
    ]
    note = "Share of each class's test examples after the last evaluated round, in %. The diagonal is correct."
    return heat("classes", "Confusion matrix", rows, ("label", "predicted"), (names, names), note)


def cell(y: Any, x: Any, share: float, said: str) -> dict[str, Any]:
    return {"y": y, "x": x, "share": share, "text": f"{100 * share:.0f}", "value": said}


def names_in_order(found: "pd.DataFrame") -> list[str]:
    return found.sort_values("label")["label_name"].drop_duplicates().tolist()


def heat(
    name: str,
    title: str,
    rows: list[dict[str, Any]],
    axes: tuple[str, str],
    orders: tuple[list[str], list[str]],
    note: str,
) -> Figure:
    """A heat map of rows {y, x, share, text, value}; the opacity of a cell is its share, from 0 to 1.

    `axes` are the titles and `orders` the categories of y and x, in this order.
    """

    def draw(look: Look) -> Chart:
        few = len(orders[1]) <= WRITTEN
        x_axis = alt.Axis(labelAngle=-40 if few else -90, labelOverlap=not few, ticks=False, domain=False)
        base = alt.Chart(ROWS).encode(
            x=alt.X("x:N", title=axes[1] or None, sort=orders[1], axis=x_axis),
            y=alt.Y("y:N", title=axes[0] or None, sort=orders[0], axis=alt.Axis(labelLimit=260)),
            tooltip=[alt.Tooltip("y:N", title=" "), alt.Tooltip("x:N", title="class"), alt.Tooltip("value:N")],
        )
        shade = alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.03, 1]), legend=None)
        cells = base.mark_rect(cornerRadius=2, fill=look.accent).encode(opacity=shade)
        if not few:
            return cells.properties(height=alt.Step(14))
        ink = alt.condition("datum.share > 0.55", alt.value(look.on_accent), alt.value(look.ink))
        text = base.mark_text(fontSize=look.font_size).encode(text="text:N", color=ink)
        return alt.layer(cells, text).properties(height=alt.Step(26))

    return Figure(name, title, lean(rows), draw, note, wide=True, follows=False)
