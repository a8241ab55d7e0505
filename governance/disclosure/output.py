"""Disclosures as files: one JSON document a release, the registry's entries as YAML, lineage as one file of events.

<out>/
    genre_weekly~v1~2025-11-03.json            the disclosure, canonical JSON
    registry/genre_weekly~v1~2025-11-03.yaml   the entry for the public registry
    lineage.ndjson                             OpenLineage events, two a release
    disclosure.schema.json                     what the documents validate against
    registry.schema.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from governance.disclosure.collect import LINEAGE_FILE, Disclosed
from governance.disclosure.model import schema
from governance.disclosure.registry import registry_schema
from governance.errors import EnvironmentProblem
from governance.files import write_atomic

__all__ = ["DisclosureFiles", "write_disclosures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DisclosureFiles:
    """What was written.

    Attributes:
        disclosures: one document for each release.
        registry: one entry for each release.
        lineage: the events.
    """

    disclosures: tuple[Path, ...]
    registry: tuple[Path, ...]
    lineage: Path


def write_disclosures(disclosed: Sequence[Disclosed], directory: Path) -> DisclosureFiles:
    """Writes every document, each atomically.

    Raises:
        EnvironmentProblem: the folder cannot be written.
    """
    import yaml

    from governance.lineage import write_events

    files = DisclosureFiles(
        disclosures=tuple(directory / f"{_name(item)}.json" for item in disclosed),
        registry=tuple(directory / "registry" / f"{_name(item)}.yaml" for item in disclosed),
        lineage=directory / LINEAGE_FILE,
    )
    try:
        for item, path, entry in zip(disclosed, files.disclosures, files.registry, strict=True):
            write_atomic(path, item.disclosure.to_bytes())
            text = yaml.safe_dump(dict(item.registry), sort_keys=False, allow_unicode=True, width=110)
            write_atomic(entry, text.encode())
        write_events(files.lineage, (event for item in disclosed for event in item.events))
        for name, document in (("disclosure", schema()), ("registry", registry_schema())):
            write_atomic(directory / f"{name}.schema.json", json.dumps(document, indent=1).encode())
    except OSError as error:
        raise EnvironmentProblem(
            f"{directory}: disclosures cannot be written there ({error.strerror}); choose another folder with --out"
        ) from None
    return files


def _name(item: Disclosed) -> str:
    return item.manifest.release_id.replace("/", "~")
