"""The report's charts: one figure a picture, as PNG; no state outside the figure (pyplot is not used)."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from client.quality.measure import Curve, ImageQuality

LINE, MARK, INK = "#2a6f97", "#d98200", "#33404d"
DPI = 110


def intensity_chart(qualities: Sequence[ImageQuality]) -> str:
    """Densities of body intensities, a line a case: as read and, where there are steps, harmonised. A data URI."""
    after = [quality.curve_after for quality in qualities if quality.curve_after is not None]
    panels = [("as read", [quality.curve_before for quality in qualities])]
    if after:
        panels.append(("on the study's scale", after))
    figure = Figure(figsize=(4.6 * len(panels), 2.9), layout="constrained")
    for number, (title, curves) in enumerate(panels, start=1):
        _draw_curves(figure.add_subplot(1, len(panels), number), title, curves)
    return _data_uri(figure)


def roi_chart(numbered: Mapping[int, ImageQuality], *, marked: frozenset[int]) -> str:
    """ROI volumes, a dot a case in order of size, outliers by their number. A data URI."""
    order = sorted(numbered, key=lambda i: numbered[i].roi.volume_ml)
    volumes = [numbered[i].roi.volume_ml for i in order]
    figure = Figure(figsize=(4.6, 2.9), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(range(1, len(order) + 1), volumes, s=18, color=[MARK if i in marked else LINE for i in order])
    for place, i in enumerate(order, start=1):
        if i in marked:
            axes.annotate(str(i), (place, numbered[i].roi.volume_ml), xytext=(4, 4), textcoords="offset points")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.4)))
    _label(axes, "ROI volume", "cases in order of size", "ml")
    return _data_uri(figure)


def spacing_chart(numbered: Mapping[int, ImageQuality]) -> str:
    """Pixel spacing against slice spacing; the area of a dot is the number of cases there. A data URI."""
    counts: dict[tuple[float, float], int] = {}
    for quality in numbered.values():
        x, _, z = quality.geometry.spacing_mm
        place = (round(x, 3), round(z, 3))
        counts[place] = counts.get(place, 0) + 1
    figure = Figure(figsize=(4.6, 2.9), layout="constrained")
    axes = figure.add_subplot()
    xs, ys = zip(*counts, strict=True)
    axes.scatter(xs, ys, s=[30 + 12 * n for n in counts.values()], color=LINE, alpha=0.6)
    for place, n in counts.items():
        axes.annotate(str(n), place, xytext=(6, 6), textcoords="offset points", color=INK)
    axes.margins(0.2)
    axes.ticklabel_format(useOffset=False)
    _label(axes, "Spacing (number of cases beside each dot)", "pixel (mm)", "slice (mm)")
    return _data_uri(figure)


def _draw_curves(axes: Axes, title: str, curves: Sequence[Curve]) -> None:
    shown = [curve for curve in curves if len(curve.centres) > 1]
    for curve in shown:
        axes.plot(curve.centres, curve.density, color=LINE, alpha=max(0.15, min(0.7, 8 / len(curves))), linewidth=1)
    if shown:
        ends = np.array([(curve.centres[0], curve.centres[-1]) for curve in shown])
        axes.set_xlim(np.percentile(ends[:, 0], 10), np.percentile(ends[:, 1], 90))
        axes.set_ylim(0, 1.15 * float(np.percentile([curve.density.max() for curve in shown], 90)))
    axes.set_yticks([])
    _label(axes, f"Body intensities, {title}", "intensity", "share of voxels")


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(which="both", labelsize=8, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=DPI)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
