"""The one error tree of hedgerow.

Every failure that a person can cause or mend is a `HedgerowError`: the command line prints its message and exits with
code 2, without a traceback. A message says what, found, allowed and how to fix it. It never holds a row value, a
privacy-unit id or a key.

    HedgerowError
    ├── ConfigError               hedgerow.toml, policy of a project
    ├── DefinitionError           a Signal, Window, budget ... that cannot be lawful
    ├── UnknownSignal             a name that no file of the project defines
    ├── EnvironmentProblem        Java, Python, disk, a missing optional package
    ├── InputError                the data a pipeline reads
    │   ├── InputMissing          file or folder not there, or unreadable
    │   ├── ColumnMissing         a column the definition names is absent
    │   ├── ColumnTypeError       a column has a type that cannot be used
    │   ├── NullValue             nulls where a unit id, key, time or value is needed
    │   ├── NonFiniteValue        NaN or infinity
    │   ├── VectorLength          a list that is not of the declared dimension
    │   ├── LayoutCorrupt         a clustered table whose files are not as its layout says
    │   └── EmptyInput            a table without rows
    ├── LedgerError               the privacy ledger
    │   ├── BudgetExceeded        a reservation that an account cannot carry
    │   ├── AccountUnknown        no such account in hedgerow.toml
    │   └── LedgerCorrupt         entries that are not what was signed, or an old backup
    ├── ReleaseError              published releases
    │   ├── ReleaseCorrupt        a manifest or file that does not match its hash or schema
    │   ├── ReleaseMissing        no such release
    │   └── RunInProgress         another process releases the same window now
    ├── PolicyRefused             the project's policy refuses a plan, a run, a publication or a read
    ├── EngineError               Spark failed; the cause is named without data
    ├── PublicationError          the feature store
    │   ├── StoreUnreachable      online store does not answer
    │   ├── NotPublished          a view, space or snapshot that nothing has published
    │   └── PublicationCorrupt    a publication record or catalogue that does not parse, or whose signature is wrong
    ├── DatasetError              a training set that cannot be built, or is not what its manifest says
    ├── ServingError              the gRPC server and its client
    │   ├── PortBusy              the address is in use
    │   ├── RequestInvalid        names, types or sizes that the API does not take (INVALID_ARGUMENT)
    │   ├── NotServed             an unknown view, feature, service or space (NOT_FOUND)
    │   ├── NotAuthenticated      no valid certificate or token (UNAUTHENTICATED)
    │   ├── AccessDenied          the policy does not let this caller read this for this purpose (PERMISSION_DENIED)
    │   └── ServerUnavailable     no server answers, or not in time
    └── DeviceError               what a device keeps for one person
        ├── DeviceMissing         no device store in that folder
        ├── DeviceCorrupt         a store that does not parse, or that others may read
        ├── EventInvalid          an event that cannot be kept
        └── SnapshotRefused       a rightly signed catalogue that would take the device back
"""

from __future__ import annotations

from decimal import Context, Decimal

__all__ = [
    "AccessDenied",
    "AccountUnknown",
    "BudgetExceeded",
    "ColumnMissing",
    "ColumnTypeError",
    "ConfigError",
    "DatasetError",
    "DefinitionError",
    "DeviceCorrupt",
    "DeviceError",
    "DeviceMissing",
    "EmptyInput",
    "EngineError",
    "EnvironmentProblem",
    "EventInvalid",
    "HedgerowError",
    "InputError",
    "InputMissing",
    "LayoutCorrupt",
    "LedgerCorrupt",
    "LedgerError",
    "NonFiniteValue",
    "NotAuthenticated",
    "NotPublished",
    "NotServed",
    "NullValue",
    "PolicyRefused",
    "PortBusy",
    "PublicationCorrupt",
    "PublicationError",
    "ReleaseCorrupt",
    "ReleaseError",
    "ReleaseMissing",
    "RequestInvalid",
    "RunInProgress",
    "ServerUnavailable",
    "ServingError",
    "SnapshotRefused",
    "StoreUnreachable",
    "UnknownSignal",
    "VectorLength",
]


