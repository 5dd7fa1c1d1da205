"""Scenes for the radiomics tests: small, seeded, with what trips extractors (holes, parts, borders, odd spacings)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from common.volume import Volume

DATA = Path(__file__).parents[3] / "../shared/data"


@pytest.fixture
def ibsi_data() -> Path:
    folder = DATA / "ibsi"
    if not folder.is_dir():
        pytest.skip("shared/data/ibsi is not here")
    return folder


@pytest.fixture
def sts_data() -> Path:
    folder = DATA / "sts" / "nifti"
    if not folder.is_dir():
        pytest.skip("shared/data/sts is not here")
    return folder


def scene(
    seed: int = 0,
    shape: tuple[int, int, int] = (19, 30, 33),
    *,
    spacing_mm: tuple[float, float, float] = (2.5, 0.8, 0.9),
    radii: tuple[float, float, float] = (5, 9, 10),
    dtype: type = np.float32,
    levels: float = 60.0,
) -> tuple[Volume, Volume]:
    """A textured ellipsoid with a hole and a second part."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=shape)
    texture = 40 + levels * (gaussian_filter(noise, 1.2) * 4 + 0.3 * noise)
    grid = np.indices(shape)
    centre = np.array(shape)[:, None, None, None] / 2
    distance = (((grid - centre) / np.array(radii)[:, None, None, None]) ** 2).sum(axis=0)
    roi = distance < 1
    roi[tuple(n // 2 for n in shape)] = False
    roi[2:4, 3:6, 3:5] = True
    image = Volume.from_geometry(np.round(texture).astype(dtype), spacing_mm=spacing_mm, origin_mm=(10, -20, 30))
    return image, image.with_array(roi)
