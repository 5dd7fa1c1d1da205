"""RBF support vectors through random Fourier features (Rahimi and Recht 2007, NIPS).

The kernel ``exp(-gamma |x - y|^2)`` is the mean of products of cosines with random frequencies. All sites draw the same
frequencies from the study's seed, and what is left is a linear problem on them: sums of fixed size, where a kernel
machine would have to send support vectors, which are patients.

Sums of cosines at many frequencies tell more of a site's values than means and variances do. So a site answers for the
study's one draw only; where sites are small, use secure aggregation or stay with the linear model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from common.errors import StatisticError
from common.statistics.feature_map import MAX_RANDOM, standardised_map
from common.statistics.margins import MarginModel, fit_margins
from common.statistics.procedure import Procedure


def rbf_svm(
    names: Sequence[str],
    *,
    penalty: float,
    gamma: float | None = None,
    seed: int,
    n_random: int = 300,
    softness: float = 0.0,
) -> Procedure[MarginModel]:
    """Fit squared-hinge support vectors on random Fourier features of standardised features.

    Parameters
    ----------
    gamma : float, optional
        1 / n_features where it is not given (scikit-learn's "scale" on standardised features).
    seed : int
        The study's.
    n_random : int
        More approximate the kernel better, as 1 / sqrt(n_random); an answer holds n_random^2 numbers.
    softness : float
        See `common.statistics.margins.MarginQuery`.

    Raises
    ------
    StatisticError
        Where a feature is constant or missing, a class is absent, or a setting is out of range.
    """
    if not 1 <= n_random <= MAX_RANDOM or (gamma is not None and gamma <= 0):
        raise StatisticError(f"n_random lies in 1..{MAX_RANDOM} and gamma is positive, got {n_random} and {gamma}")
    plain = yield from standardised_map(names)
    feature_map = replace(plain, n_random=n_random, gamma=gamma or 1 / len(plain.names), draw=seed)
    return (yield from fit_margins(feature_map, "squared_hinge", penalty=penalty, softness=softness))
