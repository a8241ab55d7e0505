"""Lineage as OpenLineage events: what was read, by which definition, into which release, and the proof of its cost.

Two events a release, START and COMPLETE, made from its manifest and ledger entries alone: they say what ran, hold no
values and no counts of raw rows, and come out the same whenever they are made from the same ledger.

    job      <project> / <signal>.v<version>                         ownership, type
    inputs   file / data/plays.parquet                               schema, quality assertions
    outputs  file / releases/<signal>/v<version>                     schema, columnLineage, ownership, version,
                                                                     quality metrics, hedgerow_dpRelease

Events go to a file by default; `OpenLineageClient()` takes any other transport from its own configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4, uuid5

import attr
from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    DatasetFacet,
    column_lineage_dataset,
    data_quality_assertions_dataset,
    data_quality_metrics_dataset,
    dataset_version_dataset,
    documentation_dataset,
    job_type_job,
    nominal_time_run,
    output_statistics_output_dataset,
    ownership_dataset,
    ownership_job,
    processing_engine_run,
    schema_dataset,
)
from openlineage.client.serde import Serde
from openlineage.client.transport.file import FileConfig, FileTransport

from governance.canonical import canonical_bytes, sha256_hex
from governance.files import write_atomic
from governance.release import InputFingerprint, Manifest

if TYPE_CHECKING:
    from governance.disclosure.model import Proof

__all__ = ["DpReleaseFacet", "emit", "event_sha256", "release_events", "write_events"]

NAMESPACE = UUID("5b0f3c52-6c39-5d5e-9d2e-7a1b1f0e8f55")  # names runs whose id is not a UUID by itself
_FILES = "file"


@attr.define(kw_only=True)
class DpReleaseFacet(DatasetFacet):
    """What a dataset that was released under differential privacy promises, and the proof that it was paid for.

    Attributes:
        releaseId: which release.
        manifestSha256: of its manifest, as the ledger committed it.
        guarantee: variant, privacy unit, relation, rho, delta, epsilon at its delta.
        account: who paid; None for public inputs.
        ledgerEntry: the COMMIT entry.
        proof: RFC 6962 inclusion proof of that entry under a signed head.
    """

    releaseId: str  # noqa: N815 - OpenLineage's own style
    manifestSha256: str  # noqa: N815
    guarantee: dict[str, Any]
    account: str | None
    ledgerEntry: int  # noqa: N815
    proof: dict[str, Any]

    @staticmethod
    def _get_schema() -> str:
        return "urn:hedgerow:openlineage:hedgerow_dpRelease:1"


def release_events(
    manifest: Manifest, *, project: str, started_at: str, completed_at: str, proof: Proof
) -> tuple[RunEvent, RunEvent]:
    """START and COMPLETE of the run that made a release.

    Args:
        manifest: of the release.
        project: the project's name, the job's namespace.
        started_at: when the run reserved its loss (or, for public inputs, when it committed), ISO 8601 UTC.
        completed_at: when it committed.
        proof: that the ledger holds the COMMIT entry.
    """
    producer = f"urn:hedgerow:{manifest.code.get('hedgerow', 'unknown')}"
    run = Run(runId=str(_run_id(manifest.ledger.run_id)), facets=_run_facets(manifest, producer))
    job = _job(manifest, project, producer)
    inputs = [_input(manifest, source, producer) for source in manifest.inputs]
    start = RunEvent(
        eventType=RunState.START, eventTime=started_at, run=run, job=job, inputs=inputs, outputs=[], producer=producer
    )
    complete = RunEvent(
        eventType=RunState.COMPLETE,
        eventTime=completed_at,
        run=run,
        job=job,
        inputs=inputs,
        outputs=[_output(manifest, proof, producer)],
        producer=producer,
    )
    return start, complete


def event_sha256(event: RunEvent) -> str:
    """SHA-256 of an event's canonical JSON."""
    return sha256_hex(canonical_bytes(Serde.to_dict(event)))


