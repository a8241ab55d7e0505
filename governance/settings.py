"""A project's settings: `hedgerow.toml` as one frozen value, built once at the command line and passed in.

```toml
[project]
name = "shop"
description = "What this platform computes"
signals = "signals"          # folder with the definitions
state = "var"                # ledger, releases, feature store, indexes: everything hedgerow writes
reporting_delta = "1e-6"     # the delta at which epsilon is told to people

[calendar]                   # public facts about the data, never read from it
first_day = 2025-09-01
last_day = 2025-11-30        # events are complete through this day; absent: yesterday

[[accounts]]                 # caps over everything ever released about this unit in this dataset
dataset = "events"
unit = "user_id"
rho = "1.0"
delta = "1e-6"

[[accounts]]                 # one whose unit is a person's span of 30 days renews its caps with each span
dataset = "events"
unit = "user_id/30 days"
rho = "0.2"
delta = "1e-7"
renews_days = 30

[ledger]
url = "postgresql://hedgerow@db.internal/privacy"   # absent: SQLite below `state`
witnesses = ["/mnt/witness/shop"]                   # folders that get every signed head, too; they must be there

[[roles]]                    # who may change an account's cap, by signature
name = "privacy-officer"
public_key = "<64 hex digits, as hedgerow ledger role-key prints them>"

[spark]
master = "local[2]"
driver_memory = "2g"

[online_store]
type = "sqlite"              # or "redis"
connection_string = "localhost:6379"    # redis only: host:port,option=value,...
topology = "single"          # or "sentinel" (with sentinel_master) or "cluster": then several host:port
pushed = []                  # signals whose views take pushes besides releases

[serving]
host = "127.0.0.1"
port = 7433

[search]                     # the index of each embedding space: its kind and effort follow from these
recall = 0.95                # of the ten nearest, the share that a search finds; 1: exact
memory_mib = 4096            # what an index may keep in memory; absent: no limit
```
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import Any

from governance.errors import ConfigError
from governance.privacy import PrivacyLoss

__all__ = [
    "Account",
    "Calendar",
    "LedgerPlace",
    "OnlineStore",
    "OnlineStoreType",
    "RedisTopology",
    "Role",
    "Search",
    "Serving",
    "Settings",
    "Spark",
    "load_settings",
]

PROJECT_FILE = "hedgerow.toml"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # Feast's rule for the names of projects
_EXPONENTS, _DIGITS = 100, 100  # exact sums stay short
_PUBLIC_KEY = re.compile(r"[0-9a-f]{64}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class OnlineStoreType(StrEnum):
    """Where the feature store keeps the newest values."""

    SQLITE = "sqlite"
    REDIS = "redis"


class RedisTopology(StrEnum):
    """How Redis is deployed."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A privacy account: one dataset, one privacy unit, one cap over everything ever released.

    Attributes:
        dataset: `EventSource.name`.
        unit: `PrivacyUnit.label`, e.g. `"user_id"`, `"user_id/day"`, `"event_id"`.
        cap: what may be spent in all, or in each period where the account renews.
        renews_days: length of a period in days; None: it never renews. The unit is then one person's span of that
            length, and the periods are the unit's spans, counted from 1970-01-01 UTC: a release about one span costs
            nobody's other spans anything.
    """

    dataset: str
    unit: str
    cap: PrivacyLoss
    renews_days: int | None = None

    @property
    def name(self) -> str:
        """`dataset/unit`, the account's name in ledger and reports."""
        return f"{self.dataset}/{self.unit}"

    def period(self, start: datetime, end: datetime) -> str | None:
        """The period that a release about event time `[start, end)` is booked in: its first day; None: no renewal.

        Raises:
            ConfigError: the window reaches into two periods, and would cost both.
        """
        if self.renews_days is None:
            return None
        span = timedelta(days=self.renews_days)
        first, last = (start - _EPOCH) // span, (end - _EPOCH - timedelta(microseconds=1)) // span
        period = (_EPOCH + first * span).date()
        if first != last:
            raise ConfigError(
                f"account {self.name} renews every {self.renews_days} days, and the window from {start:%Y-%m-%d} to "
                f"{end:%Y-%m-%d} reaches beyond the period that starts on {period}; choose Window(origin=...) and a "
                "length so that each window lies in one period"
            )
        return period.isoformat()


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """Public facts about when the data was collected, in UTC days; they are stated, never read from the data.

    Attributes:
        first_day: the first day with events.
        last_day: events are complete through this day; None: yesterday.
    """

    first_day: date | None = None
    last_day: date | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spark:
    """How pipelines start Spark. `master` may name a cluster; the code is the same.

    Attributes:
        master: e.g. `local[2]`, `spark://host:7077`.
        driver_memory: of the JVM.
        executor_memory: of each executor's JVM, on a cluster.
        shuffle_partitions: partitions of an exchange.
        release_files: parquet files of a release; a public constant, so that the layout tells nothing about the data.
    """

    master: str = "local[*]"
    driver_memory: str = "2g"
    executor_memory: str = "2g"
    shuffle_partitions: int = 8
    release_files: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineStore:
    """Feast's online store.

    Attributes:
        type: of store.
        connection_string: Redis only: `host:port`, more of these for Sentinels or a cluster's nodes, then options of
            the Redis client, all parted by commas: `ssl=true`, `password=...`.
        topology: Redis only: what the addresses are.
        sentinel_master: the name that Sentinels know the master by.
        pushed: signals whose views take pushes besides releases; serving reads these from the online store.
    """

    type: OnlineStoreType = OnlineStoreType.SQLITE
    connection_string: str = "localhost:6379"
    topology: RedisTopology = RedisTopology.SINGLE
    sentinel_master: str = "mymaster"
    pushed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Where the gRPC server listens. Port 0 picks a free one."""

    host: str = "127.0.0.1"
    port: int = 7433
    threads: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What the nearest-neighbor indexes of embedding spaces must reach, and may take.

    Attributes:
        recall: of the ten nearest, the share that a search finds, in (0, 1]; 1: every search is exact.
        memory_mib: what one space's index may keep in memory; None: no limit.
    """

    recall: float = 0.95
    memory_mib: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerPlace:
    """Where the ledger is.

    Attributes:
        url: PostgreSQL, `postgresql://user@host:port/database`; None: SQLite in the state folder.
        witnesses: folders, absolute, that get every signed head besides the state folder.
    """

    url: str | None = None
    witnesses: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Somebody who may change an account's cap, by an Ed25519 signature.

    Attributes:
        name: e.g. `privacy-officer`.
        public_key: 32 bytes in hex.
    """

    name: str
    public_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a project's file says.

    Attributes:
        root: the project's folder, absolute.
        name: the project's name, also Feast's.
        signals_dir: folder with the definitions, absolute.
        state_dir: folder that hedgerow writes to, absolute.
        reporting_delta: the delta at which epsilon is told.
    """

    root: Path
    name: str
    description: str = ""
    signals_dir: Path
    state_dir: Path
    reporting_delta: float = 1e-6
    calendar: Calendar = Calendar()
    accounts: tuple[Account, ...] = ()
    ledger: LedgerPlace = LedgerPlace()
    roles: tuple[Role, ...] = ()
    spark: Spark = Spark()
    online_store: OnlineStore = OnlineStore()
    serving: Serving = Serving()
    search: Search = Search()

    @property
    def ledger_path(self) -> Path:
        """The privacy ledger's database, where it is SQLite."""
        return self.state_dir / "ledger.db"

    @property
    def policy_dir(self) -> Path:
        """The project's policy: `*.yaml`."""
        return self.root / "policy"

    @property
    def releases_dir(self) -> Path:
        """Published releases: `<signal>/v<version>/<window>/`."""
        return self.state_dir / "releases"

    @property
    def staging_dir(self) -> Path:
        """Work of unfinished runs; never read by anything but recovery."""
        return self.state_dir / "staging"

    @property
    def locks_dir(self) -> Path:
        """Advisory locks between processes."""
        return self.state_dir / "locks"

    @property
    def keys_dir(self) -> Path:
        """Keys of this installation (mode 0600): input fingerprints, snapshot signing."""
        return self.state_dir / "keys"

    @property
    def feature_repo_dir(self) -> Path:
        """The generated Feast repository."""
        return self.state_dir / "feature_repo"

    @property
    def serving_dir(self) -> Path:
        """What the server maps: embedding spaces, catalogue snapshots, the publication record."""
        return self.state_dir / "serving"

    @property
    def catalogue_public_key_path(self) -> Path:
        """The public key that devices pin, as `hedgerow publish` writes it: 32 raw bytes."""
        return self.serving_dir / "catalogue.pub"

    @property
    def report_dir(self) -> Path:
        """Where `hedgerow report` writes."""
        return self.state_dir / "report"

    def account(self, dataset: str, unit: str) -> Account | None:
        """The account of a dataset and unit, or None."""
        return next((a for a in self.accounts if a.dataset == dataset and a.unit == unit), None)


