"""How `hedgerow serve` runs: a TOML file as one frozen value.

```toml
mode = "production"              # or "demo": open to all, no TLS needed

[listen]
host = "0.0.0.0"
port = 7433
processes = 2                    # each with its own threads, on the same port
threads = 4

[limits]
queue_seconds = 0.25             # a call that would wait longer is refused
concurrent_streams = 4           # downloads and streams at one time, in each process
drain_seconds = 10.0             # how long running calls may take after SIGTERM

[tls]                            # read again when the files change
certificate = "server.pem"
key = "server.key"
client_ca = "clients.pem"        # absent: clients need no certificate

[tokens]                         # absent: callers are who their certificate says
public_key = "issuer.pem"
algorithm = "EdDSA"
issuer = "https://login.example.com"
audience = "hedgerow"

[audit]
file = "audit.jsonl"

[metrics]
host = "127.0.0.1"
port = 9464

[traces]
endpoint = "http://localhost:4317"
sample = 0.01

[logs]
format = "json"                  # or "text"
```

Paths are relative to the file. Production needs `[tls]`, and `client_ca` or `[tokens]`: every caller has a name;
what a caller may read is the project's policy, and without one it is nothing.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from governance.errors import ConfigError
from governance.settings import Settings

__all__ = [
    "Audit",
    "Limits",
    "Listen",
    "Logs",
    "MetricsPort",
    "ServerConfig",
    "TlsFiles",
    "TokenFile",
    "Traces",
    "demo_config",
    "load_config",
]

_STRICT: dict[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where to listen, and with how many hands. Port 0 picks a free one."""

    __pydantic_config__: ClassVar = _STRICT
    host: str = "127.0.0.1"
    port: int = 7433
    processes: int = 1
    threads: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is taken on, see `serving.admission`.

    Attributes:
        queue_seconds: how long a call may wait.
        concurrent_streams: streams at one time in each process.
        drain_seconds: how long running calls may take when the server ends.
    """

    __pydantic_config__: ClassVar = _STRICT
    queue_seconds: float = 0.25
    concurrent_streams: int = 4
    drain_seconds: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Where the certificates lie, see `serving.tls`."""

    __pydantic_config__: ClassVar = _STRICT
    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """What a token must be, see `serving.tokens`."""

    __pydantic_config__: ClassVar = _STRICT
    public_key: Path
    algorithm: Literal["EdDSA", "ES256", "RS256", "PS256"]
    issuer: str
    audience: str
    leeway_seconds: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Where the audit log is written, see `serving.audit`."""

    __pydantic_config__: ClassVar = _STRICT
    file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsPort:
    """Where Prometheus reads, see `serving.metrics`."""

    __pydantic_config__: ClassVar = _STRICT
    host: str = "127.0.0.1"
    port: int = 9464


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """Where OpenTelemetry traces go, over OTLP, and which share of calls."""

    __pydantic_config__: ClassVar = _STRICT
    endpoint: str
    sample: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """How lines on stderr look."""

    __pydantic_config__: ClassVar = _STRICT
    format: Literal["json", "text"] = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Everything that the file says; a section that is absent is off, or has its defaults."""

    __pydantic_config__: ClassVar = _STRICT
    mode: Literal["production", "demo"] = "production"
    listen: Listen = Listen()
    limits: Limits = Limits()
    tls: TlsFiles | None = None
    tokens: TokenFile | None = None
    audit: Audit | None = None
    metrics: MetricsPort | None = None
    traces: Traces | None = None
    logs: Logs = Logs()


def demo_config(settings: Settings) -> ServerConfig:
    """How a server runs without a file: open to all, where hedgerow.toml says."""
    own = settings.serving
    return ServerConfig(mode="demo", listen=Listen(host=own.host, port=own.port, threads=own.threads))


def load_config(path: Path) -> ServerConfig:
    """Reads a file.

    Raises:
        ConfigError: it cannot be read or parsed, an unknown key, a value that is not allowed, production without TLS
            or without a way to name callers.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); pass --config FILE") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    try:
        config = TypeAdapter(ServerConfig).validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{path}: {where or 'the file'}: {first['msg']}; see serving/config.py for an example"
        ) from None
    _check(path, config)
    return _resolved(config, path.resolve().parent)


def _check(path: Path, config: ServerConfig) -> None:
    listen, limits = config.listen, config.limits
    ranges = (
        ("listen.port", listen.port, 0, 65_535),
        ("listen.processes", listen.processes, 1, 256),
        ("listen.threads", listen.threads, 1, 1_024),
        ("limits.queue_seconds", limits.queue_seconds, 0.001, 60),
        ("limits.concurrent_streams", limits.concurrent_streams, 1, 1_024),
        ("limits.drain_seconds", limits.drain_seconds, 0, 3_600),
        ("metrics.port", config.metrics.port if config.metrics else 0, 0, 65_535),
        ("traces.sample", config.traces.sample if config.traces else 0, 0, 1),
        ("tokens.leeway_seconds", config.tokens.leeway_seconds if config.tokens else 0, 0, 300),
    )
    for name, found, least, most in ranges:
        if not least <= found <= most:
            raise ConfigError(f"{path}: {name}: found {found}, allowed: {least} to {most}")
    if config.mode == "production":
        if config.tls is None:
            raise ConfigError(f'{path}: production needs [tls] certificate and key; or set mode = "demo"')
        if config.tls.client_ca is None and config.tokens is None:
            raise ConfigError(f"{path}: production must know its callers: add [tls] client_ca, or [tokens]")


def _resolved(config: ServerConfig, folder: Path) -> ServerConfig:
    """The same with absolute paths."""
    tls, tokens, audit = config.tls, config.tokens, config.audit
    return replace(
        config,
        tls=tls
        and replace(
            tls,
            certificate=folder / tls.certificate,
            key=folder / tls.key,
            client_ca=tls.client_ca and folder / tls.client_ca,
        ),
        tokens=tokens and replace(tokens, public_key=folder / tokens.public_key),
        audit=audit and replace(audit, file=folder / audit.file),
    )
