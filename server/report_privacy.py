"""What the report says about differential privacy: what it covers, what it costs, what it does to the results."""

from __future__ import annotations

from collections.abc import Iterator

from common.config.private_statistics import cost_of_a_question, planned_questions
from common.config.site_level import protected_rounds, site_level_cost, site_level_of
from common.privacy.central import noise_to_signal
from common.privacy.ledger import epsilon
from server.courses import FEDERATED
from server.record import StudyResults

HOPELESS = 1.0
"""Noise longer than the longest possible mean update."""


def privacy_notes(results: StudyResults) -> tuple[str, ...]:
    """How far the study's promises reach, in sentences; none where it makes none."""
    return (*_statistics(results), *_site_level(results))


def privacy_warnings(results: StudyResults) -> tuple[str, ...]:
    """Models of which site-level noise leaves nothing to be expected."""
    return tuple(
        f"{model}: the noise of site-level privacy in a mean update is expected to be {ratio:.3g} times as long as the "
        "longest that the mean itself can be. With few hospitals such noise outweighs what is learned: the model may "
        "be of no use."
        for model, ratio in _ratios(results)
        if ratio > HOPELESS
    )


def _statistics(results: StudyResults) -> Iterator[str]:
    private = results.study.privacy.statistics
    if private is None:
        return
    n = planned_questions(results.study)
    spent = epsilon([cost_of_a_question(results.study)] * n, private.target_delta)
    yield (
        f"Table statistics and evaluations are differentially private: epsilon {spent:.3g} at delta "
        f"{private.target_delta:g} for the {n} answers that a hospital gives at most. The unit is one case, its row "
        "added or removed; the number of a hospital's cases and which of them are held out are public. Measures have "
        "this noise in them, and their intervals do not contain it. What trained models tell of cases is not covered "
        "by this."
    )


def _site_level(results: StudyResults) -> Iterator[str]:
    config = results.study.privacy.site_level
    if config is None:
        return
    spent = epsilon(site_level_cost(results.study), config.target_delta)
    held = (
        "It holds against all who see the models and, because each hospital adds its share of the noise under the "
        "masks, against the coordinator"
        if results.study.privacy.secure_aggregation is not None
        else "It holds against all who see the models, not against the coordinator, which sees the updates and adds "
        "the noise"
    )
    yield (
        f"Rounds of training have site-level differential privacy: epsilon {spent:.3g} at delta "
        f"{config.target_delta:g} for {protected_rounds(results.study)} rounds. The unit is a hospital's whole data "
        f"set, its update replaced by zeros. {held}. Table statistics and evaluations are not covered by it. No "
        "amplification by sampling is claimed."
    )
    for model, ratio in _ratios(results):
        yield f"{model}: expected length of this noise over the longest that a mean update can be: {ratio:.3g}."


def _ratios(results: StudyResults) -> Iterator[tuple[str, float]]:
    """Noise to signal of each protected model."""
    level = site_level_of(results.study)
    n_sites = results.study.n_training - (results.study.split.kind == "leave_one_site_out")
    sizes = {found.model: found.n_parameters for found in results.trainings if found.course == FEDERATED}
    if level is None:
        return
    for model, n_values in sizes.items():
        yield model, noise_to_signal(noise_multiplier=level.of_the_sum, n_values=n_values, n_sites=n_sites)
