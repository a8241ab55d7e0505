"""Packed rows in Redis: one string per (view, entity).

    h{<bucket>}<view>:<entity key>     a packed row; bucket: 2 hex digits of the key's hash, view: 12 of its name's
    h:schemas                          a hash: tag → fields of the schema

Where keys hash to buckets, a cluster spreads the 256 buckets over its nodes and answers a bucket's keys in one command.
With one server, commands are put together by numpy as they go over the wire, for all keys at once; a read is one MGET.
Writing is a script, so that comparing event times and replacing a row are one step: a row never replaces a later one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurestore.online.redis_client import RedisAddress, async_client, client, redis_errors, sentinels_of
from featurestore.rows import PackedRows, RowSchema, Texts, key_hashes
from governance.errors import PublicationCorrupt
from governance.settings import RedisTopology

__all__ = ["PackedRedis", "row_keys"]

_SCHEMAS: Final = b"h:schemas"
_BATCH: Final = 1_000
_READ_BATCH: Final = 10_000
_IN_FLIGHT: Final = 8

_WRITE: Final = b"""
for i, key in ipairs(KEYS) do
  local row = ARGV[i + 1]
  local old = redis.call('GETRANGE', key, 8, 15)
  local keep = false
  if #old == 8 then
    local old_low, old_high = struct.unpack('<I4i4', old)
    local low, high = struct.unpack('<I4i4', string.sub(row, 9, 16))
    keep = old_high > high or (old_high == high and old_low > low)
  end
  if not keep then
    redis.call('SET', key, row)
    if ARGV[1] ~= '' then redis.call('PEXPIRE', key, ARGV[1]) end
  end
end
"""
_DELETE_OLDER: Final = b"""
local low, high = struct.unpack('<I4i4', ARGV[1])
for _, key in ipairs(KEYS) do
  local old = redis.call('GETRANGE', key, 8, 15)
  if #old == 8 then
    local old_low, old_high = struct.unpack('<I4i4', old)
    if old_high < high or (old_high == high and old_low < low) then redis.call('UNLINK', key) end
  end
