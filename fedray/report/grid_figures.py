"""The effect of settings, as a curve for one and a heat map for two; and heat maps of partitions."""

import altair as alt
import pandas as pd

from fedray.core.metrics import sign
from fedray.report.figure import ROWS, Chart, Figure, Section, lean
from fedray.report.look import Look
from fedray.report.shard_figures import held_figure
from fedray.report.study import Study, is_numeric, ordered
from fedray.report.wording import NAMES, count, enumerate_words, label, measure, number, percent, short
from fedray.sweep.summary import is_share, written

CLIENTS, PARTITIONS = 50, 6
"""The most clients drawn of a partition, and the most partitions."""


def setting_section(study: Study) -> list[Section]:
    """The effect of the settings: a curve if one number varies, a heat map if two settings do."""
    if study.measure is None:
        return []
    table = study.configurations.dropna(subset=f"final_{study.measure}_mean")
    numeric = [name for name in study.axes if is_numeric(table[name])]
    if len(study.axes) == 1 and numeric and len(table) > 2:
        return [Section("Effect of the setting", (response_figure(study, table, numeric[0]),))]
    pair = heat_axes(table, study.axes, numeric)
    return [Section("Effect of the settings", (heat_figure(study, table, *pair),))] if pair else []


def heat_axes(table: pd.DataFrame, axes: tuple[str, ...], numeric: list[str]) -> tuple[str, str] | None:
    """The two settings with the most values, numbers first, as x and y.

    None for fewer than two settings, without a number among them, for fewer than four cells, or if half are empty.
    """
    ranked = sorted(axes, key=lambda name: (name not in numeric, -table[name].nunique(dropna=False)))
    if len(ranked) < 2 or not numeric:
        return None
    x, y = ranked[:2]
    cells = table[x].nunique(dropna=False) * table[y].nunique(dropna=False)
    return (x, y) if cells >= 4 and 2 * len(table[[x, y]].drop_duplicates()) > cells else None


def response_figure(study: Study, table: pd.DataFrame, axis: str) -> Figure:
    columns = {axis: "x", f"final_{study.measure}_mean": "y", f"final_{study.measure}_std": "std"}
    rows = table[list(columns)].rename(columns=columns).dropna(subset="x")
    rows = rows.assign(low=rows["y"] - rows["std"], high=rows["y"] + rows["std"])
    share = is_share(str(study.measure))
    spans = rows["x"].min() > 0 and rows["x"].max() / rows["x"].min() > 20

    def draw(look: Look) -> Chart:
        scale = alt.Scale(type="log" if spans else "linear", nice=not spans, zero=False, padding=20)
        x = alt.X(
            "x:Q",
            title=short(axis),
            scale=scale,
            axis=alt.Axis(values=sorted(rows["x"]), labelExpr="'' + datum.value", grid=False),
        )
        y_axis = alt.Axis(format=".0%" if share else ",~f", tickCount=6)
        tooltip = [
            alt.Tooltip("x:Q", title=short(axis)),
            alt.Tooltip("y:Q", title="mean", format=".1%" if share else ".4g"),
        ]
        base = alt.Chart(ROWS).encode(x=x)
        y = alt.Y("y:Q", title=f"final {NAMES[str(study.measure)]}", axis=y_axis, scale=alt.Scale(zero=False))
        rule = base.transform_filter("isValid(datum.low)").mark_rule(stroke=look.accent)
        return alt.layer(
            rule.encode(y=y, y2="high:Q").transform_calculate(y="datum.low"),
            base.mark_line(stroke=look.accent, strokeWidth=1, strokeDash=[3, 3]).encode(y=y),
            base.mark_point(filled=True, fill=look.accent, size=70, opacity=1).encode(y=y, tooltip=tooltip),
        ).properties(height=250)

    note = "Bars are one standard deviation over seeds." if rows["std"].notna().any() else ""
    return Figure(
        "settings",
        f"Final {NAMES[str(study.measure)]} by {short(axis)}",
        lean(rows.to_dict("records")),
        draw,
        note,
        True,
        follows=False,
    )


