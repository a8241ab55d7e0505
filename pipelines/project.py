"""The definitions of a project folder: `hedgerow.toml` beside `signals/*.py`, one definition a file.

Files whose names start with an underscore are helpers to import from (`from _sources import PLAYS`).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from governance.errors import ConfigError, DefinitionError, HedgerowError, UnknownSignal
from governance.settings import Settings
from pipelines.definitions import ContentEmbedding, Definition, PublicColumn, PublicPartitions, PublicTable, Signal
from pipelines.engine.places import Place, private_as_public

__all__ = ["Project", "check_tables", "load_project"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """Everything that a project defines, in the order of its files.

    Attributes:
        settings: from hedgerow.toml.
        signals: differentially private signals.
        embeddings: item vectors from public facts.
    """

    settings: Settings
    signals: tuple[Signal, ...]
    embeddings: tuple[ContentEmbedding, ...]

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """Signals, then embeddings."""
        return (*self.signals, *self.embeddings)

    def select(self, names: tuple[str, ...]) -> tuple[Definition, ...]:
        """The newest version of each named definition, or every one if no name is given.

        Raises:
            UnknownSignal: a name that nothing defines.
        """
        known = tuple(dict.fromkeys(definition.name for definition in self.definitions))
        for name in names:
            if name not in known:
                raise UnknownSignal(name, known)
        newest = {name: max(d.version for d in self.definitions if d.name == name) for name in known}
        return tuple(
            definition
            for definition in self.definitions
            if (not names or definition.name in names) and definition.version == newest[definition.name]
        )


def load_project(settings: Settings) -> Project:
    """Executes the project's definition files and collects what they define.

    Raises:
        ConfigError: no signals folder, or no definition in it.
        DefinitionError: a file that cannot be executed, two definitions of one name and version, or private events
            that have two names or are called public.
    """
    folder = settings.signals_dir
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; put one definition a file there, or run 'hedgerow init DIR'")
    found: dict[tuple[str, int], Definition] = {}
    with _importable(folder):
        for path in sorted(folder.glob("*.py")):
            if path.name.startswith("_"):
                continue
            for definition in _definitions(path):
                same = found.setdefault((definition.name, definition.version), definition)
                if same is not definition:
                    raise DefinitionError(
                        definition.identity, f"defined twice, the second time in {path.name}; keep one or raise version"
                    )
    check_tables(settings, found.values())
    if not found:
        raise ConfigError(f"{folder}: no Signal or ContentEmbedding in any *.py; add one, or run 'hedgerow init DIR'")
    return Project(
        settings=settings,
        signals=tuple(d for d in found.values() if isinstance(d, Signal)),
        embeddings=tuple(d for d in found.values() if isinstance(d, ContentEmbedding)),
    )


def check_tables(settings: Settings, definitions: Iterable[Definition]) -> None:
    """Refuses private events under two names, for each name would have accounts of its own; or as a public table.

    Raises:
        DefinitionError: a source shares files with one of another name, or with a public table of any definition.
    """
    definitions = tuple(definitions)
    signals = [definition for definition in definitions if isinstance(definition, Signal)]
    sources = {signal.source.table: signal.source for signal in signals}
    place = cache(partial(Place.of, settings.root))
    for signal in signals:
        for other in sources.values():
            own = signal.source
            if own.name != other.name and place(own.table).shares(place(other.table)):
                raise DefinitionError(
                    signal.identity,
                    f"source: table {own.table} is called {own.name!r} here, and {other.name!r} elsewhere as "
                    f"{other.table}; accounts are kept by name, so give both one",
                )
    for definition in definitions:
        for table in _public_tables(definition):
            for source in sources.values():
                if place(table.table).shares(place(source.table)):
                    raise private_as_public(definition.identity, table, source)


def _public_tables(definition: Definition) -> tuple[PublicTable, ...]:
    """What a definition reads and calls public."""
    if isinstance(definition, ContentEmbedding):
        return (definition.source,)
    joined = [join.table for join in definition.joins]
    domains = definition.partitions.domains if isinstance(definition.partitions, PublicPartitions) else {}
    return (*joined, *(domain.table for domain in domains.values() if isinstance(domain, PublicColumn)))


def _definitions(path: Path) -> Iterator[Definition]:
    spec = importlib.util.spec_from_file_location(f"hedgerow_project_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise DefinitionError(path.name, "cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a project file may fail in any way
        # The person needs the file, the line and the reason, not our stack.
        name, line = _place_in(path, error)
        reason = str(error) if isinstance(error, HedgerowError) else f"{type(error).__name__}: {error}"
        raise DefinitionError(f"{name}, line {line}", reason) from None
    for value in vars(module).values():
        if isinstance(value, Signal | ContentEmbedding):
            yield value


def _place_in(path: Path, error: BaseException) -> tuple[str, int | str]:
    """The file beside `path`, and the line in it, where the innermost of the project's own code failed."""
    if isinstance(error, SyntaxError) and error.filename and path.parent in Path(error.filename).parents:
        return Path(error.filename).name, error.lineno or "?"
    place: tuple[str, int | str] = (path.name, "?")
    trace = error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if path.parent in file.parents:
            place = (file.name, trace.tb_lineno)
        trace = trace.tb_next
    return place


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Lets the files import their `_helpers`, and forgets those afterwards so that projects do not mix.

    No bytecode is kept: it is matched to its source by second and size, so that an edit could go unseen.
    """
    before, bytecode = set(sys.modules), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = bytecode
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin and folder in Path(origin).parents:
                del sys.modules[name]
