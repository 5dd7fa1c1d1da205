"""The tasks a study can name: a closed, tagged union. A new task is one file and one line here.

Every task has ``n_outputs`` (logits a case), ``targets(outcome)`` (a tensor whose first axis is the case),
``loss(logits, targets)`` (a loss a case, whose sum over sites is the pooled sum) and ``link(logits)`` (what a
clinician reads: probabilities, a value in its unit, or survival). Targets and losses load torch when they are asked
for, so that a configuration is read without it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.tasks.classification import ClassificationTask
from common.tasks.regression import RegressionTask
from common.tasks.survival import SurvivalTask
from common.tasks.training import TrainingConfig

TaskConfig = Annotated[ClassificationTask | RegressionTask | SurvivalTask, Field(discriminator="kind")]

__all__ = ["ClassificationTask", "RegressionTask", "SurvivalTask", "TaskConfig", "TrainingConfig"]
