"""Disclosures, lineage and registry entries: made from what ran, valid against their schemas, without values."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from jsonschema import Draft202012Validator, FormatChecker
from openlineage.client.serde import Serde
from typer.testing import CliRunner

from governance.canonical import canonical_bytes, sha256_hex
from governance.cli import disclosure
from governance.disclosure import (
    HAZARDS,
    Disclosed,
    disclose,
    record_lineage,
    registry_schema,
    schema,
    write_disclosures,
)
from governance.ledger import Ledger, open_ledger
from governance.lineage import event_sha256
from governance.policy import load_policy
from governance.settings import Settings
from governance.verify.proofs import check_proof
from tests.support.openlineage import RUN_EVENT
from tests.support.releases import make_project, make_release, make_vector_release

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT.parent / "shared" / "reference" / "dp_disclosure.schema.json"
REFERENCE_SHA256 = "81c6f1029f35ffc0b9c36891143e5e11767fdbb8b3b1382eb7091a0e5854fe7c"
"""Of the reference schema's canonical JSON, so that a clone without it still holds ours against it."""

NOW = datetime(2025, 12, 1, 8, 30, tzinfo=UTC)
COUNTS = (991177331155, 882244668822)  # too long to occur in a hash by chance

RECORD = """
datasets:
  events: {category: behaviour, description: What people did, kept: 13 months}
record:
  controller: {name: Example Ltd, contact: privacy@example.org}
  legal_basis: Art. 6(1)(f)
  data_subjects: [people with an account]
  recipients: [the recommender]
  security_measures: [noise]
  region: EU
  sector: Media
  people_with_several_units: k accounts lose k times as much
  sign_off: {decided_by: DPO, justification: small loss, date: 2025-11-03, review_by: 2026-11-03, dpia: DPIA-7}
"""


def valid(document: object, against: dict[str, Any]) -> list[str]:
    validator = Draft202012Validator(against, format_checker=FormatChecker())
    return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(document)]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[tuple[Settings, Ledger]]:
    settings = make_project(tmp_path / "shop")
    settings.policy_dir.mkdir()
    (settings.policy_dir / "record.yaml").write_text(RECORD, encoding="utf-8")
    with open_ledger(settings, clock=lambda: NOW) as ledger:
        rows = {"genre": ["a", "b"], "n": list(COUNTS)}
        keys, features = {"genre": "string"}, {"n": "int64"}
        make_release(settings, ledger, signal="genres", keys=keys, features=features, rows=rows)
        make_release(settings, ledger, signal="events_of", keys=keys, features=features, rows=rows, unit="event_id")
        make_vector_release(settings, ledger, ids=[1, 2], vectors=[[1.0, 0.0], [0.0, 1.0]])
        yield settings, ledger


@pytest.fixture
def disclosed(shop: tuple[Settings, Ledger]) -> tuple[Disclosed, ...]:
    settings, ledger = shop
    found, left_out = disclose(settings, ledger, load_policy(settings))
    assert left_out == ()
    return found


def test_our_schema_is_the_reference_schema() -> None:
    assert sha256_hex(canonical_bytes(schema())) == REFERENCE_SHA256
    if REFERENCE.is_file():
        assert schema() == json.loads(REFERENCE.read_text(encoding="utf-8"))


def test_every_disclosure_is_valid(disclosed: tuple[Disclosed, ...]) -> None:
    assert [item.disclosure.id for item in disclosed] == [
        "events_of/v1/2025-11-03",
        "genres/v1/2025-11-03",
        disclosed[2].manifest.release_id,
    ]
    for item in disclosed:
        assert valid(item.disclosure.to_json(), schema()) == []


def test_the_check_of_schemas_can_fail(disclosed: tuple[Disclosed, ...]) -> None:
    document = disclosed[0].disclosure.to_json()
    assert valid({**document, "extra": 1}, schema())
    del document["hazards"]["rng_quality"]
    assert valid(document, schema())


