"""The spread over the clients of each configuration."""

import dataclasses
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from fedray.report.figure import Chart, Figure, Section, focused, lean, series_colour
from fedray.report.look import Look
from fedray.report.rows import BELOW, layered, rows_of
from fedray.report.study import Study
from fedray.report.wording import number, percent

if TYPE_CHECKING:
    import pandas as pd

QUANTILES = {"p0": 0.0, "p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9, "p100": 1.0}
EVERY = "every configuration"


def spread_section(study: Study) -> list[Section]:
    """The spread of accuracy, loss, examples and time over clients, the clients of all seeds together."""
    found = study.results
    series = dict(zip(found.runs["run"], found.runs["series"], strict=True))
    last = found.evaluations[found.evaluations["round"] == found.evaluations.groupby("run")["round"].transform("max")]
    latest = found.clients.sort_values("round").groupby(["run", "client"])
    figures = [
        spread_figure(study, name, title, axis, each.map(series), values, note)
        for name, title, axis, each, values, note in (
            (
                "client-accuracy",
                "Accuracy of each client",
                "accuracy on its own test examples",
                last["run"],
                last["test_accuracy"],
                "At the last evaluation of the clients.",
            ),
            (
                "client-loss",
                "Train loss of each client",
                "train loss",
                *of_clients(latest["train_loss"].last()),
                "In the last round that the client took part in.",
            ),
            (
                "client-examples",
                "Examples of each client",
                "examples",
                found.population["run"],
                found.population["num_examples"],
                "",
            ),
            (
                "client-seconds",
                "Seconds of each client",
                "seconds of local training in a round",
                *of_clients(latest["seconds"].mean()),
                "Mean over the rounds that the client took part in.",
            ),
        )
    ]
    note = "Line: 10th to 90th percentile of the clients. Bar: the middle half. Mark: the median. Dots: the extremes."
    kept = tuple(filter(None, figures))
    return [Section("Client by client", kept, note)] if kept else []


def of_clients(column: "pd.Series[Any]") -> tuple["pd.Series[Any]", "pd.Series[Any]"]:
    """The run and the value of each row of a column grouped by run and client."""
    frame = column.reset_index()
    return frame["run"], frame[column.name]


def spread_figure(
    study: Study,
    name: str,
    title: str,
    axis: str,
    series: "pd.Series[Any]",
    values: "pd.Series[Any]",
    note: str,
) -> Figure | None:
    """A row of quantiles for each configuration; None if no value is finite, or if all are the same."""
    finite = values[np.isfinite(values.astype(float)) & series.notna()].astype(float)
    if finite.empty or finite.min() == finite.max():
        return None
    groups = finite.groupby(series)
    rows = (
        groups.quantile(np.array(list(QUANTILES.values())))
        .unstack()
        .set_axis(list(QUANTILES), axis=1)
        .assign(n=groups.size())
    )
    highest = rows["p90"].median() * 4
    top = 1.5 * rows["p90"].median() if name == "client-loss" and rows["p100"].max() > highest > 0 else None
    same = bool((rows == rows.iloc[0]).all(axis=None)) and len(rows) > 1
    if same:  # all configurations have the same spread, for example the same partitions: one row stands for all
        study = dataclasses.replace(study, configurations=study.configurations.iloc[:1].assign(label=EVERY))
        rows = rows.loc[study.keys]
    format_ = ".0%" if name == "client-accuracy" else ",~f"
    said = (lambda share: f"{percent(share)} %") if name == "client-accuracy" else number
    records = [
        {
            "series": key,
            **row,
            "median": said(row["p50"]),
            "10 to 90 %": f"{said(row['p10'])} to {said(row['p90'])}",
            "range": f"{said(row['p0'])} to {said(row['p100'])}",
        }
        for key, row in rows.to_dict("index").items()
    ]

    def draw(look: Look) -> Chart:
        scale = alt.Scale(domain=[rows["p0"].min(), top]) if top else alt.Scale(zero=name != "client-loss")
        x_axis = alt.Axis(format=format_, tickCount=6)

        def x(quantile: str) -> alt.X:
            return alt.X(f"{quantile}:Q", title=axis, scale=scale, axis=x_axis)

        base = rows_of(study, [alt.Tooltip(f"{each}:N") for each in ("median", "10 to 90 %", "range")])
        colour = series_colour(study, look, legend=False)
        at: dict[str, Any] = {"yOffset": BELOW, "clip": True}
        return layered(
            study,
            look,
            base,
            base.mark_rule(strokeWidth=2, **at).encode(x=x("p10"), x2="p90:Q", color=colour, opacity=focused(0.15)),
            base.mark_bar(height=10, cornerRadius=3, **at).encode(
                x=x("p25"), x2="p75:Q", color=colour, opacity=focused(0.15, 0.6)
            ),
            *(
                base.mark_point(filled=True, size=14, **at).encode(x=x(end), color=colour, opacity=focused(0.15))
                for end in ("p0", "p100")
            ),
            base.mark_tick(thickness=3, height=16, color=look.ink, **at).encode(x=x("p50"), opacity=focused(0.15)),
        )

    notes = [note, f"Values above {top:.3g} are cut off." if top else ""]
    return Figure(name, title, lean(records), draw, " ".join(filter(None, notes)), follows=not same)
