"""Everything that touches Hydra and OmegaConf: what is typed, KEY=VALUE, is composed with the files of conf/ and checked.

What comes out is a plain `schema.Config`, with dictionaries for the parts.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from orca_cli import signals
from orca_cli.config import checks, configuration, schema, study
from orca_cli.config.configuration import (
    BLOCKS,
    calls_resolver,
    choices,
    config_dir,
    default_folders,
    in_task,
    key_of,
)
from orca_cli.config.identity import Identity, identify
from orca_cli.config.ranges import check_value
from orca_cli.config.schema import GROUPS, NEEDED_GROUPS, Config, is_without_effect
from orca_cli.exceptions import ConfigError, UsageError, suggest

_ALL_GROUPS = (*NEEDED_GROUPS, "protocol", "hparams", "departures", "study", "tracker")
_QUOTING = "write key=value; a value with commas, brackets or letters beyond ASCII in quotes: \"key='my value'\""
# Exceptions that Hydra raises where a file or an override cannot be read.
_UNREADABLE = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)


def _parse(overrides: list[str], loader: Any = None) -> list[Override]:
    """Parse overrides; ConfigError names the first invalid one. glob() needs the loader, to find the choices."""
    try:
        return OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    except OverrideParseException as error:
        raise ConfigError(
            f"'{error.override}' is not an override", where="command line", hint=_QUOTING
        ) from error


def _texts_of(override: Override, names: Iterable[str]) -> list[str]:
    """Return the values that an override gives a key, as they are typed; a glob chooses among names, or files of the group."""
    value = override.value()
    if isinstance(value, Glob) and (matches := value.filter(list(names))):
        return list(matches)
    if override.is_sweep_override():
        return [str(text) for text in override.sweep_string_iterator()]
    return [override.get_value_element_as_str()]


def _check_typed(override: Override) -> None:
    """Check a typed value against its declaration; OmegaConf would accept 3 as a text and true as "True"."""
    key = override.key_or_group
    if re.match(r"(task|source)\.data(\.|$)|task\.(departures|hparams)(\.|$)", key):
        raise ConfigError(
            "is file metadata, not a setting", where=key, hint="take it out of the command"
        )
    if key.startswith("hydra"):
        hint = "runs go to paths.runs, -m sweeps, --on names a cluster"
        raise ConfigError("is not for the command line", where=key, hint=hint)
    if calls_resolver(str(override.input_line)):
        hint = "give the value itself, or $NAME of the shell"
        raise ConfigError(f"{override.input_line} runs a resolver", where=key, hint=hint)
    if override.is_delete() and key in schema.declared():
        raise ConfigError("cannot be left out", where=key, hint=f"take ~{key} out of the command")
    if override.is_delete() or override.is_sweep_override():
        return
    if key.startswith("tracker."):
        checks.check_secrets(None, key)
    value = override.value()
    value = value.text if isinstance(value, QuotedString) else value
    if key in schema.declared() and not (
        isinstance(value, str) and "${" in value
    ):  # what is interpolated comes later
        check_value(value, schema.declared()[key], key)


def _refused(error: BaseException) -> ConfigError:
    """Return an error of Hydra or OmegaConf as one line about the key that it is about, with what is allowed there."""
    cause, file = error, re.search(r"In '([^']+)'", str(error))
    while not getattr(cause, "full_key", None) and (inner := cause.__cause__ or cause.__context__):
        cause = inner
    key, section = str(getattr(cause, "full_key", None) or ""), getattr(cause, "parent_node", None)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(section, DictConfig):
        prefix, dot, name = key.rpartition(".")
        known = [word for word in section if word not in ("hydra", *BLOCKS)]
        return checks.unknown(name, known, prefix + dot, f" in {file[1]}.yaml" if file else "")
    text = next(iter(str(cause if key else error).splitlines()), type(error).__name__)
    return ConfigError(
        text, where=key or "configuration", hint="orca list settings shows types and defaults"
    )


@dataclass(frozen=True)
class Composed:
    """One run's checked configuration."""

    config: Config
    content: dict[str, Any]  # the same as plain, resolved dictionaries, for files and the identity
    choices: dict[str, str]  # group -> chosen file, such as {"task": "digits"}
    overrides: list[str]  # what the user wrote
    labels: dict[str, str] = field(
        default_factory=dict
    )  # in a study: axis -> choice; see `study.Arm`

    @functools.cached_property
    def identity(self) -> Identity:
        """Return what names the run; the files that it names are read at the first call."""
        return identify(self.content, self.choices, Path(self.config.paths.data or ""))

    @property
    def variant(self) -> dict[str, str]:
        """Return the overrides that are neither group choices, nor the seed, nor without effect on results."""
        unnamed = (*GROUPS, "seed", "protocol", "study")
        pairs = (override.lstrip("+~").partition("=") for override in self.overrides)
        named = (
            (key, value)
            for key, _, value in pairs
            if key not in unnamed and not key.startswith("hydra")
        )
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
        """Return one job per distinct experiment: `device=auto,cpu` gives two jobs of one, as may arms of a study."""
        by_identity: dict[object, Composed] = {}
        for job in self.jobs:
            by_identity.setdefault((job.identity.run, job.config.paths.runs), job)
        return list(by_identity.values())


