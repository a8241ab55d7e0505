"""The commands `hedgerow dataset build` and `verify`: training sets, joined in memory or on Spark."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.datasets.spec import (
    AnnotatedLabels,
    ConfidenceColumn,
    CountsFrom,
    DatasetSpec,
    InferredLabels,
    LabelSource,
    LabelTable,
)
from governance.errors import DatasetError
from governance.options import Project
from governance.settings import Settings, load_settings

if TYPE_CHECKING:
    from featurestore.datasets.engine import DatasetEngine

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


class Engine(StrEnum):
    """Where labels and releases are joined."""

    MEMORY = "memory"
    SPARK = "spark"


@app.callback()
def _group() -> None:
    """Training sets: labels joined with the released features that were known at their time."""


@app.command()
def build(
    name: Annotated[str, typer.Argument(help="The training set's name.")],
    labels: Annotated[Path, typer.Option(help="Parquet, a folder of it, or CSV: keys, a time, labels.")],
    label: Annotated[list[str], typer.Option(help="A label column; may be given more than once.")],
    feature: Annotated[list[str] | None, typer.Option(help="'view:feature'; may be given more than once.")] = None,
    service: Annotated[str | None, typer.Option(help="All features of a published feature service.")] = None,
    timestamp: Annotated[str, typer.Option(help="The column with the time of each label.")] = "event_timestamp",
    annotated_by: Annotated[str | None, typer.Option(help="Who gave the labels.")] = None,
    inferred_by: Annotated[str | None, typer.Option(help="The model that gave the labels, with its version.")] = None,
    confidence: Annotated[float | None, typer.Option(help="How sure the model was of every label, 0 to 1.")] = None,
    confidence_column: Annotated[str | None, typer.Option(help="The column that tells it of each.")] = None,
    counts_from: Annotated[
        CountsFrom, typer.Option(help="From when on a value counts: its window's end, or its release's making.")
    ] = CountsFrom.WINDOW_END,
    in_force: Annotated[
        bool, typer.Option("--in-force", help="Only what the newest release at the time holds, as serving answers.")
    ] = False,
    engine: Annotated[
        Engine, typer.Option(help="Where rows are joined: in memory, or on Spark, for labels that fit no machine.")
    ] = Engine.MEMORY,
    project: Project = Path(),
) -> None:
    """Build a training set: as many rows out as in, each with what was known at its time."""
    from rich.console import Console

    from featurestore.datasets.build import build_dataset
    from governance.ledger import open_ledger

    settings = load_settings(project)
    spec = DatasetSpec(
        name=name,
        labels=LabelTable(
            path=labels,
            timestamp=timestamp,
            labels=tuple(label),
            source=_source(annotated_by, inferred_by, confidence, confidence_column),
        ),
        features=(*(feature or ()), *(_features_of(settings, service) if service else ())),
        counts_from=counts_from,
        in_force=in_force,
    )
    console = Console(highlight=False)
    with console.status("building") as status, open_ledger(settings) as ledger:
        built = build_dataset(settings, ledger, spec, status.update, engine=_engine(settings, engine))
    lines = [
        f"dataset   {built.name}, version {built.version[:16]}{'' if built.is_new else ', which was there already'}",
        f"rows      {built.rows:,}, as many as labels",
        f"releases  {', '.join(built.releases) or 'none was known at the time of any label'}",
        f"written   {built.directory}",
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


@app.command()
def verify(directory: Annotated[Path, typer.Argument(help="A training set's folder.")]) -> None:
    """Check a training set: nothing was changed, and no value is of a release that was not known at its time."""
    from featurestore.datasets.build import verify_dataset

    manifest = verify_dataset(directory)
    typer.echo(f"{manifest['name']}, version {manifest['version'][:16]}: {manifest['rows']:,} rows, whole, no leakage")


def _engine(settings: Settings, chosen: Engine) -> DatasetEngine:
    if chosen is Engine.SPARK:
        from pipelines.datasets import OnSpark

        return OnSpark(spark=settings.spark)
    from featurestore.datasets.engine import InMemory

    return InMemory()


def _source(
    annotated_by: str | None, inferred_by: str | None, confidence: float | None, column: str | None
) -> LabelSource:
    """Where the labels come from; a training set always says so."""
    if annotated_by and not (inferred_by or column or confidence is not None):
        return AnnotatedLabels(annotator=annotated_by)
    if inferred_by and not annotated_by:
        if column and confidence is None:
            return InferredLabels(model=inferred_by, confidence=ConfidenceColumn(name=column))
        if confidence is not None and not column:
            return InferredLabels(model=inferred_by, confidence=confidence)
    raise DatasetError(
        "where do the labels come from? say --annotated-by WHO, or --inferred-by MODEL with --confidence NUMBER or "
        "--confidence-column NAME"
    )


def _features_of(settings: Settings, service: str) -> tuple[str, ...]:
    from featurestore.publication import load_publication

    services = {published.name: published for published in load_publication(settings).services}
    if service not in services:
        raise DatasetError(f"no feature service {service!r}; published: {', '.join(sorted(services)) or 'none'}")
    return services[service].features
