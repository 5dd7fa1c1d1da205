"""A small made case with body, ROI and air, in each modality's scale."""

from __future__ import annotations

import numpy as np

from client.imaging import Case
from common.volume import Volume

SHAPE = (14, 40, 44)


def volume(*, air=20.0, lean=300.0, lesion=450.0, seed=0, spacing_mm=(3.0, 1.0, 1.0)):
    """A body with a lesion of another intensity; noise of 10."""
    rng = np.random.default_rng(seed)
    _d, h, w = np.indices(SHAPE)
    array = np.full(SHAPE, air)
    array[(h - 20) ** 2 / 17**2 + (w - 22) ** 2 / 19**2 <= 1] = lean
    array[lesion_mask()] = lesion
    array += rng.normal(0, 10, SHAPE)
    return Volume.from_geometry(array.astype(np.float32), spacing_mm=spacing_mm, origin_mm=(-20, 4, 100))


def lesion_mask():
    d, h, w = np.indices(SHAPE)
    return ((d - 7) * 3.0) ** 2 + (h - 18) ** 2 + (w - 25) ** 2 <= 8**2


def case(**options):
    image = volume(**options)
    return Case(case_id="c1", images={"mr": image}, roi=image.with_array(lesion_mask()))