class HedgerowError(Exception):
    """Base of everything hedgerow raises on purpose. `str(error)` is the whole message a person needs."""


class ConfigError(HedgerowError):
    """A project file (hedgerow.toml) says something that cannot be used."""


class DefinitionError(HedgerowError):
    """A definition that cannot be lawful or cannot be computed.

    Attributes:
        subject: what was being defined, e.g. `"genre_seconds v1"` or `"Interval"`.
    """

    def __init__(self, subject: str, message: str) -> None:
        self.subject = subject
        super().__init__(f"{subject}: {message}")


class UnknownSignal(HedgerowError):
    """No definition of that name in the project."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        self.name = name
        self.known = known
        listed = ", ".join(known) if known else "none"
        super().__init__(f"no signal named {name!r}; this project defines: {listed}")


class EnvironmentProblem(HedgerowError):
    """The machine lacks something; the message is the one-line remedy."""


class InputError(HedgerowError):
    """Input data that cannot be read as the definition says."""


class InputMissing(InputError):
    """A file or folder that is not there or cannot be read as parquet."""


class ColumnMissing(InputError):
    """A column that the definition names is absent from the table.

    Attributes:
        table: the table's path as configured.
        column: the missing column.
    """

    def __init__(self, table: str, column: str, found: tuple[str, ...]) -> None:
        self.table = table
        self.column = column
        super().__init__(
            f"{table}: column {column!r} is missing; found: {', '.join(found)}; "
            "rename the column or correct the definition"
        )


class ColumnTypeError(InputError):
    """A column whose type cannot be used for its role."""

    def __init__(self, table: str, column: str, found: str, allowed: str) -> None:
        self.table = table
        self.column = column
        super().__init__(f"{table}: column {column!r} has type {found}; allowed: {allowed}; convert it upstream")


class NullValue(InputError):
    """Nulls in a column that must not have any. The number of nulls is not told: it is data."""

    def __init__(self, table: str, column: str, role: str) -> None:
        self.table = table
        self.column = column
        super().__init__(
            f"{table}: column {column!r} ({role}) has nulls; drop or fill those rows upstream, nothing was released"
        )


class NonFiniteValue(InputError):
    """NaN or infinity in a value column. How many, and where, is not told: it is data."""

    def __init__(self, table: str, column: str) -> None:
        self.table = table
        self.column = column
        super().__init__(
            f"{table}: column {column!r} has NaN or infinite values; drop or fill those rows upstream, "
            "nothing was released"
        )


class VectorLength(InputError):
    """A list column with vectors of another length than declared. How many, and how long, is not told: it is data."""

    def __init__(self, table: str, column: str) -> None:
        self.table = table
        self.column = column
        super().__init__(
            f"{table}: column {column!r} has lists that are not of the declared dimension; correct the definition or "
            "those rows, nothing was released"
        )


class LayoutCorrupt(InputError):
    """A clustered table that is not as its layout says: bounds could fail silently."""


class EmptyInput(InputError):
    """A table that has no rows at all."""

    def __init__(self, table: str) -> None:
        self.table = table
        super().__init__(f"{table}: the table has no rows; point the source at a folder or file with events")


class LedgerError(HedgerowError):
    """The privacy ledger cannot do what was asked."""


class BudgetExceeded(LedgerError):
    """A reservation that the account cannot carry. Nothing was read and nothing was spent.

    Attributes:
        account: `dataset/unit`.
        requested: the rho (or delta) asked for.
        remaining: what the account still has of it.
        quantity: `"rho"` or `"delta"`.
    """

    def __init__(self, account: str, subject: str, quantity: str, requested: Decimal, remaining: Decimal) -> None:
        self.account = account
        self.subject = subject
        self.quantity = quantity
        self.requested = requested
        self.remaining = remaining
        super().__init__(
            f"{subject}: requested {quantity}={_exact(requested)}, remaining {_exact(remaining)} "
            f"in account {account}; "
            "lower budget_per_release or release fewer windows; no data was read"
        )


def _exact(value: Decimal) -> str:
    """Every digit: a request that is over by 1e-34 must not read like what is left."""
    return f"{value.normalize(Context(prec=1000)):g}"


class AccountUnknown(LedgerError):
    """The project declares no account for this dataset and privacy unit."""

    def __init__(self, account: str, known: tuple[str, ...]) -> None:
        self.account = account
        listed = ", ".join(known) if known else "none"
        super().__init__(
            f"no account {account!r}; hedgerow.toml declares: {listed}; "
            "add [[accounts]] with dataset, unit, rho and delta"
        )


class LedgerCorrupt(LedgerError):
    """The ledger's entries are not what was signed, contradict each other, or are older than the published heads."""


