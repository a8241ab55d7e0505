"""A project's policy: `policy/*.yaml`, checked and merged into one frozen value.

```yaml
datasets:
  plays: {category: behaviour, description: What people played, kept: 13 months}
rules:
  - id: EPS-RELEASE-1
    kind: max_epsilon_per_release
    epsilon: 1.0
    reason: One week of one signal must teach little about anybody.
examples:                     # run by hedgerow policy test
  - say: A release of epsilon 3 is refused
    when: {action: run, datasets: [plays], purpose: ranking, epsilon: 3}
    refused_by: [EPS-RELEASE-1]
record:                       # GDPR Art. 30, see record.py
  controller: {name: Example Ltd, contact: privacy@example.org}
  ...
```

YAML's traps are closed: a key given twice is an error (the second would silently win), anchors and aliases are errors,
and texts must be texts (`no` is not a name).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from governance.canonical import canonical_bytes, sha256_hex
from governance.errors import ConfigError
from governance.policy.examples import Example
from governance.policy.record import Dataset, ProcessingRecord
from governance.policy.rules import MayRead, Model, Restriction, Rule, Text
from governance.settings import Settings

__all__ = ["Policy", "load_policy"]

_LARGEST = 1 << 20


class _File(Model):
    """One YAML file."""

    datasets: dict[Text, Dataset] = Field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    examples: tuple[Example, ...] = ()
    record: ProcessingRecord | None = None


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Everything that a project's policy says.

    Attributes:
        declared: whether the project has a policy; without one everything is allowed.
        datasets: dataset → its description and category.
        rules: in the order of the files' names, then as written.
        examples: requests whose decision the policy states.
        record: the processing record; None if no file states one.
    """

    declared: bool = True
    datasets: tuple[tuple[str, Dataset], ...] = ()
    rules: tuple[Restriction | MayRead, ...] = ()
    examples: tuple[Example, ...] = ()
    record: ProcessingRecord | None = None

    @classmethod
    def none(cls) -> Policy:
        """The policy of a project that has none."""
        return cls(declared=False)

    @cached_property
    def category_of(self) -> dict[str, str]:
        """Dataset → category."""
        return {name: dataset.category for name, dataset in self.datasets}

    @cached_property
    def sha256(self) -> str:
        """Hash of everything that decides: categories and rules, not the examples or the record."""
        return sha256_hex(
            canonical_bytes(
                {
                    "declared": self.declared,
                    "categories": self.category_of,
                    "rules": [rule.model_dump(mode="json") for rule in self.rules],
                }
            )
        )


def load_policy(settings: Settings) -> Policy:
    """Reads `policy/*.yaml` of a project, sorted by name.

    Returns:
        The policy; `Policy.none()` where there is no such folder.

    Raises:
        ConfigError: a file that cannot be read or parsed, a key or rule id given twice, an unknown key, a value that
            is not allowed, a folder without a single file.
    """
    folder = settings.policy_dir
    if not folder.is_dir():
        return Policy.none()
    paths = sorted(path for path in folder.iterdir() if path.suffix in {".yaml", ".yml"})
    if not paths:
        raise ConfigError(f"{folder}: no *.yaml in it; add rules, or remove the folder to go without a policy")
    files = [(path, _read(path)) for path in paths]
    _check_once(files, "rule id", lambda file: [rule.id for rule in file.rules])
    _check_once(files, "dataset", lambda file: list(file.datasets))
    _check_once(files, "example", lambda file: [example.say for example in file.examples])
    _check_once(files, "record", lambda file: ["record"] if file.record else [])
    return Policy(
        datasets=tuple(sorted((name, item) for _, file in files for name, item in file.datasets.items())),
        rules=tuple(rule for _, file in files for rule in file.rules),
        examples=tuple(example for _, file in files for example in file.examples),
        record=next((file.record for _, file in files if file.record), None),
    )


def _read(path: Path) -> _File:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > _LARGEST:
        raise ConfigError(f"{path}: {len(data):,} bytes, allowed: {_LARGEST:,}; split the policy into several files")
    try:
        value = yaml.load(data, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: not valid YAML: {_one_line(error)}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds no table; write e.g. 'rules:' with a list of rules")
    try:
        return _File.model_validate(value)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_told(error, value)}") from None


class _Loader(yaml.SafeLoader):
    """Plain YAML: no key twice, no anchors."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuses what stands for something written elsewhere."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:
            raise yaml.YAMLError(f"line {event.start_mark.line + 1}: anchors and aliases are not taken; write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuses a key that is given twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value!r} is given twice; keep one")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    return f"line {mark.line + 1}: {problem}" if mark is not None and problem else " ".join(str(error).split())


def _told(error: ValidationError, value: dict[str, Any]) -> str:
    """The first complaint, with the place in the file and the rule's id; and how many more there are."""
    first, *others = error.errors(include_url=False, include_input=False)
    place = list(first["loc"])
    where = ".".join(str(part) for part in place)
    if len(place) > 1 and place[0] == "rules" and isinstance(place[1], int):
        rule = value["rules"][place[1]]
        name = rule.get("id") if isinstance(rule, dict) else None
        rest = ".".join(str(part) for part in place[2:])
        where = f"rule {name or f'number {place[1] + 1}'}{': ' if rest else ''}{rest}"
    more = f" (and {len(others)} more)" if others else ""
    return f"{where}: {first['msg']}; correct it{more}"


def _check_once(files: list[tuple[Path, _File]], what: str, names: Any) -> None:
    seen: dict[str, Path] = {}
    for path, file in files:
        for name in names(file):
            if name in seen:
                raise ConfigError(f"{path}: {what} {name!r} is given twice, before in {seen[name].name}; keep one")
            seen[name] = path
