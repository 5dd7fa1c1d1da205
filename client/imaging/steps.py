"""Applying imaging steps: ``apply(step, case)`` learns what the step needs from the case, then transforms it.

`replay` transforms with the recorded numbers instead and gives the same voxels bit by bit. Adding a step is a class in
`common.config.imaging`, its two functions (or one, with a ready-made shape of `client.imaging.implementation`), and a
line in `IMPLEMENTATIONS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from client.imaging import geometry_steps, intensity_steps
from client.imaging.case import AppliedStep, Case, Learned
from client.imaging.implementation import Implementation, change_each, learn_each, nothing, unchanged
from common.config import imaging as config
from common.config.imaging import ImagingStep


def apply(step: ImagingStep, case: Case, *, images: Sequence[str] | None = None) -> Case:
    """The case after a step, which is added to its record.

    Parameters
    ----------
    images : sequence of str, optional
        Which images an intensity step touches; default all. Geometry always changes the whole case.

    Raises
    ------
    CaseError
        Where the case does not fit the step, with a code of its own for each reason.
    """
    chosen = tuple(case.images) if images is None else tuple(images)
    ready = _ready(step, case, chosen)
    learned = IMPLEMENTATIONS[type(step)].learn(step, ready, chosen)
    return _transformed(step, ready, chosen, learned)


def replay(case: Case, steps: Iterable[AppliedStep]) -> Case:
    """The recorded steps done again, with what they learned then and not what the case would teach them now."""
    for done in steps:
        case = _transformed(done.step, _ready(done.step, case, done.images), done.images, done.learned)
    return case


def _ready(step: ImagingStep, case: Case, images: Sequence[str]) -> Case:
    absent = [name for name in images if name not in case.images]
    if absent:
        raise KeyError(f"case {case.case_id} has no image {', '.join(absent)}")
    return case if IMPLEMENTATIONS[type(step)].any_grid else case.on_one_grid()


def _transformed(step: ImagingStep, case: Case, images: Sequence[str], learned: Learned) -> Case:
    changed = IMPLEMENTATIONS[type(step)].transform(step, case, images, learned)
    return replace(changed, steps=(*case.steps, AppliedStep(step, tuple(images), learned)))


IMPLEMENTATIONS: Mapping[type[object], Implementation] = {
    config.ToLps: Implementation(nothing, geometry_steps.to_lps, any_grid=True),
    config.CropToRoi: Implementation(geometry_steps.learn_crop, geometry_steps.crop),
    config.Resample: Implementation(geometry_steps.learn_resample, geometry_steps.resample),
    config.RoundHu: Implementation(nothing, change_each(intensity_steps.round_hu)),
    config.Window: Implementation(nothing, change_each(intensity_steps.window)),
    config.Resegment: Implementation(learn_each(intensity_steps.learn_resegment), intensity_steps.resegment),
    config.ZScore: Implementation(learn_each(intensity_steps.learn_zscore), change_each(intensity_steps.standardise)),
    config.N4: Implementation(nothing, change_each(intensity_steps.correct_bias)),
    config.Nyul: Implementation(learn_each(intensity_steps.learn_nyul), change_each(intensity_steps.map_landmarks)),
    config.WhiteStripe: Implementation(
        learn_each(intensity_steps.learn_stripe), change_each(intensity_steps.standardise)
    ),
    config.CheckRange: Implementation(learn_each(intensity_steps.check_range), unchanged),
    config.SuvCheck: Implementation(learn_each(intensity_steps.check_suv), unchanged),
    config.CheckRegistration: Implementation(geometry_steps.learn_registration, geometry_steps.register, any_grid=True),
    config.Anisotropy: Implementation(geometry_steps.learn_stack, unchanged),
}
