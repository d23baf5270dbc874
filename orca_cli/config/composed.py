"""One run's checked settings, and the runs of a sweep, as `compose` makes them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orca_cli.config.identity import Identity, identify
from orca_cli.config.schema import GROUPS, Config, is_without_effect

# Settings of a task that name the user's own data, in the order in which they name a data set.
OWN_PATHS = ("train", "path", "test")
# Suffixes of files of data.
_SUFFIXES = {".npz", ".npy", ".csv", ".tsv", ".parquet", ".gz"}
_LONGEST_NAME = 100  # characters
# Names of files and folders that say nothing about the data in them.
_GENERAL_NAMES = {"train", "training", "data", "dataset", "samples", "test", "x", "all", "images"}


@dataclass(frozen=True)
class Composed:
    """One run's checked configuration."""

    config: Config
    # The same as plain dictionaries without interpolations, for files and the identity.
    content: dict[str, Any]
    choices: dict[str, str]  # group -> chosen file, such as {"task": "digits"}
    overrides: list[str]  # what the user wrote
    # In a study: axis -> choice; see `study.Arm`.
    labels: dict[str, str] = field(default_factory=dict)
    # The user's own folder of files, if there is one.
    config_dir: Path | None = None

    @functools.cached_property
    def identity(self) -> Identity:
        """Return the run's identity; the first call reads the files that the settings name."""
        data_folder = Path(self.config.paths.data or "")
        return identify(self.content, self.choices, data_folder)

    @property
    def data_name(self) -> str:
        """Return the name of the data set: `task.name`, or that of the user's own file or folder.

        Data sets that are not the user's own have the name of the task.
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
                # A bare train.npz is named by the working folder.
                paths.append(str(Path(path).absolute()))
        return data_name_of(paths, self.choices["task"])

    @property
    def variant(self) -> dict[str, str]:
        """Return key -> value of the overrides that change a result and no other field names.

        Records name the choices of groups, the seed and the protocol in fields of their own.
        """
        settings: dict[str, str] = {}
        for override in self.overrides:
            # A typed `+key` or `~key` is about the same key.
            key, _, value = override.lstrip("+~").partition("=")
            is_named_elsewhere = key in (*GROUPS, "seed", "protocol", "study")
            if not (is_named_elsewhere or key.startswith("hydra") or is_without_effect(key)):
                settings[key] = value
        return settings


@dataclass(frozen=True)
class Sweep:
    """The jobs of a sweep."""

    jobs: list[Composed]
    study: str = ""  # empty where the sweep is no study
    # Reason why arms of the study are not among the jobs -> number of these arms.
    absent: dict[str, int] = field(default_factory=dict)

    @functools.cached_property
    def experiments(self) -> list[Composed]:
        """Return one job for each distinct experiment.

        Several jobs may be the same experiment, such as those of `device=auto,cpu`.
        """
        by_identity: dict[object, Composed] = {}
        # Runs in two folders are two runs, though they have one identity.
        for job in self.jobs:
            run_in_folder = (job.identity.run, job.config.paths.runs)
            by_identity.setdefault(run_in_folder, job)
        return list(by_identity.values())


def data_name_of(paths: Iterable[str], task: str) -> str:
    """Return the name of the user's own data set.

    It is the stem of the first of `paths`, or the name of its folder if the stem is a general one,
    such as train; the task's where both are, or there is no path. Letters, digits, - and _ remain.
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