def test_a_disclosure_says_what_ran(disclosed: tuple[Disclosed, ...]) -> None:
    event, person, vectors = (item.disclosure.to_json() for item in disclosed)
    manifest = disclosed[1].manifest
    assert person["basic"] == {
        "name": "genres v1",
        "curators": ["Example Ltd"],
        "description": "genres, made by tests",
        "intended_use": "ranking: features for recommendation models",
        "product_type": "Summary statistics",
        "region": "EU",
        "first_published": "2025-12-01",
        "sector": "Media",
        "purpose_keys": ["ranking"],
        "audience": "the recommender",
    }
    assert person["guarantee"]["variant"] == "Zero-concentrated DP"
    assert person["guarantee"]["parameters"] == {"epsilon": manifest.guarantee.epsilon, "delta": 1e-6, "rho": 0.01}
    assert person["guarantee"]["data_domain"].startswith("All events of events (What people did) from 2025-11-03")
    assert person["guarantee"]["lifetime"]["spent"] == {"rho": "0.01", "delta": "0.000000001"}
    assert (person["unit"]["name"], event["unit"]["name"]) == ("user", "event")
    assert person["accounting"]["budget_cap"] == {"rho": "1", "delta": "0.000001"}
    assert person["accounting"]["other_releases_same_data"] == []
    assert person["mechanism"]["noise"] == {"n": {"mechanism": "discrete Gaussian", "stddev": 3.5}}
    assert person["utility"]["suppression"] == "a key is left out where its noisy unit count is below 12"
    assert person["lineage"]["run_id"] == manifest.ledger.run_id
    assert person["sign_off"] == {
        "justification": "small loss",
        "decided_by": "DPO",
        "date": "2025-11-03",
        "review_by": "2026-11-03",
        "dpia_ref": "DPIA-7",
    }
    assert any("k² times rho" in text for text in event["guarantee"]["unprotected_quantities"])
    assert vectors["basic"]["product_type"] == "Dataset"
    assert vectors["guarantee"]["parameters"] == {"epsilon": 0.0, "delta": 0.0, "rho": 0.0}
    assert {hazard["status"] for hazard in vectors["hazards"].values()} == {"not_applicable"}


def test_what_nobody_stated_is_said_to_be_not_stated(shop: tuple[Settings, Ledger]) -> None:
    settings, ledger = shop
    (settings.policy_dir / "record.yaml").unlink()
    settings.policy_dir.rmdir()
    found, _ = disclose(settings, ledger, load_policy(settings))
    for item in found:
        document = item.disclosure.to_json()
        assert valid(document, schema()) == []
        assert document["basic"]["curators"] == ["not stated"]
        assert document["sign_off"]["decided_by"] == "not stated"


def test_every_proof_holds_under_the_ledgers_key(
    shop: tuple[Settings, Ledger], disclosed: tuple[Disclosed, ...]
) -> None:
    _, ledger = shop
    key = ledger.public_key()
    head = ledger.head()
    assert head is not None
    for item in disclosed:
        proof = item.disclosure.proof
        entry = ledger.entries()[proof.ledger_entry - 1]
        assert entry.detail["manifest_sha256"] == item.manifest.sha256
        document = {
            "schema": "hedgerow.inclusion-proof/1",
            "entry": entry.to_json(),
            "head": head.to_json(),
            "path": list(proof.inclusion),
        }
        assert (proof.root, proof.sth_signature, proof.tree_size) == (head.root, head.signature, head.size)
        assert check_proof(document, key) == ()
        document["entry"] = {**entry.to_json(), "subject": "other/v1/x"}
        assert check_proof(document, key) != ()


def test_every_hazard_names_a_test_that_exists(disclosed: tuple[Disclosed, ...]) -> None:
    named = {
        str(hazard["test"])
        for item in disclosed
        for hazard in item.disclosure.to_json()["hazards"].values()
    }  # fmt: skip
    private = replace(disclosed[1].manifest, guarantee=replace(disclosed[1].manifest.guarantee, selection="public"))
    named |= {answer(private).test for answer in HAZARDS.values()}
    vectors = replace(private, signal=replace(private.signal, kind="item_embedding"))
    named |= {answer(vectors).test for answer in HAZARDS.values()}
    assert len(HAZARDS) == 14
    for node in sorted(named):
        path, _, name = node.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        names = {part.name for part in ast.walk(tree) if isinstance(part, ast.FunctionDef)}
        assert name in names, f"{node} does not exist"


def test_a_manifest_tells_one_point_in_time_and_no_duration(disclosed: tuple[Disclosed, ...]) -> None:
    def times(value: object, path: str = "") -> Iterator[str]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from times(item, f"{path}.{key}")
                if any(word in key for word in ("duration", "elapsed", "started", "finished", "_at")):
                    yield f"{path}.{key}"
        elif isinstance(value, list):
            for item in value:
                yield from times(item, path)

    assert list(times(json.loads(disclosed[1].manifest.to_bytes()))) == [".created_at"]


def test_lineage_is_valid_and_complete(disclosed: tuple[Disclosed, ...]) -> None:
    for item in disclosed:
        start, complete = (json.loads(Serde.to_json(event)) for event in item.events)
        assert valid(start, RUN_EVENT) == []
        assert valid(complete, RUN_EVENT) == []
        assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
        assert start["run"]["runId"].replace("-", "") == item.manifest.ledger.run_id
        assert start["eventTime"] <= complete["eventTime"]
        facets = complete["outputs"][0]["facets"]
        assert [field["name"] for field in facets["schema"]["fields"]] == [c.name for c in item.manifest.columns]
        assert set(facets["columnLineage"]["fields"]) == {column.name for column in item.manifest.columns}
        release = facets["hedgerow_dpRelease"]
        assert release["manifestSha256"] == item.manifest.sha256
        assert release["proof"] == item.disclosure.proof.model_dump(mode="json")
        assert item.disclosure.lineage.openlineage_event_sha256 == sha256_hex(canonical_bytes(complete))
        assert event_sha256(item.events[1]) == sha256_hex(canonical_bytes(complete))


