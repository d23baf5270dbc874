"""`orca list`: what there is to choose from, read off the YAML files and the schema; nothing is composed or built."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from orca_cli.commands.options import CONFIG_DIR, argument
from orca_cli.config import catalogue, configuration, declarations, ranges, schema
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
    "hparams": "hparams",
    "protocols": "protocol",
    "studies": "study",
    "spaces": "space",
}
SETTINGS = "settings"
_NOT_SETTINGS = ("_target_", "data", *configuration.BLOCKS)
_WHOLE_FILES = (
    "hparams",
    "protocol",
    "study",
    "space",
)  # groups whose files set keys of other groups
# Default errors; see scoring/reported.py.
_ERRORS = {"classes": "0-1 error", "labels": "1 - mAP", "values": "RMSE"}
EXAMPLES = """\
examples:
  orca list                           the names in every group
  orca list tasks                     kind, shape, error and data of every task
  orca list tasks ecg psicov          some of a group: parameters, defaults and meaning
  orca list settings                  every KEY of KEY=VALUE with type, default and meaning
  orca list --config-dir my_conf      with your own my_conf/task/x.yaml, ..."""
ARGUMENTS = (
    argument(
        "group",
        nargs="?",
        metavar="GROUP",
        help=f"one of {', '.join((*GROUPS, SETTINGS))}; default: all, in short",
    ),
    argument("names", nargs="*", metavar="NAME", help="of the group; default: all"),
    CONFIG_DIR,
)


def execute(arguments: argparse.Namespace) -> Result:
    """Return what there is in every group, or all about one group."""
    # The name of the folder and of the key on the command line is understood as well.
    folders = {folder: plural for plural, folder in GROUPS.items()}
    word, extra = folders.get(arguments.group, arguments.group), arguments.config_dir
    if word is None:
        everything = {name: entries(group, extra) for name, group in GROUPS.items()}
        # The settings that a task's file has for a protocol and a body apply by themselves: PROTOCOL/TASK-BODY.
        names = [
            (name, ", ".join(one for one in listed if "/" not in one))
            for name, listed in everything.items()
        ]
        note = (
            f"Details, and the hparams of single tasks: orca list GROUP; keys: orca list {SETTINGS}"
        )
        record = {name: [*listed.values()] for name, listed in everything.items()}
        return Result({"schema": 1, **record}, [table(("group", "choices"), names), note])
    if word not in (*GROUPS, SETTINGS):
        raise UsageError(f"there is no group '{word}'", hint=suggest(word, (*GROUPS, SETTINGS)))
    if word == SETTINGS:
        listed: dict[str, dict[str, Any]] = {
            key: {
                "key": key,
                "default": schema.lookup(schema.Config(), key),
                "allowed": ranges.in_words(hint),
                "meaning": ranges.meaning(hint),
            }
            for key, hint in schema.declared().items()
        }
    else:
        listed = entries(GROUPS[word], extra)
    for name in arguments.names:
        if name not in listed:
            raise UsageError(f"there is no '{name}' among the {word}", hint=suggest(name, listed))
    chosen = [
        entry for name, entry in listed.items() if not arguments.names or name in arguments.names
    ]
    if word == SETTINGS:
        rows = [
            (one["key"], as_typed(one["default"]), f"{one['meaning']} ({one['allowed']})")
            for one in chosen
        ]
        note = f"Groups: {' '.join(GROUPS.values())}; their parameters: orca list GROUP NAME."
        return Result(
            {"schema": 1, word: chosen}, [table(("setting", "default", "meaning"), rows), note]
        )
    return Result({"schema": 1, word: chosen}, _shown(GROUPS[word], chosen, bool(arguments.names)))


def entries(group: str, extra: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return name -> what a group offers: description, file, what it picks in other groups, parameters and their meanings.

    Tasks and sources also have `data`: what is known of their data, and whether they are there. Tasks have `error`, the
    name of what is reported, and `protocols`: name -> where a task departs from the protocol clean.

    Raises:
        ConfigError: a file cannot be read.
    """
    departures = (
        configuration.variants("departures", extra) if group == "task" else {}
    )  # by PROTOCOL/TASK
    listed: dict[str, dict[str, Any]] = {}
    for name, variant in configuration.variants(group, extra).items():
        content, path = dict(variant.settings), variant.path
        picks = configuration.picks(content.pop("defaults", None))
        # A file of the whole package (`@package _global_`) holds its group's settings under the group's name.
        settings = content if group in _WHOLE_FILES else content.get(group, content)
        if group == "study":
            settings = {axis: list(names) for axis, names in content.get("axes", {}).items()}
        settings = settings if isinstance(settings, dict) else {}
        settings = declarations.declared_node(group, settings) | settings
        meanings = {
            key: setting.meaning
            for key, setting in declarations.settings_of(group, settings).items()
            if setting.meaning
        }
        if group != "hparams" or path.parent.name == group:  # not a block of a task's file
            meanings |= configuration.comments(path)
        entry: dict[str, Any] = {
            "name": name,
            "description": variant.description,
            "picks": picks,
            "parameters": {
                key: value for key, value in settings.items() if key not in (*_NOT_SETTINGS, group)
            },
            "meanings": meanings,
            "file": str(path),
        }
        if group in catalogue.GROUPS:
            about = catalogue.read(group, name, path)
            texts = {
                key: getattr(about, key)
                for key in ("shape", "outputs", "error", "licence", "origin", "bytes")
            }
            entry["data"] = {
                "state": data_folder.state(about, configuration.default_folders()["data"]),
                **texts,
            }
        if group == "task":
            node = settings.get("error")
            node = node.get("_target_") if isinstance(node, dict) else node
            usual = _ERRORS.get(str(settings.get("kind")), "usual of kind")
            entry["error"] = entry["data"].pop("error") or str(node or usual).rpartition(".")[2]
            of_task = {
                key.partition("/")[0]: one
                for key, one in departures.items()
                if key.endswith(f"/{name}")
            }
            entry["protocols"] = {protocol: one.description for protocol, one in of_task.items()}
        listed[name] = entry
    return listed


