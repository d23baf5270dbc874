"""Everything that touches Hydra and OmegaConf: compose a configuration, check it, expand a sweep, launch its jobs.

From here on a configuration is a plain dataclass (`schema.Config`) with plain dictionaries for the parts.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from orca_cli import configuration, parts, schema, signals
from orca_cli.configuration import choices, config_dir, default_folders
from orca_cli.exceptions import ConfigError, suggest
from orca_cli.schema import GROUPS, Config

_OPTIONAL_GROUPS = ("protocol", "hparams", "departures", "study", "tracker")
# Arguments that the program itself gives to parts; see stages/build.py and experiment.py.
GIVEN_TO_TRACKER = ("folder", "settings")
GIVEN_TO_TASK = ("data_folder", "cache_folder", "reporter")
GIVEN_TO_SOURCE = ("seed", "data_folder", "cache_folder", "reporter")
# What Hydra lets through when a file or an override cannot be read.
_UNREADABLE = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)
_QUOTING = "write key=value; a value with commas, brackets or letters beyond ASCII in quotes: \"key='my value'\""
TASK_WORDS = ("kind", "loss", "error", "data")  # describe a task; the rest of its node goes to its reader
SOURCE_WORDS = ("data",)


@dataclass(frozen=True)
class Composed:
    """One run's configuration.

    Args:
        config: the checked configuration.
        content: the same as plain, resolved dictionaries, for the identity.
        stored: as `content`, for files: what was read from the environment stays the text that names it.
        choices: group -> chosen file, such as {"task": "digits"}.
        overrides: what the user wrote.
    """

    config: Config
    content: dict[str, Any]
    stored: dict[str, Any]
    choices: dict[str, str]
    overrides: list[str]

    @property
    def variant(self) -> dict[str, str]:
        """Return the overrides that are neither group choices, nor the seed, nor without effect on results."""
        unnamed = (*GROUPS, "seed", "device", "protocol", "study", "tracker", "train.checkpoint_s")
        pairs = (override.lstrip("+~").partition("=") for override in self.overrides)
        return {key: value for key, _, value in pairs if key not in unnamed and not key.startswith(("paths.", "hydra"))}


@dataclass(frozen=True)
class _Task:
    """A function of a composed job in the form of Hydra's task function."""

    run: Callable[[Composed], None]

    def __call__(self, cfg: DictConfig) -> None:
        hydra = HydraConfig.get()
        self.run(_checked(cfg, dict(hydra.runtime.choices), _written(hydra)))


@contextmanager
def session(extra: Path | None = None) -> Iterator[Session]:
    """Start Hydra on the program's configuration folder, and on the user's own where one is given.

    Raises:
        ConfigError: the user's folder does not exist, or has a file of the name of one of the program's.
    """
    for group in (*GROUPS, *_OPTIONAL_GROUPS):
        choices(group, extra)
    if extra is not None:
        configuration.check_foreign(extra, (*GROUPS, *_OPTIONAL_GROUPS, "space"))
    ConfigStore.instance().store(name="schema", node=Config)
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        if extra is not None:
            # Not the setting hydra.searchpath: glob() does not look there, and it would have to be quoted.
            folders = create_config_search_path(str(config_dir()))
            folders.prepend(provider="--config-dir", path=f"file://{extra.resolve()}", anchor="schema")
            GlobalHydra.instance().clear()
            Hydra.create_main_hydra2(task_name="orca", config_search_path=folders)
        yield Session(extra)


