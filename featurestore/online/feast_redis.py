"""Feast's own Redis store, reached without waiting long for one that is not there.

A hash per entity, a protobuf per value: Feast's layout, so that everything Feast can do works on it. Its speed is
limited by that layout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurestore.feast_repository import feature_view, online_store_options, quiet_feast, repo_config
from featurestore.online.answers import Answer, wanted_fields
from featurestore.online.keys import feast_keys
from featurestore.online.reader import OnlineColumns
from featurestore.publication import FeatureField, PublishedView
from featurestore.released import ReleasedRows
from governance.errors import ConfigError, StoreUnreachable
from governance.settings import Settings

__all__ = ["FeastRedis", "RedisReader"]

_BATCH: Final = 5_000
_MEMBERS: Final = {
    "int64": "int64_val",
    "float64": "double_val",
    "string": "string_val",
    "date": "string_val",
    "bool": "bool_val",
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class FeastRedis:
    """Writes and reads rows of published views in Redis.

    Args:
        settings: `online_store.connection_string` says where.

    Raises:
        StoreUnreachable: no Redis answers there, within about three seconds.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._address, options = _parsed(settings)
        with self._errors():
            # Asked before Feast is imported, which takes far longer than to learn that nobody is there.
            self._client = _impatient_client(self._address, options)
            self._client.ping()

    @cached_property
    def _config(self) -> Any:
        return repo_config(self._settings)

    @cached_property
    def _overwriting(self) -> Any:
        """Publishing writes the newest release under a lock, and must be able to replace a row of the same window."""
        return repo_config(self._settings, online_store={"skip_dedup": True})

    @cached_property
    def _store(self) -> Any:
        with quiet_feast():
            from feast.infra.online_stores.redis import RedisOnlineStore

        client = self._client

        class ImpatientRedis(RedisOnlineStore):
            """Feast's store over a client that was made here."""

            def _get_client(self, online_store_config: Any) -> Any:  # noqa: ARG002
                return client

        return ImpatientRedis()

    def write(self, view: PublishedView, rows: ReleasedRows) -> None:
        """Writes the rows of one release, in batches.

        Raises:
            StoreUnreachable: Redis stopped answering; rows written so far stay, and writing again completes them.
        """
        table = feature_view(view)
        from feast.protos.feast.types.Value_pb2 import Value

        names = [feature.name for feature in view.features]
        for start in range(0, len(rows), _BATCH):
            part = slice(start, start + _BATCH)
            keys = self._entity_keys({name: column[part] for name, column in rows.keys.items()})
            columns = []
            for feature in view.features:
                column = rows.features[feature.name]
                member = _MEMBERS[feature.type]
                plain = column.values[part].tolist()
                texts = [str(v, "utf-8") if v else "" for v in plain] if member == "string_val" else plain
                nulls = column.nulls[part].tolist()
                columns.append(
                    [Value() if null else Value(**{member: v}) for v, null in zip(texts, nulls, strict=True)]
                )
            data = [
                (key, dict(zip(names, values, strict=True)), rows.event_time, None)
                for key, *values in zip(keys, *columns, strict=True)
            ]
            with quiet_feast(), self._errors():
                self._store.online_write_batch(self._overwriting, table, data, None)

    def read(
        self, table: Any, keys: Mapping[str, Sequence[int | str]], names: Sequence[str]
    ) -> list[tuple[datetime | None, Mapping[str, Any] | None]]:
        """Feast's own answer: event time and `Value` protobufs by feature; the epoch where there is no row."""
        with self._errors():
            rows: list[tuple[datetime | None, Mapping[str, Any] | None]] = self._store.online_read(
                self._config, table, self._entity_keys(keys), list(names)
            )
        return rows

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    @staticmethod
    def _entity_keys(columns: Mapping[str, Sequence[int | str]]) -> list[Any]:
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        names = list(columns)
        values = [
            [Value(int64_val=value) if isinstance(value, int) else Value(string_val=value) for value in column]
            for column in columns.values()
        ]
        return [EntityKey(join_keys=names, entity_values=row) for row in zip(*values, strict=True)]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from redis.exceptions import RedisError

        try:
            yield
        except (RedisError, OSError) as error:
            raise StoreUnreachable(
                f"redis at {self._address} does not answer ({type(error).__name__}); start it, or correct "
                "[online_store] connection_string in hedgerow.toml; the publication in force is unchanged"
            ) from None


def _parsed(settings: Settings) -> tuple[str, dict[str, Any]]:
    """`host:port` and the options of Feast's connection string `host:port,name=value,...`, with short timeouts.

    Raises:
        ConfigError: it has another form. The string is not told: it may hold a password.
    """
    parts = str(online_store_options(settings)["connection_string"]).split(",")
    addresses = [part for part in parts if "=" not in part]
    if len(addresses) != 1 or not re.fullmatch(r"[^:]+:\d+", addresses[0]):
        raise ConfigError(
            "hedgerow.toml: [online_store] connection_string must be host:port, then options, e.g. "
            '"localhost:6379,db=0,ssl=true,password=..."'
        )
    options = {}
    for name, _, text in (part.partition("=") for part in parts if "=" in part):
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return addresses[0], options


def _impatient_client(address: str, options: Mapping[str, Any]) -> Any:
    """A client that tries once more at once, since a pooled connection may be stale, and then says so."""
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    host, _, port = address.partition(":")
    try:
        return Redis(host=host, port=int(port), **options, retry=Retry(NoBackoff(), 1))
    except TypeError:
        raise ConfigError(
            "hedgerow.toml: [online_store] connection_string has an option that Redis clients do not know; "
            f"found: {', '.join(options)}"
        ) from None


class RedisReader:
    """An `OnlineReader` over `FeastRedis`.

    Args:
        settings: the project.
        clock: gives the current aware UTC time, for ttl.

    Raises:
        StoreUnreachable: no Redis answers.
    """

    def __init__(self, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._redis = FeastRedis(settings)
        self._clock = clock
        self._tables: dict[PublishedView, Any] = {}

    def read(self, view: PublishedView, features: Sequence[str], keys: Mapping[str, Sequence[Any]]) -> OnlineColumns:
        """See `OnlineReader.read`."""
        fields = wanted_fields(view, features)
        stored = feast_keys(view, keys)
        count = len(next(iter(stored.values())))
        answer = Answer(fields, count)
        if count:
            if view not in self._tables:
                self._tables[view] = feature_view(view)
            # Feast takes an empty list of names for all of them; which one stands in then does not matter.
            names = [field.name for field in fields] or [view.features[0].name]
            rows = self._redis.read(self._tables[view], stored, names)
            answer.times[:] = [0 if at is None else (at - _EPOCH) // timedelta(microseconds=1) for at, _ in rows]
            answer.found[:] = answer.times != 0
            for field in fields:
                column = [None if row is None else row[field.name] for _, row in rows]
                nulls = np.array([value is None or value.WhichOneof("val") is None for value in column], bool)
                there = np.flatnonzero(~nulls)
                answer.nulls[field.name][:] = nulls
                answer.values[field.name][there] = _typed(field, [column[i] for i in there.tolist()])
        return answer.finish(view.ttl_seconds, self._clock())

    def close(self) -> None:
        """Closes the connections."""
        self._redis.close()


def _typed(field: FeatureField, column: Sequence[Any]) -> NDArray[Any]:
    plain = [getattr(value, _MEMBERS[field.type]) for value in column]
    kind = {"string": "O", "date": "M8[D]", "int64": "i8", "float64": "f8", "bool": "?"}[field.type]
    return np.array(plain, kind)
