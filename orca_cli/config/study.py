"""Studies: a preset sweep over axes, whose choices are sets of overrides that go together (conf/study/NAME.yaml).

    common: [train.epochs=5]                       # overrides of all runs
    axes:                                          # every combination of their choices is an arm: one run
      seed: [0, 1, 2]                              # a list: the choices are values of the setting that the axis is named after
      set:                                         # a mapping: name of a choice -> its overrides
        digits: task=digits
        arrows: [task=arrays, task.kind=classes, "task.train=study/{seed}/ArrowHead.npz"]   # {AXIS}: the arm's choice there
      body:
        minilm: body=minilm
        swin: [body=swin_tiny, body.checkpoint=???]   # ???: only the command line can give it, and it goes to this choice only
    except:                                        # arms that are left out
      - {body: swin, set: [arrows]}
    files:                                         # settings that name files: how one gets them
      task.train: python scripts/study_data.py --from FOLDER
      task.path: orca data get NAME

Where overrides of an arm have the same key, the later axis counts; what is typed on the command line beats them all. Where a
study has sets, task=NAME on the command line takes their place: the set of that name, else the plain task.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orca_cli.config import configuration
from orca_cli.config.configuration import key_of, mapping
from orca_cli.config.schema import is_without_effect
from orca_cli.exceptions import ConfigError, UnsafeError, suggest

BLANK = "???"
SET = "set"  # the axis of the data sets
_PARTS = ("common", "axes", "except", "files")
_NOT_IN_FILES = ("hydra", "paths", "study")

Choices = dict[str, tuple[str, ...]]  # name -> overrides


@dataclass(frozen=True)
class Arm:
    """One run of a study."""

    labels: dict[str, str]  # axis -> name of the choice, and what was typed besides; not part of the run's identity
    overrides: list[str]
    lacks: str = ""  # why it cannot run; empty if it can


@dataclass(frozen=True)
class Study:
    """A study's file; see the module."""

    name: str
    common: tuple[str, ...]
    axes: dict[str, Choices]
    left_out: tuple[dict[str, tuple[str, ...]], ...]
    files: dict[str, str]

    @classmethod
    def read(cls, name: str, path: Path) -> Study:
        """Read a study's file; ConfigError where it is not a study, UnsafeError where it sets how the program runs."""
        where = str(path)
        content = mapping(configuration.content(path), where, _PARTS)
        axes = mapping(content.get("axes"), f"{where}: axes")
        if not axes:
            raise ConfigError("a study needs axes", where=where, hint="such as axes: {seed: [0, 1, 2]}")
        read = {axis: _choices(axis, node, where) for axis, node in axes.items()}
        conditions = content.get("except") or []
        conditions = conditions if isinstance(conditions, list) else [conditions]
        return cls(
            name,
            _overrides(content.get("common") or [], "common", where),
            read,
            tuple(_condition(entry, read, where) for entry in conditions),
            {key: str(text) for key, text in mapping(content.get("files"), f"{where}: files").items()},
        )

    def narrowed(self, axis: str, names: Sequence[str], setting: str = "") -> Study:
        """Return the study with the choices of an axis that were typed.

        A name that is no choice of the axis is a value of `setting`, and where that is empty a ConfigError.
        """
        choices, chosen = self.axes[axis], {}
        for name in names:
            if name not in choices and not setting:
                raise ConfigError(f"study={self.name} has no {axis} '{name}'", where=axis, hint=suggest(name, choices))
            chosen[name] = choices.get(name, (f"{setting}={name}",))
        return replace(self, axes=self.axes | {axis: chosen})

    def arms(self, typed: Mapping[str, Sequence[tuple[str, str]]], data_folder: Path) -> list[Arm]:
        """Return every arm that is not left out, the first axis slowest.

        Args:
            typed: key -> (text of the value, override) of what the command line sets besides; each value makes arms.
            data_folder: where relative names of files are looked for, besides the working folder.
        """
        preset_texts = [text for choices in self.axes.values() for texts in choices.values() for text in texts]
        blank = {key_of(text) for text in preset_texts if _is_blank(text)}
        axis_choices = [[(axis, name) for name in choices] for axis, choices in self.axes.items()]
        more = [[(key, *pair) for pair in pairs] for key, pairs in typed.items()]
        arms = []
        for chosen in itertools.product(*axis_choices):
            labels = dict(chosen)
            if any(all(labels[axis] in names for axis, names in one.items()) for one in self.left_out):
                continue
            texts = [*self.common, *(text for axis, name in chosen for text in self.axes[axis][name])]
            for axis, name in chosen:
                texts = [text.replace(f"{{{axis}}}", name) for text in texts]
            preset = {key_of(text): text for text in texts}
            for extra in itertools.product(*more):
                merged, named = dict(preset), dict(labels)
                for key, value, text in extra:
                    if key not in blank or _is_blank(preset.get(key, "")):
                        merged[key] = text
                    if key not in blank and not key.startswith(_NOT_IN_FILES) and not is_without_effect(key):
                        named[key] = value
                arms.append(Arm(named, list(merged.values()), self._lack(merged, data_folder)))
        return arms

    def _lack(self, merged: dict[str, str], data_folder: Path) -> str:
        """Return why an arm cannot run: values that have to be typed, and files that are not there; empty if it can."""
        lacks = []
        for key, text in merged.items():
            value = text.partition("=")[2].strip("'\"")
            if value == BLANK:
                lacks.append(f"needs {key}=...: {self.files.get(key, 'give it on the command line')}")
                continue
            path = Path(value).expanduser()
            if key in self.files and not (path.exists() or (data_folder / path).exists()):
                lacks.append(f"no {value} in the data folder {data_folder}: {self.files[key]}")
        return "; ".join(lacks)


