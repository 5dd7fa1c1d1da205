"""The report's picture of a harmonisation: what batches explain of the features, before and after."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from common.statistics.batch_effect import BatchEffect

BEFORE, AFTER, CHANCE = "#59616c", "#0062ad", "#1c2430"


def draw_batch_effect(before: BatchEffect, after: BatchEffect) -> Figure:
    """Left: distribution over features of the variance share between batches. Right: recognition of the batch."""
    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    shares, recognition = figure.subplots(1, 2, width_ratios=(2, 1))
    bins = np.linspace(0.0, 1.0, 41)
    for effect, label, colour in ((before, "before", BEFORE), (after, "after", AFTER)):
        shares.hist(effect.between_share, bins=bins, alpha=0.6, label=label, color=colour)
    shares.set_xlabel("share of a feature's variance between batches")
    shares.set_ylabel("features")
    shares.legend(frameon=False)
    bars = recognition.bar(["before", "after"], [before.accuracy, after.accuracy], color=[BEFORE, AFTER], alpha=0.6)
    recognition.bar_label(bars, fmt="%.2f")
    recognition.axhline(before.chance, color=CHANCE, linestyle="--", label="chance")
    recognition.set_ylim(0.0, 1.0)
    recognition.set_ylabel("balanced accuracy of the batch")
    recognition.legend(frameon=False)
    return figure
