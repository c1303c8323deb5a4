"""A partition in a figure: each client's examples of each label, and a histogram of the clients' sizes."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from fedray.data.heterogeneity import FAR, count_sizes
from fedray.report.figure import ROWS, Chart, Figure
from fedray.report.look import Look
from fedray.report.wording import count

CLIENTS = 100
"""The most clients drawn. If there are more, every second one is drawn, or every third, and so on."""
BINS, NARROW = 20, 8
"""The most bins of the histogram of sizes, and the fewest whole numbers that its axis spans."""
WIDTH = 600


def shards_figure(title: str, counts: np.ndarray, labels: Sequence[str]) -> Figure:
    """The figure of a partition: the heat map above the histogram.

    `counts` [N, classes] are the clients' numbers of examples of each label, and `labels` the names of the classes.
    """
    clients, sizes = len(counts), counts.sum(1)
    every = -(-clients // CLIENTS)
    held = [
        {"client": client, "label_name": name, "count": number}
        for client in range(0, clients, every)
        for name, number in zip(labels, counts[client].tolist(), strict=True)
    ]
    bins = [{"from": low - 0.5, "to": high + 0.5, "clients": n} for low, high, n in count_sizes(sizes, BINS)]
    most, highest = int(counts[::every].max()), max(row["clients"] for row in bins)
    shown = f"clients 0, {every}, {2 * every}, ... of {clients:,}" if every > 1 else count(clients, "client")

    def draw(look: Look) -> Chart:
        heading = alt.TitleParams(f"{title}; {shown}", anchor="start", fontWeight="normal", fontSize=look.font_size + 1)
        cells = held_figure(look, labels, most, spread=True).transform_filter("isValid(datum.client)")
        bars = (
            alt.Chart(ROWS)
            .transform_filter("datum.clients > 0")
            .mark_bar(fill=look.accent, stroke="white", strokeWidth=0.5)
            .encode(
                x=sizes_axis(int(sizes.min()), int(sizes.max())),
                x2="to:Q",
                y=alt.Y("clients:Q", title="clients", axis=alt.Axis(format=",d", tickCount=min(4, highest))),
                y2=alt.datum(0),
            )
            .properties(width=WIDTH, height=90)
        )
        return alt.vconcat(cells.properties(width=WIDTH, title=heading), bars, spacing=10)

    return Figure("shards", title, [*held, *bins], draw, follows=False)


def sizes_axis(least: int, most: int) -> alt.X:
    """The histogram's axis for sizes from `least` to `most`.

    It is logarithmic if the bins are. If it spans few whole numbers, each has a tick.
    """
    values: Any = alt.Undefined
    if most > FAR * least:
        scale = alt.Scale(type="log", nice=False)
    elif most - least < NARROW:
        room = (NARROW - (most - least)) // 2
        scale = alt.Scale(domain=[least - room - 0.5, most + room + 0.5], nice=False)
        values = list(range(max(0, least - room), most + room + 1))
    else:
        scale = alt.Scale(zero=False, nice=False)
    return alt.X(
        "from:Q", title="examples of a client", scale=scale, axis=alt.Axis(format=",d", values=values, grid=False)
    )


def held_figure(look: Look, labels: Sequence[str], most: int, spread: bool = False) -> alt.Chart:
    """A heat map of rows {client, label_name, count}; `most` is the highest count.

    The opacity of a cell grows with its count. With `spread` it grows with the square root: few then differ from none.
    """
    legend = None if look.page else alt.Legend(title="examples")
    scale = alt.Scale(type="sqrt" if spread else "linear", domain=[0, most], range=[0.03, 1])
    return (
        alt.Chart(ROWS)
        .mark_rect(fill=look.accent, cornerRadius=1)
        .encode(
            x=alt.X("client:O", title="client", axis=alt.Axis(labelAngle=0, ticks=False, domain=False)),
            y=alt.Y("label_name:N", title=None, sort=list(labels)),
            opacity=alt.Opacity("count:Q", scale=scale, legend=legend),
            tooltip=[alt.Tooltip("client:O"), alt.Tooltip("label_name:N", title="label"), alt.Tooltip("count:Q")],
        )
        .properties(height=alt.Step(18 if len(labels) <= 30 else 9))
    )
