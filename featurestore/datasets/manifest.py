"""What a training set says of itself: `manifest.json`, canonical, beside `data.parquet`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from featurestore.datasets.spec import AnnotatedLabels, ConfidenceColumn, LabelSource
from governance.canonical import canonical_bytes, sha256_file, sha256_hex
from governance.errors import DatasetError

__all__ = ["MANIFEST_FILE", "SCHEMA", "label_source_json", "manifest_bytes", "read_manifest", "version_of"]

SCHEMA: Final = "hedgerow.dataset/1"
MANIFEST_FILE: Final = "manifest.json"


def label_source_json(source: LabelSource) -> dict[str, Any]:
    """The source of labels: its kind, and who or what gave them."""
    if isinstance(source, AnnotatedLabels):
        return {"kind": "annotated", "annotator": source.annotator}
    sure = source.confidence
    told = {"column": sure.name} if isinstance(sure, ConfidenceColumn) else {"value": sure}
    return {"kind": "inferred", "model": source.model, "confidence": told}


def version_of(content: Mapping[str, Any]) -> str:
    """The SHA-256 of all that a training set is made of: the same labels, releases and rows give the same version."""
    return sha256_hex(canonical_bytes(content))


def manifest_bytes(content: Mapping[str, Any]) -> bytes:
    """The manifest: the content and its version."""
    return canonical_bytes({"schema": SCHEMA, "version": version_of(content), **content})


def read_manifest(directory: Path) -> dict[str, Any]:
    """A training set's manifest, checked against its own version and against the data file.

    Raises:
        DatasetError: there is none, it was changed, or the data is not what it says.
    """
    path = directory / MANIFEST_FILE
    try:
        manifest: Any = json.loads(path.read_bytes())
        if not isinstance(manifest, dict) or manifest.pop("schema", None) != SCHEMA:
            raise ValueError("schema")
        version = manifest.pop("version")
        files = {file["name"]: (file["bytes"], file["sha256"]) for file in manifest["files"]}
    except FileNotFoundError:
        raise DatasetError(f"{path}: not there; name the folder of a training set") from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise DatasetError(f"{path}: not a {SCHEMA} record ({type(error).__name__}); build it anew") from None
    if version != version_of(manifest):
        raise DatasetError(f"{path}: was changed after it was made: its version does not match; build it anew")
    there = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    if added := sorted(there - set(files) - {MANIFEST_FILE}):
        raise DatasetError(f"{directory}: files that the manifest does not name: {', '.join(added)}; remove them")
    for name, (size, digest) in files.items():
        file = directory / name
        if name not in there or file.stat().st_size != size or sha256_file(file) != digest:
            raise DatasetError(f"{file}: missing, or not what the manifest says; build it anew")
    return {"version": version, **manifest}
