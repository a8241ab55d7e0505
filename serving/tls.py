"""TLS and mTLS, with certificates that may be replaced while the server runs.

Certificate, key and client CA are read again for each new connection when one of the files has changed. A change that
does not parse is refused with a line in the log, and the last good one stays.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from governance.errors import ConfigError

__all__ = ["Tls", "server_contexts"]

_LOG: Final = logging.getLogger("hedgerow.serving")
_Identity = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Where the certificates lie.

    Attributes:
        certificate: the server's chain, PEM.
        key: its private key, PEM.
        client_ca: who signs clients' certificates, PEM; None: clients need none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


def server_contexts(tls: Tls) -> Callable[[], ssl.SSLContext]:
    """What gives the context for the next connection, following the files.

    Raises:
        ConfigError: the files cannot be read, or certificate and key do not belong together.
    """
    return _Files(tls).current


class _Files:
    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._seen = self._identity()
        self._context = self._read()

    def current(self) -> ssl.SSLContext:
        """What the files say now, or last said when they could be used."""
        try:
            found = self._identity()
            if found == self._seen:
                return self._context
            self._seen = found
            self._context = self._read()
        except ConfigError as error:
            _LOG.warning("the last good certificate stays: %s", error)
        else:
            _LOG.info("certificate read again: %s", self._tls.certificate)
        return self._context

    def _paths(self) -> tuple[Path, ...]:
        return tuple(path for path in (self._tls.certificate, self._tls.key, self._tls.client_ca) if path)

    def _identity(self) -> _Identity:
        try:
            found = [path.stat() for path in self._paths()]
        except OSError as error:
            raise ConfigError(f"{error.filename}: cannot be read ({error.strerror}); correct [tls]") from None
        return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in found)

    def _read(self) -> ssl.SSLContext:
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        tls = self._tls
        try:
            certificate, key, *ca = (path.read_bytes() for path in self._paths())
            chain = x509.load_pem_x509_certificates(certificate)
            for one in ca:
                x509.load_pem_x509_certificates(one)
            if load_pem_private_key(key, None).public_key() != chain[0].public_key():
                raise ConfigError(f"{tls.certificate}: the key {tls.key} is of another certificate")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.set_alpn_protocols(["h2"])
            context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
            if tls.client_ca is not None:
                context.load_verify_locations(cadata=ca[0].decode("ascii"))
                context.verify_mode = ssl.CERT_REQUIRED
        except ssl.SSLError:
            raise ConfigError(f"{tls.certificate}: certificate, key or CA cannot be used; correct [tls]") from None
        except OSError as error:
            raise ConfigError(f"{error.filename}: cannot be read ({error.strerror}); correct [tls]") from None
        except (ValueError, TypeError):
            raise ConfigError(f"{tls.certificate}: certificate, key or CA is not PEM; correct [tls]") from None
        return context


def _no_password() -> str:
    raise ValueError("an encrypted key")
