"""The quality report of a site: what its images, ROIs and clinical values are like, before any of it is used.

It is made at the hospital for the hospital. Cases are numbered, no id and no path stands in it; but it shows images, so
it stays there.
"""

from client.quality.measure import CaseQuality, ImageQuality, image_quality
from client.quality.report import write_quality_report
from client.quality.survey import report_site, survey_case

__all__ = ["CaseQuality", "ImageQuality", "image_quality", "report_site", "survey_case", "write_quality_report"]
