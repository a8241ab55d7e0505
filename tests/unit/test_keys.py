"""Signing keys: made once, kept private, refused when they are not what they should be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_public_key

from governance.errors import ConfigError
from governance.keys import load_signing_key, make_signing_key, public_key_hex, public_key_pem


def test_a_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "a.ed25519"
    key = make_signing_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert public_key_hex(make_signing_key(path).public_key()) == public_key_hex(key.public_key())
    assert public_key_hex(load_signing_key(path).public_key()) == public_key_hex(key.public_key())
    assert load_pem_public_key(public_key_pem(key.public_key())) == key.public_key()


def test_of_many_that_ask_at_once_all_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: make_signing_key(tmp_path / "a.ed25519"), range(32)))
    assert len({public_key_hex(key.public_key()) for key in keys}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.ed25519"]


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ed25519"
    make_signing_key(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read this private key; run: chmod 600"):
        load_signing_key(path)


def test_what_is_no_key_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.ed25519"
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for data in (b"", b"not a key", other):
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match="not an Ed25519 private key"):
            make_signing_key(path)
        assert path.read_bytes() == data
    with pytest.raises(FileNotFoundError):
        load_signing_key(tmp_path / "none")
