"""Error details: the wire form of the well-known messages, and nothing echoed that could be an id."""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage

from serving.problems import Details, TooLarge, decode_details, encode_details, shown


def test_details_come_back_as_they_went() -> None:
    details = Details(violations=(("keys[0].name", "found x"), ("k", "found 0, allowed: 1")), retry_seconds=1.5)
    assert decode_details(encode_details(3, "message", details)) == details


def test_details_that_do_not_parse_say_nothing() -> None:
    assert decode_details(b"\xff\xff\xff") == Details()


def test_well_known_readers_understand_the_details() -> None:
    """The public definitions of google.rpc, built here from their published field numbers, read the trailer."""
    status_type, bad_request_type, retry_type = google_rpc()
    status = status_type.FromString(encode_details(8, "too much", Details(violations=(("k", "why"),), retry_seconds=2)))
    assert (status.code, status.message) == (8, "too much")
    bad, retry = status.details
    assert bad.type_url == "type.googleapis.com/google.rpc.BadRequest"
    violation = bad_request_type.FromString(bad.value).field_violations[0]
    assert (violation.field, violation.description) == ("k", "why")
    assert retry.type_url == "type.googleapis.com/google.rpc.RetryInfo"
    assert retry_type.FromString(retry.value).retry_delay.seconds == 2


def test_names_are_shown_only_when_they_read_like_names() -> None:
    assert shown("item_week_v1:users") == "'item_week_v1:users'"
    for name in ("", "alice@example.org", "4111 1111", "x" * 101, "a\nb", "12345"):
        assert shown(name) == "of that name"


def test_too_large_says_found_allowed_and_fix() -> None:
    assert str(TooLarge("keys", "entities", 10_001, 10_000)) == (
        "keys: found 10,001 entities, allowed 10,000; split the request"
    )


def google_rpc() -> tuple[type, type, type]:
    """google.rpc.Status, BadRequest and RetryInfo in a pool of their own."""
    file = descriptor_pb2.FileDescriptorProto(name="rpc.proto", package="google.rpc", syntax="proto3")
    file.dependency.extend(["google/protobuf/any.proto", "google/protobuf/duration.proto"])
    kinds = descriptor_pb2.FieldDescriptorProto

    def add(parent: object, name: str, *fields: tuple[str, int, str, bool]) -> None:
        message = parent.add(name=name)  # type: ignore[attr-defined]
        for field, number, kind, repeated in fields:
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            scalar = {"string": kinds.TYPE_STRING, "int32": kinds.TYPE_INT32}.get(kind)
            if scalar:
                message.field.add(name=field, number=number, type=scalar, label=label)
            else:
                message.field.add(name=field, number=number, type=kinds.TYPE_MESSAGE, type_name=kind, label=label)

    add(
        file.message_type,
        "Status",
        ("code", 1, "int32", False),
        ("message", 2, "string", False),
        ("details", 3, ".google.protobuf.Any", True),
    )
    add(file.message_type, "BadRequest", ("field_violations", 1, ".google.rpc.BadRequest.FieldViolation", True))
    add(
        file.message_type[1].nested_type,
        "FieldViolation",
        ("field", 1, "string", False),
        ("description", 2, "string", False),
    )
    add(file.message_type, "RetryInfo", ("retry_delay", 1, ".google.protobuf.Duration", False))
    pool = descriptor_pool.DescriptorPool()
    for known in (AnyMessage.DESCRIPTOR.file, duration_pb2.DESCRIPTOR):
        pool.AddSerializedFile(known.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return tuple(  # type: ignore[return-value]
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"google.rpc.{name}"))
        for name in ("Status", "BadRequest", "RetryInfo")
    )
