"""`orca list`: the choices of every group and their settings.

They are read from files; nothing is composed or built.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from orca_cli.commands.options import CONFIG_DIR, Record, argument
from orca_cli.config import configuration, declarations, ranges, schema
from orca_cli.data import catalogue, data_folder
from orca_cli.exceptions import UsageError, suggest
from orca_cli.runs.settings import as_typed, flat
from orca_cli.terminal import Result, folded, table

# Word on the command line -> folder in conf/.
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
_GROUP_NAMES = (*GROUPS, SETTINGS)
# Keys in the file of a part that are not parameters: class, facts about its data, variants.
_NOT_SETTINGS = ("_target_", "data", *configuration.BLOCKS)
# Groups whose files set keys of other groups.
_WHOLE_FILES = ("hparams", "protocol", "study", "space")
# Kind of task -> its default error; see scoring/reported.py.
_ERRORS = {"classes": "0-1 error", "labels": "1 - mAP", "values": "RMSE"}
EXAMPLES = """\
examples:
  orca list                           the names of all choices, by group
  orca list tasks                     kind, shape, error and data of every task
  orca list tasks ecg psicov          the parameters of two tasks, their defaults and meanings
  orca list settings                  every KEY of KEY=VALUE: default, meaning and allowed values
  orca list --config-dir my_conf      all names, with those of your own my_conf/task/x.yaml, ..."""
ARGUMENTS = (
    argument(
        "group",
        nargs="?",
        metavar="GROUP",
        help=f"one of {', '.join(_GROUP_NAMES)}; default: show the names in every group",
    ),
    argument("names", nargs="*", metavar="NAME", help="choices to show; default: all in the group"),
    CONFIG_DIR,
)


def execute(arguments: argparse.Namespace) -> Result:
    """Return the choices of every group, or the details of one group."""
    # The folder's name, which is also the key on the command line, is allowed as well.
    plurals = {folder: plural for plural, folder in GROUPS.items()}
    group = plurals.get(arguments.group, arguments.group)
    if group is None:
        return _overview(arguments.config_dir)
    if group not in _GROUP_NAMES:
        hint = suggest(group, _GROUP_NAMES)
        raise UsageError(f"unknown group '{group}'", hint=hint)
    choices = _settings() if group == SETTINGS else entries(GROUPS[group], arguments.config_dir)
    for name in arguments.names:
        if name not in choices:
            raise UsageError(f"unknown name '{name}' in {group}", hint=suggest(name, choices))
    chosen = list(choices.values())
    if arguments.names:
        # In the order of the group, whatever the order on the command line.
        chosen = [choices[name] for name in choices if name in arguments.names]
    record = {"schema": 1, group: chosen}
    if group == SETTINGS:
        return Result(record, _settings_shown(chosen))
    return Result(record, _shown(GROUPS[group], chosen, bool(arguments.names)))


def _overview(config_dir: Path | None) -> Result:
    """Return the names in every group."""
    record: Record = {"schema": 1}
    rows = []
    for plural, group in GROUPS.items():
        choices = entries(group, config_dir)
        record[plural] = list(choices.values())
        # Names with a slash are settings for one task and body, which apply automatically.
        choice_names = [name for name in choices if "/" not in name]
        rows.append((plural, ", ".join(choice_names)))
    note = (
        f"`orca list GROUP` explains the choices of a group, and `orca list {SETTINGS}` all other "
        "settings. To choose, write KEY=NAME, where KEY is the group in the singular: task=digits, "
        "body=minilm. `orca --help` explains tasks, bodies, sources, metrics, embedders and "
        "studies. A choice of finetune says which weights are trained. A tracker records the "
        "curves of a run. Hparams are prepared hyperparameters. A protocol is a set of rules for "
        "training and evaluation. A space lists the settings that `orca tune` tries."
    )
    return Result(record, [table(("group", "choices"), rows), "", folded(note)])


def _settings() -> dict[str, Record]:
    """Return key -> default, type and meaning of every setting that does not belong to a part."""
    settings = {}
    for key, type_hint in schema.declared().items():
        settings[key] = {
            "key": key,
            "default": schema.lookup(schema.Config(), key),
            "allowed": ranges.in_words(type_hint),
            "meaning": ranges.meaning(type_hint),
        }
    return settings


def _settings_shown(chosen: list[Record]) -> list[RenderableType]:
    rows = []
    for setting in chosen:
        meaning = f"{setting['meaning']} ({setting['allowed']})"
        rows.append((setting["key"], as_typed(setting["default"]), meaning))
    folders = " ".join(GROUPS.values())
    note = (
        f"\nGroups of choices: {folders}. `orca list GROUP NAME` shows the parameters of a choice."
    )
    return [table(("setting", "default", "meaning"), rows), note]


def entries(group: str, extra: Path | None) -> dict[str, Record]:
    """Return name -> description, file, picks in other groups, parameters and their meanings.

    Tasks and sources also have `data`: the facts about their data, and whether the data are on this
    machine. Tasks also have `error`, the name of the reported error, and `protocols`, which maps
    the name of a protocol to the task's departure from the protocol clean. `extra` is a folder with
    the user's own files.

    Raises:
        ConfigError: a file cannot be read.
    """
    departures: dict[str, configuration.Variant] = {}  # by PROTOCOL/TASK
    if group == "task":
        departures = configuration.variants("departures", extra)
    choices: dict[str, Record] = {}
    for name, variant in configuration.variants(group, extra).items():
        settings = _own_settings(group, variant)
        # A file has only the settings that differ from the defaults in its part's signature.
        settings = declarations.declared_node(group, settings) | settings
        parameters = {}
        for key, setting in settings.items():
            if key not in (*_NOT_SETTINGS, group):
                parameters[key] = setting
        defaults_list = variant.settings.get("defaults")
        entry: Record = {
            "name": name,
            "description": variant.description,
            "picks": configuration.picks(defaults_list),
            "parameters": parameters,
            "meanings": _meanings(group, settings, variant.path),
            "file": str(variant.path),
        }
        # Only tasks and sources have data.
        if group in catalogue.GROUPS:
            entry["data"] = _data(group, name, variant.path)
        if group == "task":
            # A task's file may name its error for people; otherwise the settings determine it.
            entry["error"] = entry["data"].pop("error") or _error(settings)
            entry["protocols"] = {}
            for protocol_and_task, departure in departures.items():
                protocol, _, task = protocol_and_task.rpartition("/")
                if task == name:
                    entry["protocols"][protocol] = departure.description
        choices[name] = entry
    return choices


def _own_settings(group: str, variant: configuration.Variant) -> dict[str, Any]:
    """Return the settings of a group that a file has."""
    content = dict(variant.settings)
    content.pop("defaults", None)
    if group == "study":
        # The settings of a study are its axes, whose names can be used on the command line.
        axes = content.get("axes", {})
        return {axis: list(names) for axis, names in axes.items()}
    if group in _WHOLE_FILES:
        return content
    # A file with `@package _global_` has its settings below the group's name.
    # {task: {kind: ...}} and {kind: ...} mean the same.
    settings = content.get(group, content)
    if not isinstance(settings, dict):
        return {}
    return settings


def _meanings(group: str, settings: dict[str, Any], path: Path) -> dict[str, str]:
    """Return key -> meaning, from the signature of the part and the comments in its file."""
    meanings = {}
    for key, setting in declarations.settings_of(group, settings).items():
        if setting.meaning:
            meanings[key] = setting.meaning
    # The comments in a task's file describe the settings of the task, not its hparams.
    is_block_of_a_task = group == "hparams" and path.parent.name != group
    if not is_block_of_a_task:
        meanings |= configuration.comments(path)
    return meanings


def _data(group: str, name: str, path: Path) -> Record:
    """Return the facts in a task's or source's file about its data, and the state of the data."""
    about = catalogue.read(group, name, path)
    # Only file names in this folder are checked; no data file is opened.
    folder = configuration.default_folders()["data"]
    facts: Record = {"state": data_folder.state(about, folder)}
    for field in ("shape", "outputs", "error", "licence", "origin", "bytes"):
        facts[field] = getattr(about, field)
    return facts


def _error(settings: dict[str, Any]) -> str:
    """Return the name of the error that a task reports."""
    target = settings.get("error")
    if isinstance(target, dict):
        target = target.get("_target_")
    kind = str(settings.get("kind"))
    error_name = str(target or _ERRORS.get(kind, "depends on kind"))
    # The class without its module.
    return error_name.rpartition(".")[2]


def _shown(group: str, chosen: list[Record], in_full: bool) -> Iterator[RenderableType]:
    """Yield the entries of a group and their parameters.

    `in_full` shows each parameter in a row with its meaning.
    """
    if group == "task":
        task_rows = [_task_row(entry) for entry in chosen]
        yield table(("task", "kind", "shape", "outputs", "error", "data"), task_rows)
        yield ""
    # A column for each group in which a file picks a choice, such as the body of a task.
    picked_groups: set[str] = set()
    for entry in chosen:
        picked_groups |= entry["picks"].keys()
    pick_columns = sorted(picked_groups)
    rows: list[tuple[str, ...]] = []
    for entry in chosen:
        picks = [entry["picks"].get(column, "-") for column in pick_columns]
        rows.append((entry["name"], *picks, entry["description"]))
    yield table((group, *pick_columns, "description"), rows)
    if in_full:
        for entry in chosen:
            parameter_rows = _parameter_rows(group, entry)
            for protocol, departure in entry.get("protocols", {}).items():
                parameter_rows.append((f"protocol={protocol}", "", departure))
            yield ""
            yield table((entry["name"], "default", "meaning"), parameter_rows)
    if group == "task":
        note = "\n`orca data list NAME` shows the files of a task"
        if not in_full:
            note += ", and `orca list tasks NAME` shows the parameters of a task"
        note += "."
        yield note
    elif not in_full:
        # A line for each entry: its parameters without their meanings.
        rows = []
        for entry in chosen:
            parameter_rows = _parameter_rows(group, entry)
            defaults = [f"{key}={default}" for key, default, _ in parameter_rows]
            if defaults:
                rows.append((entry["name"], "  ".join(defaults)))
        yield ""
        yield table((group, "parameters and their defaults"), rows)


def _task_row(entry: Record) -> tuple[str, ...]:
    # `???` marks a value that the user has to set.
    kind = str(entry["parameters"].get("kind", "???"))
    kind = kind.replace("???", "any")
    facts = entry["data"]
    unknown = "-"
    if facts["origin"] == "own":
        # Shapes and classes of the user's own data are inferred when the data are read.
        unknown = "any"
    shape = facts["shape"] or unknown
    outputs = facts["outputs"] or unknown
    return entry["name"], kind, shape, outputs, entry["error"], facts["state"]


def _parameter_rows(group: str, entry: Record) -> list[tuple[str, ...]]:
    """Return key, default and meaning of an entry's parameters."""
    # The files of these groups contain complete keys, such as train.lr.
    prefix = "" if group in _WHOLE_FILES else f"{group}."
    parameter_rows: list[tuple[str, ...]] = []
    for key, default in flat(entry["parameters"]):
        # The value of a part's own key is the name of its class.
        if key.rpartition(".")[2] == "_target_":
            key = key.removesuffix("._target_")
            default = str(default).rpartition(".")[2]
        if default != {}:
            meaning = entry["meanings"].get(key, "")
            parameter_rows.append((f"{prefix}{key}", as_typed(default), meaning))
    return parameter_rows