def to_yaml(content: dict[str, Any]) -> str:
    """Return a configuration as YAML text."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


@contextmanager
def session(extra: Path | None = None) -> Iterator[Session]:
    """Start Hydra on the program's configuration folder and, where one is given, the user's own, which is checked."""
    if extra is not None:
        for group in _ALL_GROUPS:
            choices(group, extra)  # raises where a file would replace one of the program's
        configuration.check_untrusted(extra, (*_ALL_GROUPS, "space"))
        for block in BLOCKS:
            if any("/" in name for name in choices(block, extra)):
                configuration.variants(
                    block, extra
                )  # raises where a file would replace what a task's file says
    ConfigStore.instance().store(name="schema", node=Config)
    for block in BLOCKS:  # those of another session
        ConfigStore.instance().repo.pop(block, None)
    folders = create_config_search_path(str(config_dir()))
    if (
        extra is not None
    ):  # not the setting hydra.searchpath: glob() does not look there, and it needs quoting
        folders.prepend(provider="--config-dir", path=f"file://{extra.resolve()}", anchor="schema")
    version.setbase("1.3")
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2(task_name="orca", config_search_path=folders)
    try:
        yield Session(extra)
    finally:
        GlobalHydra.instance().clear()


@dataclass(frozen=True)
class Session:
    """Composes configurations while Hydra is started; made by `session`."""

    _extra: Path | None
    _stored: set[str] = field(default_factory=set)  # tasks whose variants Hydra has been given

    def compose(self, overrides: list[str]) -> Composed:
        """Compose one run; ConfigError for unknown choices or keys, missing or wrong values, UsageError for several values."""
        parsed = _parse(overrides)
        for text, override in zip(overrides, parsed, strict=True):
            if override.key_or_group == "study":
                raise ConfigError("a study is a sweep", where=text, hint="add -m")
            if override.is_sweep_override():
                raise UsageError(
                    f"'{text}' names several values",
                    where=key_of(text),
                    hint="a sweep needs orca run -m",
                )
        self._check_choices(parsed)
        return self._compose(overrides)

    def expand(self, overrides: list[str], *, may_be_empty: bool = False) -> Sweep:
        """Compose every job of a sweep: a study's arms; comma lists, range(...), glob(...), choice(...).

        ConfigError where none is left, unless `may_be_empty` allows that for a study.
        """
        chosen = [text for text in overrides if key_of(text) == "study"]
        parsed = _parse(
            [text for text in overrides if text not in chosen],
            GlobalHydra.instance().config_loader(),
        )
        self._check_choices(_parse(chosen))
        name = chosen[-1].partition("=")[2].strip("'\"") if chosen else ""
        # Any other sweep is a study that has no axes but those that are typed.
        preset = (
            study.Study.read(name, choices("study", self._extra)[name]) if chosen else study.Study()
        )
        arms, jobs = self._arms(preset, parsed), []
        for arm in (arm for arm in arms if not arm.lacks):
            signals.check()
            jobs.append(replace(self._compose(arm.overrides), labels=arm.labels if chosen else {}))
        absent = dict(Counter(arm.lacks for arm in arms if arm.lacks))
        if not jobs and not (chosen and may_be_empty):
            hint = (
                "; ".join(study.absent_lines(absent))
                or "nothing fits a glob(), or `except` leaves all out"
            )
            raise ConfigError("no run is left", where=" ".join(chosen) or "-m", hint=hint)
        return Sweep(jobs, name, absent)

    def _arms(self, preset: study.Study, parsed: list[Override]) -> list[study.Arm]:
        typed: dict[str, study.Choices] = {}
        for override in parsed:
            key = override.key_or_group
            # An axis may have choices that the group of that name lacks, such as a metric with settings.
            if not set(_texts_of(override, preset.axes.get(key, ()))) <= set(
                preset.axes.get(key, ())
            ):
                self._check_choices([override])
            axis = study.SET if key == "task" and key not in preset.axes else key
            if axis in preset.axes:
                names = _texts_of(
                    override, preset.axes[key] if axis == key else choices(key, self._extra)
                )
                preset = preset.narrowed(
                    axis, names, key if key in (*_ALL_GROUPS, *schema.declared()) else ""
                )
            elif override.is_delete():
                typed[key] = {"null": (str(override.input_line),)}
            else:
                element = override.get_key_element()
                typed[key] = {text: (f"{element}={text}",) for text in _texts_of(override, ())}
        folder = next(iter(typed.get("paths.data", {})), str(default_folders()["data"]))
        return preset.arms(typed, Path(folder.strip("'\"")).expanduser())

    def _compose(self, overrides: list[str]) -> Composed:
        # Hydra reads the word nan as a number, which no setting takes.
        overrides = [re.sub(r"=nan$", "='nan'", text) for text in overrides]
        for override in _parse(overrides):
            _check_typed(override)
        try:
            cfg = self._load(overrides)
            hydra = cfg.hydra
            with open_dict(cfg):
                del cfg["hydra"]
            if missing := sorted(OmegaConf.missing_keys(cfg)):
                raise ConfigError(
                    "a value is needed", where=missing[0], hint=f"give {missing[0]}=..."
                )
            content: Any = OmegaConf.to_container(cfg, resolve=True)
            config: Any = OmegaConf.to_object(cfg)
        except _UNREADABLE as error:
            raise _refused(error) from error
        checks.check_settings(config)
        checks.check_parts(config)
        for name, folder in default_folders().items():
            setattr(config.paths, name, getattr(config.paths, name) or str(folder))
        names = {group: str(hydra.runtime.choices[group]) for group in GROUPS}
        written: Any = OmegaConf.to_container(
            hydra.overrides.task, resolve=False
        )  # interpolations in them stay text
        return Composed(config, content, names, list(written))

    def _load(self, overrides: list[str]) -> DictConfig:
        """Compose; tasks outside the paper get a source that needs no files instead of the one that their body picks.

        The file of that source names it (`data.without_files`). A task is not aligned with its own data.
        """
        self._store_variants(overrides)
        load = GlobalHydra.instance().config_loader().load_configuration
        cfg = load("config", overrides, RunMode.RUN)
        task, instead = (
            cfg.hydra.runtime.choices["task"],
            OmegaConf.select(cfg, "source.data.without_files"),
        )
        is_typed = any(key_of(text) == "source" for text in overrides)
        is_papers = OmegaConf.select(cfg, "task.departures.paper") is not None
        if not (is_typed or is_papers or instead in (None, task)):
            cfg = load("config", [*overrides, f"source={instead}"], RunMode.RUN)
        if OmegaConf.is_dict(cfg._get_node("task")):
            with open_dict(cfg.task):
                for block in BLOCKS:
                    cfg.task.pop(block, None)
        return cfg

    def _store_variants(self, overrides: list[str]) -> None:
        """Give Hydra the variants of the tasks that are named, as if each were a file of conf/departures or conf/hparams."""
        typed = [
            text.partition("=")[2].strip("'\"")
            for text in overrides
            if key_of(text) in ("task", *BLOCKS)
        ]
        words = [
            name.rpartition("/")[2] for name in (configuration.default_choices()["task"], *typed)
        ]
        for task, path in choices("task", self._extra).items():
            if task in self._stored or not any(
                word == task or word.startswith(f"{task}-") for word in words
            ):
                continue
            self._stored.add(task)
            content: Any = OmegaConf.to_container(OmegaConf.load(path))
            for block, name, _, settings in in_task(task, content, str(path)):
                folder, _, stem = name.rpartition("/")
                ConfigStore.instance().store(
                    stem, settings, group=f"{block}/{folder}", package="_global_"
                )

    def _check_choices(self, parsed: list[Override]) -> None:
        for override in (one for one in parsed if one.key_or_group in _ALL_GROUPS):
            group, files = override.key_or_group, choices(override.key_or_group, self._extra)
            if override.is_delete() or isinstance(override.value(), (list, type(None))):
                if group in NEEDED_GROUPS:
                    raise ConfigError(
                        "one choice is needed",
                        where=group,
                        hint=f"orca list {group} shows the choices",
                    )
                continue
            names = {text.strip("'\"") for text in _texts_of(override, files)} - files.keys()
            allowed = (
                configuration.variants(group, self._extra) if names and group in BLOCKS else files
            )
            for name in sorted(names - allowed.keys()):
                raise ConfigError(
                    f"no such {group}: '{name}'", where=group, hint=suggest(name, allowed)
                )
