"""`orca list`: what there is to choose from, read off the YAML files and the schema; nothing is composed or built."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from orca_cli.commands.options import add_config_dir
from orca_cli.config import catalogue, configuration, ranges, schema, variants
from orca_cli.data import data_folder
from orca_cli.exceptions import UsageError, suggest
from orca_cli.runs.settings import as_typed, flat
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
_NOT_SETTINGS = ("_target_", "data", *variants.BLOCKS)
SCHEMA = 1
# Default errors; see scoring/defaults.py.
_ERRORS = {"classes": "0-1 error", "labels": "1 - mAP", "values": "RMSE"}
PLAIN = "clean"  # the protocol that the others depart from
UNSET = "-"
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
    text = f"one of {', '.join((*GROUPS, SETTINGS))}; default: all, in short"
    parser.add_argument("group", nargs="?", metavar="GROUP", help=text)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the group; default: all")
    add_config_dir(parser)


def execute(arguments: argparse.Namespace) -> Result:
    """Return what there is in every group, or all about one group."""
    word = arguments.group
    if word is not None and word not in (*GROUPS, SETTINGS):
        # The name of the folder and of the key on the command line is understood as well.
        word = {folder: plural for plural, folder in GROUPS.items()}.get(word, word)
        if word not in GROUPS:
            raise UsageError(f"there is no group '{word}'", hint=suggest(word, (*GROUPS, SETTINGS)))
    # The overview leaves out empty groups, such as those that an older configuration lacks.
    extra = arguments.config_dir
    words = [word] if word else [name for name, group in GROUPS.items() if configuration.choices(group, extra)]
    listed = {name: _all_settings() if name == SETTINGS else entries(GROUPS[name], extra) for name in words}
    if arguments.names:
        listed[words[0]] = _chosen(listed[words[0]], arguments.names, word)
    record: dict[str, Any] = {"schema": SCHEMA, **listed}
    if word == "protocols":
        record["departures"] = [dataclasses.asdict(one) for one in departures(extra)]
    if word is None:
        rows = [(word, ", ".join(entry["name"] for entry in listing) or "-") for word, listing in listed.items()]
        note = Text(f"Details: orca list GROUP; keys: orca list {SETTINGS}")
        return Result(record, [table(("group", "choices"), rows), note])
    if word == SETTINGS:
        return Result(record, _show_settings(listed[word]))
    more = _show_departures(extra) if word == "protocols" else ()
    return Result(record, chain(_show_group(word, listed[word], bool(arguments.names)), more))


def entries(group: str, extra: Path | None = None) -> list[dict[str, Any]]:
    """Return what a group offers: name, description, file, what it picks in other groups, its parameters and their meanings.

    Tasks and sources also have `data`: what is known of their data, and whether they are there. Tasks have `error`, the
    name of what is reported, and `protocols`: name -> where a task departs from the protocol clean.

    Raises:
        ConfigError: a file cannot be read.
    """
    departing: dict[str, dict[str, str]] = {}  # task -> protocol -> where the task departs from the protocol clean
    for name, variant in variants.variants("departures", extra).items() if group == "task" else ():
        protocol, _, task = name.partition("/")
        departing.setdefault(task, {})[protocol] = variant.description
    listing = []
    for name, variant in variants.variants(group, extra).items():
        content, path = dict(variant.settings), variant.path
        picks = configuration.picks(content.pop("defaults", None))
        # A file of the whole package (`@package _global_`) holds its group's settings under the group's name.
        settings = content.get(group, content)
        if group == "study":
            settings = {axis: list(choices) for axis, choices in content.get("axes", {}).items()}
        if group == "protocol":  # it sets keys of other groups, and its own name
            settings = {key: value for key, value in content.items() if key != group}
        settings = settings if isinstance(settings, dict) else {}
        is_in_task = group == "hparams" and path.parent.name != group
        entry: dict[str, Any] = {
            "name": name,
            "description": variant.description,
            "picks": picks,
            "parameters": {key: value for key, value in settings.items() if key not in _NOT_SETTINGS},
            "meanings": {} if is_in_task else configuration.comments(path),
            "file": str(path),
        }
        if group in catalogue.GROUPS:
            about = catalogue.read(group, name, path)
            texts = {key: getattr(about, key) for key in ("shape", "outputs", "error", "licence", "origin", "bytes")}
            entry["data"] = {"state": data_folder.state(about, configuration.default_folders()["data"]), **texts}
        if group == "task":
            entry["error"] = entry["data"].pop("error") or _error(settings)
            entry["protocols"] = departing.get(name, {})
        listing.append(entry)
    return listing


def _error(task: dict[str, Any]) -> str:
    """Return the error of a task whose block `data` does not name it: its class, or the usual one of the task's kind."""
    node = task.get("error")
    if isinstance(node, dict) and isinstance(node.get("_target_"), str):
        return node["_target_"].rpartition(".")[2]
    if isinstance(node, str):
        return node
    return _ERRORS.get(str(task.get("kind")), "usual of kind")


