"""A release: one immutable, published output. Parquet files plus a manifest, in one directory that appears at once.

    <state>/releases/<signal>/v<version>/<window>/
        manifest.json          canonical JSON (`Manifest`)
        part-00000.parquet ... the released columns, nothing else

A directory under `releases` is whole or absent: it is staged elsewhere, made durable and renamed. Whether it may be
used is the ledger's word: only a release whose run has a COMMIT entry is published (`featurestore.committed`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from governance.canonical import canonical_bytes, sha256_file, sha256_hex
from governance.errors import ReleaseCorrupt, ReleaseMissing
from governance.files import publish_directory

__all__ = [
    "Column",
    "DataFile",
    "Guarantee",
    "InputFingerprint",
    "LedgerReference",
    "Manifest",
    "Measurement",
    "ReleaseStore",
    "SignalReference",
    "WindowReference",
]

MANIFEST_NAME = "manifest.json"
SCHEMA = "hedgerow.release/2"
_RELEASE_ID = re.compile(r"[a-z][a-z0-9_]*/v[1-9][0-9]*/[A-Za-z0-9][A-Za-z0-9_-]*")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_AMOUNT = re.compile(r"[0-9]+(\.[0-9]+)?(e[+-]?[0-9]{1,3})?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalReference:
    """Which definition made the release. `definition` is the compiled definition's JSON, whole."""

    name: str
    version: int
    owner: str
    purpose: str
    description: str
    kind: str
    entity: str
    ttl_seconds: int
    definition_sha256: str
    definition: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowReference:
    """The half-open span of event time `[start, end)` in ISO 8601 UTC, or the empty strings for a public snapshot."""

    start: str
    end: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One released column.

    Attributes:
        name: its name in the parquet files.
        type: `int64`, `float64`, `string`, `date` or `vector<float32>[d]`.
        role: `key` (public or selected), `feature`, `uncertainty` (half-width of a feature, row by row), `vector` or
            `label` (public text beside a vector).
        description: what it means, with its unit.
        noise_stddev: standard deviation of the noise in the column's own units; None where it has none or where it
            depends on the row (a mean).
        half_width: half-width, in the column's own units, of an interval around the value that holds what it was before
            noise in 95 % of releases; None as above (a column of the role `uncertainty` then tells it row by row).
    """

    name: str
    type: str
    role: str
    description: str
    noise_stddev: float | None = None
    half_width: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One noisy sum: its sensitivities and noise, in units of its grid step.

    Attributes:
        name: e.g. `"seconds"`, or `"rating.sum"` behind a mean.
        grid_step: value of one integer step, in the column's units.
        l0: partitions that one privacy unit can change.
        coordinates: numbers that it can change: more than `l0` where a partition has several (histograms, vectors).
        linf: most by which it changes one partition, in grid steps.
        l2: Euclidean sensitivity over all partitions, in grid steps.
        mechanism: `"discrete Gaussian"`, `"discrete Laplace"` or `"none"`.
        noise_stddev: standard deviation of the noise in the column's units.
        rho: its share of the budget.
    """

    name: str
    grid_step: float
    l0: int
    coordinates: int
    linf: int
    l2: float
    mechanism: str
    noise_stddev: float
    rho: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """What is promised to whom, in numbers and in words.

    Attributes:
        variant: `"zCDP"`, `"pure DP"` or `"public inputs"` (no personal data was read).
        unit: `PrivacyUnit.label`, empty for public inputs.
        relation: the neighboring relation: `"add_remove_one"` or `"replace_one"`.
        protects: one sentence for a person.
        bounds: contribution bounds in words and numbers: `kind` `keep_random` with `max_partitions` and
            `max_rows_per_partition`, or `clip_norm` with `l2` and `max_partitions`.
        measurements: every noisy sum behind the release.
        selection: `public` or `private` partitions.
        threshold: smallest noisy unit count, or weight, that is released; None for public partitions.
        selection_delta: delta spent on selection, exact decimal text.
        sampler_delta: delta spent on the sampler's distance from the ideal distribution, exact decimal text.
        rho: total, exact decimal text.
        delta: total, exact decimal text.
        epsilon: at `epsilon_delta`, by tight conversion; 0 for public inputs; None if delta alone exceeds it.
        epsilon_delta: the reporting delta.
        sampler: the noise source; anything but `KEYED_SAMPLER` is a test and is never published.
        post_processing: free steps after the noise, in words.
    """

    variant: str
    unit: str
    relation: str
    protects: str
    bounds: Mapping[str, Any]
    measurements: tuple[Measurement, ...]
    selection: str
    threshold: float | None
    selection_delta: str
    sampler_delta: str
    rho: str
    delta: str
    epsilon: float | None
    epsilon_delta: float
    sampler: str
    post_processing: tuple[str, ...] = ()

    @property
    def selected_by(self) -> str:
        """What of a key is compared with the threshold, in words."""
        weighted = any(measurement.name == "selection.weight" for measurement in self.measurements)
        return "noisy weight" if weighted else "noisy unit count"

    @property
    def threshold_text(self) -> str:
        """The threshold as people read it: `163`, `22.28`; `not told` where there is none."""
        return "not told" if self.threshold is None else str(round(self.threshold, 2))


