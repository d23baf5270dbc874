"""Studies: preset sweeps over axes, whose choices are lists of overrides (conf/study/NAME.yaml).

    common: [train.epochs=5]              # overrides of all runs
    axes:                                 # every combination of their choices is an arm: one run
      seed: [0, 1, 2]                     # a list: values of the setting with the axis's name
      set:                                # a mapping: name of a choice -> its overrides
        digits: task=digits
        # {AXIS} is replaced by the arm's choice on that axis.
        arrows: [task=arrays, task.kind=classes, "task.train=study/{seed}/ArrowHead.npz"]
      body:
        minilm: body=minilm
        # ???: only the command line can set it, and it applies to this choice only
        swin: [body=swin_tiny, body.checkpoint=???]
    except:                               # arms that the study excludes
      - {body: swin, set: [arrows]}
    files:                                # settings that name files -> how to get the files
      task.train: python scripts/study_data.py --from FOLDER
      task.path: orca get task=NAME

If several overrides of an arm have the same key, the later axis counts; the command line beats all
of them. If a study has the axis `set`, task=NAME on the command line replaces its choices by the
choice of that name or, if there is no such choice, by the plain task.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orca_cli.config import configuration
from orca_cli.config.configuration import key_of, mapping, value_of
from orca_cli.config.schema import is_without_effect
from orca_cli.exceptions import ConfigError, UnsafeError, suggest

# A value that only the command line can set.
_BLANK = "=???"
SET = "set"  # the axis of the data sets
_KEYS = ("common", "axes", "except", "files")
# Sections of overrides that only the command line may have.
_NOT_IN_FILES = ("hydra", "paths", "study")

Choices = dict[str, tuple[str, ...]]  # name -> overrides
# Axis -> names of choices; an arm meets the condition if, on all of these axes, its choice is among
# the names.
Condition = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Arm:
    """One run of a study."""

    # Axis -> name of its choice, including the command line's axes; not part of the run's identity.
    labels: dict[str, str]
    overrides: list[str]
    lacks: str = ""  # reason for which the arm cannot run; empty if it can run


@dataclass(frozen=True)
class Study:
    """A study, as its file declares it; see the module."""

    name: str = ""
    common: tuple[str, ...] = ()
    axes: dict[str, Choices] = field(default_factory=dict)
    left_out: tuple[Condition, ...] = ()
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, path: Path) -> Study:
        """Read a study's file.

        Raises:
            ConfigError: the file is not a study.
            UnsafeError: the file sets how the program runs.
        """
        where = str(path)
        content = mapping(configuration.content(path), where, _KEYS)
        axes = _axes(content.get("axes"), where)
        files = mapping(content.get("files"), f"{where}: files")
        return cls(
            name=name,
            common=_overrides(content.get("common") or [], f"{where}: common"),
            axes=axes,
            left_out=_left_out(content.get("except"), axes, where),
            files={key: str(text) for key, text in files.items()},
        )

    def narrowed(self, axis: str, names: Sequence[str], setting: str = "") -> Study:
        """Return the study with only the choices `names` of an axis.

        A name that is not a choice of the axis is a value of `setting`; if `setting` is empty, the
        name raises ConfigError.
        """
        choices = self.axes[axis]
        chosen: Choices = {}
        for name in names:
            # A value that is not a choice of the axis may still be a value of the setting.
            if name not in choices and not setting:
                raise ConfigError(
                    f"study={self.name} has no choice '{name}'",
                    where=axis,
                    hint=suggest(name, choices),
                )
            chosen[name] = choices.get(name, (f"{setting}={name}",))
        return replace(self, axes=self.axes | {axis: chosen})

    def arms(self, typed: Mapping[str, Choices], data_folder: Path) -> list[Arm]:
        """Return every arm that the study does not exclude; the first axis changes slowest.

        Args:
            typed: further axes from the command line: key -> values and their overrides.
            data_folder: folder in which relative file names are looked up, in addition to the
                working folder.
        """
        blanks = self._blanks()
        # The axes of the command line come last, and so beat the axes of the file.
        axes = self.axes | dict(typed)
        pairs_of_axis = []
        for axis, choices in axes.items():
            pairs_of_axis.append([(axis, name) for name in choices])
        arms = []
        for chosen in itertools.product(*pairs_of_axis):
            labels = dict(chosen)
            if self._is_left_out(labels):
                continue
            overrides = list(self.common)
            for axis, name in chosen:
                overrides.extend(axes[axis][name])
            # Placeholders are filled when all choices are known, since they may name a later axis.
            for axis in self.axes:
                overrides = [text.replace(f"{{{axis}}}", labels[axis]) for text in overrides]
            merged_overrides = _merged(overrides, blanks)
            # A key of the command line is not a label if it fills a blank or cannot change results.
            for key in typed:
                if key in blanks or key.startswith(_NOT_IN_FILES) or is_without_effect(key):
                    del labels[key]
            arm = Arm(
                labels=labels,
                overrides=list(merged_overrides.values()),
                lacks=self._lacks(merged_overrides, data_folder),
            )
            arms.append(arm)
        return arms

    def _blanks(self) -> set[str]:
        """Return the keys that at least one choice leaves to the command line."""
        blanks = set()
        for choices in self.axes.values():
            for override in itertools.chain(*choices.values()):
                if override.endswith(_BLANK):
                    blanks.add(key_of(override))
        return blanks

    def _is_left_out(self, labels: Mapping[str, str]) -> bool:
        for condition in self.left_out:
            if all(labels[axis] in names for axis, names in condition.items()):
                return True
        return False

    def _lacks(self, merged: Mapping[str, str], data_folder: Path) -> str:
        """Return why an arm cannot run (missing values or missing files), or "" if it can run."""
        reasons = []
        for key, text in merged.items():
            file_name = value_of(text)
            file_path = Path(file_name).expanduser()
            if text.endswith(_BLANK):
                # The study's file says how to get the missing file.
                source = self.files.get(key, "choose a value on the command line")
                reasons.append(f"needs {key}: {source}")
            elif key in self.files:
                source = self.files[key]
                is_present = file_path.exists() or (data_folder / file_path).exists()
                if not is_present:
                    reasons.append(f"'{data_folder}' has no '{file_name}'; to get it: {source}")
        return "; ".join(reasons)


def _merged(overrides: Sequence[str], blanks: set[str]) -> dict[str, str]:
    """Return key -> the override that counts, which is the last override of its key.

    An override of a key in `blanks` counts only after a choice has left that key blank: the value
    is meant for this choice and not for the others.
    """
    merged: dict[str, str] = {}
    for override in overrides:
        key = key_of(override)
        fills_blank = merged.get(key, "").endswith(_BLANK)
        if key not in blanks or override.endswith(_BLANK) or fills_blank:
            merged[key] = override
    return merged


def absent_lines(absent: Mapping[str, int]) -> list[str]:
    """Return a line for each reason why arms cannot run."""
    lines = []
    for reason, n_arms in absent.items():
        noun = "runs" if n_arms > 1 else "run"
        lines.append(f"{n_arms} {noun} skipped: {reason}")
    return lines


def _axes(node: Any, where: str) -> dict[str, Choices]:
    """Return axis -> its choices, from the block `axes` of a file."""
    axes: dict[str, Choices] = {}
    axis_nodes = mapping(node, f"{where}: axes")
    for axis, choices in axis_nodes.items():
        if isinstance(choices, list):
            # A list is an abbreviation of a mapping whose choices are named by their values.
            choices = {text: f"{axis}={text}" for text in _texts(choices)}
        axes[axis] = {}
        choice_nodes = mapping(choices, f"{where}: {axis}")
        for name, entry in choice_nodes.items():
            axes[axis][name] = _overrides(entry, f"{where}: {axis}.{name}")
    return axes


def _left_out(node: Any, axes: Mapping[str, Choices], where: str) -> tuple[Condition, ...]:
    """Return the conditions for excluded arms, from the block `except` of a file."""
    conditions = []
    for entry in node or []:
        names_of_axis = mapping(entry, f"{where}: except", axes)
        condition = {axis: _texts(choice_names) for axis, choice_names in names_of_axis.items()}
        for axis, choice_names in condition.items():
            for name in choice_names:
                # A misspelt choice would silently exclude no arm.
                if name not in axes[axis]:
                    raise ConfigError(
                        f"the axis '{axis}' has no choice '{name}'",
                        where=f"{where}: except",
                        hint=suggest(name, axes[axis]),
                    )
        conditions.append(condition)
    return tuple(conditions)


def _texts(node: Any) -> tuple[str, ...]:
    """Return the entries of a list, or a single entry, as texts for the command line."""
    entries = node if isinstance(node, list) else [node]
    texts = []
    for entry in entries:
        text = str(entry)
        # YAML reads true as a bool, and Python writes it as True.
        texts.append(text.lower() if isinstance(entry, bool) else text)
    return tuple(texts)


def _overrides(node: Any, where: str) -> tuple[str, ...]:
    override_texts = [node] if isinstance(node, str) else node
    if not isinstance(override_texts, list) or not all(map(_is_override, override_texts)):
        raise ConfigError(
            "must be a list of settings",
            where=where,
            hint="write it as in [task=digits, train.epochs=5]",
        )
    for text in override_texts:
        # A key below a section, or a group with a path, counts as the section.
        section = re.split(r"[./]", key_of(text))[0]
        if section in _NOT_IN_FILES:
            raise UnsafeError(
                f"a study's file may not contain '{text}', which sets how the program runs",
                where=where,
                hint="remove it from the file, and set it on the command line",
            )
    return tuple(override_texts)


def _is_override(node: Any) -> bool:
    return isinstance(node, str) and "=" in node