def absent_lines(absent: Mapping[str, int]) -> list[str]:
    """Return a line for each reason why arms cannot run."""
    return [f"{count} run{'s' if count > 1 else ''} left out: {reason}" for reason, count in absent.items()]


def _is_blank(text: str) -> bool:
    return text.endswith(f"={BLANK}")


def _choices(axis: str, node: Any, where: str) -> Choices:
    """Return the choices of an axis, from a list of values or a mapping of names to overrides."""
    if isinstance(node, list) and node and all(isinstance(value, str | int | float) for value in node):
        return {name: (f"{axis}={name}",) for name in map(_text, node)}
    if isinstance(node, dict) and node:
        return {_text(name): _overrides(entry, f"{axis}.{name}", where) for name, entry in node.items()}
    hint = f"such as {axis}: [a, b], or {axis}: {{a: [key=value]}}"
    raise ConfigError(f"axis '{axis}' has no choices", where=where, hint=hint)


def _text(value: Any) -> str:
    """Return a value as one types it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _overrides(node: Any, part: str, where: str) -> tuple[str, ...]:
    texts = [node] if isinstance(node, str) else node
    where = f"{where}: {part}"
    if not isinstance(texts, list) or not all(isinstance(text, str) and "=" in text for text in texts):
        raise ConfigError("is not a list of overrides", where=where, hint="such as [task=digits, train.epochs=5]")
    for text in texts:
        if re.split(r"[./]", key_of(text))[0] in _NOT_IN_FILES:
            raise UnsafeError(f"'{text}' sets how the program runs", where=where, hint="type it on the command line")
    return tuple(texts)


def _condition(entry: Any, axes: dict[str, Choices], where: str) -> dict[str, tuple[str, ...]]:
    condition = {}
    for axis, node in mapping(entry, f"{where}: except", axes.keys()).items():
        condition[axis] = tuple(map(_text, node if isinstance(node, list) else [node]))
        for name in condition[axis]:
            if name not in axes[axis]:
                raise ConfigError(f"{axis} has no '{name}'", where=f"{where}: except", hint=suggest(name, axes[axis]))
    if not condition:
        raise ConfigError("a condition is empty", where=f"{where}: except", hint="such as - {axis: choice}")
    return condition