class Session:
    """Composes configurations while Hydra is started; made by `session`."""

    def __init__(self, extra: Path | None) -> None:
        self._extra = extra

    def compose(self, overrides: list[str]) -> Composed:
        """Compose and check one run.

        Raises:
            ConfigError: unknown group choice or key, wrong type, value out of range, missing value.
        """
        self._check_choices(_parse(overrides))
        return self._compose(overrides)

    def expand(self, overrides: list[str]) -> list[Composed]:
        """Compose and check every job of a sweep: comma lists, range(...), glob(...) and choice(...).

        Raises:
            ConfigError: the first job that cannot be composed; so a sweep does not start that cannot end.
        """
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        parsed = _parse(self._with_study(overrides), self._loader())
        self._check_choices(parsed)
        batches = BasicSweeper.split_arguments(parsed, None)
        jobs = []
        for job in (job for batch in batches for job in batch):
            signals.check()
            jobs.append(self._compose(list(job)))
        if not jobs:
            raise ConfigError("no choice fits the pattern", where="glob()", hint="orca list shows the choices")
        return jobs

    def launch(self, overrides: list[str], run: Callable[[Composed], None], sweep_folder: Path) -> None:
        """Run a sweep by the launcher that hydra/launcher names.

        Args:
            overrides: of the sweep.
            run: a job, wherever the launcher puts it. It catches its own failures: Hydra prints a traceback for others.
            sweep_folder: where the launcher writes.
        """
        folder = [f"hydra.sweep.dir={_quoted(sweep_folder)}", "hydra.sweep.subdir=."]
        GlobalHydra.instance().hydra.multirun(  # type: ignore[union-attr]
            config_name="config", task_function=_Task(run), overrides=[*self._with_study(overrides), *folder]
        )

    def _with_study(self, overrides: list[str]) -> list[str]:
        """Return the overrides with the sweep that a study presets before them, but for what is typed as well."""
        chosen = [text for text in overrides if _key(text) == "study"]
        self._check_choices(_parse(chosen))
        if not chosen:
            return overrides
        typed = {_key(text) for text in overrides}
        preset = self._load(chosen).hydra.sweeper.params or {}
        # Hydra would take the study's parameters once more from the sweeper's own settings.
        return [
            *(f"{key}={value}" for key, value in preset.items() if key not in typed),
            *overrides,
            "hydra.sweeper.params=null",
        ]

    def _loader(self) -> Any:
        return GlobalHydra.instance().config_loader()

    def _compose(self, overrides: list[str]) -> Composed:
        for override in _parse(overrides):
            _check_typed(override)
        try:
            cfg = self._load(overrides)
        except _UNREADABLE as error:
            raise self._explain(error, overrides) from error
        hydra = cfg.hydra
        with_choices = dict(hydra.runtime.choices)
        written = _written(hydra)
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        OmegaConf.set_struct(cfg, True)
        return _checked(cfg, with_choices, written)

    def _load(self, overrides: list[str]) -> DictConfig:
        return self._loader().load_configuration(config_name="config", overrides=overrides, run_mode=RunMode.RUN)

    def _check_choices(self, parsed: list[Override]) -> None:
        for override in parsed:
            group = override.key_or_group
            if group in GROUPS and (override.is_delete() or isinstance(override.value(), (list, type(None)))):
                raise ConfigError("one choice is needed", where=group, hint=f"orca list {group} shows the choices")
            if group in (*GROUPS, *_OPTIONAL_GROUPS) and not override.is_delete():
                allowed = choices(group, self._extra)
                for name in _names(override):
                    if name not in allowed:
                        raise ConfigError(f"no such {group}: '{name}'", where=group, hint=suggest(name, allowed))
                    configuration.content(allowed[name])  # raises where the file is no YAML, and names it

    def _explain(self, error: Exception, overrides: list[str]) -> ConfigError:
        """Find the override that a composition failed at, and say what is allowed in its place."""
        groups = [text for text in overrides if _key(text) in (*GROUPS, *_OPTIONAL_GROUPS)]
        try:
            known = self._load(groups)
        except _UNREADABLE:
            return _unknown_in_a_file(error) or ConfigError(_root_text(error), where=_full_key(error))
        for text in overrides:
            key = _key(text)
            if text in groups or key.startswith("hydra"):
                continue
            parent, _, name = key.rpartition(".")
            node = OmegaConf.select(known, parent, throw_on_missing=False) if parent else known
            if node is not None and not isinstance(node, DictConfig):
                return ConfigError(f"no such setting: '{key}'", where=key, hint=f"{parent} is a single value")
            if not isinstance(node, DictConfig):
                return ConfigError(f"there is no '{parent}'", where=key, hint=suggest(parent, _keys(known)))
            allowed = [str(word) for word in node if word != "hydra"]
            if name not in allowed and not text.startswith("+"):
                return ConfigError(f"no such setting: '{key}'", where=key, hint=suggest(name, allowed))
            try:
                self._load([*groups, text])
            except _UNREADABLE as cause:
                if OmegaConf.is_list(node._get_node(name)):
                    value = text.partition("=")[2]
                    return ConfigError(f"{value} is not allowed", where=key, hint="allowed: a list, such as [a,b]")
                return ConfigError(_root_text(cause), where=key, hint="orca list settings shows types and defaults")
        return ConfigError(_root_text(error), where=_full_key(error))


