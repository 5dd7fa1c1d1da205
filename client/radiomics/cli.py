"""``fedrad radiomics``: features of files, folders and manifests; catalogue; IBSI conformance; robustness."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Annotated

import click
import typer
from rich.console import Console
from rich.progress import Progress
from typer.core import TyperGroup

from client.radiomics.cohort import HEADER, CohortCase, case_lines, extract_cohort, read_cases, write_text
from client.radiomics.settings import preset_names, settings_from
from common.errors import ConfigError, FedradError

IMAGE_ENDINGS_OF_FILES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")


class _ExtractByDefault(TyperGroup):
    """``fedrad radiomics IMAGE ROI`` means ``... extract IMAGE ROI``; robustness is loaded when it is asked for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.list_commands(ctx), "--help", "-h"}:
            args = ["extract", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), "robustness"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "robustness":
            return super().get_command(ctx, cmd_name)
        from client.radiomics.robustness_command import robustness  # it loads the extractor, which a cached run avoids

        one = typer.Typer(add_completion=False)
        one.command("robustness")(robustness)
        return typer.main.get_command(one)


app = typer.Typer(
    cls=_ExtractByDefault,
    no_args_is_help=True,
    help="Radiomics features to the IBSI standard.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def extract(
    image: Annotated[Path, typer.Argument(help="Image file; or a folder or a CSV manifest (case_id,image,roi).")],
    out: Annotated[Path, typer.Option(help="CSV file to write: one row a feature.")],
    roi: Annotated[Path | None, typer.Argument(help="ROI file; none for a folder or manifest.")] = None,
    preset: Annotated[str, typer.Option(help="Preset by name, or the path of a TOML file.")] = "ct-lung",
    label: Annotated[int, typer.Option(min=1, help="Voxel value that marks the ROI.")] = 1,
    processes: Annotated[int, typer.Option(min=0, help="Processes for many cases; 0: one a core.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Folder of finished rows; default: OUT with .cache.")] = None,
) -> None:
    """Extract features."""
    console = Console(stderr=True, emoji=False)
    try:
        settings = settings_from(preset)
        if roi is not None:
            from client.radiomics.loading import extract_files  # heavy; a cohort loads it in its processes

            values = extract_files(image, roi, settings, label=label, case_id=image.name)
            rows = [(v.feature, v.ibsi_tag, v.aggregation, repr(v.value), v.unit) for v in values]
            write_text(out, _csv([HEADER, *rows]))
            console.print(f"{len(values)} features -> {out}")
            return
        if image.name.lower().endswith(IMAGE_ENDINGS_OF_FILES):
            raise ConfigError(str(image), ["an image needs the file of its ROI after it"])
        failed = _extract_many(read_cases(image, label=label), preset, out, cache, processes, console)
    except FedradError as error:
        console.print(f"{error} [{error.code}]", markup=False, style="red")
        raise typer.Exit(1) from error
    if failed:
        raise typer.Exit(1)


@app.command()
def catalogue() -> None:
    """Print every feature with its IBSI code, formula reference and unit."""
    from client.radiomics.catalogue import all_features

    rows = [(f.name, f.title, f.family, f.ibsi_tag, f.ibsi_code, f.reference, f.unit) for f in all_features()]
    typer.echo(_csv([("feature", "title", "family", "ibsi_tag", "ibsi_code", "formula", "unit"), *rows]), nl=False)


@app.command()
def presets() -> None:
    """Print the names of the presets."""
    for name in preset_names():
        typer.echo(name)


@app.command()
def ibsi(
    data: Annotated[Path, typer.Option(help="Folder with the phantoms and the reference values.")],
    out: Annotated[Path, typer.Option(help="Markdown file to write.")],
) -> None:
    """Compare with the IBSI 1 reference values and write the table."""
    from client.radiomics.ibsi import compare, markdown

    try:
        comparisons = compare(data)
    except FedradError as error:
        typer.echo(f"{error} [{error.code}]", err=True)
        raise typer.Exit(1) from error
    write_text(out, markdown(comparisons))
    known = [entry for entry in comparisons if entry.reference is not None]
    n_conform = sum(entry.conforms for entry in known)
    typer.echo(f"{n_conform} of {len(known)} values conform -> {out}")
    if n_conform < len(known):
        raise typer.Exit(1)


def _extract_many(
    cases: tuple[CohortCase, ...], preset: str, out: Path, cache: Path | None, processes: int, console: Console
) -> int:
    """Extract all cases, write those that worked in the order of the manifest, list the others; how many failed."""
    lines: dict[str, str] = {}
    failed: list[str] = []
    n_cached = 0
    with Progress(console=console) as progress:
        task = progress.add_task("cases", total=len(cases))
        folder = cache or out.with_suffix(".cache")
        for result in extract_cohort(
            cases, settings_from(preset), cache=folder, n_processes=processes or os.cpu_count() or 1
        ):
            if result.error is None:
                lines[result.case_id] = case_lines(result)
                n_cached += result.from_cache
            else:
                failed.append(f"{result.error} [{result.error.code}]")
            progress.advance(task)
    rows = "".join(lines.get(case.case_id, "") for case in cases)
    write_text(out, _csv([("case_id", *HEADER)]) + rows)
    for line in failed:
        console.print(line, markup=False, style="red")
    console.print(f"{len(lines)} cases ({n_cached} from the cache), {len(failed)} failed -> {out}")
    return len(failed)


def _csv(rows: list[tuple[str, ...]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