def _shown(group: str, chosen: list[dict[str, Any]], in_full: bool) -> Iterator[RenderableType]:
    """Yield what a group has, and the parameters: of entries that are named one per row with its meaning."""
    if group == "task":
        rows: list[tuple[str, ...]] = []
        for entry in chosen:
            data, kind = (
                entry["data"],
                str(entry["parameters"].get("kind", "???")).replace("???", "any"),
            )
            shapes = [
                data[key] or ("any" if data["origin"] == "own" else "-")
                for key in ("shape", "outputs")
            ]
            rows.append((entry["name"], kind, *shapes, entry["error"], data["state"]))
        yield table(("task", "kind", "shape", "outputs", "error", "data"), rows)
        yield ""
    picked = sorted({key for entry in chosen for key in entry["picks"]})
    rows = [
        (one["name"], *(one["picks"].get(key, "-") for key in picked), one["description"])
        for one in chosen
    ]
    yield table((group, *picked, "description"), rows)
    prefix, short = "" if group in _WHOLE_FILES else f"{group}.", []
    for entry in chosen:
        rows = []
        for key, value in flat(entry["parameters"]):
            if (
                key.rpartition(".")[2] == "_target_"
            ):  # a part's own key has the name of its class as value
                key, value = key.removesuffix("._target_"), str(value).rpartition(".")[2]
            if value != {}:
                rows.append((f"{prefix}{key}", as_typed(value), entry["meanings"].get(key, "")))
        short.append((entry["name"], "  ".join(f"{key}={value}" for key, value, _ in rows)))
        if in_full:
            rows += [
                (f"protocol={name}", "", text) for name, text in entry.get("protocols", {}).items()
            ]
            yield ""
            yield table((entry["name"], "default", "meaning"), rows)
    if group == "task":
        yield (
            "\nFiles of a task: orca data list NAME."
            + " Its parameters: orca list tasks NAME." * (not in_full)
        )
    elif not in_full:
        yield ""
        yield table((group, "parameters and their defaults"), [row for row in short if row[1]])
