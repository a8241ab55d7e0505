"""The Merkle tree against the recursive definitions of RFC 6962, written out naively, and against forgeries."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.verify.merkle import Frontier, Tree, leaf_hash, verify_consistency, verify_inclusion
from tests.support.strategies import examples

SIZES = st.integers(1, 300)


def leaves(size: int) -> list[bytes]:
    return [leaf_hash(str(k).encode()) for k in range(size)]


def split(size: int) -> int:
    k = 1
    while k * 2 < size:
        k *= 2
    return k


def mth(hashes: Sequence[bytes]) -> bytes:
    """RFC 6962 section 2.1, over leaf hashes."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = split(len(hashes))
    return hashlib.sha256(b"\x01" + mth(hashes[:k]) + mth(hashes[k:])).digest()


def path(m: int, hashes: Sequence[bytes]) -> list[bytes]:
    """RFC 6962 section 2.1.1."""
    if len(hashes) == 1:
        return []
    k = split(len(hashes))
    return [*path(m, hashes[:k]), mth(hashes[k:])] if m < k else [*path(m - k, hashes[k:]), mth(hashes[:k])]


def subproof(m: int, hashes: Sequence[bytes], whole: bool) -> list[bytes]:
    """RFC 6962 section 2.1.2."""
    n = len(hashes)
    if m == n:
        return [] if whole else [mth(hashes)]
    k = split(n)
    if m <= k:
        return [*subproof(m, hashes[:k], whole), mth(hashes[k:])]
    return [*subproof(m - k, hashes[k:], False), mth(hashes[:k])]


@given(st.data())
@examples(200)
def test_inclusion(data: st.DataObject) -> None:
    size = data.draw(SIZES)
    index = data.draw(st.integers(0, size - 1))
    hashes = leaves(size)
    tree = Tree(leaves(size + data.draw(st.integers(0, 20))))
    proof, root = tree.inclusion_proof(index, size), tree.root(size)
    assert (root, list(proof)) == (mth(hashes), path(index, hashes))
    assert verify_inclusion(hashes[index], index, size, proof, root)

    other = data.draw(st.integers(0, size - 1).filter(lambda k: k != index) if size > 1 else st.just(index + 1))
    assert not verify_inclusion(hashes[index], other, size, proof, root)
    assert not verify_inclusion(leaf_hash(b"another"), index, size, proof, root)
    assert not verify_inclusion(hashes[index], index, size, proof, leaf_hash(b"another"))
    assert not verify_inclusion(hashes[index], index, size, [*proof, root], root)
    assert not verify_inclusion(hashes[index], -1, size, proof, root)
    for place in range(len(proof)):
        assert not verify_inclusion(hashes[index], index, size, proof[:place] + proof[place + 1 :], root)
        changed = (*proof[:place], leaf_hash(b"another"), *proof[place + 1 :])
        assert not verify_inclusion(hashes[index], index, size, changed, root)


@given(st.data())
@examples(200)
def test_consistency(data: st.DataObject) -> None:
    size = data.draw(SIZES)
    old = data.draw(st.integers(0, size))
    hashes = leaves(size)
    tree = Tree(hashes)
    proof, root, old_root = tree.consistency_proof(old), tree.root(), tree.root(old)
    if old > 0:
        assert list(proof) == subproof(old, hashes, True)
    assert verify_consistency(old, old_root, size, root, proof)

    another = leaf_hash(b"another")
    assert not verify_consistency(old, another, size, root, proof)
    assert not verify_consistency(old, old_root, size, another, proof) or old == 0
    assert not verify_consistency(size + 1, old_root, size, root, proof)
    assert not verify_consistency(old, old_root, size, root, [*proof, another])
    for place in range(len(proof)):
        assert not verify_consistency(old, old_root, size, root, proof[:place] + proof[place + 1 :])
        changed = (*proof[:place], another, *proof[place + 1 :])
        assert not verify_consistency(old, old_root, size, root, changed)


@given(st.data())
@examples(100)
def test_an_edit_before_the_old_size_breaks_every_proof(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 200))
    old = data.draw(st.integers(1, size - 1))
    edited = leaves(size)
    edited[data.draw(st.integers(0, old - 1))] = leaf_hash(b"edited")
    proof = Tree(edited).consistency_proof(old)
    assert not verify_consistency(old, mth(leaves(old)), size, mth(edited), proof)


@given(SIZES)
@examples(60)
def test_a_frontier_is_the_tree(size: int) -> None:
    tree, frontier = Tree(leaves(size)), Frontier()
    for count, leaf in enumerate(leaves(size), start=1):
        frontier = frontier.append(leaf)
        assert frontier.root == tree.root(count)
    assert Frontier.from_text(size, frontier.text) == frontier
    with pytest.raises(ValueError, match="perfect subtrees"):
        Frontier.from_text(2 * size + 1, frontier.text)


ROOTS_OF_RFC_VECTORS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def test_the_vectors_of_certificate_transparency() -> None:
    """The eight leaves that every implementation of RFC 6962 is tested with."""
    texts = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
    tree = Tree(leaf_hash(bytes.fromhex(text)) for text in texts)
    assert tuple(tree.root(size).hex() for size in range(1, 9)) == ROOTS_OF_RFC_VECTORS
    assert tree.root(0) == hashlib.sha256(b"").digest()
    for call in (lambda: tree.root(9), lambda: tree.inclusion_proof(8), lambda: tree.consistency_proof(9)):
        with pytest.raises(ValueError, match="8"):
            call()
