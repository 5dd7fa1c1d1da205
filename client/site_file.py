"""Reading ``site.toml`` and the studies that it lists, for every command of a hospital."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from common.config.site import SiteConfig
    from common.config.study import StudyConfig

SiteFile = Annotated[Path, typer.Argument(help="The hospital's own site.toml.")]
SiteOption = Annotated[Path, typer.Option("--site", help="The hospital's own site.toml.")]


def load_site_alone(site_file: Path) -> SiteConfig:
    """The site file without its studies, which may be missing or have faults.

    Raises
    ------
    ConfigError
        With every fault of the file.
    """
    from common.config.loading import load
    from common.config.site import SiteConfig

    return load(site_file, SiteConfig).relative_to(site_file.resolve().parent)


def load_site(site_file: Path) -> tuple[SiteConfig, list[StudyConfig]]:
    """The site file and the studies that it lists.

    Raises
    ------
    ConfigError
        With every fault of the first file that has any.
    """
    from common.config.loading import load
    from common.config.study import StudyConfig

    config = load_site_alone(site_file)
    return config, [load(path, StudyConfig) for path in config.studies]
