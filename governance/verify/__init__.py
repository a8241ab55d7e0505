"""Verifies a ledger without the platform that wrote it.

This package uses Python's standard library and `cryptography`, and nothing else of hedgerow: copy the folder
`governance/verify` to any machine and run

    python -m governance.verify ledger ledger.db --key ledger.pub --heads ledger-heads.jsonl --releases releases
    python -m governance.verify proof proof.json --key ledger.pub

Reading guide
    findings      what can be found, by name
    merkle        the tree of RFC 6962
    heads         signed tree heads
    entries       reading entries, and the form of each
    replay        the ledger's rules, and what entries add up to
    releases      releases on disk against the ledger
    proofs        inclusion and consistency proofs as documents
    verification  all of it together

What it needs to trust: the public key, and at least one file of heads that whoever runs the platform cannot rewrite (a
witness). Without a witness, the holder of the key could sign another history from the start.
"""

__all__: tuple[str, ...] = ()
