"""Disclosure: what a release did, in one document that a stranger can hold against a schema.

Everything in it comes from what ran: the manifest that the ledger committed, the ledger's entries, the project's
processing record. What nobody has stated is said to be not stated.

Reading guide
    model       the document's form; `schema()` is its JSON Schema
    hazards     fourteen ways in which differential privacy fails in practice: status, evidence, test
    build       disclosure_of(): from a manifest to the document
    registry    the same facts as an entry of the public registry of deployments
    collect     disclose(): every committed release of a project, with proofs and lineage
    output      the documents as files
"""

from governance.disclosure.build import Accounting, disclosure_of
from governance.disclosure.collect import Disclosed, disclose, record_lineage
from governance.disclosure.hazards import HAZARDS, hazards_of
from governance.disclosure.model import Disclosure, Proof, schema
from governance.disclosure.output import DisclosureFiles, write_disclosures
from governance.disclosure.registry import registry_entry, registry_schema

__all__ = [
    "HAZARDS",
    "Accounting",
    "Disclosed",
    "Disclosure",
    "DisclosureFiles",
    "Proof",
    "disclose",
    "disclosure_of",
    "hazards_of",
    "record_lineage",
    "registry_entry",
    "registry_schema",
    "schema",
    "write_disclosures",
]
