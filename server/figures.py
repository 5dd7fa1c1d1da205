"""The report's figures as SVG that stands inside the page: text is text, colours are the page's own variables.

So a figure follows the page's light or dark colours, prints, and needs no file beside it. A course has one colour and
dash everywhere; colours are told apart with colour-blind eyes (after Okabe and Ito 2008) and dashes without any.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.evaluation.metrics import RocCurve
from common.evaluation.reliability import CalibrationCurve
from common.evaluation.survival import TIME_EDGES_DAYS
from server.courses import FEDERATED, LOCAL, POOLED

INK, FAINT, BAND = "#1c2430", "#c9d0d9", "#e9edf2"
SITE_COLOURS = ("#c2560a", "#00805a", "#b0508a", "#8f6a00", "#6f4fa8", "#7b4b2a")
SITE_DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
VARIABLES: Mapping[str, str] = {
    INK: "--ink",
    FAINT: "--line",
    BAND: "--band",
    "#0062ad": "--federated",
    "#59616c": "--pooled",
    **{colour: f"--site-{number}" for number, colour in enumerate(SITE_COLOURS)},
}
"""The light page's colours and the variables that take their place in the SVG."""

Dash = str | tuple[float, tuple[float, ...]]


@dataclass(frozen=True)
class LineStyle:
    """How a course is drawn; ``variable`` is the CSS variable of its colour."""

    colour: str
    dash: Dash
    width: float

    @property
    def variable(self) -> str:
        return VARIABLES[self.colour]

    @property
    def dash_array(self) -> str:
        """As SVG's ``stroke-dasharray``, for the legend."""
        if isinstance(self.dash, tuple):
            return " ".join(f"{length * self.width:g}" for length in self.dash[1])
        return "none"


def course_style(course: str, training_sites: Sequence[str]) -> LineStyle:
    """The colour, dash and width of a course; a local-only course has its hospital's colour."""
    if course == FEDERATED:
        return LineStyle("#0062ad", "solid", 2.4)
    if course == POOLED:
        return LineStyle("#59616c", (0, (4, 2)), 2.0)
    return site_style(course.removeprefix(LOCAL), training_sites)


def site_style(site: str, training_sites: Sequence[str]) -> LineStyle:
    """The colour of a hospital that trains; after six hospitals colours come again with another dash."""
    number = training_sites.index(site)
    colours = len(SITE_COLOURS)
    dash: Dash = SITE_DASHES[(number + number // colours) % len(SITE_DASHES)]
    return LineStyle(SITE_COLOURS[number % colours], dash, 1.3)


def roc_figure(curves: Mapping[str, tuple[RocCurve, LineStyle]], *, key: str, alt: str) -> Markup:
    """ROC curves by course on the unit square; the first of ``curves`` is drawn on top.

    Parameters
    ----------
    key : str
        Unique in the page: prefix of the SVG's ids.
    alt : str
        What the figure shows, in words.
    """
    figure, axes = _square()
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
    for rank, (curve, style) in enumerate(curves.values()):
        axes.plot(
            curve.false_positive_rate,
            curve.true_positive_rate,
            color=style.colour,
            linestyle=style.dash,
            linewidth=style.width,
            zorder=20 - rank,
        )
    axes.set_xlabel("1 − specificity")
    axes.set_ylabel("sensitivity")
    return inline_svg(figure, key=key, alt=alt)


def calibration_figure(curves: Mapping[str, tuple[CalibrationCurve, LineStyle]], *, key: str, alt: str) -> Markup:
    """Observed frequency against predicted probability; the first of ``curves`` with its intervals."""
    figure, axes = _square()
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
    for rank, (curve, style) in enumerate(curves.values()):
        axes.plot(
            curve.predicted,
            curve.observed,
            color=style.colour,
            linestyle=style.dash,
            linewidth=1.0 if rank else 1.6,
            marker="o",
            markersize=3 if rank else 5.5,
            zorder=20 - rank,
        )
        if rank == 0:
            axes.vlines(curve.predicted, curve.low, curve.high, color=style.colour, linewidth=1.4, zorder=20)
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("observed share")
    return inline_svg(figure, key=key, alt=alt)


@dataclass(frozen=True)
class LossLine:
    """Training loss after each round; ``thin`` for one hospital's part of a course."""

    rounds: tuple[int, ...]
    losses: tuple[float, ...]
    style: LineStyle
    thin: bool = False


def loss_figure(lines: Sequence[LossLine], *, limits: tuple[float, float], key: str, alt: str) -> Markup:
    """Training loss by round; ``limits`` of the losses are shared by the panels that stand side by side."""
    figure = Figure(figsize=(4.4, 3.0))
    axes = figure.subplots()
    for line in lines:
        axes.plot(
            line.rounds,
            line.losses,
            color=line.style.colour,
            linestyle=line.style.dash,
            linewidth=1.0 if line.thin else max(line.style.width, 1.6),
            alpha=0.8 if line.thin else 1.0,
            marker="o" if len(line.rounds) == 1 else None,
            zorder=5 if line.thin else 10,
        )
    margin = 0.05 * (limits[1] - limits[0]) or 0.05
    axes.set_ylim(limits[0] - margin, limits[1] + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlabel("round")
    axes.set_ylabel("training loss")
    plain_axes(axes)
    return inline_svg(figure, key=key, alt=alt)


def event_free_figure(free: Sequence[float], *, last_day: float, key: str, alt: str) -> Markup:
    """Kaplan-Meier estimate on the agreed grid of days up to ``last_day``."""
    figure = Figure(figsize=(4.4, 3.0))
    axes = figure.subplots()
    axes.step(TIME_EDGES_DAYS, [1.0, *free[:-1]], where="post", color=INK, linewidth=1.8)
    axes.set_xlim(0, last_day)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("days")
    axes.set_ylabel("free of the event")
    plain_axes(axes)
    return inline_svg(figure, key=key, alt=alt)


def _square() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(3.6, 3.5))
    axes = figure.subplots()
    axes.set_aspect("equal")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    ticks = [0, 0.25, 0.5, 0.75, 1]
    axes.set_xticks(ticks, ["0", "0.25", "0.5", "0.75", "1"])
    axes.set_yticks(ticks, ["0", "0.25", "0.5", "0.75", "1"])
    plain_axes(axes)
    return figure, axes


def plain_axes(axes: Axes) -> None:
    """A light grid, two axes, no frame."""
    axes.patch.set_visible(False)
    axes.grid(color=BAND, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def inline_svg(figure: Figure, *, key: str, alt: str) -> Markup:
    """The figure as an ``svg`` element with the page's colours, unique ids and a text alternative."""
    figure.patch.set_visible(False)
    figure.set_layout_engine("constrained")
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        FigureCanvasSVG(figure).print_svg(text, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{key}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable}, {colour})")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
    return Markup(svg)  # noqa: S704 - made here from numbers; the only text, alt, is escaped
