"""Every setting of the schema and of every shipped file, and every way to get it wrong: what test_configs.py tries.

The walk reads the YAML files and the schema, so that the number of cases grows with the product. What is allowed is not
read from the program's checks: the tables below restate it by hand.
"""

from __future__ import annotations

import dataclasses
import inspect
import random
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from orca_cli.config import parts
from orca_cli.config.configuration import config_dir
from orca_cli.config.schema import Config

CONF = config_dir()
# The settings that tasks on user data require; settings are checked before files are read, so none of these need exist.
REQUIRED_SETTINGS = {
    "arrays": ["task.kind=classes", "task.train=own.npz"],
    "images": ["task.path=own"],
    "table": ["task.train=own.csv", "task.target=y"],
}
SOURCE_BODIES = dict.fromkeys(("cifar10", "digits"), "swin_tiny")

# Settings that may be any text.
FREE = {
    "task.path", "task.train", "task.labels", "task.validation_labels", "task.test_labels",
    "task.x", "task.y", "task.lengths", "task.filter", "task.encoding",
    "task.group", "task.target", "task.images",
    "body.checkpoint", "source.path", "source.name", "paths.runs", "paths.data", "paths.cache", "task.missing",
    "tracker.project", "tracker.entity", "tracker.uri", "tracker.experiment",
    "task.table", "task.file", "task.delimiter", "source.label", "source.sequence",
}  # fmt: skip
# Words that are texts in one task and choices in another.
FREE_IN = {
    ("arrays", "task.validation"),
    ("arrays", "task.test"),
    ("table", "task.validation"),
    ("table", "task.test"),
}
# Settings that may be 0.
MAY_BE_ZERO = {
    "seed", "align.source_seed",
    "task.split_seed", "task.data_seed", "task.crop_start", "task.padding", "source.outside",
    "align.epochs", "align.weight_decay", "align.classes_per_problem", "train.weight_decay",
    "train.momentum", "train.clip", "train.warmup_epochs", "train.checkpoint_s",
    "finetune.dropout", "task.error.threshold",
}  # fmt: skip
# Settings that are fractions: 2 is too much for them.
AT_MOST_ONE = {
    "task.validation_fraction", "task.test_fraction",
    "train.momentum", "align.decay_factor", "task.error.threshold:cosmic",
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One key of one file."""

    file: str  # where it stands, such as task/ecg
    base: tuple[str, ...]  # words that choose the file
    key: str  # dotted
    hint: Any = None  # the type that its value has to have; None where it is a node or the type says nothing


@dataclass(frozen=True)
class Case:
    """One wrong setting."""

    words: tuple[str, ...]  # of the command line, behind `run`
    key: str  # that the message has to name
    suggestion: str = ""  # what it has to propose; empty where it has to say what is allowed


def settings() -> list[Setting]:
    """Return all settings: those of the schema once, and those of every shipped file."""
    all_settings = list(_schema(Config, ""))
    for path in sorted(CONF.rglob("*.yaml")):
        group, name = (
            path.parent.relative_to(CONF).parts[:1],
            path.relative_to(CONF).with_suffix("").as_posix(),
        )
        if group and group[0] not in ("space", "hparams", "departures"):
            all_settings += _file_settings(group[0], name, yaml.safe_load(path.read_text()) or {})
    return all_settings


def _schema(kind: Any, prefix: str) -> Iterator[Setting]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint, key = hints[field.name], f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hint):
            yield from _schema(hint, f"{key}.")
        elif hint is not Any and key != "protocol":
            yield Setting("schema", (), key, hint)


def _file_settings(group: str, name: str, content: dict[str, Any]) -> Iterator[Setting]:
    stem = name.rpartition("/")[2]
    base = [f"{group}={name.partition('/')[2]}"]
    if group == "task":
        base += REQUIRED_SETTINGS.get(stem, [])
    elif (group, stem) == ("body", "auto"):
        base += ["body.checkpoint=own"]
    elif group == "source" and stem in SOURCE_BODIES:
        base = [f"body={SOURCE_BODIES[stem]}", *base]
    if group == "study":
        more = ["source.path=own.npz"] if "task.layout=image" in content.get("common", []) else []
        for key in content["axes"]:
            if "." in key:
                yield Setting(name, ("-m", f"study={stem}", *more), key)
        return
    whole = {group: content.get(group, content)}
    if group == "protocol":
        whole = {
            key: value
            for key, value in content.items()
            if key not in ("defaults", "protocol", "hydra")
        }
    for top, subtree in whole.items():
        if isinstance(subtree, dict):
            yield from _node_settings(name, tuple(base), top, subtree)


def _node_settings(
    name: str, base: tuple[str, ...], prefix: str, node: dict[str, Any]
) -> Iterator[Setting]:
    hints: dict[str, Any] = {}
    target = node.get("_target_")
    if target:
        function = parts.resolve(node, prefix)
        hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)  # type: ignore[misc]
    for key, value in node.items():
        full = f"{prefix}.{key}"
        if key == "_target_" or full in (
            "task.data",
            "source.data",
            "task.departures",
            "task.hparams",
        ):
            continue
        if isinstance(value, dict):
            yield from _node_settings(name, base, full, value)
        elif full not in ("task.loss", "task.error"):
            yield Setting(name, base, full, hints.get(key))


def typos(setting: Setting, draw: random.Random) -> Iterator[Case]:
    """Yield the key with a letter dropped, doubled or swapped with the next, typed plainly and with a plus."""
    parent, dot, name = setting.key.rpartition(".")
    places = [i for i in range(len(name) - 1) if name[i] != name[i + 1]]
    for change in range(3 if places else 0):
        i = draw.choice(places)
        letters, rest = (("", i + 1), (name[i] * 2, i + 1), (name[i + 1] + name[i], i + 2))[change]
        wrong = f"{parent}{dot}{name[:i]}{letters}{name[rest:]}"
        for plus in ("", "+"):
            yield Case((*setting.base, f"{plus}{wrong}=1"), wrong, name)


def wrong_values(setting: Setting) -> Iterator[Case]:
    """Yield values of another type, and values out of range."""
    if setting.hint is None:
        return
    kinds = set(_kinds(setting.hint))
    is_number, is_text, is_list = bool(kinds & {int, float}), str in kinds, list in kinds
    is_word, is_whole = (
        is_text and int not in kinds,
        int in kinds and float not in kinds and not is_text,
    )
    values = {
        "{a:1}": True, "nan": not is_text, "inf": True, "[1]": not is_list, "null": type(None) not in kinds,
        "true": is_text or is_list or is_number, "2.5": is_word or is_whole, "1" + "0" * 30: is_whole,
        "3": is_word or bool in kinds or (is_list and not is_number), "maybe": bool in kinds and not is_list,
        "abc": is_list or (is_number and not is_text),
    }  # fmt: skip
    for value in [
        *(value for value, is_wrong in values.items() if is_wrong),
        *_out_of_range(setting, kinds),
    ]:
        yield Case((*setting.base, f"{setting.key}={value}"), setting.key)


def _out_of_range(setting: Setting, kinds: set[type]) -> Iterator[str]:
    key, stem = setting.key, setting.file.rpartition("/")[2].partition("-")[0]
    if kinds & {int, float} and str not in kinds:
        yield "-1"
        if key not in MAY_BE_ZERO:
            yield "0"
    if key in AT_MOST_ONE or f"{key}:{stem}" in AT_MOST_ONE:
        yield "2"
    if str in kinds and int not in kinds and key not in FREE and (stem, key) not in FREE_IN:
        yield "no_such_word"


def _kinds(hint: Any) -> Iterator[type]:
    """Yield the plain types in an annotation; list for any sequence."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        yield str
    elif origin in (typing.Union, getattr(__import__("types"), "UnionType", None)):
        for argument in typing.get_args(hint):
            yield from _kinds(argument)
    elif origin is not None:
        yield list
    else:
        yield hint


def all_typos() -> list[Case]:
    """Return the mistyped keys of all settings, each once, in a repeatable order."""
    draw = random.Random(0)
    names = {(setting.base, setting.key) for setting in settings()}
    cases = [case for setting in settings() for case in typos(setting, draw)]
    return [case for case in dict.fromkeys(cases) if not any(case.key == key for _, key in names)]


def all_wrong_values() -> list[Case]:
    """Return the wrong values of all settings, each once, in a repeatable order."""
    return list(dict.fromkeys(case for setting in settings() for case in wrong_values(setting)))


def sample(cases: list[Case], number: int) -> list[Case]:
    """Return `number` cases, or all, drawn with a fixed seed."""
    return random.Random(1).sample(cases, min(number, len(cases)))