KEYED_SAMPLER = "keyed discrete noise, table inversion"
PUBLIC_SAMPLER = "none: public inputs"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerReference:
    """Where the ledger says so. For public inputs only the run id is set: no account was touched."""

    account: str | None
    run_id: str
    reserve_entry: int | None
    draw_entry: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFingerprint:
    """Which input was read.

    A plain hash of private data would let anyone test a guess about it, so the fingerprint is an HMAC under a key that
    only this installation has; row counts and sizes of private inputs are not told.

    Attributes:
        dataset: the source's name.
        table: path as configured.
        access: `"private"` or `"public"`.
        fingerprint: `hmac-sha256:<hex>` for private, `sha256:<hex>` for public inputs.
        columns: the columns that were read.
    """

    dataset: str
    table: str
    access: str
    fingerprint: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One published file, by name relative to the release's directory."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything a release says about itself. The JSON form is canonical; its SHA-256 is what the ledger commits to.

    Attributes:
        release_id: `<signal>/v<version>/<window>`, also the directory below `releases`.
        created_at: ISO 8601 UTC.
        rows: rows published (post-processing of the noisy release, or public).
        quality: data-quality checks as `{"check": text, "passed": bool}`; never values or counts.
        code: versions of what computed it.
    """

    release_id: str
    signal: SignalReference
    window: WindowReference
    created_at: str
    keys: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: int
    guarantee: Guarantee
    ledger: LedgerReference
    inputs: tuple[InputFingerprint, ...]
    quality: tuple[Mapping[str, Any], ...]
    code: Mapping[str, str]
    files: tuple[DataFile, ...]
    schema: str = SCHEMA

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_bytes(asdict(self))

    @property
    def sha256(self) -> str:
        """SHA-256 of the canonical JSON."""
        return sha256_hex(self.to_bytes())

    @property
    def window_end(self) -> datetime | None:
        """End of the window (aware, UTC): the event time of every row. None for a public snapshot."""
        return datetime.fromisoformat(self.window.end) if self.window.end else None

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns that are features."""
        return tuple(column for column in self.columns if column.role == "feature")

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Parses a manifest.

        Raises:
            ReleaseCorrupt: not JSON, a wrong schema, missing or unknown fields, values of a wrong type, names that
                leave the release's directory, or bytes that are not the canonical form.
        """
        try:
            value = json.loads(data, parse_constant=_no_constant)
            if not isinstance(value, dict) or value.get("schema") != SCHEMA:
                raise ValueError("another schema")
            manifest: Manifest = _read(cls, value, "manifest")
            _check(manifest)
            if manifest.to_bytes() != data:
                raise ValueError("not in canonical form")
            return manifest
        except (ValueError, RecursionError) as error:
            raise ReleaseCorrupt(
                f"{where}: not a {SCHEMA} manifest ({error}); restore the release from a backup or run it again"
            ) from None


def _read(kind: Any, value: Any, where: str) -> Any:
    """A JSON value as `kind`, which may be a record above, a tuple, a mapping, a union with None or a plain type.

    Raises:
        ValueError: another type, or unknown or missing fields.
    """
    arguments = get_args(kind)
    if kind is Any:
        return value
    if isinstance(kind, UnionType):
        return None if value is None else _read(arguments[0], value, where)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        if isinstance(value, dict) and (wrong := sorted(value.keys() ^ hints.keys())):
            raise ValueError(f"{where}: unknown or missing: {', '.join(wrong)}")
        if isinstance(value, dict):
            return kind(**{name: _read(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})
    elif get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_read(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    elif get_origin(kind) is Mapping and isinstance(value, dict):
        return {name: _read(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
    elif type(value) is kind or (kind is float and type(value) is int):
        return value
    raise ValueError(f"{where}: found {type(value).__name__}, allowed: {getattr(kind, '__name__', kind)}")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _check(manifest: Manifest) -> None:
    """What types do not say: names stay in the release's directory, times and losses parse.

    Raises:
        ValueError: they do not.
    """
    prefix = f"{manifest.signal.name}/v{manifest.signal.version}/"
    if not _RELEASE_ID.fullmatch(manifest.release_id) or not manifest.release_id.startswith(prefix):
        raise ValueError(f"manifest.release_id: found {manifest.release_id!r}, allowed: {prefix}<window>")
    names = [file.name for file in manifest.files]
    if len(set(names)) != len(names) or not all(_FILE_NAME.fullmatch(name) and name != MANIFEST_NAME for name in names):
        raise ValueError("manifest.files: allowed: different plain names")
    window, guarantee = manifest.window, manifest.guarantee
    if window != WindowReference(start="", end=""):
        start, end = datetime.fromisoformat(window.start), datetime.fromisoformat(window.end)
        if start.utcoffset() != timedelta(0) or end.utcoffset() != timedelta(0) or start >= end:
            raise ValueError("manifest.window: allowed: a start in UTC before an end in UTC")
    for text in (guarantee.rho, guarantee.delta, guarantee.selection_delta, guarantee.sampler_delta):
        if not _AMOUNT.fullmatch(text):
            raise ValueError(f"manifest.guarantee: found {text!r}, allowed: a decimal that is not negative")


@dataclass(frozen=True, slots=True)
class ReleaseStore:
    """The published releases below one directory.

    Attributes:
        root: `Settings.releases_dir`.
    """

    root: Path

    def directory(self, release_id: str) -> Path:
        """Where a release lies, or would lie."""
        return self.root / release_id

    def exists(self, release_id: str) -> bool:
        """Whether it is there: whole, for directories appear by one rename, or corrupt if its manifest is gone."""
        return self.directory(release_id).is_dir()

    def publish(self, staged: Path, manifest: Manifest) -> Path:
        """Writes the manifest into the staged directory and moves the whole to its name, durably, in one rename.

        Raises:
            FileExistsError: a release of that id is there; it stays as it was.
        """
        (staged / MANIFEST_NAME).write_bytes(manifest.to_bytes())
        target = self.directory(manifest.release_id)
        publish_directory(staged, target)
        return target

    def load(self, release_id: str) -> Manifest:
        """Reads and checks one manifest (not the data files; see `verify_files`).

        Raises:
            ReleaseMissing: not there.
            ReleaseCorrupt: unreadable, or names another release.
        """
        path = self.directory(release_id) / MANIFEST_NAME
        try:
            manifest = Manifest.from_bytes(path.read_bytes(), str(path))
        except (FileNotFoundError, NotADirectoryError):
            if self.exists(release_id):
                raise ReleaseCorrupt(f"{path}: missing; restore the release from a backup") from None
            raise ReleaseMissing(f"no release {release_id} below {self.root}; run it first") from None
        except OSError as error:
            raise ReleaseCorrupt(
                f"{path}: cannot be read ({error.strerror}); restore the release from a backup"
            ) from None
        if manifest.release_id != release_id:
            raise ReleaseCorrupt(f"{path}: says it is {manifest.release_id}; restore the release from a backup")
        return manifest

    def ids(self) -> tuple[str, ...]:
        """Ids of all releases that are there, sorted: by signal, version, then window."""
        found = self.root.glob(f"*/v*/*/{MANIFEST_NAME}") if self.root.is_dir() else iter(())
        return tuple(sorted(path.parent.relative_to(self.root).as_posix() for path in found))

    def manifests(self) -> Iterator[Manifest]:
        """All manifests, in the order of `ids`."""
        return (self.load(release_id) for release_id in self.ids())

    def data_files(self, manifest: Manifest) -> tuple[Path, ...]:
        """Paths of the release's parquet files."""
        directory = self.directory(manifest.release_id)
        return tuple(directory / file.name for file in manifest.files)

    def verify_files(self, manifest: Manifest) -> None:
        """Compares every data file with the manifest.

        Raises:
            ReleaseCorrupt: a file is missing, was added or has changed.
        """
        directory = self.directory(manifest.release_id)
        for file in manifest.files:
            path = directory / file.name
            if not path.is_file():
                raise ReleaseCorrupt(f"{path}: missing; restore the release from a backup")
            if path.stat().st_size != file.bytes or sha256_file(path) != file.sha256:
                raise ReleaseCorrupt(f"{path}: content differs from the manifest; restore the release from a backup")
        listed = {file.name for file in manifest.files} | {MANIFEST_NAME}
        if extra := sorted(path.name for path in directory.iterdir() if path.name not in listed):
            raise ReleaseCorrupt(f"{directory}: files that the manifest does not list: {', '.join(extra)}")