def write_events(path: Path, events: Iterable[RunEvent]) -> None:
    """Writes events to a file, one JSON object a line, through OpenLineage's file transport; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    temporary.touch()
    try:
        transport = FileTransport(FileConfig(log_file_path=str(temporary), append=True))
        for event in events:
            transport.emit(event)
        write_atomic(path, temporary.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)


def emit(events: Iterable[RunEvent], client: OpenLineageClient) -> None:
    """Sends events through a client, which takes its transport from OpenLineage's own configuration."""
    for event in events:
        client.emit(event)


def _run_id(run_id: str) -> UUID:
    try:
        return UUID(run_id)
    except ValueError:
        return uuid5(NAMESPACE, run_id)


def _run_facets(manifest: Manifest, producer: str) -> dict[str, Any]:
    facets: dict[str, Any] = {}
    if manifest.window.start:
        facets["nominalTime"] = nominal_time_run.NominalTimeRunFacet(
            nominalStartTime=manifest.window.start, nominalEndTime=manifest.window.end, producer=producer
        )
    if "pyspark" in manifest.code:
        facets["processing_engine"] = processing_engine_run.ProcessingEngineRunFacet(
            version=manifest.code["pyspark"], name="spark", producer=producer
        )
    return facets


def _job(manifest: Manifest, project: str, producer: str) -> Job:
    signal = manifest.signal
    return Job(
        namespace=project,
        name=f"{signal.name}.v{signal.version}",
        facets={
            "ownership": ownership_job.OwnershipJobFacet(
                owners=[ownership_job.Owner(name=f"team:{signal.owner}", type="OWNER")], producer=producer
            ),
            "jobType": job_type_job.JobTypeJobFacet(
                processingType="BATCH", integration="HEDGEROW", jobType="RELEASE", producer=producer
            ),
        },
    )


def _input(manifest: Manifest, source: InputFingerprint, producer: str) -> InputDataset:
    """An input: names of the columns that were read, and which checks it passed; nothing about its rows."""
    private = source.access != "public"
    assertions = [
        data_quality_assertions_dataset.Assertion(assertion=str(result["check"]), success=bool(result["passed"]))
        for result in manifest.quality
        if private
    ]
    return InputDataset(
        namespace=_FILES,
        name=source.table,
        facets={
            "schema": schema_dataset.SchemaDatasetFacet(
                fields=[schema_dataset.SchemaDatasetFacetFields(name=name) for name in source.columns],
                producer=producer,
            ),
            "version": dataset_version_dataset.DatasetVersionDatasetFacet(
                datasetVersion=source.fingerprint, producer=producer
            ),
        },
        inputFacets={
            "dataQualityAssertions": data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(
                assertions=assertions, producer=producer
            )
        }
        if assertions
        else {},
    )


def _output(manifest: Manifest, proof: Proof, producer: str) -> OutputDataset:
    signal = manifest.signal
    facets: dict[str, Any] = {
        "schema": schema_dataset.SchemaDatasetFacet(
            fields=[
                schema_dataset.SchemaDatasetFacetFields(name=c.name, type=c.type, description=c.description)
                for c in manifest.columns
            ],
            producer=producer,
        ),
        "documentation": documentation_dataset.DocumentationDatasetFacet(
            description=signal.description, producer=producer
        ),
        "ownership": ownership_dataset.OwnershipDatasetFacet(
            owners=[ownership_dataset.Owner(name=f"team:{signal.owner}", type="OWNER")], producer=producer
        ),
        "version": dataset_version_dataset.DatasetVersionDatasetFacet(
            datasetVersion=manifest.release_id, producer=producer
        ),
        "columnLineage": _column_lineage(manifest, producer),
        # Rows and files of what was published: facts about the noisy release, which everybody sees.
        "dataQualityMetrics": data_quality_metrics_dataset.DataQualityMetricsDatasetFacet(
            columnMetrics={}, rowCount=manifest.rows, fileCount=len(manifest.files), producer=producer
        ),
        "hedgerow_dpRelease": _dp_release(manifest, proof, producer),
    }
    return OutputDataset(
        namespace=_FILES,
        name=f"releases/{signal.name}/v{signal.version}",
        facets=facets,
        outputFacets={
            "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
                rowCount=manifest.rows,
                size=sum(file.bytes for file in manifest.files),
                fileCount=len(manifest.files),
                producer=producer,
            )
        },
    )


