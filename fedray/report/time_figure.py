"""The parts of the time of each configuration: training, evaluation and overhead."""

import altair as alt

from fedray.report.figure import Chart, Figure, Section, focused, lean
from fedray.report.look import PARTS, Look
from fedray.report.rows import BELOW, layered, rows_of
from fedray.report.study import Study
from fedray.report.wording import duration


def time_section(study: Study) -> list[Section]:
    """The section with a bar for each configuration: its runs' seconds by part."""
    rounds = study.results.rounds
    series = rounds["run"].map(dict(zip(study.results.runs["run"], study.results.runs["series"], strict=True)))
    sums = rounds[[f"seconds_{part}" for part in PARTS]].groupby(series).sum()
    means = sums.div(rounds["run"].groupby(series).nunique(), axis="index")
    means = means[means.sum(axis="columns") > 0]
    if means.empty:
        return []
    records = [
        {
            "series": key,
            "part": part,
            "order": order,
            "seconds": seconds,
            "time": f"{duration(seconds)}, {seconds / sum(row.values()):.1%}",
        }
        for key, row in means.to_dict("index").items()
        for order, (part, seconds) in enumerate(zip(PARTS, row.values(), strict=True))
    ]

    def draw(look: Look) -> Chart:
        base = rows_of(study, [alt.Tooltip("part:N"), alt.Tooltip("time:N")])
        colour = alt.Color(
            "part:N",
            scale=alt.Scale(domain=list(PARTS), range=list(look.parts)),
            legend=alt.Legend(title=None, orient="top", columns=3, symbolType="square"),
        )
        edge = alt.Undefined if look.page else "white"  # hues of the same grey stay apart
        bars = base.mark_bar(height=12, yOffset=BELOW, stroke=edge, strokeWidth=0.7).encode(
            x=alt.X("seconds:Q", title="seconds of a run", axis=alt.Axis(format=",~f", tickCount=6)),
            color=colour,
            order="order:Q",
            opacity=focused(0.15),
        )
        return layered(study, look, base, bars)

    note = "Mean over a configuration's runs. Time of cores that work in parallel is divided by their number."
    return [Section("Where the time went", (Figure("time", "Seconds by part", lean(records), draw, wide=True),), note)]
