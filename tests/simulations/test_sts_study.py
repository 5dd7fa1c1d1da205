"""A whole study on real images: 26 soft-tissue sarcomas (Vallieres et al. 2015) at three sites, PET only.

Harmonisation, selection and solved models of the federated course are those of the pooled rows. So few cases say
nothing of a model's worth.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.config.loading import digest
from common.statistics.combat_model import CombatModel
from common.statistics.solution import decode_solution
from server.checkpoint import CheckpointStore
from server.opening import open_run
from server.report import page
from server.results import load_results
from server.table import entries_from_unit, steps_from_unit
from simulations.run import Cohort, simulate
from tests.small_study import write_study

DATA = Path(__file__).parents[2] / "../shared/data/sts"

STUDY = """
name = "sarcoma"
title = "Lung metastasis from PET"
seed = 11
site_column = "site"
sites = [{ name = "east" }, { name = "north" }, { name = "south" }]
outcome = { kind = "classification", column = "lung_metastasis", values = ["0", "1"], names = ["none", "metastasis"] }
clinical = [{ column = "age_years", kind = "numeric", missing = "exclude" }]
radiomics = [{ image = "pet", preset = "fast" }]
split = { kind = "leave_one_site_out" }
privacy = { minimum_cases = 1 }

[[images]]
name = "pet"
modality = "PET"
image = "nifti/{case_id}/PET_image.nii.gz"
roi = "nifti/{case_id}/PET_mask.nii.gz"
steps = [{ kind = "resample", spacing_mm = [4.0, 4.0, 3.27] }]

[table]
impute = "median"
combat = { batch = "pet_voxel_mm", covariates = ["age_years"], unseen_sites = "adapt", confounded = "without_outcome" }
selection = [
  { kind = "correlation", largest = 0.9 },
  { kind = "mrmr", keep = 5 },
]

[evaluation]
subgroups = [{ column = "age_years", edges = [50] }, { column = "grade", values = ["Low", "Intermediate", "High"] }]

[[models]]
name = "ridge"
model = { kind = "ridge", penalty = 0.1 }

[[models]]
name = "boosting"
model = { kind = "boosting", n_trees = 5, max_depth = 2, least_cases = 3, n_bins = 6 }
"""

pytestmark = pytest.mark.skipif(not DATA.exists(), reason="../shared/data/sts is missing")


def test_federated_and_pooled_end_alike_on_sarcomas(tmp_path: Path):
    study_file, study = write_study(tmp_path, STUDY)
    opened = open_run(study_file, tmp_path / "run", resume=False)
    simulate(study, Cohort(DATA / "cases.csv", DATA), out=tmp_path / "run", journal=opened.journal)
    store = CheckpointStore(tmp_path / "run" / "checkpoints", digest(study))
    batches = ("east/3.9", "east/4.68", "north/5.46", "south/5.46")
    for fold, left_out in enumerate(("east", "north", "south")):
        steps = {c: steps_from_unit(store.load(f"table.{c}.fold{fold}")) for c in ("federated", "pooled")}
        combat = {c: next(s for s in found if isinstance(s, CombatModel)) for c, found in steps.items()}
        assert combat["federated"].batches == tuple(b for b in batches if not b.startswith(left_out))
        np.testing.assert_allclose(combat["federated"].gamma_star, combat["pooled"].gamma_star, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(combat["federated"].delta_star, combat["pooled"].delta_star, rtol=1e-6)
        for model in ("ridge", "boosting"):
            names = [f"solution.{course}.{model}.fold{fold}" for course in ("federated", "pooled")]
            federated, pooled = (decode_solution(entries_from_unit(store.load(name))).model for name in names)
            assert federated.names == pooled.names
            if model == "ridge":
                np.testing.assert_allclose(federated.coefficients, pooled.coefficients, rtol=1e-6, atol=1e-9)
            else:
                np.testing.assert_allclose(federated.outputs, pooled.outputs, rtol=1e-6, atol=1e-9)
    results = load_results([tmp_path / "run"])
    merged = results.merged("federated", "ridge", study.training_sites)
    assert merged.n_cases == 26
    assert {r.fold for r in results.harmonisations} == {0, 1, 2}
    chosen = [r.steps[-1] for r in results.selections if r.course == "federated"]
    assert [len(step.names) for step in chosen] == [5, 5, 5]
    by_age = results.subgroups("federated", "ridge", study.training_sites)["age_years"]
    assert sum(level.n_cases for level in by_age.values()) == 26
    html = page(results)
    assert "test cases by age_years" in html
    assert all(name in html for step in chosen for name in step.names)
