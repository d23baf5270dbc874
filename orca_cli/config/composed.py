"""The checked settings of one run, and the jobs of a sweep; `compose` makes both."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orca_cli.config.identity import Identity, identify
from orca_cli.config.schema import GROUPS, Config, is_without_effect

# Settings of a task that name the user's own data; the first of them that is set names a data set.
OWN_PATHS = ("train", "path", "test")
# Suffixes of data files.
_SUFFIXES = {".npz", ".npy", ".csv", ".tsv", ".parquet", ".gz"}
_LONGEST_NAME = 100  # characters
# Names of files and folders that say nothing about the data in them.
_GENERAL_NAMES = {"train", "training", "data", "dataset", "samples", "test", "x", "all", "images"}


@dataclass(frozen=True)
class Composed:
    """One run's checked configuration."""

    config: Config
    # The same settings as plain dictionaries without interpolations, for files and the identity.
    content: dict[str, Any]
    choices: dict[str, str]  # group -> chosen file, such as {"task": "digits"}
    overrides: list[str]  # settings that the user wrote
    # Axis -> choice, in a study; see `study.Arm`.
    labels: dict[str, str] = field(default_factory=dict)
    # The user's own folder of configuration files, if any.
    config_dir: Path | None = None

    @functools.cached_property
    def identity(self) -> Identity:
        """Return the run's identity; the first call reads the files that the settings name."""
        data_folder = Path(self.config.paths.data or "")
        return identify(self.content, self.choices, data_folder)

    @property
    def data_name(self) -> str:
        """Return the name of the data set: `task.name`, or the name of the user's file or folder.

        Other data sets have the name of the task.
        """
        settings = self.content["task"]
        if settings.get("name"):
            return str(settings["name"])
        about = settings.get("data")
        if not isinstance(about, dict) or about.get("origin") != "own":
            return self.choices["task"]
        paths = []
        for key in OWN_PATHS:
            path = settings.get(key)
            if isinstance(path, str) and path:
                # The file train.npz, without a folder, gets its name from the working folder.
                paths.append(str(Path(path).absolute()))
        return data_name_of(paths, self.choices["task"])

    @property
    def variant(self) -> dict[str, str]:
        """Return key -> value of the overrides that change a result and are in no other field.

        Records have separate fields for the choices of groups, the seed and the protocol.
        """
        settings: dict[str, str] = {}
        for override in self.overrides:
            # `+key` and `~key` concern the same key.
            key, _, value = override.lstrip("+~").partition("=")
            is_named_elsewhere = key in (*GROUPS, "seed", "protocol", "study")
            if not (is_named_elsewhere or key.startswith("hydra") or is_without_effect(key)):
                settings[key] = value
        return settings


@dataclass(frozen=True)
class Sweep:
    """The jobs of a sweep."""

    jobs: list[Composed]
    study: str = ""  # empty if the sweep is not a study
    # Reason for the absence of arms of the study from the jobs -> number of these arms.
    absent: dict[str, int] = field(default_factory=dict)

    @functools.cached_property
    def experiments(self) -> list[Composed]:
        """Return one job for each distinct experiment.

        Several jobs may be the same experiment, such as those of `device=auto,cpu`.
        """
        by_identity: dict[object, Composed] = {}
        # Runs in two folders are two runs, although they have the same identity.
        for job in self.jobs:
            run_in_folder = (job.identity.run, job.config.paths.runs)
            by_identity.setdefault(run_in_folder, job)
        return list(by_identity.values())


def data_name_of(paths: Iterable[str], task: str) -> str:
    """Return the name of the user's own data set.

    It is the stem of the first of `paths`, or the name of its folder if the stem is general, such
    as train, or `task` if both are general or `paths` is empty. All characters except letters,
    digits, - and _ are replaced by -.
    """
    path = Path(next(iter(paths), ""))
    stem = path.name
    for suffix in reversed(path.suffixes):
        # A folder such as birds-v1.2 has no suffix.
        if suffix.lower() in _SUFFIXES:
            stem = stem.removesuffix(suffix)
    for name in (stem, path.parent.name):
        safe_name = re.sub(r"[^\w-]+", "-", name).strip("-")
        if safe_name and safe_name.lower() not in _GENERAL_NAMES:
            return safe_name[:_LONGEST_NAME]
    return task
