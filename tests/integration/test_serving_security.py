"""Who gets in and who does not, over real sockets: certificates, tokens, purposes, policy; and what is logged of it."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import jwt
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from governance.errors import AccessDenied, ConfigError, NotAuthenticated, NotServed, RequestInvalid, ServerUnavailable
from governance.ledger import EntryKind, Ledger
from governance.policy import RefusalRecorder, load_policy
from governance.settings import Settings
from serving.access import Access, Caller, PolicyAuthorizer, Verdict, deny
from serving.client import Client, ClientTls
from serving.config import Audit, ServerConfig, load_config
from serving.problems import DETAILS_TRAILER, decode_details
from serving.server import RunningServer, start_server
from serving.v1 import embeddings_pb2, features_pb2, recommendation_pb2, snapshots_pb2
from tests.support.fronts import UNHURRIED
from tests.support.serving import AUDIENCE, ISSUER, Authority, Issuer, connected, patient, served_items

FEATURES = ["items_v1:users"]
POLICY = """
rules:
  - id: RANKING-READS
    kind: may_read
    reason: the ranker ranks
    callers: [ranker]
    purposes: [ranking]
    views: [items_v1, item_content]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return served_items(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def config(folder: Path, authority: Authority, text: str = "", *, client_ca: bool = True) -> ServerConfig:
    """A production configuration read from a file."""
    certificate, key = authority.issue("server", server=True)
    for name, data in (("server.pem", certificate), ("server.key", key), ("clients.pem", authority.pem)):
        (folder / name).write_bytes(data)
    ca = 'client_ca = "clients.pem"\n' if client_ca else ""
    (folder / "serve.toml").write_text(
        f'[listen]\nport = 0\n{UNHURRIED}[tls]\ncertificate = "server.pem"\nkey = "server.key"\n{ca}{text}',
        encoding="utf-8",
    )
    return load_config(folder / "serve.toml")


def may(access: Access) -> Verdict:
    """A policy for tests: the ranker may rank."""
    allowed = access.caller.name == "ranker" and access.purpose == "ranking"
    return Verdict(allowed=allowed, rule="TEST-1", reason="" if allowed else "not the ranker, or not to rank")


def tls(authority: Authority, name: str | None = "ranker") -> ClientTls:
    certificate, key = authority.issue(name) if name else (None, None)
    return ClientTls(server_ca=authority.pem, certificate=certificate, key=key)


def read(client: Client) -> list[int]:
    answer: list[int] = client.get_features(features=FEATURES, entities={"item_id": [3, 5]})["items_v1:users"].tolist()
    return answer


class TestCertificates:
    @pytest.fixture(scope="class")
    @classmethod
    def server(
        cls, project: Settings, authority: Authority, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[RunningServer]:
        how = config(tmp_path_factory.mktemp("mtls"), authority)
        with start_server(project, config=how, authorizer=may) as running:
            yield running

    def test_a_caller_with_a_certificate_reads_for_its_purpose(
        self, server: RunningServer, authority: Authority
    ) -> None:
        with connected(server.address, tls=tls(authority), purpose="ranking") as client:
            assert read(client) == [3, 5]
            assert client.search("item_content", ids=[3], k=2).counts.tolist() == [2]

    def test_another_purpose_or_another_caller_is_denied(self, server: RunningServer, authority: Authority) -> None:
        for name, purpose in (("ranker", "advertising"), ("ranker", ""), ("stranger", "ranking")):
            with connected(server.address, tls=tls(authority, name), purpose=purpose) as client:
                with pytest.raises(AccessDenied, match=r"TEST-1 .*not the ranker"):
                    read(client)
                with pytest.raises(AccessDenied):
                    next(client.stream_features(features=FEATURES, entities={"item_id": [1]}))
                with pytest.raises(AccessDenied):
                    client.get_embeddings("item_content", [1])
                with pytest.raises(AccessDenied):
                    client.get_recommendation_context("item_content", ids=[1], k=1)
                with pytest.raises(AccessDenied):
                    client.catalogue()

    def test_no_certificate_the_wrong_authority_and_no_tls_do_not_get_in(
        self, server: RunningServer, authority: Authority
    ) -> None:
        stranger = Authority("another CA")
        certificate, key = stranger.issue("ranker")
        wrong = ClientTls(server_ca=authority.pem, certificate=certificate, key=key)
        fooled = ClientTls(server_ca=stranger.pem)
        for how in (tls(authority, None), wrong, fooled, None):
            with (
                Client(server.address, tls=how, purpose="ranking", timeout_seconds=1.5) as client,
                pytest.raises(ServerUnavailable),
            ):
                read(client)
        with connected(server.address, tls=tls(authority), purpose="ranking") as client:
            assert read(client) == [3, 5]


def test_certificates_are_read_again_and_a_bad_one_is_refused(
    project: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Authority("first"), Authority("second")
    how = config(tmp_path, first)
    with start_server(project, config=how, authorizer=may) as server:
        with connected(server.address, tls=tls(first), purpose="ranking") as client:
            assert read(client) == [3, 5]
        (tmp_path / "server.pem").write_bytes(b"no certificate")
        with caplog.at_level(logging.WARNING), connected(server.address, tls=tls(first), purpose="ranking") as client:
            assert read(client) == [3, 5]
        assert "the last good certificate stays" in caplog.text
        certificate, key = second.issue("server", server=True)
        for name, data in (("server.key", key), ("clients.pem", second.pem), ("server.pem", certificate)):
            (tmp_path / name).write_bytes(data)
        with connected(server.address, tls=tls(second), purpose="ranking") as client:
            assert read(client) == [3, 5]
        with (
            Client(server.address, tls=tls(first), purpose="ranking", timeout_seconds=1.5) as client,
            pytest.raises(ServerUnavailable),
        ):
            read(client)


class TestTokens:
    @pytest.fixture(scope="class")
    @classmethod
    def issuer(cls) -> Issuer:
        return Issuer()

    @pytest.fixture(scope="class")
    @classmethod
    def audit(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("audit") / "audit.jsonl"

    @pytest.fixture(scope="class")
    @classmethod
    def server(
        cls,
        project: Settings,
        authority: Authority,
        issuer: Issuer,
        audit: Path,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Iterator[RunningServer]:
        folder = tmp_path_factory.mktemp("tokens")
        (folder / "issuer.pem").write_bytes(issuer.public_pem)
        text = (
            f'[tokens]\npublic_key = "issuer.pem"\nalgorithm = "EdDSA"\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\n'
            f'leeway_seconds = 0\n[audit]\nfile = "{audit}"\n'
        )
        how = config(folder, authority, text, client_ca=False)
        with start_server(project, config=how, authorizer=may) as running:
            yield running

    def client(
        self, server: RunningServer, authority: Authority, token: Any, purpose: str = "ranking"
    ) -> AbstractContextManager[Client]:
        return connected(server.address, tls=tls(authority, None), token=token, purpose=purpose)

    def test_a_token_names_the_caller(self, server: RunningServer, authority: Authority, issuer: Issuer) -> None:
        for claims in ({}, {"purposes": ["ranking", "analytics"]}, {"roles": ["service"]}):
            with self.client(server, authority, issuer.token(**claims)) as client:
                assert read(client) == [3, 5]
        with self.client(server, authority, issuer.token) as client:
            assert read(client) == [3, 5]

    def test_a_tokens_own_purposes_bind(self, server: RunningServer, authority: Authority, issuer: Issuer) -> None:
        with (
            self.client(server, authority, issuer.token(purposes=["analytics"])) as client,
            pytest.raises(AccessDenied, match="its token does not allow this purpose; allowed: analytics"),
        ):
            read(client)

    def test_bad_tokens_are_refused_and_say_little(
        self, server: RunningServer, authority: Authority, issuer: Issuer, caplog: pytest.LogCaptureFixture
    ) -> None:
        unsigned = jwt.encode({"sub": "ranker", "iss": ISSUER, "aud": AUDIENCE, "exp": 2**31}, "", "none")
        keyed = jwt.encode({"sub": "ranker", "iss": ISSUER, "aud": AUDIENCE, "exp": 2**31}, "k" * 32, "HS256")
        bad = [
            Issuer().token(),
            issuer.token(seconds=-1),
            issuer.token(aud="elsewhere"),
            issuer.token(iss="https://evil.example.com"),
            issuer.token(exp=None),
            issuer.token(sub=None),
            issuer.token(roles="admin"),
            issuer.token()[:-4] + "AAAA",
            unsigned,
            keyed,
            "no token at all",
            "x" * 10_000,
        ]
        with caplog.at_level(logging.DEBUG, "hedgerow"):
            for token in bad:
                with self.client(server, authority, token) as client, pytest.raises(NotAuthenticated) as caught:
                    read(client)
                assert token not in str(caught.value)
            with self.client(server, authority, None) as client, pytest.raises(NotAuthenticated, match="no token"):
                read(client)
        assert not any(token in caplog.text for token in bad)

    def test_a_token_that_was_good_is_refused_once_it_expires(
        self, server: RunningServer, authority: Authority, issuer: Issuer
    ) -> None:
        held = [issuer.token()]

        def is_good() -> bool:
            try:
                return read(client) == [3, 5]
            except NotAuthenticated:
                return False

        with self.client(server, authority, lambda: held[0]) as client:
            for seconds in (2, 5, 20):  # the next one if the machine stood still for as long as this one lasted
                held[0] = issuer.token(seconds=seconds)
                if is_good():
                    break
            else:
                pytest.fail("no token was good")
            wait_for(lambda: not is_good())
            with pytest.raises(NotAuthenticated, match="expired"):
                read(client)

    def test_the_audit_log_says_who_read_what_and_no_id(
        self, server: RunningServer, authority: Authority, issuer: Issuer, audit: Path
    ) -> None:
        token = issuer.token()
        with self.client(server, authority, token) as client:
            client.get_features(features=FEATURES, entities={"item_id": [48_151_623, 42]})
        with self.client(server, authority, token, purpose="user 48151623") as client, pytest.raises(AccessDenied):
            read(client)
        wait_for(lambda: "(not a name)" in audit.read_text(encoding="utf-8"))
        lines = audit.read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        ours = [record for record in records if record["rows"] == 2 and record["code"] == "OK"][-1]
        assert (ours["caller"], ours["purpose"], ours["rule"]) == ("ranker", "ranking", "TEST-1")
        assert ours["method"].endswith("FeatureService/GetFeatures")
        assert ours["resources"] == ["items_v1"]
        assert records[-1]["code"] == "PERMISSION_DENIED"
        assert records[-1]["purpose"] == "(not a name)"
        whole = "\n".join(lines)
        assert "48151623" not in whole
        assert token not in whole
        assert audit.stat().st_mode & 0o077 == 0


class TestPolicy:
    """The project's own policy decides, by `governance.policy.decide`."""

    def test_production_without_a_policy_denies_everything(
        self, project: Settings, authority: Authority, tmp_path: Path
    ) -> None:
        with (
            start_server(project, config=config(tmp_path, authority)) as server,
            connected(server.address, tls=tls(authority), purpose="ranking") as client,
            pytest.raises(AccessDenied, match="default-deny"),
        ):
            read(client)

    def test_a_declared_policy_lets_in_whom_it_names(
        self, project: Settings, authority: Authority, tmp_path: Path
    ) -> None:
        settings = replace(project, root=tmp_path)
        settings.policy_dir.mkdir(parents=True)
        (settings.policy_dir / "reads.yaml").write_text(POLICY, encoding="utf-8")
        refused: list[Any] = []
        authorizer = PolicyAuthorizer(load_policy(settings), refused.append)
        with start_server(project, config=config(tmp_path, authority), authorizer=authorizer) as server:
            with connected(server.address, tls=tls(authority), purpose="ranking") as client:
                assert read(client) == [3, 5]
                with pytest.raises(AccessDenied, match="HEDGEROW-READ"):
                    client.catalogue_info()
            with connected(server.address, tls=tls(authority, "intruder"), purpose="ranking") as client:
                for _ in range(3):
                    with pytest.raises(AccessDenied, match="no rule lets intruder read items_v1 for ranking"):
                        read(client)
        assert [decision.subject for decision in refused] == ["catalogue", "items_v1"]

    def test_a_production_server_loads_the_projects_policy_itself(
        self, project: Settings, authority: Authority, tmp_path: Path
    ) -> None:
        settings = replace(project, root=tmp_path)
        settings.policy_dir.mkdir(parents=True)
        (settings.policy_dir / "reads.yaml").write_text(POLICY, encoding="utf-8")
        with start_server(settings, config=config(tmp_path, authority)) as server:
            with connected(server.address, tls=tls(authority), purpose="ranking") as client:
                assert read(client) == [3, 5]
            with (
                connected(server.address, tls=tls(authority), purpose="profiling") as client,
                pytest.raises(AccessDenied),
            ):
                read(client)


class TestHostileRequests:
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, project: Settings) -> Iterator[RunningServer]:
        with start_server(project, config=patient(project), port=0) as running:
            yield running

    @pytest.mark.parametrize(
        "name",
        ["../../etc/passwd", "/etc/passwd", "..", "item_content/../item_content", "a\0b", "%2e%2e%2f", "x" * 9999],
    )
    def test_path_tricks_in_names_are_unknown_names(self, server: RunningServer, name: str) -> None:
        with connected(server.address) as client:
            for call in (
                lambda: client.get_embeddings(name, [1]),
                lambda: client.search(name, ids=[1], k=1),
                lambda: client.get_features(service=name, entities={"item_id": [1]}),
                lambda: client.get_features(features=[f"{name}:users"], entities={"item_id": [1]}),
            ):
                with pytest.raises(NotServed) as caught:
                    call()
                assert "passwd" not in str(caught.value) or name in str(caught.value)
            assert read(client) == [3, 5]

    def test_oversized_messages_and_metadata_are_refused_and_the_server_lives(self, server: RunningServer) -> None:
        with grpc.insecure_channel(server.address, [("grpc.max_send_message_length", -1)]) as channel:
            search = channel.unary_unary("/hedgerow.serving.v1.EmbeddingService/Search")
            with pytest.raises(grpc.RpcError) as caught:
                search(bytes(33 * 1024 * 1024), timeout=30)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            with pytest.raises(grpc.RpcError) as caught:
                search(b"", timeout=30, metadata=(("hedgerow-purpose", "x" * 100_000),))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with connected(server.address) as client:
            with pytest.raises(RequestInvalid, match="found 10,001 ids"):
                client.get_embeddings("item_content", np.arange(10_001))
            assert read(client) == [3, 5]

    def test_malformed_bytes_name_the_message(self, server: RunningServer) -> None:
        with grpc.insecure_channel(server.address) as channel:
            for method in ("FeatureService/GetFeatures", "EmbeddingService/Search", "FeatureService/StreamFeatures"):
                call = channel.unary_stream(f"/hedgerow.serving.v1.{method}")
                with pytest.raises(grpc.RpcError) as caught:
                    list(call(b"\xff\xff\xff", timeout=30))
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                trailer = dict(caught.value.trailing_metadata())[DETAILS_TRAILER]
                assert decode_details(trailer).violations[0][0] == "request"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "production needs"),
        ('mode = "demo"\nport = 3', "port"),
        ('mode = "demo"\n[listen]\nthreads = 0', "listen.threads: found 0, allowed: 1 to 1024"),
        ('mode = "open"', "mode"),
        ('[tls]\ncertificate = "a"\nkey = "b"', "must know its callers"),
        ('mode = "demo"\n[tokens]\npublic_key = "k"\nalgorithm = "HS256"\nissuer = "i"\naudience = "a"', "algorithm"),
        ("mode = ", "not valid TOML"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "serve.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=told):
        load_config(path)


class TestAuditThatCannotBeWritten:
    def test_calls_are_refused_and_health_says_so_until_it_can_be(self, project: Settings, tmp_path: Path) -> None:
        """The audit log's folder goes away and comes back. Nothing is read meanwhile, and no line is lost."""
        folder = tmp_path / "audit"
        how = replace(patient(project), audit=Audit(file=folder / "audit.jsonl"))
        with (
            start_server(project, port=0, config=how) as server,
            grpc.insecure_channel(server.address, [("grpc.enable_retries", 0)]) as channel,
        ):
            call = channel.unary_unary("/hedgerow.serving.v1.EmbeddingService/GetEmbeddings")
            request = embeddings_pb2.GetEmbeddingsRequest(space="item_content")
            request.ids.int64s.values.append(3)
            health = health_pb2_grpc.HealthStub(channel)

            def code() -> grpc.StatusCode:
                done = call.future(request.SerializeToString(), timeout=60)
                status = done.code()
                assert isinstance(status, grpc.StatusCode)
                if status is grpc.StatusCode.UNAVAILABLE:
                    trailer = dict(done.trailing_metadata())[DETAILS_TRAILER]
                    assert decode_details(trailer).retry_seconds == 1
                    assert str(folder) not in (done.details() or "")
                return status

            def healthy() -> bool:
                answer = health.Check(health_pb2.HealthCheckRequest(), timeout=60)
                return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

            assert code() is grpc.StatusCode.OK
            wait_for(lambda: (folder / "audit.jsonl").stat().st_size > 0)
            folder.rename(tmp_path / "moved")
            taken = 1
            while (found := code()) is grpc.StatusCode.OK:
                taken += 1
            assert found is grpc.StatusCode.UNAVAILABLE
            wait_for(lambda: not healthy())
            assert code() is grpc.StatusCode.UNAVAILABLE
            wait_for(lambda: server.metrics.registry.get_sample_value("hedgerow_audit_unwritten"))
            (tmp_path / "moved").rename(folder)
            wait_for(lambda: code() is grpc.StatusCode.OK)
            wait_for(healthy)
        lines = [json.loads(line)["code"] for line in (folder / "audit.jsonl").read_text().splitlines()]
        assert set(lines) == {"OK"}, "calls that were not let in have no line"
        assert len(lines) == taken + 1


def wait_for(there: Any) -> None:
    for _ in range(6_000):
        if there():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come")


class TestRefusedReads:
    """What a refused caller can do to others, and what it learns."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        own = served_items(tmp_path / "project")
        own.policy_dir.mkdir(parents=True, exist_ok=True)
        (own.policy_dir / "reads.yaml").write_text(POLICY, encoding="utf-8")
        return own

    def test_a_ledger_that_another_process_holds_holds_nobody_up(self, settings: Settings) -> None:
        recorder = RefusalRecorder.to_ledger(settings)
        authorizer = PolicyAuthorizer(load_policy(settings), recorder)
        with (
            start_server(settings, config=patient(settings), port=0, authorizer=authorizer) as server,
            connected(server.address, purpose="ads") as client,
            closing(sqlite3.connect(settings.ledger_path, isolation_level=None)) as other,
        ):
            other.execute("BEGIN IMMEDIATE")
            for _ in range(2):
                with pytest.raises(AccessDenied):
                    read(client)
            with grpc.insecure_channel(server.address) as channel:
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
            other.execute("ROLLBACK")
        recorder.close(seconds=60)
        with Ledger(settings.ledger_path) as ledger:
            refused = [entry.subject for entry in ledger.entries() if entry.kind is EntryKind.REFUSED]
        assert refused == ["items_v1"]

    def test_a_ledger_without_its_key_is_the_servers_affair(
        self, settings: Settings, caplog: pytest.LogCaptureFixture
    ) -> None:
        for key in settings.keys_dir.glob("ledger*"):
            key.unlink()
        recorder = RefusalRecorder.to_ledger(settings)
        authorizer = PolicyAuthorizer(load_policy(settings), recorder)
        with (
            start_server(settings, config=patient(settings), port=0, authorizer=authorizer) as server,
            connected(server.address, purpose="ads") as client,
            pytest.raises(AccessDenied) as caught,
        ):
            read(client)
        recorder.close(seconds=60)
        assert str(settings.root) not in str(caught.value)
        assert str(settings.keys_dir) in caplog.text

    def test_what_a_caller_may_not_read_it_is_not_told_of(self, settings: Settings) -> None:
        with (
            start_server(settings, config=patient(settings), port=0, authorizer=deny) as server,
            connected(server.address) as client,
        ):
            for call in (
                lambda: client.get_embeddings("nope", [1]),
                lambda: next(client.stream_embeddings("nope", [1])),
                lambda: client.search("nope", ids=[1], k=1),
                lambda: client.get_features(features=["nope:x"], entities={"item_id": [1]}),
                lambda: client.get_features(service="nope", entities={"item_id": [1]}),
            ):
                with pytest.raises(NotServed, match="none that this caller may read") as unknown:
                    call()
                assert "item" not in str(unknown.value).replace("that this", "")
            for call in (
                lambda: client.get_features(features=["items_v1:nope"], entities={"item_id": [1]}),
                lambda: client.get_features(features=FEATURES, entities={"x": [1]}),
                lambda: next(client.stream_features(features=FEATURES, entities={"x": [1]})),
                lambda: client.get_embeddings("item_content", ["text"]),
                lambda: client.search("item_content", vectors=[[1.0]], k=1),
                lambda: client.get_recommendation_context("item_content", vectors=[[1.0]], k=1),
            ):
                with pytest.raises(AccessDenied) as denied:
                    call()
                assert "item" not in str(denied.value)

    def test_of_other_names_a_caller_is_told_what_it_may_read(self, settings: Settings) -> None:
        rules = POLICY.replace("[items_v1, item_content]", "[items_v1]")
        (settings.policy_dir / "reads.yaml").write_text(rules, encoding="utf-8")
        refused: list[Any] = []
        decides = PolicyAuthorizer(load_policy(settings), refused.append)

        def authorizer(access: Access, /) -> Verdict:
            return decides(replace(access, caller=Caller(name="ranker")))

        with (
            start_server(settings, config=patient(settings), port=0, authorizer=authorizer) as server,
            connected(server.address, purpose="ranking") as client,
        ):
            with pytest.raises(NotServed, match=r"no view 'nope'; published: items_v1$"):
                client.get_features(features=["nope:x"], entities={"item_id": [1]})
            with pytest.raises(NotServed, match="items_v1 has no feature 'nope'; it has: score, users"):
                client.get_features(features=["items_v1:nope"], entities={"item_id": [1]})
            with pytest.raises(NotServed, match="none that this caller may read"):
                client.get_embeddings("nope", [1])
            assert not refused, "what was not tried is no refusal"

    def test_unknown_names_have_details(self, settings: Settings) -> None:
        cases = {
            "EmbeddingService/Search": (embeddings_pb2.SearchRequest(space="nope"), "space"),
            "EmbeddingService/StreamEmbeddings": (
                embeddings_pb2.StreamEmbeddingsRequest(request={"space": "nope"}),
                "request.space",
            ),
            "FeatureService/GetFeatures": (
                features_pb2.GetFeaturesRequest(features={"references": ["nope:x"]}),
                "features.references",
            ),
            "RecommendationService/GetRecommendationContext": (
                recommendation_pb2.GetRecommendationContextRequest(candidates={"space": "nope"}),
                "candidates.space",
            ),
            "SnapshotService/GetCatalogue": (snapshots_pb2.GetCatalogueRequest(sequence=99), "sequence"),
        }
        with (
            start_server(settings, config=patient(settings), port=0) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            for method, (request, field) in cases.items():
                call = channel.unary_stream(f"/hedgerow.serving.v1.{method}")
                with pytest.raises(grpc.RpcError) as caught:
                    list(call(request.SerializeToString(), timeout=30))
                assert caught.value.code() is grpc.StatusCode.NOT_FOUND
                trailer = dict(caught.value.trailing_metadata())[DETAILS_TRAILER]
                assert decode_details(trailer).violations == ((field, caught.value.details()),)


def test_files_that_cannot_be_used_are_named(project: Settings, authority: Authority, tmp_path: Path) -> None:
    how = config(tmp_path, authority)
    (tmp_path / "server.key").write_bytes(authority.issue("other")[1])
    with pytest.raises(ConfigError, match="is of another certificate"):
        start_server(project, config=how)
    (tmp_path / "server.key").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        start_server(project, config=how)
