"""A case's images on the grid and scale of the study, step by step and on record."""

from client.imaging.case import AppliedStep, Case
from client.imaging.steps import apply, replay

__all__ = ["AppliedStep", "Case", "apply", "replay"]
