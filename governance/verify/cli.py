"""The command line of `python -m governance.verify`.

Exit code 0: everything holds. 1: something was found. 2: a wrong call, or files that are not there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from governance.verify.findings import Finding
from governance.verify.heads import read_public_key
from governance.verify.proofs import check_proof
from governance.verify.verification import read_source, verify

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verification and prints it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m governance.verify", description="Verify a hedgerow ledger.")
    what = parser.add_subparsers(dest="what", required=True)
    ledger = what.add_parser("ledger", help="a ledger, its heads and its releases")
    ledger.add_argument("entries", type=Path, help="the SQLite database, or an export (*.jsonl)")
    ledger.add_argument("--heads", type=Path, action="append", default=[], help="published heads; repeat for witnesses")
    ledger.add_argument("--releases", type=Path, help="the folder of releases")
    ledger.add_argument("--role", action="append", metavar="NAME=HEX", help="public key of a role that may change caps")
    proof = what.add_parser("proof", help="an inclusion or consistency proof")
    proof.add_argument("document", type=Path)
    for command in (ledger, proof):
        command.add_argument("--key", type=Path, required=True, help="the ledger's public key (PEM)")
        command.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args(arguments)
    try:
        key = read_public_key(chosen.key)
        return _proof(chosen, key) if chosen.what == "proof" else _ledger(chosen, key)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _ledger(chosen: argparse.Namespace, key: Ed25519PublicKey) -> int:
    if not chosen.entries.is_file():
        raise ValueError(f"{chosen.entries}: no such file")
    if not chosen.heads:
        raise ValueError("name at least one file of published heads with --heads")
    roles = dict(role.split("=", 1) for role in chosen.role) if chosen.role else None
    result = verify(
        read_source(chosen.entries), key=key, head_files=chosen.heads, releases=chosen.releases, roles=roles
    )
    if chosen.json:
        print(json.dumps(result.to_json(), sort_keys=True))
    else:
        _print(result.findings)
        releases = "" if result.releases is None else f", {result.releases} releases hold"
        print(
            f"{'holds' if result.holds else 'DOES NOT HOLD'}: {result.entries} entries, {result.heads} heads{releases}"
        )
        print(f"root {result.root}\nkey  {result.key}")
    return 0 if result.holds else 1


def _proof(chosen: argparse.Namespace, key: Ed25519PublicKey) -> int:
    findings = check_proof(json.loads(chosen.document.read_text(encoding="utf-8")), key)
    if chosen.json:
        print(json.dumps({"holds": not findings, "findings": [finding.to_json() for finding in findings]}))
    else:
        _print(findings)
        print("DOES NOT HOLD" if findings else "holds")
    return 1 if findings else 0


def _print(findings: Sequence[Finding]) -> None:
    for finding in findings:
        print(f"{finding.severity:8}{finding.problem}: {finding.subject}: {finding.message}")