def _all_settings() -> list[dict[str, Any]]:
    """Return every key of the schema with default, what is allowed, and meaning."""
    return [
        {
            "key": key,
            "default": schema.lookup(schema.Config(), key),
            "allowed": ranges.in_words(hint),
            "meaning": ranges.meaning(hint),
        }
        for key, hint in schema.declared().items()
    ]


@dataclass(frozen=True)
class Departure:
    """A setting whose value depends on the protocol."""

    task: str  # that it is changed for; empty for all tasks
    key: str  # dotted, as it is typed; a part's own key (`task.loss`) stands for its class
    # By protocol, in the order of `protocols`; UNSET where neither it nor the part's file has one.
    values: dict[str, Any]


def protocols(extra: Path | None = None) -> list[str]:
    """Return the protocols, the plain one first."""
    return sorted(configuration.choices("protocol", extra), key=lambda name: (name != PLAIN, name))


def departures(extra: Path | None = None) -> list[Departure]:
    """Return all settings that differ between protocols, those for all tasks first, with values as the files have them.

    Settings of training (`orca list hparams`), which belong to a task on a body, are left out.

    Raises:
        ConfigError: a file cannot be read.
    """
    names = protocols(extra)
    shared = {name: _settings(path) for name, path in configuration.choices("protocol", extra).items()}
    by_task: dict[str, dict[str, dict[str, Any]]] = {}  # task -> protocol -> settings
    for name, variant in variants.variants("departures", extra).items():
        protocol, _, task = name.partition("/")
        by_task.setdefault(task, {})[protocol] = dict(flat(variant.settings))
    chosen = configuration.default_choices()
    defaults = schema.Config()

    def plain(key: str) -> Any:
        if key in chosen:
            return chosen[key]
        return UNSET if key.partition(".")[0] in chosen else schema.lookup(defaults, key)

    differences = []
    tasks = configuration.choices("task", extra)
    for task, changed in [("", shared), *sorted(by_task.items())]:
        written = _settings(tasks[task]) if task in tasks else {}
        for key in dict.fromkeys(key for name in names for key in changed.get(name, {})):
            otherwise = written.get(key, plain(key))
            values = {name: changed.get(name, {}).get(key, shared[name].get(key, otherwise)) for name in names}
            if task or any(value != values[PLAIN] for value in values.values()):
                differences.append(Departure(task, key, values))
    return differences


def _settings(path: Path) -> dict[str, Any]:
    """Return dotted key -> value of a file, with what it picks in other groups."""
    content = configuration.content(path)
    picks = configuration.picks(content.pop("defaults", None))
    content.pop("protocol", None)
    return picks | dict(_parameters(content))


