"""Net benefit by its definition, case by case."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import MetricError
from common.evaluation.decision import decision_curve
from common.evaluation.scores import ScoreSums
from tests.common.evaluation.predictions import binary, merged


def test_decision_curve_by_its_definition():
    p, labels = binary(300, digits=2)
    found = decision_curve(merged(p, labels, 3))
    for i, t in enumerate(found.thresholds):
        acted = p[:, 1] >= t
        gain = np.where(acted, np.where(labels == 1, 1.0, -t / (1 - t)), 0.0)
        assert found.net_benefit[i] == pytest.approx(gain.mean())
        assert found.high[i] - found.net_benefit[i] == pytest.approx(1.959964 * gain.std() / np.sqrt(300), abs=1e-6)
        assert found.treat_all[i] == pytest.approx(labels.mean() - t / (1 - t) * (1 - labels.mean()))


def test_undefined():
    p, labels = binary(60)
    with pytest.raises(MetricError, match="no negative case"):
        decision_curve(ScoreSums.summarise(p[labels == 1], labels[labels == 1]))
    with pytest.raises(MetricError, match="strictly between 0 and 1"):
        decision_curve(ScoreSums.summarise(p, labels), thresholds=np.array([0.0, 0.5]))