class ReleaseError(HedgerowError):
    """Something about a published release."""


class ReleaseCorrupt(ReleaseError):
    """A manifest or data file that does not match its schema or its hash."""


class ReleaseMissing(ReleaseError):
    """No release of that name."""


class RunInProgress(ReleaseError):
    """Another process is releasing the same window."""


class PolicyRefused(HedgerowError):
    """The project's policy refuses.

    Attributes:
        refused: (action, subject, rule ids, explanation) of each refused request.
    """

    def __init__(self, refused: tuple[tuple[str, str, tuple[str, ...], str], ...]) -> None:
        self.refused = refused
        told = "; ".join(f"{subject}: policy refuses to {action}: {why}" for action, subject, _, why in refused)
        super().__init__(f"{told}; change the definition, or the policy with those who answer for it")

    @property
    def rules(self) -> tuple[str, ...]:
        """Every rule that refuses something, once."""
        return tuple(dict.fromkeys(rule for _, _, rules, _ in self.refused for rule in rules))


class EngineError(HedgerowError):
    """The engine failed while computing; the message names the kind of failure, never data."""


class PublicationError(HedgerowError):
    """The feature store could not publish."""


class StoreUnreachable(PublicationError):
    """The online store does not answer."""


class NotPublished(PublicationError):
    """Nothing has been published under that name yet."""


class PublicationCorrupt(PublicationError):
    """A publication record or catalogue snapshot that does not parse, or does not match its checksum or signature."""


class DatasetError(HedgerowError):
    """A training set that cannot be built as asked, or that is not what its manifest says."""


class ServingError(HedgerowError):
    """The gRPC server or its client."""


class PortBusy(ServingError):
    """The address to listen on is in use."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__(
            f"{address} is in use; stop the other server or choose another with --port (0 picks a free one)"
        )


class RequestInvalid(ServingError):
    """A request with unknown types, missing entity columns or too many rows."""


class NotServed(ServingError):
    """An unknown feature, view, service or embedding space."""


class NotAuthenticated(ServingError):
    """A call without a valid certificate or token, where the server asks for one. Never says more about the token."""


class AccessDenied(ServingError):
    """A call that the policy, or the caller's own token, does not allow for this purpose."""


class ServerUnavailable(ServingError):
    """No server answers at that address, or not before the deadline."""


class DeviceError(HedgerowError):
    """What a device keeps for one person. Messages never hold an item, a value or an event's id."""


class DeviceMissing(DeviceError):
    """No device store in that folder."""


class DeviceCorrupt(DeviceError):
    """A device store that does not parse, or that others may read."""


class EventInvalid(DeviceError):
    """An event that cannot be kept: a value that is not finite, a time in the future, an id used for another event."""


class SnapshotRefused(DeviceError):
    """A rightly signed catalogue that a device must not take: older than its last one, or another of its number."""
