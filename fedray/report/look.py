"""The look of charts, on the page and on paper.

The seven hues are Okabe and Ito's, which people with any kind of colour vision can tell apart (Wong 2011, Nature
Methods 8, 441). On paper, which may be printed without colours, lines differ in their dashes as well. On the page they
do beyond seven series. There a colour is the name of a CSS property, so CSS chooses between light and dark.
"""

from dataclasses import dataclass
from typing import Any

OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ([1000, 0], [7, 3], [2, 2], [9, 3, 2, 3], [14, 4], [2, 5], [9, 2, 2, 2, 2, 2], [4, 7], [14, 3, 5, 3])
PARTS = {
    "train": "#0072b2",
    "evaluate": "#56b4e9",
    "aggregate": "#009e73",
    "transfer": "#e69f00",
    "idle": "#b4b4b4",
    "record": "#cc79a7",
}
"""The parts of a run's time, in the order of the bars, with their colours on paper."""


@dataclass(frozen=True)
class Look:
    """The colours and the width of all charts, for the page or for a paper."""

    page: bool
    width: int | str
    """The width of a whole figure, on paper in points: 450 are 15.9 cm, the text of an A4 page."""
    colours: tuple[str, ...]
    parts: tuple[str, ...]
    ink: str
    muted: str
    grid: str
    accent: str
    """The colour of bars, and of heat maps' cells, whose opacity shows their value."""
    on_accent: str
    font_size: int

    def colour(self, position: int) -> str:
        return self.colours[position % len(self.colours)]

    def dash(self, position: int) -> list[int]:
        """The dashes of the series at this position. On the page the first seven, one for each hue, are solid."""
        return DASHES[(position // len(OKABE_ITO) if self.page else position) % len(DASHES)]

    def config(self) -> dict[str, Any]:
        """The config of a Vega-Lite specification."""
        text = {"labelColor": self.muted, "titleColor": self.ink, "titleFontWeight": "normal"}
        sizes = {"labelFontSize": self.font_size, "titleFontSize": self.font_size}
        axis = {"gridColor": self.grid, "domainColor": self.grid, "tickColor": self.grid, "titlePadding": 8}
        return {
            "background": None if self.page else "white",
            "font": "system-ui, sans-serif" if self.page else "Helvetica, Arial, sans-serif",
            "padding": 0 if self.page else 6,
            "view": {"stroke": None},
            "aria": False,  # the page describes each chart; a description of each mark would be noise
            "axis": {**text, **sizes, **axis, "labelOverlap": True, "labelSeparation": 5},
            "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
            "legend": {
                **text,
                **sizes,
                "labelColor": self.ink,
                "labelLimit": 400,
                "symbolStrokeWidth": 2,
                "columnPadding": 14,
            },
        }


PAGE = Look(
    page=True,
    width="container",
    colours=tuple(f"var(--c{number})" for number in range(len(OKABE_ITO))),
    parts=tuple(f"var(--part-{part})" for part in PARTS),
    ink="var(--ink)",
    muted="var(--muted)",
    grid="var(--line)",
    accent="var(--accent)",
    on_accent="var(--on-accent)",
    font_size=12,
)
PAPER = Look(
    page=False,
    width=450,
    colours=OKABE_ITO,
    parts=tuple(PARTS.values()),
    ink="#000000",
    muted="#333333",
    grid="#dddddd",
    accent="#0072b2",
    on_accent="#ffffff",
    font_size=10,
)
