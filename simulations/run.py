"""`fedrad simulate`: a whole study in one process, from one CSV and one folder of images.

Each simulated hospital gets a folder of its own with its part of the CSV, its ``site.toml`` values and its state, and
is asked through the same messages as over a network; so what runs here runs at hospitals.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.site import Site
from common.config.gate import GateConfig
from common.config.loading import digest
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import Code, ConfigError
from common.journal import JsonLines
from server.checkpoint import CheckpointStore, Unit, write_atomic
from server.courses import POOLED, Group, groups_of, pooled_group
from server.study import run_study
from simulations.credentials import issue_credentials
from simulations.in_process import Answers, InProcessFederation
from simulations.pooled import PooledSite


@dataclass(frozen=True)
class Cohort:
    """Where the cases of a simulation are."""

    cases: Path
    data: Path


def simulate(
    study: StudyConfig,
    cohort: Cohort,
    *,
    out: Path,
    journal: JsonLines,
    threads: int = 1,
    processes: int = 1,
    baselines: bool = True,
) -> None:
    """Run, or go on with, a study on a cohort that lies in one place.

    Parameters
    ----------
    out : Path
        Receives ``sites/``, ``checkpoints/`` and what the report needs.
    threads : int
        Sites asked at the same time.
    processes : int
        Cases prepared at the same time at each site.
    baselines : bool
        Whether the local-only and the pooled course are run too.
    """
    store = CheckpointStore(out / "checkpoints", digest(study))
    configs = split_cohort(study, cohort, out, store, processes)
    credentials = issue_credentials(tuple(configs)) if study.privacy.secure_aggregation else {}
    sites = {
        name: Site(config, [study], secret="", credentials=credentials.get(name)) for name, config in configs.items()
    }
    groups: list[Group] = list(groups_of(study if baselines else study.model_copy(update={"local_only": False})))
    members: dict[str, Answers] = dict(sites)
    if baselines and study.n_training > 1 and study.privacy.statistics is None:  # each answer of a hospital is paid
        groups.append(pooled_group())
        members[POOLED] = PooledSite(study, [sites[name] for name in study.training_sites])
    with InProcessFederation(members, threads=threads) as federation:
        run_study(study, federation, groups=groups, store=store, journal=journal)


def split_cohort(
    study: StudyConfig, cohort: Cohort, out: Path, store: CheckpointStore, processes: int
) -> dict[str, SiteConfig]:
    """Write each site's rows of the CSV into its folder; rows of no site of the study are counted by reason.

    Raises
    ------
    ConfigError
        If the CSV lacks the study's site column.
    """
    header, rows = _read_rows(cohort.cases)
    column = study.site_column
    if column is None or column not in header:
        raise ConfigError(str(cohort.cases), [f"has no column {column!r}, which the study's site_column names"])
    configs: dict[str, SiteConfig] = {}
    for site in study.sites:
        folder = out / "sites" / site.name
        folder.mkdir(parents=True, exist_ok=True)
        own = [row for row in rows if row.get(column, "").strip() == site.name]
        write_atomic(folder / "cases.csv", _csv_text(header, own).encode())
        configs[site.name] = SiteConfig(
            site=site.name,
            manifest=folder / "cases.csv",
            data=cohort.data,
            state=folder / "state",
            processes=processes,
            minimum_cases=study.privacy.minimum_cases,
            studies=(out / "study.toml",),
            gate=gate_for(study),
        )
    known = {site.name for site in study.sites}
    n_strangers = sum(row.get(column, "").strip() not in known for row in rows)
    exclusions = {str(Code.SITE_UNKNOWN): n_strangers} if n_strangers else {}
    store.save("unassigned", Unit({}, {"n_listed": n_strangers, "exclusions": exclusions}))
    return configs


def gate_for(study: StudyConfig) -> GateConfig:
    """A hospital's own rules where no hospital decides: as they come, but the study may be as long as it is."""
    usual = GateConfig()
    rounds = max((entry.rounds for entry in study.models), default=0)
    return usual.model_copy(update={"max_rounds": max(usual.max_rounds, rounds)})


def _read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="", restkey="")
            rows = [{k: v for k, v in row.items() if k} for row in reader]
            return list(reader.fieldnames or []), [row for row in rows if any(map(str.strip, row.values()))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(str(path), [f"cannot be read: {error}"]) from error


def _csv_text(header: Sequence[str], rows: Sequence[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, header, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
