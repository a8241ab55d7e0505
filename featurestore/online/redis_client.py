"""Reaching Redis: one server, a master that Sentinels know, or a cluster; soon an error where none answers.

Addresses are written as Feast writes them: `host:port`, for Sentinels and clusters several, then options of the Redis
client, parted by commas, e.g. `redis-1:6379,redis-2:6379,ssl=true,ssl_ca_certs=/etc/redis/ca.pem,password=...`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from governance.errors import ConfigError, StoreUnreachable
from governance.settings import RedisTopology, Settings

__all__ = ["RedisAddress", "RedisErrors", "async_client", "client", "sentinels_of"]

_LIMITS: Final = {"socket_connect_timeout": 1, "socket_timeout": 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """Where Redis is.

    Attributes:
        nodes: `host, port` of the server, of each Sentinel, or of some of a cluster's nodes.
        topology: what the nodes are.
        sentinel_master: the name that Sentinels know the master by.
        options: of the Redis client; may hold a password, so it is not in the representation.
    """

    nodes: tuple[tuple[str, int], ...]
    topology: RedisTopology
    sentinel_master: str
    options: tuple[tuple[str, Any], ...]

    def __repr__(self) -> str:
        return f"RedisAddress({self.topology} {self})"

    def __str__(self) -> str:
        return ",".join(f"{host}:{port}" for host, port in self.nodes)

    @classmethod
    def of(cls, settings: Settings) -> RedisAddress:
        """A project's Redis.

        Raises:
            ConfigError: the connection string has another form.
        """
        store = settings.online_store
        return cls.parse(store.connection_string, store.topology, store.sentinel_master)

    @classmethod
    def parse(
        cls, text: str, topology: RedisTopology = RedisTopology.SINGLE, sentinel_master: str = "mymaster"
    ) -> RedisAddress:
        """From a connection string.

        Raises:
            ConfigError: it has another form. The string is not told: it may hold a password.
        """
        parts = text.split(",")
        nodes = [part for part in parts if "=" not in part]
        one = topology is RedisTopology.SINGLE
        if not nodes or (one and len(nodes) > 1) or not all(re.fullmatch(r"[^:]+:\d+", node) for node in nodes):
            raise ConfigError(
                "hedgerow.toml: [online_store] connection_string must be host:port"
                f"{'' if one else ', more of them'}, then options, e.g. "
                '"localhost:6379,db=0,ssl=true,password=..."'
            )
        options: dict[str, Any] = dict(_LIMITS)
        for name, _, value in (part.partition("=") for part in parts if "=" in part):
            try:
                options[name] = json.loads(value)
            except ValueError:
                options[name] = value
        return cls(
            nodes=tuple((host, int(port)) for host, _, port in (node.partition(":") for node in nodes)),
            topology=topology,
            sentinel_master=sentinel_master,
            options=tuple(options.items()),
        )


def client(address: RedisAddress) -> Any:
    """A client that tries once more at once, since a pooled connection may be stale, and then says so.

    Raises:
        ConfigError: an option that Redis clients do not know.
        StoreUnreachable: a cluster that does not answer; the others are reached when they are first used.
    """
    import redis
    import redis.sentinel
    from redis.backoff import NoBackoff
    from redis.cluster import ClusterNode
    from redis.retry import Retry

    options = {**dict(address.options), "retry": Retry(NoBackoff(), 1)}
    with _known_options(address), RedisErrors(address):
        if address.topology is RedisTopology.CLUSTER:
            nodes = [ClusterNode(host, port) for host, port in address.nodes]  # type: ignore[no-untyped-call]
            return redis.RedisCluster(startup_nodes=nodes, **options)
        if address.topology is RedisTopology.SENTINEL:
            sentinel: Any = redis.sentinel.Sentinel
            found = sentinel(list(address.nodes), sentinel_kwargs=_sentinel_options(address), **options)
            return found.master_for(address.sentinel_master)
        ((host, port),) = address.nodes
        return redis.Redis(host=host, port=port, **options)


def async_client(address: RedisAddress) -> Any:
    """The same for asyncio, for the loop that runs now.

    Raises:
        ConfigError: an option that Redis clients do not know.
    """
    from redis import asyncio as redis
    from redis.asyncio.cluster import ClusterNode
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel
    from redis.backoff import NoBackoff

    options = {**dict(address.options), "retry": Retry(NoBackoff(), 1)}
    with _known_options(address):
        if address.topology is RedisTopology.CLUSTER:
            nodes = [ClusterNode(host, port) for host, port in address.nodes]
            return redis.RedisCluster(startup_nodes=nodes, **options)
        if address.topology is RedisTopology.SENTINEL:
            sentinel: Any = Sentinel
            found = sentinel(list(address.nodes), sentinel_kwargs=_sentinel_options(address), **options)
            return found.master_for(address.sentinel_master)
        ((host, port),) = address.nodes
        return redis.Redis(host=host, port=port, **options)


def sentinels_of(connected: Any) -> list[Any]:
    """The clients of the Sentinels behind a client, which it does not close itself."""
    manager = getattr(getattr(connected, "connection_pool", None), "sentinel_manager", None)
    return [] if manager is None else list(manager.sentinels)


class RedisErrors:
    """Turns whatever goes wrong on the way to Redis into `StoreUnreachable`. Made once, entered by any thread.

    Args:
        address: where Redis is.
    """

    __slots__ = ("_address", "_kinds")

    def __init__(self, address: RedisAddress) -> None:
        from redis.exceptions import RedisClusterException, RedisError

        self._address = address
        self._kinds = (RedisError, RedisClusterException, OSError)

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        """Raises `StoreUnreachable` for errors of Redis and its sockets."""
        if kind is not None and issubclass(kind, self._kinds):
            raise StoreUnreachable(
                f"redis at {self._address} does not answer ({kind.__name__}); start it, or correct "
                "[online_store] connection_string in hedgerow.toml; the publication in force is unchanged"
            ) from None


@contextmanager
def _known_options(address: RedisAddress) -> Iterator[None]:
    try:
        yield
    except TypeError:
        raise ConfigError(
            "hedgerow.toml: [online_store] connection_string has an option that Redis clients do not know; "
            f"found: {', '.join(name for name, _ in address.options if name not in _LIMITS)}"
        ) from None


def _sentinel_options(address: RedisAddress) -> dict[str, Any]:
    """Sentinels are reached as their master is, but have no databases and their own passwords."""
    return {name: value for name, value in address.options if name.startswith(("ssl", "socket"))}
