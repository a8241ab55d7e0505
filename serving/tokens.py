"""Who calls: the subject of a signed token (JWT), or of the client's certificate (mTLS).

A token comes in the metadata `authorization: Bearer ...`. It must be signed by the configured issuer's key with the one
configured algorithm, name the issuer, this server as audience, a subject and an expiry, and not be expired. Claims that
are read: `sub`, `roles` and `purposes` (lists of texts). Why a token was refused is told in general words only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from governance.errors import ConfigError, NotAuthenticated
from serving.access import Caller

__all__ = ["ALGORITHMS", "Certificates", "TokenRules", "Tokens", "read_rules"]

ALGORITHMS: Final = ("EdDSA", "ES256", "RS256", "PS256")
"""Asymmetric ones only: a server that checks tokens cannot make them."""

_AUTHORIZATION: Final = "authorization"
_BEARER: Final = "Bearer "
_REMEMBERED: Final = 10_000
_LONGEST: Final = 8_192


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What a token must be.

    Attributes:
        public_key: PEM.
        algorithm: one of `ALGORITHMS`.
        issuer: its `iss`.
        audience: its `aud`.
        leeway_seconds: by how much clocks may differ.
    """

    public_key: bytes
    algorithm: str
    issuer: str
    audience: str
    leeway_seconds: int = 10


def read_rules(path: Path, *, algorithm: str, issuer: str, audience: str, leeway_seconds: int = 10) -> TokenRules:
    """Rules with the key of a PEM file.

    Raises:
        ConfigError: the file cannot be read, or holds no public key for this algorithm.
    """
    import jwt

    if algorithm not in ALGORITHMS:
        raise ConfigError(f"[tokens] algorithm: found {algorithm!r}, allowed: {', '.join(ALGORITHMS)}")
    try:
        key = path.read_bytes()
        if b"PRIVATE" in key:
            raise ConfigError(f"{path}: a private key; give the server the issuer's public key only")
        jwt.get_algorithm_by_name(algorithm).prepare_key(key)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); correct [tokens] public_key") from None
    except (ValueError, TypeError, jwt.PyJWTError):
        raise ConfigError(f"{path}: no public key for {algorithm}; write it as PEM") from None
    return TokenRules(
        public_key=key, algorithm=algorithm, issuer=issuer, audience=audience, leeway_seconds=leeway_seconds
    )


class Tokens:
    """Identifies callers by their tokens. A token that was verified is remembered until it expires.

    Args:
        rules: what a token must be.
    """

    def __init__(self, rules: TokenRules) -> None:
        self._rules = rules
        self._known: dict[str, tuple[float, Caller]] = {}

    def __call__(self, _context: grpc.ServicerContext, metadata: dict[str, str | bytes], /) -> Caller:
        """See `serving.gate.Identify`."""
        value = metadata.get(_AUTHORIZATION, "")
        if not isinstance(value, str) or not value.startswith(_BEARER):
            raise NotAuthenticated("no token; send metadata 'authorization: Bearer <token>'")
        token = value[len(_BEARER) :]
        known = self._known.get(token)
        if known is not None and time.time() < known[0]:
            return known[1]
        until, caller = self._verified(token)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[token] = until, caller
        return caller

    def _verified(self, token: str) -> tuple[float, Caller]:
        import jwt

        if len(token) > _LONGEST:
            raise NotAuthenticated(f"the token has {len(token):,} characters, allowed: {_LONGEST:,}")
        try:
            claims = jwt.decode(
                token,
                self._rules.public_key,
                algorithms=[self._rules.algorithm],
                issuer=self._rules.issuer,
                audience=self._rules.audience,
                leeway=self._rules.leeway_seconds,
                options={"require": ["exp", "sub", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise NotAuthenticated("the token has expired; get a new one") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise NotAuthenticated("the token is not valid here; get one for this server from its issuer") from None
        purposes = claims.get("purposes")
        caller = Caller(
            name=str(claims["sub"]),
            roles=_texts(claims.get("roles", [])),
            purposes=None if purposes is None else _texts(purposes),
        )
        return float(claims["exp"]) + self._rules.leeway_seconds, caller


class Certificates:
    """Identifies callers by the certificate that TLS has verified: its first subject alternative name, else its CN."""

    def __call__(self, context: grpc.ServicerContext, _metadata: dict[str, str | bytes], /) -> Caller:
        """See `serving.gate.Identify`."""
        verified: Any = context.auth_context()
        for kind in ("x509_subject_alternative_name", "x509_common_name"):
            for value in verified.get(kind, ()):
                return Caller(name=value.decode("utf-8", "replace"))
        raise NotAuthenticated("no client certificate with a name; connect with one that the server's CA has signed")


def _texts(value: Any) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise NotAuthenticated("the token's roles or purposes are not lists of texts; get a new one")
    return frozenset(value)
