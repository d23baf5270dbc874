"""`orca list`: what there is to choose from, read off the YAML files and the schema; nothing is composed or built."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from orca_cli import configuration
from orca_cli.commands import choices
from orca_cli.commands.options import add_config_dir
from orca_cli.exceptions import UsageError, suggest
from orca_cli.terminal import Result, table

# Word on the command line -> folder of conf/.
GROUPS = {
    "tasks": "task",
    "bodies": "body",
    "sources": "source",
    "metrics": "metric",
    "embedders": "embedder",
    "finetune": "finetune",
    "trackers": "tracker",
    "augmentations": "augment",
    "hparams": "hparams",
    "protocols": "protocol",
    "studies": "study",
    "spaces": "space",
}
SETTINGS = "settings"
SCHEMA = 1
EXAMPLES = """\
examples:
  orca list                           the names in every group
  orca list tasks                     kind, shape, error, data and protocols of every task
  orca list tasks ecg psicov          some of a group: parameters, defaults and meaning
  orca list settings                  every KEY of KEY=VALUE with type, default and meaning
  orca list metrics --json            for other programs
  orca list --config-dir my_conf      with your own my_conf/task/x.yaml, ..."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = f"What there is to choose from: {', '.join((*GROUPS, SETTINGS))}."
    parser.epilog = EXAMPLES
    text = f"one of {', '.join((*GROUPS, SETTINGS))}; default: all, in short"
    parser.add_argument("group", nargs="?", metavar="GROUP", help=text)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the group; default: all")
    add_config_dir(parser)


def execute(arguments: argparse.Namespace) -> Result:
    """Return the list."""
    word = arguments.group
    if word is not None and word not in (*GROUPS, SETTINGS):
        # The name of the folder and of the key on the command line is understood as well.
        word = {folder: plural for plural, folder in GROUPS.items()}.get(word, word)
        if word not in GROUPS:
            raise UsageError(f"there is no group '{word}'", hint=suggest(word, (*GROUPS, SETTINGS)))
    # A group without a single file, such as one of a configuration of an older release, is not mentioned among all.
    extra = arguments.config_dir
    words = [word] if word else [name for name, group in GROUPS.items() if configuration.choices(group, extra)]
    listed = {name: choices.settings() if name == SETTINGS else choices.entries(GROUPS[name], extra) for name in words}
    if arguments.names:
        listed[words[0]] = _chosen(listed[words[0]], arguments.names, word)
    record: dict[str, Any] = {"schema": SCHEMA, **listed}
    if word == "protocols":
        record["departures"] = [dataclasses.asdict(one) for one in choices.departures(extra)]
    if word is None:
        rows = [(word, ", ".join(entry["name"] for entry in found) or "-") for word, found in listed.items()]
        note = Text(f"Details: orca list GROUP; keys: orca list {SETTINGS}")
        return Result(record, [table(("group", "choices"), rows), note])
    if word == SETTINGS:
        return Result(record, _show_settings(listed[word]))
    more = _show_departures(extra) if word == "protocols" else ()
    return Result(record, chain(_show_group(word, listed[word], bool(arguments.names)), more))


def _chosen(found: list[dict[str, Any]], names: Sequence[str], word: str) -> list[dict[str, Any]]:
    """Return the entries of those names; of settings, also those of a part, such as `train`."""
    key = "key" if word == SETTINGS else "name"
    known = [str(entry[key]) for entry in found]
    wanted = [one for name in names for one in known if one == name or (key == "key" and one.startswith(f"{name}."))]
    for name in names:
        if not any(one == name or one.startswith(f"{name}.") for one in wanted):
            raise UsageError(f"there is no '{name}' among the {word}", hint=suggest(name, known))
    return [entry for entry in found if entry[key] in wanted]