end
"""


def row_keys(table: str, keys: Texts) -> Texts:
    """The Redis keys of n rows.

    Args:
        table: the view's table.
        keys: n entity keys, see `featurestore.rows.key_bytes`.
    """
    buckets = key_hashes([keys]) >> np.uint64(56)
    return Texts.joined([Texts.fixed(_PREFIXES[buckets]), Texts.repeated(_view_part(table), len(keys)), keys])


class PackedRedis:
    """Packed rows in one Redis. Safe to use from many threads and many processes.

    Args:
        address: where it is.

    Raises:
        StoreUnreachable: nothing answers there, within about three seconds.
        ConfigError: an option that Redis clients do not know.
    """

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._cluster = address.topology is RedisTopology.CLUSTER
        self._client = client(address)
        self._schemas: dict[int, RowSchema] = {}
        with redis_errors(address):
            self._client.ping()

    def close(self) -> None:
        """Closes the connections."""
        for connected in (self._client, *sentinels_of(self._client)):
            connected.close()

    # --- rows --------------------------------------------------------------------------------------------------

    def write(
        self, table: str, schema: RowSchema, keys: Texts, rows: PackedRows, *, lifetime_seconds: float | None = None
    ) -> None:
        """Writes n rows, in batches; a row with a later event time stays as it is. Writing again completes it.

        Args:
            table: the view's table.
            schema: what the rows were packed with.
            keys: n entity keys.
            rows: n packed rows.
            lifetime_seconds: after which Redis drops them; None: it does not.
        """
        limit = b"" if lifetime_seconds is None else b"%d" % max(int(lifetime_seconds * 1000), 1)
        with redis_errors(self._address):
            self._keep_schema(table, schema)
            self._scripted(_WRITE, row_keys(table, keys), limit, rows.joined())

    def read(self, table: str, keys: Texts) -> list[bytes | None]:
        """The packed rows of n keys, None where there is none."""
        if not len(keys):
            return []
        wanted = row_keys(table, keys)
        with redis_errors(self._address):
            if self._cluster:
                found: list[bytes | None] = self._client.mget_nonatomic(wanted.tolist())
                return found
            if len(wanted) <= _READ_BATCH:
                rows: list[bytes | None] = self._call([_mget(wanted)])[0]
                return rows
            parts = [self._call([_mget(wanted.take(batch))])[0] for batch in _batches(len(wanted), _READ_BATCH)]
            return [row for part in parts for row in part]

    async def read_async(self, table: str, keys: Texts, connected: Any) -> list[bytes | None]:
        """The same with an asyncio client that `connect_async` made."""
        wanted = row_keys(table, keys).tolist()
        if not wanted:
            return []
        with redis_errors(self._address):
            rows: list[bytes | None] = await (connected.mget_nonatomic if self._cluster else connected.mget)(wanted)
            return rows

    def connect_async(self) -> Any:
        """A client for the running event loop; `disconnect_async` closes it."""
        return async_client(self._address)

    @staticmethod
    async def disconnect_async(connected: Any) -> None:
        """Closes what `connect_async` made."""
        for client_ in (connected, *sentinels_of(connected)):
            await client_.aclose()

    def delete(self, table: str, keys: Texts) -> None:
        """Removes the rows of these keys; memory is freed in the background."""
        with redis_errors(self._address):
            self._unlink(row_keys(table, keys).tolist())

    def delete_before(self, table: str, event_time: int) -> None:
        """Removes rows whose event time, in microseconds, is earlier."""
        limit = event_time.to_bytes(8, "little", signed=True)
        with redis_errors(self._address):
            for page in self._scan(table):
                self._scripted(_DELETE_OLDER, Texts.of(page), limit, None)

    def drop(self, table: str) -> None:
        """Removes a view's rows; absence is fine."""
        with redis_errors(self._address):
            for page in self._scan(table):
                self._unlink(page)

    def schema(self, tag: int) -> RowSchema:
        """The schema that a row's tag names.

        Raises:
            PublicationCorrupt: no such schema.
        """
        if tag not in self._schemas:
            with redis_errors(self._address):
                fields = self._client.hget(_SCHEMAS, str(tag))
            if fields is None:
                raise PublicationCorrupt(
                    f"redis at {self._address}: rows of an unknown schema; run 'hedgerow publish' to write them anew"
                )
            self._schemas[tag] = RowSchema.from_json(json.loads(fields))
        return self._schemas[tag]

    # --- inside ------------------------------------------------------------------------------------------------

    def _keep_schema(self, table: str, schema: RowSchema) -> None:
        fields = json.dumps(schema.to_json()).encode()
        self._client.hsetnx(_SCHEMAS, str(schema.tag), fields)
        if self._client.hget(_SCHEMAS, str(schema.tag)) != fields:
            raise PublicationCorrupt(
                f"redis at {self._address}: two row schemas share a tag; rename a feature of {table}"
            )

    def _scripted(self, script: bytes, keys: Texts, argument: bytes, values: Texts | None) -> None:
        """Runs a script over all keys, in batches; in a cluster each batch is of one bucket."""
        if self._cluster:
            pipeline = self._client.pipeline()
            for batch in _by_bucket(keys):
                arguments = values.take(batch).tolist() if values is not None else []
                pipeline.execute_command("EVAL", script, len(batch), *keys.take(batch).tolist(), argument, *arguments)
            pipeline.execute()
            return
        commands = (
            _eval(script, keys.take(batch), argument, None if values is None else values.take(batch))
            for batch in _batches(len(keys), _BATCH)
        )
        flight: list[bytes] = []
        for command in commands:
            flight.append(command)
            if len(flight) == _IN_FLIGHT:
                self._call(flight)
                flight = []
        self._call(flight)

    def _call(self, commands: Sequence[bytes]) -> list[Any]:
        """Sends commands as they are and reads as many answers; tried once more where a connection was stale.

        Every command that goes this way may be repeated without harm.
        """
        from redis.exceptions import ConnectionError as Disconnected
        from redis.exceptions import ReadOnlyError
        from redis.exceptions import TimeoutError as TimedOut

        if not commands:
            return []
        try:
            return self._once(commands)
        except TimedOut:
            raise
        except (Disconnected, ReadOnlyError, OSError):  # stale, or a master that is none any more
            return self._once(commands)

    def _once(self, commands: Sequence[bytes]) -> list[Any]:
        pool = self._client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command(commands)
            return [connection.read_response(disable_decoding=True) for _ in commands]
        except BaseException:
            connection.disconnect()  # there may be answers that nobody read
            raise
        finally:
            pool.release(connection)

    def _scan(self, table: str) -> Iterator[list[bytes]]:
        pattern = b"h{??}" + _view_part(table) + b"*"
        page: list[bytes] = []
        for key in self._client.scan_iter(match=pattern, count=_BATCH):
            page.append(key)
            if len(page) == _BATCH:
                yield page
                page = []
        if page:
            yield page

    def _unlink(self, keys: Sequence[bytes]) -> None:
        if self._cluster:
            texts = Texts.of(list(keys))
            pipeline = self._client.pipeline()
            for batch in _by_bucket(texts):
                pipeline.execute_command("UNLINK", *texts.take(batch).tolist())
            pipeline.execute()
            return
        for start in range(0, len(keys), _BATCH):
            self._client.unlink(*keys[start : start + _BATCH])


_PREFIXES: Final[NDArray[np.uint8]] = np.frombuffer(b"".join(b"h{%02x}" % i for i in range(256)), np.uint8).reshape(
    256, 5
)


@lru_cache(maxsize=1024)
def _view_part(table: str) -> bytes:
    return hashlib.sha256(table.encode()).hexdigest()[:12].encode() + b":"


def _batches(count: int, size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def _by_bucket(keys: Texts) -> Iterator[NDArray[np.int64]]:
    """Positions of keys of one bucket, at most a batch at a time."""
    starts = keys.offsets[:-1]
    buckets = keys.data[starts + 2].astype(np.int64) * 256 + keys.data[starts + 3]
    order = np.argsort(buckets, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(buckets[order])) + 1):
        for batch in _batches(len(group), _BATCH):
            yield group[batch]


def _mget(keys: Texts) -> bytes:
    return b"*%d\r\n$4\r\nMGET\r\n" % (len(keys) + 1) + _bulk(keys)


def _eval(script: bytes, keys: Texts, argument: bytes, values: Texts | None) -> bytes:
    count = len(keys)
    size = 4 + count + (0 if values is None else len(values))
    head = b"*%d\r\n$4\r\nEVAL\r\n" % size + _bulk(Texts.of([script, b"%d" % count])) + _bulk(keys)
    return head + _bulk(Texts.of([argument])) + (b"" if values is None else _bulk(values))


def _bulk(texts: Texts) -> bytes:
    """Strings as the Redis protocol writes them: `$<length>`, the bytes, each with a line end."""
    if texts.width is not None:
        head = Texts.repeated(b"$%d\r\n" % texts.width, len(texts))
        return Texts.joined([head, texts, Texts.repeated(b"\r\n", len(texts))]).data.tobytes()
    sizes, which = np.unique(texts.lengths, return_inverse=True)
    heads = Texts.of([b"$%d\r\n" % size for size in sizes.tolist()])
    return Texts.joined([heads.take(which), texts, Texts.repeated(b"\r\n", len(texts))]).data.tobytes()