def test_columns_come_from_the_columns_that_the_definition_names(disclosed: tuple[Disclosed, ...]) -> None:
    _, complete = (json.loads(Serde.to_json(event)) for event in disclosed[1].events)
    fields = complete["outputs"][0]["facets"]["columnLineage"]["fields"]
    assert [(f["field"], f["transformations"][0]["subtype"]) for f in fields["genre"]["inputFields"]] == [
        ("genre", "IDENTITY")
    ]
    assert {f["transformations"][0]["masking"] for f in fields["n"]["inputFields"]} == {True}


def test_registry_entries_are_valid_as_json_and_as_yaml(disclosed: tuple[Disclosed, ...], tmp_path: Path) -> None:
    files = write_disclosures(disclosed, tmp_path / "out")
    for item, path in zip(disclosed, files.registry, strict=True):
        assert valid(dict(item.registry), registry_schema()) == []
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
        read["data_product"]["publication_date"] = str(read["data_product"]["publication_date"])
        assert read == item.registry
        assert item.registry["tier"] == 3
    assert valid({**disclosed[0].registry, "tier": 4}, registry_schema())


def test_files_hold_the_documents_and_nothing_else(disclosed: tuple[Disclosed, ...], tmp_path: Path) -> None:
    out = tmp_path / "out"
    files = write_disclosures(disclosed, out)
    again = write_disclosures(disclosed, out)
    assert files == again
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [
            *(path.name for path in files.disclosures),
            "registry",
            "lineage.ndjson",
            "disclosure.schema.json",
            "registry.schema.json",
        ]
    )
    for item, path in zip(disclosed, files.disclosures, strict=True):
        assert path.read_bytes() == item.disclosure.to_bytes()
    lines = files.lineage.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 * len(disclosed)
    for item, line in zip(disclosed, lines[1::2], strict=True):
        assert sha256_hex(canonical_bytes(json.loads(line))) == item.disclosure.lineage.openlineage_event_sha256


def test_a_run_leaves_the_lineage_of_all_that_is_committed(shop: tuple[Settings, Ledger]) -> None:
    settings, ledger = shop
    path = record_lineage(settings, ledger)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert path == settings.state_dir / "lineage.ndjson"
    assert [json.loads(line)["eventType"] for line in lines] == ["START", "COMPLETE"] * 3
    assert record_lineage(settings, ledger).read_text(encoding="utf-8").splitlines() == lines
    assert not [left for left in settings.state_dir.iterdir() if left.name.endswith(".tmp")]


def test_no_value_and_no_count_of_raw_rows_is_told(disclosed: tuple[Disclosed, ...], tmp_path: Path) -> None:
    files = write_disclosures(disclosed, tmp_path / "out")
    told = "".join(path.read_text(encoding="utf-8") for path in (*files.disclosures, *files.registry, files.lineage))
    assert not [count for count in COUNTS if str(count) in told]
    assert "compliant" not in told.lower()


def test_a_release_that_was_changed_is_left_out_and_named(shop: tuple[Settings, Ledger]) -> None:
    settings, ledger = shop
    path = settings.releases_dir / "genres" / "v1" / "2025-11-03" / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"rows":2', b'"rows":3'))
    found, left_out = disclose(settings, ledger, load_policy(settings))
    assert len(found) == 2
    assert left_out == ("genres/v1/2025-11-03: the manifest is not the one that the ledger committed",)


def test_the_command_writes_and_summarises(shop: tuple[Settings, Ledger], tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(disclosure)
    settings, _ = shop
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["-p", str(settings.root), "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    value = json.loads(result.output)
    assert value["releases"] == 3
    assert value["left_out"] == []
    assert {Path(item["disclosure"]).name for item in value["files"]} == {
        path.name for path in out.glob("*~*.json")
    }  # fmt: skip
    (settings.releases_dir / "genres" / "v1" / "2025-11-03" / "manifest.json").unlink()
    result = CliRunner().invoke(app, ["-p", str(settings.root), "--out", str(out)])
    assert result.exit_code == 1
    assert "left out" in result.output


def test_lineage_is_also_sent_where_openlineage_is_configured(
    shop: tuple[Settings, Ledger], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()
    app.command()(disclosure)
    settings, _ = shop
    sent = tmp_path / "sent.ndjson"
    for name, value in (("TYPE", "file"), ("LOG_FILE_PATH", str(sent)), ("APPEND", "true")):
        monkeypatch.setenv(f"OPENLINEAGE__TRANSPORT__{name}", value)
    result = CliRunner().invoke(app, ["-p", str(settings.root), "--out", str(tmp_path / "out"), "--emit"])
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in sent.read_text(encoding="utf-8").splitlines()]
    assert [event["eventType"] for event in events] == ["START", "COMPLETE"] * 3
