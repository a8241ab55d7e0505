"""Proofs as documents: that an entry is in the ledger, and that an older head is a prefix of a newer one.

A reviewer checks one with the ledger's public key alone, without the ledger:

    {"schema":"hedgerow.inclusion-proof/1","entry":{...},"head":{...},"path":["<hex>",...]}
    {"schema":"hedgerow.consistency-proof/1","old":{...},"head":{...},"path":["<hex>",...]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from governance.verify.findings import Finding, Problem
from governance.verify.heads import TreeHead, canonical, fingerprint
from governance.verify.merkle import leaf_hash, verify_consistency, verify_inclusion

__all__ = ["CONSISTENCY_SCHEMA", "INCLUSION_SCHEMA", "check_proof"]

INCLUSION_SCHEMA = "hedgerow.inclusion-proof/1"
CONSISTENCY_SCHEMA = "hedgerow.consistency-proof/1"


def check_proof(document: Mapping[str, Any], key: Ed25519PublicKey) -> tuple[Finding, ...]:
    """What is wrong with a proof; nothing if it proves what it says."""
    try:
        schema = document["schema"]
        head = _head(document["head"])
        path = [bytes.fromhex(text) for text in document["path"]]
        findings = [_signature(head, key)]
        if schema == INCLUSION_SCHEMA:
            entry = document["entry"]
            leaf = leaf_hash(canonical(entry))
            if not verify_inclusion(leaf, entry["sequence"] - 1, head.size, path, bytes.fromhex(head.root)):
                findings.append(_found(f"entry {entry['sequence']}", "The path does not lead from it to the head."))
        elif schema == CONSISTENCY_SCHEMA:
            old = _head(document["old"])
            findings.append(_signature(old, key))
            roots = (bytes.fromhex(old.root), bytes.fromhex(head.root))
            if not verify_consistency(old.size, roots[0], head.size, roots[1], path):
                findings.append(_found(f"head {old.size}", f"It is not a prefix of the head of {head.size} entries."))
        else:
            findings.append(_found("proof", "It is of an unknown kind."))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return (_found("proof", f"It lacks what a proof has ({type(error).__name__})."),)
    return tuple(finding for finding in findings if finding is not None)


def _head(value: Mapping[str, Any]) -> TreeHead:
    return TreeHead.from_line(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def _signature(head: TreeHead, key: Ed25519PublicKey) -> Finding | None:
    subject = f"head {head.size}"
    if head.key != fingerprint(key):
        return Finding(problem=Problem.HEAD_FOREIGN, subject=subject, message="It is another ledger's.")
    if not head.is_signed_by(key):
        return Finding(problem=Problem.HEAD_FORGED, subject=subject, message="The ledger's key did not sign it.")
    return None


def _found(subject: str, message: str) -> Finding:
    return Finding(problem=Problem.PROOF_WRONG, subject=subject, message=message)