def _check_typed(override: Override) -> None:
    """Hold a typed value against the schema's type of its key; OmegaConf would take 3 for a text and true for "True"."""
    key, hint = override.key_or_group, schema.hint_of(override.key_or_group)
    if re.match(r"(task|source)\.data(\.|$)", key):
        raise ConfigError("describes the files, and is no setting", where=key, hint="take it out of the command")
    if key.startswith("hydra") and not re.match(r"hydra[./](launcher|sweeper)(\.|$)", key):
        raise ConfigError("is not for the command line", where=key, hint="runs go to paths.runs; -m sweeps")
    if override.is_delete() or override.is_sweep_override():
        return
    value = override.value()
    if isinstance(value, QuotedString):
        value = value.text
    if schema.is_section(key) and key not in GROUPS:
        raise ConfigError(
            f"{parts.shown(value)} is not allowed",
            where=key,
            hint=f"give its settings one by one, such as {key}.NAME=...",
        )
    interpolated = isinstance(value, str) and "${" in value
    if hint is not None and not interpolated and not parts.fits(value, hint):
        allowed = ", ".join(text for text in (parts.in_words(hint), schema.bounds_of(key)) if text)
        raise ConfigError(f"{parts.shown(value)} is not allowed", where=key, hint=f"allowed: {allowed}")


def _checked(cfg: DictConfig, picked: dict[str, Any], overrides: list[str]) -> Composed:
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            raise ConfigError("a value is needed", where=missing[0], hint=f"give {missing[0]}=...")
        content: Any = OmegaConf.to_container(cfg, resolve=True)
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(_root_text(error), where=_full_key(error)) from error
    assert isinstance(config, Config)
    _check_keys(content)
    schema.check(config)
    _check_parts(config)
    _fill_paths(config)
    names = {group: str(picked[group]) for group in GROUPS}
    stored = _unread(content, OmegaConf.to_container(cfg, resolve=False))
    return Composed(config, content, stored, names, overrides)


def _unread(resolved: Any, written: Any) -> Any:
    """Return resolved settings, but for those that a resolver gave: a secret must not get into a file."""
    if isinstance(resolved, dict) and isinstance(written, dict):
        return {name: _unread(value, written.get(name)) for name, value in resolved.items()}
    if isinstance(resolved, list) and isinstance(written, list):
        return [_unread(value, text) for value, text in zip(resolved, written, strict=True)]
    return written if isinstance(written, str) and re.search(r"\$\{[^}]*:", written) else resolved


def _check_keys(content: dict[str, Any]) -> None:
    """Refuse settings that `+key=value` put where the schema knows no such key."""
    known: Any = OmegaConf.to_container(OmegaConf.structured(Config))
    for key in known:
        if key not in content:
            raise ConfigError("cannot be left out", where=key, hint=f"take ~{key} out of the command")
    for key, value in content.items():
        if key not in known:
            raise ConfigError(f"no such setting: '{key}'", where=key, hint=suggest(key, known))
        if isinstance(known[key], dict):
            for name in value:
                if name not in known[key]:
                    raise ConfigError(
                        f"no such setting: '{key}.{name}'", where=f"{key}.{name}", hint=suggest(name, known[key])
                    )


def _check_parts(config: Config) -> None:
    for group in GROUPS:
        if not isinstance(getattr(config, group), dict):
            raise ConfigError("a group of settings is needed", where=group, hint=f"orca list {group} shows the choices")
    words = {word: config.task[word] for word in ("loss", "error") if config.task.get(word) is not None}
    for word, node in words.items():
        if not isinstance(node, dict):
            raise ConfigError(f"{node!r} is not a `_target_` node", where=f"task.{word}", hint="or leave it out")
        parts.check(node, f"task.{word}")
        if inspect.isclass(parts.resolve(node, f"task.{word}")):
            parts.build(node, f"task.{word}")  # as the metric below
    parts.check(task_reader(config.task), "task", GIVEN_TO_TASK, {"kind": config.task.get("kind")})
    parts.check(config.body, "body")
    parts.check(config.finetune, "finetune")
    if config.tracker.get(parts.TARGET) is not None:
        parts.check(config.tracker, "tracker", GIVEN_TO_TRACKER)
    parts.check(source_reader(config.source), "source", GIVEN_TO_SOURCE)
    if config.metric.get(parts.TARGET) is not None:
        parts.check(config.metric, "metric")
        metric = parts.build(config.metric, "metric")  # reads nothing and costs nothing, and checks its own ranges
        check_classes(metric, config)


