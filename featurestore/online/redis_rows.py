"""Packed rows in Redis: one string per (view, entity).

    <view><entity key>                 a packed row; view: 5 bytes of its name's hash
    {<bucket>}<view><entity key>       the same in a cluster; bucket: 1 of 128 bytes, by the entity key's hash
    h:schemas                          a hash: tag → fields of the schema

Redis holds a key in one allocation with two bytes of its own: one integer's key fills 16 bytes exactly.

A cluster spreads the 128 buckets over its nodes and answers a bucket's keys in one command. With one server, commands
are put together by numpy as they go over the wire, for all keys at once; a read is one MGET, over a connection that is
kept in hand. Writing is a script, so that comparing event times and replacing a row are one step: a row never replaces
a later one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurestore.online.redis_client import RedisAddress, RedisErrors, async_client, client, sentinels_of
from featurestore.rows import PackedRows, RowSchema, Texts, key_hashes
from governance.errors import PublicationCorrupt
from governance.settings import RedisTopology

__all__ = ["PackedRedis", "view_part"]

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
        self._errors = RedisErrors(address)
        self._stale = _stale_errors()
        self._idle: list[Any] = []
        self._process = os.getpid()
        self._schemas: dict[int, RowSchema] = {}
        with self._errors:
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
        with self._errors:
            self._keep_schema(table, schema)
            self._scripted(_WRITE, self._keys(table, keys), limit, rows.joined())

    def read(self, table: str, keys: Texts) -> list[bytes | None]:
        """The packed rows of n keys, None where there is none."""
        if not len(keys):
            return []
        with self._errors:
            if self._cluster:
                found: list[bytes | None] = self._client.mget_nonatomic(self._keys(table, keys).tolist())
                return found
            if len(keys) <= _READ_BATCH:
                rows: list[bytes | None] = self._call([_mget(table, keys)])[0]
                return rows
            parts = [self._call([_mget(table, keys.take(batch))])[0] for batch in _batches(len(keys), _READ_BATCH)]
            return [row for part in parts for row in part]

    async def read_async(self, table: str, keys: Texts, connected: Any) -> list[bytes | None]:
        """The same with an asyncio client that `connect_async` made."""
        wanted = self._keys(table, keys).tolist()
        if not wanted:
            return []
        with self._errors:
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
        with self._errors:
            self._unlink(self._keys(table, keys).tolist())

    def delete_before(self, table: str, event_time: int) -> None:
        """Removes rows whose event time, in microseconds, is earlier."""
        limit = event_time.to_bytes(8, "little", signed=True)
        with self._errors:
            for page in self._scan(table):
                self._scripted(_DELETE_OLDER, Texts.of(page), limit, None)

    def drop(self, table: str) -> None:
        """Removes a view's rows; absence is fine."""
        with self._errors:
            for page in self._scan(table):
                self._unlink(page)

    def schema(self, tag: int) -> RowSchema:
        """The schema that a row's tag names.

        Raises:
            PublicationCorrupt: no such schema.
        """
        if tag not in self._schemas:
            with self._errors:
                fields = self._client.hget(_SCHEMAS, str(tag))
            if fields is None:
                raise PublicationCorrupt(
                    f"redis at {self._address}: rows of an unknown schema; run 'hedgerow publish' to write them anew"
                )
            self._schemas[tag] = RowSchema.from_json(json.loads(fields))
        return self._schemas[tag]

    # --- inside ------------------------------------------------------------------------------------------------

    def _keys(self, table: str, keys: Texts) -> Texts:
        """The Redis keys of n rows, by their entity keys."""
        parts = [Texts.repeated(view_part(table), len(keys)), keys]
        if self._cluster:
            buckets = (key_hashes([keys]) >> np.uint64(57)).astype(np.uint8) | 0x80  # none of them is a brace
            parts.insert(0, Texts.fixed(_BUCKET[buckets]))
        return Texts.joined(parts)

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
        if not commands:
            return []
        try:
            return self._once(commands)
        except self._stale as error:
            if isinstance(error, TimeoutError):
                raise
            self._let_go()  # the others are stale as well
            return self._once(commands)

    def _once(self, commands: Sequence[bytes]) -> list[Any]:
        connection = self._connection()
        try:
            connection.send_packed_command(commands)
            answers = [connection.read_response(disable_decoding=True) for _ in commands]
        except BaseException:
            connection.disconnect()  # there may be answers that nobody read
            self._client.connection_pool.release(connection)
            raise
        self._idle.append(connection)
        return answers

    def _connection(self) -> Any:
        """One of the pool's connections that is in hand, or another one: the pool's own way to it takes far longer."""
        if self._process != os.getpid():  # forked: these are the parent's
            self._idle, self._process = [], os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return self._client.connection_pool.get_connection()

    def _let_go(self) -> None:
        """Closes the connections that are in hand."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.disconnect()
            self._client.connection_pool.release(connection)

    def _scan(self, table: str) -> Iterator[list[bytes]]:
        # Any byte may be one that means something in a pattern.
        view = b"".join(b"\\" + bytes((byte,)) for byte in view_part(table))
        pattern = (b"{?}" if self._cluster else b"") + view + b"*"
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


def _stale_errors() -> tuple[type[Exception], ...]:
    """What a connection ends with that is stale, or leads to a master that is none any more."""
    from redis.exceptions import ConnectionError as Disconnected
    from redis.exceptions import ReadOnlyError

    return Disconnected, ReadOnlyError, OSError


_BUCKET: Final[NDArray[np.uint8]] = np.frombuffer(b"".join(b"{%c}" % i for i in range(256)), np.uint8).reshape(256, 3)


@lru_cache(maxsize=1024)
def view_part(table: str) -> bytes:
    """What the keys of a view's rows begin with."""
    return hashlib.sha256(table.encode()).digest()[:5]


def _batches(count: int, size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def _by_bucket(keys: Texts) -> Iterator[NDArray[np.int64]]:
    """Positions of keys of one bucket, at most a batch at a time."""
    buckets = keys.data[keys.offsets[:-1] + 1]
    order = np.argsort(buckets, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(buckets[order])) + 1):
        for batch in _batches(len(group), _BATCH):
            yield group[batch]


def _mget(table: str, keys: Texts) -> bytes:
    """The command that reads the rows of n entity keys."""
    view, count = view_part(table), len(keys)
    head = b"*%d\r\n$4\r\nMGET\r\n" % (count + 1)
    if keys.width is None:
        return head + _bulk(Texts.joined([Texts.repeated(view, count), keys]))
    template, place = _key_argument(view, keys.width)
    arguments = np.empty((count, len(template)), np.uint8)
    arguments[:] = template
    arguments[:, place] = keys.matrix()
    return head + arguments.tobytes()


@lru_cache(maxsize=4096)
def _key_argument(view: bytes, width: int) -> tuple[NDArray[np.uint8], slice]:
    """A key of so many bytes as an argument of a command, and where the entity key goes."""
    head = b"$%d\r\n%b" % (len(view) + width, view)
    return np.frombuffer(head + bytes(width) + b"\r\n", np.uint8), slice(len(head), len(head) + width)


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