def heat_figure(study: Study, table: pd.DataFrame, x: str, y: str) -> Figure:
    mean, std = f"final_{study.measure}_mean", f"final_{study.measure}_std"
    share, better = is_share(str(study.measure)), sign(str(study.measure))
    best = table.sort_values(mean, ascending=better < 0).drop_duplicates([x, y])
    low, high = best[mean].min(), best[mean].max()
    low, high = (low, high) if better > 0 else (high, low)
    rows = [
        {
            "x": written(row[x]) or "none",
            "y": written(row[y]) or "none",
            "mean": row[mean],
            "share": (row[mean] - low) / (high - low) if high != low else 1.0,
            "text": percent(row[mean]) if share else number(row[mean]),
            "value": measure(str(study.measure), row[mean], row[std]),
            "label": row["label"],
        }
        for row in best.to_dict("records")
    ]
    orders = {axis: [written(each) or "none" for each in ordered(table[axis])] for axis in (x, y)}
    others = [short(name) for name in study.axes if name not in (x, y)]
    note = f"Each cell is the best over {enumerate_words(others)}. " if others else ""

    def draw(look: Look) -> Chart:
        base = alt.Chart(ROWS).encode(
            x=alt.X("x:N", title=short(x), sort=orders[x], axis=alt.Axis(labelAngle=0, ticks=False, domain=False)),
            y=alt.Y("y:N", title=short(y), sort=orders[y][::-1]),
            tooltip=[alt.Tooltip("label:N", title=" "), alt.Tooltip("value:N", title="mean")],
        )
        cells = base.mark_rect(cornerRadius=3, fill=look.accent, stroke=look.accent, strokeWidth=0.5)
        shade = alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.08, 1]), legend=None)
        ink = alt.condition("datum.share > 0.55", alt.value(look.on_accent), alt.value(look.ink))
        text = base.mark_text(fontSize=look.font_size).encode(text="text:N", color=ink)
        return alt.layer(cells.encode(opacity=shade), text).properties(height=alt.Step(34))

    title = f"Final {NAMES[str(study.measure)]}{' (%)' if share else ''} by {short(x)} and {short(y)}"
    return Figure("settings", title, lean(rows), draw, note.strip(), wide=True, follows=False)


def partition_section(study: Study) -> list[Section]:
    """The section with a heat map for each of the first partitions: clients by labels."""
    runs = study.results.runs.dropna(subset="partition_id")
    partitions = dict(list(study.results.partitions.groupby("partition_id")))
    drawn = [identity for identity in runs["partition_id"].drop_duplicates() if identity in partitions]
    figures = [
        partition_figure(number, partitions[identity], runs[runs["partition_id"] == identity])
        for number, identity in enumerate(drawn[:PARTITIONS], start=1)
    ]
    notes = ["How many examples of each label a client holds."]
    if len(drawn) > PARTITIONS:
        notes.append(f"The first {PARTITIONS} of {len(drawn)} partitions.")
    return [Section("Partitions", tuple(figures), " ".join(notes))] if figures else []


def partition_figure(number: int, counts: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    clients = counts["client"].nunique()
    rows = counts[counts["client"] < CLIENTS][["client", "label_name", "count"]].to_dict("records")
    labels = counts.sort_values("label")["label_name"].drop_duplicates().tolist()
    first = runs.iloc[0]
    seeds = runs["seed"].drop_duplicates().sort_values()
    of_seeds = f"{'seed' if len(seeds) == 1 else 'seeds'} {enumerate_words([str(seed) for seed in seeds])}"
    title = (
        f"{label({'partition': first['partition'], 'alpha': first['alpha']})}, {count(clients, 'client')}, {of_seeds}"
    )
    most = int(counts["count"].max())

    def draw(look: Look) -> Chart:
        return held_figure(look, labels, most)

    note = f"From none to {most:,} examples." + (
        f" The first {CLIENTS} of {clients:,} clients." if clients > CLIENTS else ""
    )
    return Figure(f"partition-{number}", title, lean(rows), draw, note, wide=clients > 25, follows=False)
