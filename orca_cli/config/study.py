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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orca_cli.config import configuration
from orca_cli.config.configuration import key_of, mapping
from orca_cli.config.schema import is_without_effect
from orca_cli.exceptions import ConfigError, UnsafeError, suggest

_BLANK = "=???"
SET = "set"  # the axis of the data sets
_PARTS = ("common", "axes", "except", "files")
_NOT_IN_FILES = ("hydra", "paths", "study")

Choices = dict[str, tuple[str, ...]]  # name -> overrides


@dataclass(frozen=True)
class Arm:
    """One run of a study."""

    labels: dict[
        str, str
    ]  # axis -> name of the choice, and what was typed besides; not part of the run's identity
    overrides: list[str]
    lacks: str = ""  # why it cannot run; empty if it can


@dataclass(frozen=True)
class Study:
    """A study's file; see the module."""

    name: str = ""
    common: tuple[str, ...] = ()
    axes: dict[str, Choices] = field(default_factory=dict)
    left_out: tuple[dict[str, tuple[str, ...]], ...] = ()
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, path: Path) -> Study:
        """Read a study's file; ConfigError where it is not a study, UnsafeError where it sets how the program runs."""
        where = str(path)
        content = mapping(configuration.content(path), where, _PARTS)
        axes: dict[str, Choices] = {}
        for axis, node in mapping(content.get("axes"), f"{where}: axes").items():
            named = (
                {text: f"{axis}={text}" for text in _texts(node)}
                if isinstance(node, list)
                else node
            )
            inside = mapping(named, f"{where}: {axis}").items()
            axes[axis] = {
                choice: _overrides(entry, f"{where}: {axis}.{choice}") for choice, entry in inside
            }
        left_out = []
        for entry in content.get("except") or []:
            condition = mapping(entry, f"{where}: except", axes)
            left_out.append({axis: _texts(node) for axis, node in condition.items()})
            for axis, choice in (
                (axis, choice) for axis, names in left_out[-1].items() for choice in names
            ):
                if choice not in axes[axis]:
                    hint = suggest(choice, axes[axis])
                    raise ConfigError(
                        f"{axis} has no '{choice}'", where=f"{where}: except", hint=hint
                    )
        files = {
            key: str(text) for key, text in mapping(content.get("files"), f"{where}: files").items()
        }
        return cls(
            name,
            _overrides(content.get("common") or [], f"{where}: common"),
            axes,
            tuple(left_out),
            files,
        )

    def narrowed(self, axis: str, names: Sequence[str], setting: str = "") -> Study:
        """Return the study with the choices of an axis that were typed.

        A name that is no choice of the axis is a value of `setting`, and where that is empty a ConfigError.
        """
        choices, chosen = self.axes[axis], {}
        for name in names:
            if name not in choices and not setting:
                raise ConfigError(
                    f"study={self.name} has no {axis} '{name}'",
                    where=axis,
                    hint=suggest(name, choices),
                )
            chosen[name] = choices.get(name, (f"{setting}={name}",))
        return replace(self, axes=self.axes | {axis: chosen})

    def arms(self, typed: Mapping[str, Choices], data_folder: Path) -> list[Arm]:
        """Return every arm that is not left out, the first axis slowest.

        Args:
            typed: key -> its values and their overrides, for what the command line sets besides; each value makes arms.
            data_folder: where relative names of files are looked for, besides the working folder.
        """
        preset = [
            text for choices in self.axes.values() for texts in choices.values() for text in texts
        ]
        blank, axes, arms = (
            {key_of(text) for text in preset if text.endswith(_BLANK)},
            self.axes | dict(typed),
            [],
        )
        unnamed = {
            key
            for key in typed
            if key in blank or key.startswith(_NOT_IN_FILES) or is_without_effect(key)
        }
        for chosen in itertools.product(
            *([(axis, name) for name in choices] for axis, choices in axes.items())
        ):
            labels = dict(chosen)
            if any(
                all(labels[axis] in names for axis, names in one.items()) for one in self.left_out
            ):
                continue
            texts = [*self.common, *(text for axis, name in chosen for text in axes[axis][name])]
            for axis in self.axes:
                texts = [text.replace(f"{{{axis}}}", labels[axis]) for text in texts]
            merged: dict[str, str] = {}
            for key, text in ((key_of(text), text) for text in texts):
                # What only the command line can give goes to the choices that ask for it.
                if (
                    key not in blank
                    or text.endswith(_BLANK)
                    or merged.get(key, "").endswith(_BLANK)
                ):
                    merged[key] = text
            named = {axis: name for axis, name in labels.items() if axis not in unnamed}
            arms.append(Arm(named, list(merged.values()), self._lack(merged, data_folder)))
        return arms

    def _lack(self, merged: dict[str, str], data_folder: Path) -> str:
        """Return why an arm cannot run: values that have to be typed, and files that are not there; empty if it can."""
        lacks = []
        for key, text in merged.items():
            value = text.partition("=")[2].strip("'\"")
            path = Path(value).expanduser()
            if text.endswith(_BLANK):
                lacks.append(
                    f"needs {key}=...: {self.files.get(key, 'give it on the command line')}"
                )
            elif key in self.files and not (path.exists() or (data_folder / path).exists()):
                lacks.append(f"no {value} in the data folder {data_folder}: {self.files[key]}")
        return "; ".join(lacks)


def absent_lines(absent: Mapping[str, int]) -> list[str]:
    """Return a line for each reason why arms cannot run."""
    return [
        f"{count} run{'s' if count > 1 else ''} left out: {reason}"
        for reason, count in absent.items()
    ]


def _texts(node: Any) -> tuple[str, ...]:
    """Return a value, or each of a list, as one types it."""
    values = node if isinstance(node, list) else [node]
    return tuple(str(value).lower() if isinstance(value, bool) else str(value) for value in values)


def _overrides(node: Any, where: str) -> tuple[str, ...]:
    texts = [node] if isinstance(node, str) else node
    if not isinstance(texts, list) or not all(
        isinstance(text, str) and "=" in text for text in texts
    ):
        raise ConfigError(
            "is not a list of overrides", where=where, hint="such as [task=digits, train.epochs=5]"
        )
    for text in texts:
        if re.split(r"[./]", key_of(text))[0] in _NOT_IN_FILES:
            raise UnsafeError(
                f"'{text}' sets how the program runs",
                where=where,
                hint="type it on the command line",
            )
    return tuple(texts)
