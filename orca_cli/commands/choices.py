"""What there is to choose from, as records: the files of every group, the settings, and what each protocol changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli import catalogue, configuration, data_folder, ranges, schema

_ERRORS = {
    "classes": "0-1 error",
    "labels": "1 - mAP",
    "values": "RMSE",
}  # of tasks that name none; scoring/defaults.py
PLAIN = "clean"  # the protocol that the others depart from
UNSET = "-"


def entries(group: str, extra: Path | None = None) -> list[dict[str, Any]]:
    """Return what a group offers: name, description, file, what it picks in other groups, its parameters and their meanings.

    Tasks and sources also have `data`: what is known of their data, and whether they are there. Tasks have `error`, the
    name of what is reported, and `protocols`: name -> where a task departs from the protocol clean.

    Raises:
        ConfigError: a file cannot be read.
    """
    found = []
    for name, path in configuration.choices(group, extra).items():
        content = configuration.content(path)
        picks = configuration.picks(content.pop("defaults", None))
        # A file of the whole package (`@package _global_`) holds its group's settings under the group's name.
        own = content.get(group, content)
        if group == "study":
            own = {axis: list(given) for axis, given in content.get("axes", {}).items()}
        if group == "protocol":  # it sets keys of other groups, and its own name
            own = {key: value for key, value in content.items() if key != group}
        own = own if isinstance(own, dict) else {}
        entry: dict[str, Any] = {
            "name": name,
            "description": configuration.description(path),
            "picks": picks,
            "parameters": {key: value for key, value in own.items() if key not in ("_target_", "data")},
            "meanings": configuration.comments(path),
            "file": str(path),
        }
        if group in catalogue.GROUPS:
            entry["data"] = _data(group, name, path)
        if group == "task":
            entry["error"] = entry["data"].pop("error") or _error(own)
            entry["protocols"] = _departure_texts(name, extra)
        found.append(entry)
    return found


def _data(group: str, name: str, path: Path) -> dict[str, Any]:
    """Return what a file says about its data, and whether they are there."""
    entry = catalogue.read(group, name, path)
    texts = {key: getattr(entry, key) for key in ("shape", "outputs", "error", "licence", "origin", "bytes")}
    return {"state": data_folder.state(entry, configuration.default_folders()["data"]), **texts}


def _departure_texts(task: str, extra: Path | None) -> dict[str, str]:
    """Return what the descriptions of conf/departures/PROTOCOL/TASK.yaml say, by protocol."""
    files = {tuple(name.rsplit("/", 1)): path for name, path in configuration.choices("departures", extra).items()}
    texts = {protocol: configuration.description(path) for (protocol, of), path in files.items() if of == task}
    return {protocol: text.removeprefix(f"{task}: ") for protocol, text in texts.items()}


def _error(task: dict[str, Any]) -> str:
    """Return the name of the error of a task whose block `data` does not give it: the class, or the usual one of its kind."""
    node = task.get("error")
    if isinstance(node, dict) and isinstance(node.get("_target_"), str):
        return node["_target_"].rpartition(".")[2]
    if isinstance(node, str):
        return node
    return _ERRORS.get(str(task.get("kind")), "usual of kind")


def settings() -> list[dict[str, Any]]:
    """Return every key of the schema with type, default, what is allowed, and meaning."""
    defaults = schema.Config()
    return [
        {
            "key": key,
            "type": ranges.in_words(hint, limits=False),
            "default": schema.lookup(defaults, key),
            "allowed": ranges.limits_in_words(hint),
            "meaning": ranges.meaning(hint),
        }
        for key, hint in schema.declared().items()
    ]


@dataclass(frozen=True)
class Departure:
    """A setting whose value depends on the protocol.

    Args:
        task: the task that it is changed for; empty for all tasks.
        key: dotted, as it is typed; a part's own key (`task.loss`) stands for its class.
        values: protocol -> value, in the order of `protocols`; UNSET where neither the protocol nor the part's file sets it.
    """

    task: str
    key: str
    values: dict[str, Any]


def protocols(extra: Path | None = None) -> list[str]:
    """Return the protocols, the plain one first."""
    return sorted(configuration.choices("protocol", extra), key=lambda name: (name != PLAIN, name))


def departures(extra: Path | None = None) -> list[Departure]:
    """Return all settings that differ between protocols, those for all tasks first; values as the files write them.

    Settings of training (conf/hparams) are not among them: they belong to a task on a body.

    Raises:
        ConfigError: a file cannot be read.
    """
    names = protocols(extra)
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
        for key in dict.fromkeys(key for name in names for key in changed.get(name, {})):
            otherwise = written.get(key, plain(key))
            values = {name: changed.get(name, {}).get(key, shared[name].get(key, otherwise)) for name in names}
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
