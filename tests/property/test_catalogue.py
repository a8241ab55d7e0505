"""Catalogue snapshots: one encoding, and a decoder that takes bytes from anywhere."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featurestore.catalogue.build import quantize
from featurestore.catalogue.format import MAGIC, Catalogue, decode, encode
from featurestore.catalogue.signing import public_key_bytes, sign, verify
from governance.canonical import canonical_bytes
from governance.errors import PublicationCorrupt

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FLOATS = st.floats(width=32, allow_infinity=False)


@st.composite
def catalogues(draw: st.DrawFn) -> Catalogue:
    rows, dimension = draw(st.integers(0, 6)), draw(st.integers(0, 9))
    ids: Any
    if draw(st.booleans()):
        ids = np.array(
            draw(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=rows, max_size=rows, unique=True)), np.int64
        )
    else:
        ids = np.array(draw(st.lists(TEXT, min_size=rows, max_size=rows, unique=True)), object)
    scale = st.floats(0, 2.0**99, width=32)
    return Catalogue(
        sequence=draw(st.integers(0, 1 << 40)),
        created_at="2025-12-01T00:00:00+00:00",
        key=draw(TEXT),
        ids=ids,
        vectors=draw(hnp.arrays(np.int8, (rows, dimension))),
        scales=draw(hnp.arrays(np.float32, rows, elements=scale)),
        titles=tuple(draw(st.lists(TEXT, min_size=rows, max_size=rows))),
        tags=tuple(map(tuple, draw(st.lists(st.lists(TEXT, max_size=3, unique=True), min_size=rows, max_size=rows)))),
        features=draw(st.dictionaries(TEXT, hnp.arrays(np.float32, rows, elements=FLOATS), max_size=3)),
        releases=tuple(draw(st.lists(TEXT, max_size=3))),
        metric=draw(st.sampled_from(["cosine", "dot", "l2"])),
    )


def assert_equal(left: Catalogue, right: Catalogue) -> None:
    for name in ("sequence", "created_at", "key", "titles", "tags", "releases", "metric", "dimension"):
        assert getattr(left, name) == getattr(right, name)
    assert left.ids.tolist() == right.ids.tolist()
    np.testing.assert_array_equal(left.vectors, right.vectors)
    np.testing.assert_array_equal(left.scales, right.scales)
    assert set(left.features) == set(right.features)
    for name, values in left.features.items():
        np.testing.assert_array_equal(values, right.features[name])


@given(catalogues())
def test_a_catalogue_comes_back_and_has_one_encoding(catalogue: Catalogue) -> None:
    data = encode(catalogue)
    decoded = decode(data)
    assert_equal(decoded, catalogue)
    assert encode(decoded) == data


EXAMPLE = encode(
    Catalogue(
        sequence=7,
        created_at="2025-12-01T00:00:00+00:00",
        key="item_id",
        ids=np.array([3, 5, 8], np.int64),
        vectors=np.arange(12, dtype=np.int8).reshape(3, 4),
        scales=np.array([0.5, 0.25, 0.0], np.float32),
        titles=("A", "", "Ünïcode"),
        tags=(("drama", "war"), (), ("drama",)),
        features={"pop_v1:users": np.array([1, np.nan, 3], np.float32)},
        releases=("content/v1/ab", "pop/v1/2025-11-03"),
    )
)


def sealed(body: bytes) -> bytes:
    """With a checksum that fits: what remains to catch is in the content."""
    return body + hashlib.sha256(body).digest()


def decodes_or_is_refused(data: bytes) -> Catalogue | None:
    """Nothing but a catalogue or the one typed error may come of any bytes."""
    try:
        return decode(data)
    except PublicationCorrupt:
        return None


@given(st.binary(max_size=400))
def test_random_bytes(data: bytes) -> None:
    assert decodes_or_is_refused(data) is None
    assert decodes_or_is_refused(sealed(MAGIC + data)) is None


def test_truncations() -> None:
    for length in range(len(EXAMPLE)):
        assert decodes_or_is_refused(EXAMPLE[:length]) is None
    for length in range(len(EXAMPLE) - 32):
        assert decodes_or_is_refused(sealed(EXAMPLE[:length])) is None


@given(st.integers(0, len(EXAMPLE) - 1), st.integers(1, 255))
def test_a_flipped_byte_fails_the_checksum(at: int, flip: int) -> None:
    damaged = bytearray(EXAMPLE)
    damaged[at] ^= flip
    assert decodes_or_is_refused(bytes(damaged)) is None


@given(st.lists(st.tuples(st.integers(0, len(EXAMPLE) - 33), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_under_a_fitting_checksum(flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(EXAMPLE[:-32])
    for at, flip in flips:
        damaged[at] ^= flip
    catalogue = decodes_or_is_refused(sealed(bytes(damaged)))
    if catalogue is not None:  # other values, but a catalogue: of the size it says
        assert len(catalogue.ids) == len(catalogue.vectors) == len(catalogue.titles) == len(catalogue.tags) == 3
        assert np.isfinite(catalogue.scales).all()


@given(st.binary(min_size=1, max_size=64))
def test_bytes_after_the_end(tail: bytes) -> None:
    assert decodes_or_is_refused(EXAMPLE + tail) is None
    assert decodes_or_is_refused(sealed(EXAMPLE[:-32] + tail)) is None


def with_header(change: Callable[[dict[str, Any]], object]) -> bytes:
    (length,) = struct.unpack_from("<I", EXAMPLE, 8)
    header = json.loads(EXAMPLE[12 : 12 + length])
    change(header)
    start = MAGIC + struct.pack("<I", len(canonical_bytes(header))) + canonical_bytes(header)
    sections = 12 + length + -(12 + length) % 8
    return sealed(start + bytes(-len(start) % 8) + EXAMPLE[sections:-32])


def test_the_header_can_be_rewritten() -> None:
    """So that the refusals below are about what they change."""
    assert with_header(len) == EXAMPLE
    assert decode(with_header(lambda header: header.update(sequence=8))).sequence == 8


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update(rows=2),
        lambda h: h.update(rows=4),
        lambda h: h.update(rows=1 << 62),
        lambda h: h.update(rows=-3),
        lambda h: h.update(rows=True),
        lambda h: h.update(rows=3.0),
        lambda h: h.update(dimension=1 << 62),
        lambda h: h.update(dimension=3),
        lambda h: h.update(sequence=-1),
        lambda h: h.update(sequence=1 << 70),
        lambda h: h.update(schema="hedgerow.catalogue/2"),
        lambda h: h.update(metric="hamming"),
        lambda h: h.update(text_ids=True),
        lambda h: h.update(features=[]),
        lambda h: h.update(features=["a", "b"]),
        lambda h: h.update(features=[1]),
        lambda h: h.update(releases=[None]),
        lambda h: h.update(sections=[]),
        lambda h: h.update(sections=[-1, *h["sections"][1:]]),
        lambda h: h.update(sections=[1 << 62, *h["sections"][1:]]),
        lambda h: h.update(sections=[h["sections"][0] + 8, *h["sections"][1:]]),
        lambda h: h.update(more=1),
        lambda h: h.pop("key"),
    ],
)
def test_a_header_that_lies(change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(PublicationCorrupt, match="download it again"):
        decode(with_header(change))


def test_a_huge_header_length_reads_nothing() -> None:
    with pytest.raises(PublicationCorrupt, match="header length out of bounds"):
        decode(sealed(MAGIC + struct.pack("<I", 0xFFFFFFFF) + bytes(100)))


@pytest.mark.parametrize(
    "change",
    [
        {"scales": np.array([np.nan], np.float32)},
        {"scales": np.array([-1], np.float32)},
        {"scales": np.array([1.0])},
        {"vectors": np.zeros((2, 2), np.int8)},
        {"vectors": np.zeros((1, 2), np.float32)},
        {"ids": np.array([1.5])},
        {"ids": np.array([None], object)},
        {"titles": ()},
        {"features": {"a": np.array([np.inf], np.float32)}},
        {"features": {"a": np.zeros(2, np.float32)}},
        {"metric": "hamming"},
        {"sequence": -1},
    ],
)
def test_a_catalogue_that_does_not_fit_together_cannot_be_made(change: dict[str, Any]) -> None:
    fields: dict[str, Any] = {
        "sequence": 1,
        "created_at": "",
        "key": "item_id",
        "ids": np.array([1], np.int64),
        "vectors": np.zeros((1, 2), np.int8),
        "scales": np.zeros(1, np.float32),
        "titles": ("",),
        "tags": ((),),
        "features": {},
        "releases": (),
    }
    Catalogue(**fields)
    with pytest.raises(ValueError, match="must"):
        Catalogue(**fields | change)


def test_ids_are_distinct() -> None:
    decoded = decode(EXAMPLE)
    with pytest.raises(ValueError, match="distinct"):
        Catalogue(
            sequence=1,
            created_at="",
            key="k",
            ids=np.array([1, 1, 2], np.int64),
            vectors=decoded.vectors,
            scales=decoded.scales,
            titles=decoded.titles,
            tags=decoded.tags,
            features={},
            releases=(),
        )


def test_only_the_pinned_key_signs() -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    signature = sign(EXAMPLE, key)
    verify(EXAMPLE, signature, key.public_key())
    verify(EXAMPLE, signature, public_key_bytes(key))
    for data, signed, public in [
        (EXAMPLE + b"\0", signature, public_key_bytes(key)),
        (EXAMPLE, sign(EXAMPLE, other), public_key_bytes(key)),
        (EXAMPLE, key.sign(EXAMPLE), public_key_bytes(key)),  # signed, but not as a catalogue
        (EXAMPLE, signature, public_key_bytes(other)),
        (EXAMPLE, signature[:-1], public_key_bytes(key)),
        (EXAMPLE, b"", public_key_bytes(key)),
        (EXAMPLE, signature, b"short"),
    ]:
        with pytest.raises(PublicationCorrupt, match="signature"):
            verify(data, signed, public)


@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 5), st.integers(1, 6)), elements=st.floats(-1e6, 1e6, width=32)))
def test_quantization_is_off_by_half_a_step_at_most(matrix: np.ndarray[Any, Any]) -> None:
    vectors, scales = quantize(matrix, normalize=False)
    assert vectors.shape == matrix.shape
    error = np.abs(vectors.astype(np.float64) * scales[:, None] - matrix)
    assert (error <= scales[:, None] * 0.501 + 1e-30).all()


@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(-1e3, 1e3, width=32)))
def test_normalized_vectors_have_norm_one_or_are_zero(matrix: np.ndarray[Any, Any]) -> None:
    vectors, scales = quantize(matrix, normalize=True)
    norms = np.linalg.norm(vectors.astype(np.float64) * scales[:, None], axis=1)
    zero = np.abs(matrix).max(axis=1) < 1e-15
    assert (np.abs(norms[~zero] - 1) < 0.02).all()
