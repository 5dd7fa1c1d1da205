"""The pictures of an audit as PNG files: ROC curves on logarithmic axes, and reconstructions beside the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from server.figures import FAINT, INK, SITE_COLOURS, plain_axes
from simulations.audit.intervals import Curve
from simulations.audit.similarity import Patch

DPI = 110
LOWEST_RATE = 1e-3
"""Where the logarithmic axes begin."""


@dataclass(frozen=True, eq=False)
class PictureRow:
    """One patient: the true patch and named panels beside it, each (C, D, H, W), with a line of text below each."""

    label: str
    truth: Patch
    panels: Mapping[str, tuple[Patch, str] | None]


def roc_picture(curves: Mapping[str, Curve], path: Path, *, title: str) -> None:
    """Curves of attacks on double logarithmic axes: what counts is the left side (Carlini et al. 2022, figure 1)."""
    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axes = figure.subplots()
    grid = np.geomspace(LOWEST_RATE, 1, 200)
    axes.plot(grid, grid, color=FAINT, linewidth=1.2, label="chance")
    for number, (name, curve) in enumerate(curves.items()):
        axes.plot(
            np.maximum(curve.false_positive_rate, LOWEST_RATE / 10),
            np.maximum(curve.true_positive_rate, LOWEST_RATE / 10),
            color=SITE_COLOURS[number % len(SITE_COLOURS)],
            linestyle=("solid", "dashed", "dotted", "dashdot")[number % 4],
            linewidth=1.8,
            label=name,
        )
    axes.axvline(0.01, color=FAINT, linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(LOWEST_RATE, 1)
    axes.set_ylim(LOWEST_RATE, 1)
    axes.set_xlabel("false-positive rate")
    axes.set_ylabel("true-positive rate")
    axes.set_title(title, color=INK, fontsize=10)
    plain_axes(axes)
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    _save(figure, path)


def inversion_picture(rows: Sequence[PictureRow], path: Path, *, title: str) -> None:
    """A patient a row: the middle axial slice of the truth and of each panel, with the ROI's outline."""
    names = list(rows[0].panels)
    figure = Figure(figsize=(1.75 * (1 + len(names)), 2.05 * len(rows) + 0.5), layout="constrained")
    grid = figure.subplots(len(rows), 1 + len(names), squeeze=False)
    for line, row in zip(grid, rows, strict=True):
        low, high = float(row.truth[0].min()), float(row.truth[0].max())
        _slice(line[0], row.truth, low, high, row.label)
        for axes, name in zip(line[1:], names, strict=True):
            panel = row.panels[name]
            if panel is None:
                _empty(axes, "not used in\nthis study")
            else:
                _slice(axes, panel[0], low, high, panel[1])
    for axes, name in zip(grid[0], ["patient's patch", *names], strict=True):
        axes.set_title(name, fontsize=9, color=INK)
    figure.suptitle(title, fontsize=10, color=INK)
    _save(figure, path)


def _slice(axes: Axes, patch: Patch, low: float, high: float, text: str) -> None:
    middle = patch.shape[1] // 2
    axes.imshow(patch[0, middle], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    roi = patch[-1, middle]
    if float(roi.min()) < 0.5 < float(roi.max()):
        axes.contour(roi, levels=[0.5], colors=["#e8a33d"], linewidths=1.0)
    _bare(axes, text)


def _empty(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=8, color=INK, transform=axes.transAxes)
    _bare(axes, "")


def _bare(axes: Axes, text: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    axes.set_xlabel(text, fontsize=8, color=INK)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
