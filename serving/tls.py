"""TLS and mTLS, with certificates that may be replaced while the server runs.

Certificate, key and client CA are read again for each new connection when one of the files has changed. A change that
does not parse is refused with a line in the log, and the last good one stays.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from governance.errors import ConfigError

__all__ = ["Tls", "server_credentials"]

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


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Credentials for a port, that follow the files.

    Raises:
        ConfigError: the files cannot be read, or certificate and key do not belong together.
    """
    files = _Files(tls)
    return grpc.dynamic_ssl_server_credentials(
        files.first,
        files.changed,  # type: ignore[arg-type]  # None: as it was
        require_client_authentication=tls.client_ca is not None,
    )


class _Files:
    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._seen = self._identity()
        self.first = self._read()

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What the files say now, if they have changed; None otherwise."""
        try:
            found = self._identity()
            if found == self._seen:
                return None
            self._seen = found
            fresh = self._read()
        except ConfigError as error:
            _LOG.warning("the last good certificate stays: %s", error)
            return None
        _LOG.info("certificate read again: %s", self._tls.certificate)
        return fresh

    def _paths(self) -> tuple[Path, ...]:
        return tuple(path for path in (self._tls.certificate, self._tls.key, self._tls.client_ca) if path)

    def _identity(self) -> _Identity:
        try:
            found = [path.stat() for path in self._paths()]
        except OSError as error:
            raise ConfigError(f"{error.filename}: cannot be read ({error.strerror}); correct [tls]") from None
        return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in found)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            certificate, key, *ca = (path.read_bytes() for path in self._paths())
            chain = x509.load_pem_x509_certificates(certificate)
            for one in ca:
                x509.load_pem_x509_certificates(one)
            matches = load_pem_private_key(key, None).public_key() == chain[0].public_key()
        except OSError as error:
            raise ConfigError(f"{error.filename}: cannot be read ({error.strerror}); correct [tls]") from None
        except (ValueError, TypeError):
            raise ConfigError(f"{self._tls.certificate}: certificate, key or CA is not PEM; correct [tls]") from None
        if not matches:
            raise ConfigError(f"{self._tls.certificate}: the key {self._tls.key} is of another certificate")
        return grpc.ssl_server_certificate_configuration([(key, certificate)], ca[0] if ca else None)
