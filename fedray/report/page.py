"""The page: one HTML file with its style, its scripts and its data inside. It loads nothing else."""

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from fedray.report import answer, facts
from fedray.report.figure import VEGA_LITE, Section
from fedray.report.header import Header
from fedray.report.look import PAGE
from fedray.report.study import Study


@dataclass(frozen=True)
class Entry:
    """A line of the legend."""

    key: str
    label: str
    colour: str
    dashes: str
    shown: bool


def render(
    study: Study, headers: Mapping[str, Header], sections: Sequence[Section], warnings: Sequence[str] = ()
) -> str:
    """The whole page as HTML. `headers` are those of the experiments by the names of their results."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fedray.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    figures = [figure for section in sections for figure in section.figures]
    columns = answer.columns(study)
    return environment.get_template("page.html.jinja").render(
        study=study,
        question=question(study, headers),
        headers=headers,
        digests=[(name, header.settings) for name, header in headers.items() if header.settings],
        sections=sections,
        warnings=warnings,
        summary=facts.summary(study),
        banners=facts.banners(study.results),
        tiles=answer.tiles(study),
        columns=columns,
        groups=[(group, len(list(members))) for group, members in itertools.groupby(each.group for each in columns)],
        complete=list(study.configurations["complete"]),
        order=facts.order_of(study),
        lead=answer.lead(study),
        problems=facts.problems(study),
        legend=legend(study),
        common=facts.common_settings(study),
        varying=facts.varying_settings(study),
        versions=facts.versions(study.results.runs),
        runs=facts.runs_table(study),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        data=embedded(
            {
                "charts": {
                    each.name: {
                        "vega": each.vega(),
                        "follows": each.follows,
                        "over": each.over,
                        "percent": each.percent,
                    }
                    for each in figures
                },
                "series": {
                    key: {"label": label, "colour": PAGE.colour(position)}
                    for position, (key, label) in enumerate(study.labels.items())
                },
            }
        ),
        bundle=Markup(bundle()),
    )


def question(study: Study, headers: Mapping[str, Header]) -> str:
    """The question of all the experiments; the names of the results where they ask several."""
    asked = {header.question for header in headers.values()}
    return asked.pop() if len(asked) == 1 else study.name


@functools.cache
def bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)).replace(
        "</script", "<\\/script"
    )


def embedded(value: Any) -> Markup:
    """The value as JSON that is safe inside a script element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def legend(study: Study) -> list[Entry]:
    return [
        Entry(key, breakable(label), PAGE.colour(position), " ".join(map(str, PAGE.dash(position))), key in study.shown)
        for position, (key, label) in enumerate(study.labels.items())
    ]


def breakable(label: str) -> str:
    """A label that breaks into lines between settings only."""
    return label.replace(" ", "\N{NO-BREAK SPACE}").replace(",\N{NO-BREAK SPACE}", ", ")