class _Table:
    """A TOML table that complains by name: wrong types and unknown keys are errors, not surprises."""

    def __init__(self, path: Path, where: str, values: Any) -> None:
        if not isinstance(values, Mapping):
            raise ConfigError(f"{path}: [{where}] must be a table, found {type(values).__name__}")
        self.path, self.values = path, dict(values)
        self.where = f"[{where}]" if where else "the file"

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        if key not in self.values:
            if default is ...:
                raise ConfigError(f"{self.path}: {self.where} lacks {key!r}; add it")
            return default
        value = self.values.pop(key)
        # In Python a truth value is a whole number, and a time of day is a date; in a settings file neither is meant.
        if not isinstance(value, kind) or isinstance(value, bool | datetime):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            allowed = " or ".join(k.__name__ for k in kinds)
            raise ConfigError(f"{self.path}: {self.where} {key}: found {type(value).__name__}, allowed: {allowed}")
        return value

    def text(self, key: str, default: Any = ...) -> str:
        value: str = self.take(key, str, default)
        if not value.strip():
            raise ConfigError(f"{self.path}: {self.where} {key}: empty; write something or leave it out")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values: list[Any] = self.take(key, list, [])
        if not all(isinstance(value, str) and value.strip() for value in values):
            raise ConfigError(f'{self.path}: {self.where} {key}: not a list of names; write e.g. {key} = ["trend"]')
        return tuple(values)

    def whole(self, key: str, default: Any = ..., *, least: int, most: int) -> int:
        value: int = self.take(key, int, default)
        if not least <= value <= most:
            raise ConfigError(
                f"{self.path}: {self.where} {key}: found {value}, allowed: a whole number from {least} to {most}"
            )
        return value

    def decimal(self, key: str, default: Any = ..., *, least: Decimal = Decimal(0)) -> Decimal:
        raw = self.take(key, (str, int, float), default)
        try:
            value = Decimal(str(raw))
        except InvalidOperation:
            raise ConfigError(f'{self.path}: {self.where} {key}: not a number; write e.g. {key} = "1.0"') from None
        if not value.is_finite() or value < least:
            raise ConfigError(f"{self.path}: {self.where} {key}: found {value}, allowed: at least {least}")
        if (value and abs(value.adjusted()) > _EXPONENTS) or len(value.as_tuple().digits) > _DIGITS:
            raise ConfigError(
                f"{self.path}: {self.where} {key}: found {value:.6g}, allowed: 0, or 1e-{_EXPONENTS} to "
                f"1e{_EXPONENTS} with at most {_DIGITS} digits"
            )
        return value

    def done(self) -> None:
        if self.values:
            unknown = ", ".join(sorted(self.values))
            raise ConfigError(f"{self.path}: {self.where} has unknown keys: {unknown}; remove or correct them")


