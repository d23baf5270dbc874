"""The protocols side by side: every setting that one of them changes, for all tasks and for single ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli import configuration, schema

PLAIN = "clean"
UNSET = "-"


@dataclass(frozen=True)
class Departure:
    """A setting whose value depends on the protocol.

    Args:
        task: the task that it is changed for; empty for all tasks.
        key: dotted, as it is typed; a part's own key (`task.loss`) stands for its class.
        values: protocol -> value, in the order of `names`; UNSET where neither the protocol nor the part's file sets it.
    """

    task: str
    key: str
    values: dict[str, Any]


def names(extra: Path | None = None) -> list[str]:
    """Return the protocols, the plain one first."""
    return sorted(configuration.choices("protocol", extra), key=lambda name: (name != PLAIN, name))


def departures(extra: Path | None = None) -> list[Departure]:
    """Return all settings that differ between protocols, those for all tasks first; values as the files write them.

    Settings of training (conf/hparams) are not among them: they belong to a task on a body.

    Raises:
        ConfigError: a file cannot be read.
    """
    protocols = names(extra)
    shared = {name: _settings(path) for name, path in configuration.choices("protocol", extra).items()}
    own: dict[str, dict[str, dict[str, Any]]] = {}  # task -> protocol -> settings
    for name, path in configuration.choices("departures", extra).items():
        protocol, _, task = name.partition("/")
        own.setdefault(task, {})[protocol] = _settings(path)
    root = configuration.content(configuration.config_dir() / "config.yaml")
    chosen = {group: name for line in root["defaults"] if isinstance(line, dict) for group, name in line.items()}
    defaults = schema.Config()

    def plain(key: str) -> Any:
        if key in chosen:
            return chosen[key]
        return UNSET if key.partition(".")[0] in chosen else schema.lookup(defaults, key)

    found = []
    tasks = configuration.choices("task", extra)
    for task, changed in [("", shared), *sorted(own.items())]:
        written = _settings(tasks[task]) if task in tasks else {}
        for key in dict.fromkeys(key for name in protocols for key in changed.get(name, {})):
            values = {}
            for name in protocols:
                otherwise = shared[name].get(key, written.get(key, plain(key)))
                values[name] = changed.get(name, {}).get(key, otherwise)
            if task or any(value != values[PLAIN] for value in values.values()):
                found.append(Departure(task, key, values))
    return found


def _settings(path: Path) -> dict[str, Any]:
    """Return dotted key -> value of a file of the whole package, with what it picks in other groups."""
    content = configuration.content(path)
    picks = configuration.picks(content.pop("defaults", None))
    content.pop("protocol", None)
    return picks | dict(flat("", content))


def flat(prefix: str, value: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values of nested settings; a part's own key has the name of its class as value."""
    for key, entry in value.items():
        if isinstance(entry, dict):
            yield from flat(f"{prefix}{key}.", entry)
        elif key == "_target_":
            yield prefix.removesuffix("."), str(entry).rsplit(".", 1)[-1]
        else:
            yield f"{prefix}{key}", entry
