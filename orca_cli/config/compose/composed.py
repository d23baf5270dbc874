"""A composed configuration: a checked dataclass, with plain dictionaries for the parts."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from orca_cli.config import checks
from orca_cli.config.compose.overrides import check_typed, refused
from orca_cli.config.configuration import default_folders, key_of
from orca_cli.config.identity import Identity, identify
from orca_cli.config.schema import GROUPS, Config, is_without_effect
from orca_cli.exceptions import ConfigError


@dataclass(frozen=True)
class Composed:
    """One run's checked configuration."""

    config: Config
    content: dict[str, Any]  # the same as plain, resolved dictionaries, for files and the identity
    choices: dict[str, str]  # group -> chosen file, such as {"task": "digits"}
    overrides: list[str]  # what the user wrote
    interpolates_seed: bool  # another setting is made of the seed
    labels: dict[str, str] = field(default_factory=dict)  # in a study: axis -> choice; see `study.Arm`

    @functools.cached_property
    def identity(self) -> Identity:
        """Return what names the run; the files that it names are read at the first call."""
        return identify(self.content, self.choices, Path(self.config.paths.data or ""))

    @property
    def variant(self) -> dict[str, str]:
        """Return the overrides that are neither group choices, nor the seed, nor without effect on results."""
        unnamed = (*GROUPS, "seed", "protocol", "study")
        pairs = (override.lstrip("+~").partition("=") for override in self.overrides)
        named = ((key, value) for key, _, value in pairs if key not in unnamed and not key.startswith("hydra"))
        return {key: value for key, value in named if not is_without_effect(key)}


@dataclass(frozen=True)
class Sweep:
    """The jobs of a sweep."""

    jobs: list[Composed]
    study: str = ""  # empty where the sweep is no study
    # Why arms of the study are not among the jobs -> number of runs.
    absent: dict[str, int] = field(default_factory=dict)

    @functools.cached_property
    def experiments(self) -> list[Composed]:
        """Return one job per distinct experiment: `train.lr=1e-4,0.0001` gives two jobs of one, as may arms of a study."""
        by_identity: dict[object, Composed] = {}
        for job in self.jobs:  # what a search will find is not part of the identity
            by_identity.setdefault((job.identity.run, job.config.paths.runs, repr(job.config.tune)), job)
        return list(by_identity.values())


def checked(cfg: DictConfig, hydra: Any) -> Composed:
    """Return a composed configuration, `hydra` being Hydra's own part of it, or raise ConfigError for a wrong value."""
    try:
        if missing := sorted(OmegaConf.missing_keys(cfg)):
            raise ConfigError("a value is needed", where=missing[0], hint=f"give {missing[0]}=...")
        content: Any = OmegaConf.to_container(cfg, resolve=True)
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise refused(error) from error
    assert isinstance(config, Config)
    checks.check_settings(config)
    checks.check_parts(config)
    for name, folder in default_folders().items():
        setattr(config.paths, name, getattr(config.paths, name) or str(folder))
    names = {group: str(hydra.runtime.choices[group]) for group in GROUPS}
    written: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # interpolations in them stay text
    interpolates_seed = re.search(r"\$\{\.*seed\b", repr(cfg)) is not None
    return Composed(config, content, names, list(written), interpolates_seed)


def reseeded(job: Composed, override: Override) -> Composed:
    """Return what composing a job's overrides with another seed would give; that takes 0.1 s."""
    check_typed(override)
    seed: dict[str, Any] = {"seed": override.value()}
    texts = [str(override.input_line) if key_of(text) == "seed" else text for text in job.overrides]
    return replace(job, config=replace(job.config, **seed), content=job.content | seed, overrides=texts)


def to_yaml(content: dict[str, Any]) -> str:
    """Return a configuration as YAML text."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
