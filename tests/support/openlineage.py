"""What hedgerow's OpenLineage events must look like, as JSON Schema: the public specification's rules for what is sent.

Written from the OpenLineage 2-0-2 specification and the facets' own (openlineage.io/spec), narrowed to the facets that
hedgerow sends: an unknown facet or field is an error here.
"""

from __future__ import annotations

from typing import Any

__all__ = ["RUN_EVENT"]

TEXT = {"type": "string", "minLength": 1}
URI = {"type": "string", "format": "uri", "pattern": "^[a-z]+:"}
COUNT = {"type": "integer", "minimum": 0}
BOOL = {"type": "boolean"}


def record(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **optional},
        "additionalProperties": False,
    }


def facet(schema_url: str, required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return record({"_producer": URI, "_schemaURL": {"const": schema_url}, **required}, **optional)


def standard(version: str, name: str, required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return facet(f"https://openlineage.io/spec/facets/{version}/{name}.json#/$defs/{name}", required, **optional)


def only(**facets: Any) -> dict[str, Any]:
    return {"type": "object", "properties": facets, "additionalProperties": False}


def array(items: Any, least: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least}


OWNERS = array(record({"name": TEXT}, type=TEXT), 1)
SCHEMA = standard(
    "1-2-0",
    "SchemaDatasetFacet",
    {"fields": array(record({"name": TEXT}, type=TEXT, description=TEXT, fields=array({}, 0)), 1)},
)
VERSION = standard("1-0-1", "DatasetVersionDatasetFacet", {"datasetVersion": TEXT})
TRANSFORMATION = record({"type": {"enum": ["DIRECT", "INDIRECT"]}, "subtype": TEXT, "masking": BOOL}, description=TEXT)
INPUT_FIELD = record({"namespace": TEXT, "name": TEXT, "field": TEXT, "transformations": array(TRANSFORMATION, 1)})
HEX = {"type": "string", "pattern": "^[0-9a-f]+$"}

RUN_EVENT = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **record(
        {
            "eventTime": {"type": "string", "format": "date-time", "pattern": r"^\d{4}-\d\d-\d\dT.*(Z|\+00:00)$"},
            "producer": URI,
            "schemaURL": {"type": "string", "pattern": r"^https://openlineage.io/spec/2-0-\d/OpenLineage.json#"},
            "eventType": {"enum": ["START", "COMPLETE"]},
            "run": record(
                {
                    "runId": {
                        "type": "string",
                        "format": "uuid",
                        "pattern": "^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$",
                    }
                },
                facets=only(
                    nominalTime=standard(
                        "1-0-1", "NominalTimeRunFacet", {"nominalStartTime": TEXT, "nominalEndTime": TEXT}
                    ),
                    processing_engine=standard("1-1-1", "ProcessingEngineRunFacet", {"version": TEXT, "name": TEXT}),
                ),
            ),
            "job": record(
                {"namespace": TEXT, "name": TEXT},
                facets=only(
                    ownership=standard("1-0-1", "OwnershipJobFacet", {"owners": OWNERS}),
                    jobType=standard(
                        "2-0-4", "JobTypeJobFacet", {"processingType": TEXT, "integration": TEXT, "jobType": TEXT}
                    ),
                ),
            ),
            "inputs": array(
                record(
                    {"namespace": TEXT, "name": TEXT},
                    facets=only(schema=SCHEMA, version=VERSION),
                    inputFacets=only(
                        dataQualityAssertions=standard(
                            "1-1-0",
                            "DataQualityAssertionsDatasetFacet",
                            # No expected and actual values: a failed check must not tell what it found.
                            {
                                "assertions": array(
                                    record({"assertion": TEXT, "success": BOOL}, params={"const": {}}), 1
                                )
                            },
                        )
                    ),
                ),
                1,
            ),
            "outputs": array(
                record(
                    {"namespace": TEXT, "name": TEXT},
                    facets={
                        **only(
                            schema=SCHEMA,
                            version=VERSION,
                            documentation=standard("1-1-0", "DocumentationDatasetFacet", {"description": TEXT}),
                            ownership=standard("1-0-1", "OwnershipDatasetFacet", {"owners": OWNERS}),
                            columnLineage=standard(
                                "1-2-0",
                                "ColumnLineageDatasetFacet",
                                {
                                    "fields": {
                                        "type": "object",
                                        "minProperties": 1,
                                        "additionalProperties": record({"inputFields": array(INPUT_FIELD)}),
                                    }
                                },
                                dataset=array({}, 0),
                            ),
                            dataQualityMetrics=standard(
                                "1-0-1",
                                "DataQualityMetricsDatasetFacet",
                                {"columnMetrics": {"const": {}}, "rowCount": COUNT, "fileCount": COUNT},
                            ),
                            hedgerow_dpRelease=facet(
                                "urn:hedgerow:openlineage:hedgerow_dpRelease:1",
                                {
                                    "releaseId": TEXT,
                                    "manifestSha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                                    "guarantee": record(
                                        {
                                            "variant": TEXT,
                                            "unit": {"type": "string"},
                                            "relation": {"type": "string"},
                                            "rho": TEXT,
                                            "delta": TEXT,
                                            "epsilonDelta": {"type": "number"},
                                            "selection": TEXT,
                                        },
                                        epsilon={"type": ["number", "null"]},
                                    ),
                                    "ledgerEntry": {"type": "integer", "minimum": 1},
                                    "proof": record(
                                        {
                                            "ledger_entry": {"type": "integer", "minimum": 1},
                                            "tree_size": {"type": "integer", "minimum": 1},
                                            "root": HEX,
                                            "inclusion": array(HEX),
                                            "sth_signature": HEX,
                                            "key_id": HEX,
                                        }
                                    ),
                                },
                                account=TEXT,
                            ),
                        ),
                        "required": [
                            "schema",
                            "ownership",
                            "columnLineage",
                            "dataQualityMetrics",
                            "hedgerow_dpRelease",
                        ],
                    },
                    outputFacets=only(
                        outputStatistics=standard(
                            "1-0-2",
                            "OutputStatisticsOutputDatasetFacet",
                            {"rowCount": COUNT, "size": COUNT, "fileCount": COUNT},
                        )
                    ),
                )
            ),
        }
    ),
}