def load_settings(project: Path) -> Settings:
    """Reads `hedgerow.toml` in a project folder.

    Raises:
        ConfigError: no such file, not TOML, an unknown key or a value of a wrong type.
    """
    try:
        root = project.expanduser().resolve()
    except (OSError, RuntimeError):
        raise ConfigError(f"{project}: no such folder; pass --project DIR") from None
    path = root / PROJECT_FILE
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{root}: no {PROJECT_FILE} here; run 'hedgerow init DIR' or pass --project DIR") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); pass --project DIR") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None

    top = _Table(path, "", document)
    head = _Table(path, "project", top.take("project", dict))
    calendar = _Table(path, "calendar", top.take("calendar", dict, {}))
    spark = _Table(path, "spark", top.take("spark", dict, {}))
    online = _Table(path, "online_store", top.take("online_store", dict, {}))
    serving = _Table(path, "serving", top.take("serving", dict, {}))
    search = _Table(path, "search", top.take("search", dict, {}))
    accounts = [_Table(path, "accounts", entry) for entry in top.take("accounts", list, [])]
    ledger = _Table(path, "ledger", top.take("ledger", dict, {}))
    roles = [_Table(path, "roles", entry) for entry in top.take("roles", list, [])]
    top.done()

    kind = online.take("type", str, "sqlite")
    if kind not in list(OnlineStoreType):
        raise ConfigError(f"{path}: [online_store] type: found {kind!r}, allowed: {', '.join(OnlineStoreType)}")
    topology = online.take("topology", str, "single")
    if topology not in list(RedisTopology):
        raise ConfigError(f"{path}: [online_store] topology: found {topology!r}, allowed: {', '.join(RedisTopology)}")
    name = head.take("name", str)
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{path}: [project] name: found {name!r}, allowed: a Latin letter, then letters, digits, underscores"
        )
    reporting_delta = float(head.decimal("reporting_delta", "1e-6"))
    if not 0 < reporting_delta < 1:
        raise ConfigError(f"{path}: [project] reporting_delta: found {reporting_delta}, allowed: between 0 and 1")

    settings = Settings(
        root=root,
        name=name,
        description=head.take("description", str, ""),
        signals_dir=root / head.text("signals", "signals"),
        state_dir=root / head.text("state", "var"),
        reporting_delta=reporting_delta,
        calendar=Calendar(
            first_day=calendar.take("first_day", date, None), last_day=calendar.take("last_day", date, None)
        ),
        accounts=tuple(_account(account) for account in accounts),
        ledger=_ledger_place(ledger, root),
        roles=tuple(_role(role) for role in roles),
        spark=Spark(
            master=spark.text("master", "local[*]"),
            driver_memory=spark.text("driver_memory", "2g"),
            executor_memory=spark.text("executor_memory", "2g"),
            shuffle_partitions=spark.whole("shuffle_partitions", 8, least=1, most=100_000),
            release_files=spark.whole("release_files", 1, least=1, most=100_000),
        ),
        online_store=OnlineStore(
            type=OnlineStoreType(kind),
            connection_string=online.text("connection_string", "localhost:6379"),
            topology=RedisTopology(topology),
            sentinel_master=online.text("sentinel_master", "mymaster"),
            pushed=online.texts("pushed"),
        ),
        serving=Serving(
            host=serving.text("host", "127.0.0.1"),
            port=serving.whole("port", 7433, least=0, most=65_535),
            threads=serving.whole("threads", 4, least=1, most=1_024),
        ),
        search=_search(search),
    )
    for table in (head, calendar, spark, online, serving, search, ledger, *accounts, *roles):
        table.done()
    _check_whole(settings, path)
    return settings