def _dp_release(manifest: Manifest, proof: Proof, producer: str) -> DpReleaseFacet:
    guarantee = manifest.guarantee
    return DpReleaseFacet(
        producer=producer,
        releaseId=manifest.release_id,
        manifestSha256=manifest.sha256,
        guarantee={
            "variant": guarantee.variant,
            "unit": guarantee.unit,
            "relation": guarantee.relation,
            "rho": guarantee.rho,
            "delta": guarantee.delta,
            "epsilon": guarantee.epsilon,
            "epsilonDelta": guarantee.epsilon_delta,
            "selection": guarantee.selection,
        },
        account=manifest.ledger.account,
        ledgerEntry=proof.ledger_entry,
        proof=proof.model_dump(mode="json"),
    )


# --- which column comes from which ------------------------------------------------------------------------------


def _column_lineage(manifest: Manifest, producer: str) -> column_lineage_dataset.ColumnLineageDatasetFacet:
    """Each released column with the input columns behind it.

    A key comes from the column of its name; a feature from the columns that its aggregate names, by a masked (noisy)
    aggregation; and both, indirectly, from the columns that grouped and bounded the rows.
    """
    where: dict[str, str] = {}
    listed: dict[str, str] = {}
    for source in manifest.inputs:  # the events come first, and of two tables with a column theirs counts
        for name in source.columns:
            where.setdefault(name, source.table)
            if source.access == "public" and manifest.guarantee.selection == "public":
                listed[name] = source.table  # public keys are those of a public list
    definition = manifest.signal.definition
    aggregates = definition.get("aggregates")
    named = aggregates if isinstance(aggregates, Mapping) else {}
    grouping = tuple(name for name in (*_unit_columns(definition), *manifest.keys) if name in where)
    fields: dict[str, column_lineage_dataset.Fields] = {}
    for column in manifest.columns:
        direct = tuple(dict.fromkeys(name for name in _texts(named.get(column.name, ())) if name in where))
        if column.role == "key":
            keys = {**where, **listed}
            inputs = [_field(keys, column.name, "DIRECT", "IDENTITY", masked=False)] if column.name in keys else []
        else:
            inputs = [_field(where, name, "DIRECT", "AGGREGATION", masked=True) for name in direct]
            inputs += [
                _field(where, name, "INDIRECT", "GROUP_BY", masked=True) for name in grouping if name not in direct
            ]
        if column.role in ("vector", "label"):
            inputs = [_field(where, name, "DIRECT", "TRANSFORMATION", masked=False) for name in where]
        fields[column.name] = column_lineage_dataset.Fields(inputFields=inputs)
    return column_lineage_dataset.ColumnLineageDatasetFacet(fields=fields, producer=producer)


def _field(
    where: Mapping[str, str], name: str, kind: str, subtype: str, *, masked: bool
) -> column_lineage_dataset.InputField:
    return column_lineage_dataset.InputField(
        namespace=_FILES,
        name=where[name],
        field=name,
        transformations=[column_lineage_dataset.Transformation(type=kind, subtype=subtype, masking=masked)],
    )


def _unit_columns(definition: Mapping[str, Any]) -> tuple[str, ...]:
    unit = definition.get("privacy_unit")
    return tuple(_texts(unit.get("columns", ()))) if isinstance(unit, Mapping) else ()


def _texts(value: Any) -> Iterable[str]:
    """Every text in a definition's JSON value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