def _show_group(word: str, found: list[dict[str, Any]], in_full: bool) -> Iterator[RenderableType]:
    group = GROUPS[word]
    if not found:
        yield Text(f"There are no {word}.")
        return
    picked = sorted({key for entry in found for key in entry["picks"]})
    if group == "task":
        yield table(("task", "kind", "shape", "outputs", "error", "data"), map(_task_row, found))
        yield ""
    special = [{"body": "checkpoint", "source": "data"}[group]] if group in ("body", "source") else []
    rows = []
    for entry in found:
        own = {"checkpoint": str(entry["parameters"].get("checkpoint", "")), "data": entry.get("data", {}).get("state")}
        picks = [entry["picks"].get(key, "-") for key in picked]
        rows.append((entry["name"], *(own[key] for key in special), *picks, entry["description"]))
    yield table((group, *special, *picked, "description"), rows)
    if departing := [row for entry in found for row in _departure_rows(entry)]:
        yield ""
        yield table(("task", "protocol", "where it departs from protocol=clean"), departing)
    if group == "study":
        yield from _show_axes(found)
    elif group != "protocol" and (in_full or group != "task"):
        yield from _show_parameters(group, found, in_full)
    if group == "task":
        more = "" if in_full else " Parameters of a task: orca list tasks NAME."
        more += " The protocols: orca list protocols." if departing else ""
        yield ""
        yield Text(f"Files of a task: orca data list NAME.{more}")


def _show_axes(found: list[dict[str, Any]]) -> Iterator[RenderableType]:
    """Yield the choices on each axis of each study, and how one runs a part of it."""
    for entry in found:
        rows = [(axis, ", ".join(map(typed, names))) for axis, names in entry["parameters"].items()]
        yield ""
        yield table((entry["name"], "every combination of"), rows)
    yield ""
    yield Text("All of it: orca run -m study=NAME. A part: orca run -m study=NAME AXIS=CHOICE,CHOICE.")
    yield Text("Its table: orca report --study NAME.")


def _show_departures(extra: Path | None) -> Iterator[RenderableType]:
    """Yield what every protocol changes, side by side; the reasons are in docs/protocols.md."""
    names, found = choices.protocols(extra), choices.departures(extra)
    for title, rows in (
        ("all tasks", [(entry.key, entry) for entry in found if not entry.task]),
        ("single tasks", [(f"{entry.task}: {entry.key}", entry) for entry in found if entry.task]),
    ):
        if rows:
            lines = [(key, *(typed(entry.values[name]) for name in names)) for key, entry in rows]
            yield ""
            yield table((title, *names), lines)
    yield ""
    yield Text("Settings of training, by protocol, task and body: orca list hparams. Why: docs/protocols.md.")


def _departure_rows(entry: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield a row for each text; protocols of one text share it."""
    found = entry.get("protocols", {})
    for text in dict.fromkeys(found.values()):
        yield entry["name"], ", ".join(protocol for protocol in found if found[protocol] == text), text


def _show_parameters(group: str, found: list[dict[str, Any]], in_full: bool) -> Iterator[RenderableType]:
    """Yield the parameters: in full one a row with its meaning, else those of an entry side by side."""
    prefix = "" if group == "hparams" else f"{group}."
    for entry in found:
        shown = {key: value for key, value in entry["parameters"].items() if key not in ("kind", "checkpoint")}
        entry["pairs"] = [(key, typed(value)) for key, value in choices.flat(prefix, shown)]
    with_any = [entry for entry in found if entry["pairs"]]
    if in_full:
        for entry in with_any:
            meanings = {f"{prefix}{key}": text for key, text in entry["meanings"].items()}
            full = [(key, value, meanings.get(key, "")) for key, value in entry["pairs"]]
            yield ""
            yield table((entry["name"], "default", "meaning"), full)
    elif with_any:
        rows = [(entry["name"], "  ".join("=".join(pair) for pair in entry["pairs"])) for entry in with_any]
        yield ""
        yield table((group, "parameters and their defaults"), rows)


def _task_row(entry: dict[str, Any]) -> tuple[str, ...]:
    data, kind = entry["data"], entry["parameters"].get("kind")
    unknown = "any" if data["origin"] == "own" else "-"
    shapes = "any" if kind in (None, "???") else str(kind), data["shape"] or unknown, data["outputs"] or unknown
    return entry["name"], *shapes, entry["error"], data["state"]


def typed(value: Any) -> str:
    """Return a value as one types it on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(typed, value))}]"
    return str(value)


def _show_settings(found: list[dict[str, Any]]) -> Iterator[RenderableType]:
    rows = []
    for entry in found:
        allowed = f" ({entry['allowed']})" if entry["allowed"] else ""
        kind = entry["type"].removesuffix(" or null")
        rows.append((entry["key"], kind, typed(entry["default"]), entry["meaning"] + allowed))
    groups = "task body source metric embedder finetune augment tracker tune hparams protocol study"
    note = f"Groups: {groups}; their parameters: orca list GROUP NAME."
    yield table(("setting", "type", "default", "meaning"), rows)
    yield Text(note)