def _parameters(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values of nested settings; a part's own key has the name of its class as value."""
    for key, value in flat(node, prefix):
        if key.rpartition(".")[2] == "_target_":
            yield key.removesuffix("._target_"), str(value).rpartition(".")[2]
        elif value != {}:
            yield key, value


def _chosen(listing: list[dict[str, Any]], names: Sequence[str], word: str) -> list[dict[str, Any]]:
    """Return the entries of these names; among settings, a section such as `train` names all that it holds."""
    key = "key" if word == SETTINGS else "name"
    candidates = [str(entry[key]) for entry in listing]
    matches = [
        one for name in names for one in candidates if one == name or (key == "key" and one.startswith(f"{name}."))
    ]
    for name in names:
        if not any(one == name or one.startswith(f"{name}.") for one in matches):
            raise UsageError(f"there is no '{name}' among the {word}", hint=suggest(name, candidates))
    return [entry for entry in listing if entry[key] in matches]


def _show_group(word: str, listing: list[dict[str, Any]], in_full: bool) -> Iterator[RenderableType]:
    group = GROUPS[word]
    if not listing:
        yield Text(f"There are no {word}.")
        return
    picked = sorted({key for entry in listing for key in entry["picks"]})
    if group == "task":
        yield table(("task", "kind", "shape", "outputs", "error", "data"), map(_task_row, listing))
        yield ""
    rows = []
    for entry in listing:
        special = []
        if group == "body":
            special.append(str(entry["parameters"].get("checkpoint", "")))
        elif group == "source":
            special.append(entry["data"]["state"])
        picks = [entry["picks"].get(key, "-") for key in picked]
        rows.append((entry["name"], *special, *picks, entry["description"]))
    special_headers = {"body": ("checkpoint",), "source": ("data",)}.get(group, ())
    yield table((group, *special_headers, *picked, "description"), rows)
    departing = []
    for entry in listing:
        texts = entry.get("protocols", {})
        for text in dict.fromkeys(texts.values()):  # protocols with the same text share a row
            departing.append((entry["name"], ", ".join(name for name in texts if texts[name] == text), text))
    if departing:
        yield ""
        yield table(("task", "protocol", "where it departs from protocol=clean"), departing)
    if group == "study":
        yield from _show_axes(listing)
    elif group != "protocol" and (in_full or group != "task"):
        yield from _show_parameters(group, listing, in_full)
    if group == "task":
        more = "" if in_full else " Parameters of a task: orca list tasks NAME."
        more += " The protocols: orca list protocols." if departing else ""
        yield ""
        yield Text(f"Files of a task: orca data list NAME.{more}")


def _show_axes(listing: list[dict[str, Any]]) -> Iterator[RenderableType]:
    """Yield the choices on each axis of each study, and how one runs a part of it."""
    for entry in listing:
        rows = [(axis, ", ".join(map(as_typed, names))) for axis, names in entry["parameters"].items()]
        yield ""
        yield table((entry["name"], "every combination of"), rows)
    yield ""
    yield Text("All of it: orca run -m study=NAME. A part: orca run -m study=NAME AXIS=CHOICE,CHOICE.")
    yield Text("Its table: orca report --study NAME.")


def _show_departures(extra: Path | None) -> Iterator[RenderableType]:
    """Yield what every protocol changes, side by side; the reasons are in docs/protocols.md."""
    names, settings = protocols(extra), departures(extra)
    for title, is_single in (("all tasks", False), ("single tasks", True)):
        rows = []
        for entry in (entry for entry in settings if bool(entry.task) == is_single):
            key = f"{entry.task}: {entry.key}" if is_single else entry.key
            rows.append((key, *(as_typed(entry.values[name]) for name in names)))
        if rows:
            yield ""
            yield table((title, *names), rows)
    yield ""
    yield Text("Settings of training, by protocol, task and body: orca list hparams. Why: docs/protocols.md.")


def _show_parameters(group: str, listing: list[dict[str, Any]], in_full: bool) -> Iterator[RenderableType]:
    """Yield the parameters: in full, one per row with its meaning; otherwise one row per entry."""
    prefix = "" if group == "hparams" else f"{group}."
    for entry in listing:
        shown = {key: value for key, value in entry["parameters"].items() if key not in ("kind", "checkpoint")}
        entry["pairs"] = [(key, as_typed(value)) for key, value in _parameters(shown, prefix)]
    with_any = [entry for entry in listing if entry["pairs"]]
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


def _show_settings(listing: list[dict[str, Any]]) -> Iterator[RenderableType]:
    rows = []
    for entry in listing:
        rows.append((entry["key"], as_typed(entry["default"]), f"{entry['meaning']} ({entry['allowed']})"))
    yield table(("setting", "default", "meaning"), rows)
    groups = "task body source metric embedder finetune augment tracker tune hparams protocol study"
    yield Text(f"Groups: {groups}; their parameters: orca list GROUP NAME.")