def _check_whole(settings: Settings, path: Path) -> None:
    """What no table says by itself.

    Raises:
        ConfigError: the calendar ends before it starts, or two accounts or roles share a name.
    """
    first_day, last_day = settings.calendar.first_day, settings.calendar.last_day
    if first_day is not None and last_day is not None and last_day < first_day:
        raise ConfigError(f"{path}: [calendar] last_day: found {last_day}, allowed: {first_day} (first_day) or later")
    names = [account.name for account in settings.accounts]
    if len(set(names)) != len(names):
        raise ConfigError(f"{path}: two [[accounts]] for the same dataset and unit; keep one")
    if len({role.name for role in settings.roles}) != len(settings.roles):
        raise ConfigError(f"{path}: two [[roles]] of the same name; keep one")


def _account(table: _Table) -> Account:
    unit, renews = table.text("unit"), table.take("renews_days", int, None)
    if renews is not None:
        span = {1: "day", 7: "week"}.get(renews, f"{renews} days")
        if renews < 1 or not unit.endswith(f"/{span}"):
            raise ConfigError(
                f"{table.path}: {table.where} renews_days: found {renews} for unit {unit!r}, allowed: the length of "
                "the unit's own span, e.g. 30 for 'user_id/30 days'; a unit without a span never renews"
            )
    return Account(
        dataset=table.text("dataset"),
        unit=unit,
        cap=PrivacyLoss(table.decimal("rho"), table.decimal("delta")),
        renews_days=renews,
    )


def _search(table: _Table) -> Search:
    recall = float(table.decimal("recall", "0.95"))
    if not 0 < recall <= 1:
        raise ConfigError(f"{table.path}: [search] recall: found {recall}, allowed: more than 0, at most 1")
    limited = "memory_mib" in table.values
    return Search(recall=recall, memory_mib=table.whole("memory_mib", least=1, most=2**32) if limited else None)


def _ledger_place(table: _Table, root: Path) -> LedgerPlace:
    url = table.text("url", "sqlite")
    if url != "sqlite" and not url.startswith(("postgresql://", "postgres://")):
        raise ConfigError(
            f"{table.path}: {table.where} url: allowed: postgresql://user@host:port/database, or leave it out"
        )
    witnesses = table.take("witnesses", list, [])
    if not all(isinstance(folder, str) and folder.strip() for folder in witnesses):
        raise ConfigError(f"{table.path}: {table.where} witnesses: allowed: a list of folders")
    return LedgerPlace(
        url=None if url == "sqlite" else url, witnesses=tuple(root / Path(folder).expanduser() for folder in witnesses)
    )


def _role(table: _Table) -> Role:
    role = Role(name=table.text("name"), public_key=table.text("public_key").lower())
    if not _PUBLIC_KEY.fullmatch(role.public_key):
        raise ConfigError(
            f"{table.path}: {table.where} public_key: allowed: 64 hex digits, as 'hedgerow ledger role-key' prints them"
        )
    return role
