"""Compares the releases on disk with what the ledger committed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from governance.verify.findings import Finding, Problem
from governance.verify.replay import Amount, RunState

__all__ = ["check_releases"]

_MANIFEST = "manifest.json"


def check_releases(root: Path, runs: Mapping[str, RunState]) -> tuple[int, list[Finding]]:
    """How many releases hold, and what is wrong with the others.

    Args:
        root: the folder of releases, `<signal>/v<version>/<window>/` below it.
        runs: every run, by id.
    """
    committed: dict[str, str] = {run.subject: run_id for run_id, run in runs.items() if run.last == "COMMIT"}
    findings: list[Finding] = []
    sound = 0
    seen = set()
    for folder in sorted(root.glob("*/v*/*")) if root.is_dir() else ():
        name = folder.relative_to(root).as_posix()
        seen.add(name)
        found = list(_release(folder, name, committed.get(name), runs))
        findings += found
        sound += not found
    for subject in sorted(committed.keys() - seen):
        findings.append(_found(Problem.RELEASE_MISSING, subject, "The ledger committed it; it is not on disk."))
    return sound, findings


def _release(folder: Path, name: str, run_id: str | None, runs: Mapping[str, RunState]) -> Iterator[Finding]:
    if run_id is None:
        yield _found(Problem.RELEASE_UNCOMMITTED, name, "It is on disk, and the ledger never committed it.")
        return
    try:
        data = (folder / _MANIFEST).read_bytes()
    except OSError as error:
        yield _found(Problem.MANIFEST_CHANGED, name, f"{_MANIFEST} cannot be read ({error.strerror}).")
        return
    if hashlib.sha256(data).hexdigest() != runs[run_id].manifest_sha256:
        yield _found(Problem.MANIFEST_CHANGED, name, f"{_MANIFEST} is not the one that the ledger committed.")
        return
    try:
        manifest = json.loads(data)
        yield from _contradictions(manifest, name, run_id, runs[run_id])
        files = {str(file["name"]): file for file in manifest["files"]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidOperation):
        yield _found(Problem.MANIFEST_CONTRADICTS, name, f"The committed {_MANIFEST} lacks what a release must say.")
        return
    yield from _files(folder, name, files)


def _contradictions(manifest: Mapping[str, Any], name: str, run_id: str, run: RunState) -> Iterator[Finding]:
    """What the committed manifest says of the ledger, held against the ledger."""
    reference, guarantee = manifest["ledger"], manifest["guarantee"]
    loss = Amount(Decimal(guarantee["rho"]), Decimal(guarantee["delta"]))
    differing = [
        what
        for what, same in (
            ("release", manifest["release_id"] == name),
            ("run", reference["run_id"] == run_id),
            ("account", reference["account"] == run.account),
            ("RESERVE entry", reference["reserve_entry"] == run.entries.get("RESERVE")),
            ("DRAW entry", reference["draw_entry"] == run.entries.get("DRAW")),
            ("loss", loss == run.loss),
        )
        if not same
    ]
    if differing:
        message = f"Manifest and ledger differ in: {', '.join(differing)}."
        yield _found(Problem.MANIFEST_CONTRADICTS, name, message)


def _files(folder: Path, name: str, files: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - {_MANIFEST}
    for missing in sorted(files.keys() - present):
        yield _found(Problem.FILE_MISSING, name, f"{missing} is gone.")
    for added in sorted(present - files.keys()):
        yield _found(Problem.FILE_ADDED, name, f"{added} is not named by the manifest.")
    for file in sorted(present & files.keys()):
        path = folder / file
        digest = hashlib.sha256()
        try:
            size = path.stat().st_size
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            yield _found(Problem.FILE_CHANGED, name, f"{file} cannot be read ({error.strerror}).")
            continue
        if (size, digest.hexdigest()) != (files[file]["bytes"], files[file]["sha256"]):
            yield _found(Problem.FILE_CHANGED, name, f"{file} is not the file that the manifest names.")


def _found(problem: Problem, subject: str, message: str) -> Finding:
    return Finding(problem=problem, subject=subject, message=message)