def check_classes(metric: Any, config: Config) -> None:
    """Refuse problems with fewer classes than a metric compares.

    Raises:
        ConfigError: the metric's `least_classes` is above align.classes_per_problem.
    """
    least, given = getattr(metric, "least_classes", 1), config.align.classes_per_problem
    if 0 < given < least:
        raise ConfigError(
            f"metric={type(metric).__name__} compares {least} classes or more, and a problem has {given}",
            where="align.classes_per_problem",
            hint="use align.classes_per_problem=0, which takes all classes",
        )


def task_reader(task: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a task's node that names its reader and the reader's arguments."""
    return {name: value for name, value in task.items() if name not in TASK_WORDS}


def source_reader(source: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a source's node that names its reader and the reader's arguments."""
    return {name: value for name, value in source.items() if name not in SOURCE_WORDS}


def _fill_paths(config: Config) -> None:
    for name, folder in default_folders().items():
        setattr(config.paths, name, getattr(config.paths, name) or str(folder))


def to_yaml(content: dict[str, Any]) -> str:
    """Return a configuration as YAML text."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _parse(overrides: list[str], loader: Any = None) -> list[Override]:
    parser = OverridesParser.create(config_loader=loader)
    for text in overrides:
        try:
            parser.parse_override(text)
        except HydraException as error:
            raise ConfigError(f"'{text}' is not an override", where="command line", hint=_QUOTING) from error
    return parser.parse_overrides(overrides)


def _written(hydra: Any) -> list[str]:
    """Return the overrides as they were written: interpolations in them stay text."""
    texts: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    return list(texts)


def _names(override: Override) -> list[str]:
    if override.is_sweep_override():
        if isinstance(override.value(), Glob):  # expanded from the existing choices, so it cannot name an absent one
            return []
        return [text.strip("'\"") for text in override.sweep_string_iterator()]
    value = override.value()
    if isinstance(value, list):
        return [str(item) for item in value]
    return [] if value is None else [str(value)]


def _key(text: str) -> str:
    return text.lstrip("+~").partition("=")[0].partition("@")[0]


def _keys(node: DictConfig, prefix: str = "") -> list[str]:
    found = []
    for name in map(str, node):
        if name != "hydra":
            found.append(f"{prefix}{name}")
            child = node._get_node(name)
            if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing()):
                found += _keys(child, f"{prefix}{name}.")
    return found


def _unknown_in_a_file(error: Exception) -> ConfigError | None:
    """Return what to say of a file that sets a key that the schema does not have; None for other failures."""
    text = _root_text(error)
    found = re.search(r"Key '([^']*)' not in '(\w+)'", text)
    sections = {
        type(getattr(Config(), name)).__name__: f"{name}." for name in vars(Config()) if schema.is_section(name)
    }
    prefix = (sections | {"Config": ""}).get(found[2]) if found else None
    if found is None or prefix is None:
        return None
    known: Any = OmegaConf.to_container(OmegaConf.structured(Config))
    allowed = known[prefix.rstrip(".")] if prefix else known
    file = re.search(r"In '([^']+)'", text)
    place = f" in {file[1]}.yaml" if file else ""
    key = f"{prefix}{found[1]}"
    return ConfigError(f"no such setting: '{key}'{place}", where=key, hint=suggest(found[1], allowed))


def _full_key(error: BaseException) -> str:
    while error is not None:
        key = getattr(error, "full_key", None)
        if key:
            return str(key)
        if error.__cause__ is None:
            break
        error = error.__cause__
    return "configuration"


def _root_text(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not re.match(r"(full_key|object_type|reference_type)\s*[:=]", line)]
    return " ".join(lines) or type(error).__name__


def _quoted(path: Path) -> str:
    return "'" + str(path.resolve()).replace("\\", "\\\\").replace("'", "\\'") + "'"
