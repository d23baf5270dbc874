"""Everything that touches Hydra and OmegaConf: compose a configuration, check it, expand a sweep, launch its jobs.

From here on a configuration is a plain dataclass (`schema.Config`) with plain dictionaries for the parts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from orca_cli import configuration, credentials, part_groups, schema, signals, study
from orca_cli.configuration import choices, config_dir, default_folders
from orca_cli.exceptions import ConfigError, suggest
from orca_cli.ranges import check_value, shown
from orca_cli.runs.identity import Identity, identify
from orca_cli.schema import GROUPS, NEEDED_GROUPS, Config

_ALL_GROUPS = (*NEEDED_GROUPS, "protocol", "hparams", "departures", "study", "tracker", "augment", "tune")
# What Hydra lets through when a file or an override cannot be read.
_UNREADABLE = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)
_QUOTING = "write key=value; a value with commas, brackets or letters beyond ASCII in quotes: \"key='my value'\""


@dataclass(frozen=True)
class Composed:
    """One run's checked configuration."""

    config: Config
    content: dict[str, Any]  # the same as plain, resolved dictionaries, for the identity
    stored: dict[str, Any]  # as `content`, for files: what was read from the environment stays the text that names it
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
        unnamed = (*GROUPS, "seed", "device", "protocol", "study", "tracker", "tune", "baselines", "train.checkpoint_s")
        beside = ("paths.", "hydra", "tracker.", "tune.")
        pairs = (override.lstrip("+~").partition("=") for override in self.overrides)
        return {key: value for key, _, value in pairs if key not in unnamed and not key.startswith(beside)}


@dataclass(frozen=True)
class Sweep:
    """The jobs of a sweep.

    Args:
        jobs: composed and checked.
        study: their study's name; empty for others.
        absent: why arms of the study are not among the jobs -> number of runs.
    """

    jobs: list[Composed]
    study: str = ""
    absent: dict[str, int] = field(default_factory=dict)


@contextmanager
def session(extra: Path | None = None) -> Iterator[Session]:
    """Start Hydra on the program's configuration folder and, where one is given, the user's own.

    Raises:
        ConfigError, UnsafeError: as `configuration.choices` and `check_untrusted` say.
    """
    for group in _ALL_GROUPS:
        choices(group, extra)
    if extra is not None:
        configuration.check_untrusted(extra, (*_ALL_GROUPS, "space"))
    ConfigStore.instance().store(name="schema", node=Config)
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        if extra is not None:  # not the setting hydra.searchpath: glob() does not look there, and it needs quoting
            folders = create_config_search_path(str(config_dir()))
            folders.prepend(provider="--config-dir", path=f"file://{extra.resolve()}", anchor="schema")
            GlobalHydra.instance().clear()
            Hydra.create_main_hydra2(task_name="orca", config_search_path=folders)
        yield Session(extra)


@dataclass(frozen=True)
class Session:
    """Composes configurations while Hydra is started; made by `session`."""

    _extra: Path | None

    def compose(self, overrides: list[str]) -> Composed:
        """Compose one run; ConfigError for unknown choices or keys, and missing or wrong values."""
        for text in overrides:
            if _key(text) == "study":
                raise ConfigError("a study is a sweep", where=text, hint="add -m")
        self._check_choices(_parse(overrides))
        return self._compose(overrides)

    def expand(self, overrides: list[str], *, may_be_empty: bool = False) -> Sweep:
        """Compose every job of a sweep: a study's arms; comma lists, range(...), glob(...), choice(...).

        Args:
            overrides: as typed.
            may_be_empty: a study all of whose runs are left out is not an error.

        Raises:
            ConfigError: about the first bad one; no job is left.
        """
        chosen = [text for text in overrides if _key(text) == "study"]
        parsed = _parse([text for text in overrides if text not in chosen], GlobalHydra.instance().config_loader())
        self._check_choices(_parse(chosen))
        if chosen:
            found = self._study(chosen[-1].partition("=")[2].strip("'\""), parsed)
            if not found.jobs and not may_be_empty:
                hint = "; ".join(study.absent_lines(found.absent)) or "see its `except`"
                raise ConfigError("no run is left", where=f"study={found.study}", hint=hint)
            return found
        self._check_choices(parsed)
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        jobs = []
        for job in (job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch):
            signals.check()
            jobs.append(self._compose(list(job)))
        if not jobs:
            raise ConfigError("no choice fits the pattern", where="glob()", hint="orca list shows the choices")
        return Sweep(jobs)

    def _study(self, name: str, parsed: list[Override]) -> Sweep:
        found = study.Study.read(name, choices("study", self._extra)[name])
        typed: dict[str, list[tuple[str, str]]] = {}
        for override in parsed:
            key = override.key_or_group
            # A choice of an axis may be no choice of the group with the axis' name, such as a metric with settings.
            if not set(_texts(override, found.axes.get(key, ()))) <= set(found.axes.get(key, ())):
                self._check_choices([override])
            if key == "task" and key not in found.axes and study.SET in found.axes:
                found = found.of_tasks(_texts(override, choices("task", self._extra)))
            elif key in found.axes:
                names = _texts(override, found.axes[key])
                found = found.narrowed(key, names, is_setting=key in (*_ALL_GROUPS, *schema.declared()))
            elif override.is_delete():
                typed[key] = [("null", str(override.input_line))]
            else:
                element = override.get_key_element()
                typed[key] = [(text, f"{element}={text}") for text in _texts(override, ())]
        folders = [pairs[-1][0].strip("'\"") for key, pairs in typed.items() if key == "paths.data"]
        arms = found.arms(typed, Path(folders[0] if folders else default_folders()["data"]).expanduser())
        jobs = []
        made: dict[tuple[str, ...], Composed] = {}  # by all overrides but the seed, whose arms are composed once
        for arm in (arm for arm in arms if not arm.lacks):
            signals.check()
            rest = tuple(text for text in arm.overrides if _key(text) != "seed")
            seed = _parse([text for text in arm.overrides if _key(text) == "seed"])
            if rest in made and len(seed) == 1 and not made[rest].interpolates_seed:
                job = _reseeded(made[rest], seed[0])
            else:
                job = made[rest] = self._compose(arm.overrides)
            jobs.append(replace(job, labels=arm.labels))
        return Sweep(jobs, name, study.absent(arms))

    def launch(self, sweep: Sweep, overrides: list[str], run: Callable[[Composed], None], sweep_folder: Path) -> None:
        """Run a sweep by the launcher that hydra/launcher names.

        Args:
            sweep: as `expand` returns it for the overrides.
            overrides: those of the launcher count here.
            run: a job, wherever the launcher puts it. It catches its own failures: Hydra prints a traceback for others.
            sweep_folder: where the launcher writes.
        """
        folder = [f"hydra.sweep.dir={_quoted(sweep_folder)}", "hydra.sweep.subdir=."]
        words = [*(text for text in overrides if _key(text).startswith("hydra")), *folder]
        hydra: Any = GlobalHydra.instance().hydra
        config = hydra.compose_config("config", words, run_mode=RunMode.MULTIRUN)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=functools.partial(_run_job, run), config=config
        )
        for ended in launcher.launch([job.overrides for job in sweep.jobs], initial_job_idx=0):
            _ = ended.return_value  # raises what the job raised

    def _compose(self, overrides: list[str]) -> Composed:
        for override in _parse(overrides):
            _check_typed(override)
        try:
            cfg = self._load(overrides)
        except _UNREADABLE as error:
            raise self._explain(error, overrides) from error
        hydra = cfg.hydra
        with open_dict(cfg):
            del cfg["hydra"]
        return _checked(cfg, hydra)

    def _load(self, overrides: list[str]) -> DictConfig:
        """Compose; a protocol may have a source in place of the one that the body picked (`data.by_protocol` of its file)."""
        load = GlobalHydra.instance().config_loader().load_configuration
        cfg = load("config", overrides, RunMode.RUN)
        wanted = OmegaConf.select(cfg, f"source.data.by_protocol.{cfg.protocol}")
        if wanted is None or any(_key(text) == "source" for text in overrides):
            return cfg
        return load("config", [*overrides, f"source={wanted}"], RunMode.RUN)

    def _check_choices(self, parsed: list[Override]) -> None:
        for override in parsed:
            group = override.key_or_group
            if group in NEEDED_GROUPS and (override.is_delete() or isinstance(override.value(), (list, type(None)))):
                raise ConfigError("one choice is needed", where=group, hint=f"orca list {group} shows the choices")
            if group in _ALL_GROUPS and not override.is_delete():
                allowed = choices(group, self._extra)
                for name in _names(override):
                    if name not in allowed:
                        raise ConfigError(f"no such {group}: '{name}'", where=group, hint=suggest(name, allowed))
                    configuration.content(allowed[name])  # raises where the file is not YAML

    def _explain(self, error: Exception, overrides: list[str]) -> ConfigError:
        """Find the override that a composition failed at, and say what is allowed in its place."""
        groups = [text for text in overrides if _key(text) in _ALL_GROUPS]
        try:
            known = self._load(groups)
        except _UNREADABLE:
            return _unknown_in_a_file(error) or _refused(error)
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
            allowed = [word for word in node if word != "hydra"]
            if name not in allowed and not text.startswith("+"):
                return schema.unknown(name, allowed, f"{parent}." if parent else "")
            try:
                self._load([*groups, text])
            except _UNREADABLE as cause:
                if OmegaConf.is_list(node._get_node(name)):
                    what = f"{text.partition('=')[2]} is not allowed"
                    return ConfigError(what, where=key, hint="allowed: a list, such as [a,b]")
                return ConfigError(_root_text(cause), where=key, hint="orca list settings shows types and defaults")
        return _refused(error)


def _check_typed(override: Override) -> None:
    """Check a typed value against its declaration; OmegaConf would accept 3 as a text and true as "True"."""
    key = override.key_or_group
    if re.match(r"(task|source)\.data(\.|$)", key):
        raise ConfigError("is file metadata, not a setting", where=key, hint="take it out of the command")
    if key.startswith("hydra") and not re.match(r"hydra[./]launcher(\.|$)", key):
        raise ConfigError("is not for the command line", where=key, hint="runs go to paths.runs; -m sweeps")
    if override.is_delete() or override.is_sweep_override():
        return
    value = override.value()
    if key.startswith("tracker."):
        credentials.check(None, key)
    value = value.text if isinstance(value, QuotedString) else value
    if schema.is_section(key) and key not in _ALL_GROUPS:
        hint = f"give its settings one by one, such as {key}.NAME=..."
        raise ConfigError(f"{shown(value)} is not allowed", where=key, hint=hint)
    if key in schema.declared() and not (isinstance(value, str) and "${" in value):  # what is interpolated comes later
        check_value(value, schema.declared()[key], key)


def _run_job(run: Callable[[Composed], None], cfg: DictConfig) -> None:
    run(_checked(cfg, HydraConfig.get()))


def _checked(cfg: DictConfig, hydra: Any) -> Composed:
    try:
        if missing := sorted(OmegaConf.missing_keys(cfg)):
            raise ConfigError("a value is needed", where=missing[0], hint=f"give {missing[0]}=...")
        content: Any = OmegaConf.to_container(cfg, resolve=True)
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise _refused(error) from error
    assert isinstance(config, Config)
    schema.check_keys(content)
    schema.check(config)
    part_groups.check(config)
    for name, folder in default_folders().items():
        setattr(config.paths, name, getattr(config.paths, name) or str(folder))
    names = {group: str(hydra.runtime.choices[group]) for group in GROUPS}
    written: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # interpolations in them stay text
    unresolved = OmegaConf.to_container(cfg, resolve=False)
    of_seed = re.search(r"\$\{\.*seed\b", repr(unresolved)) is not None
    return Composed(config, content, _unread(content, unresolved), names, list(written), of_seed)


def _reseeded(job: Composed, override: Override) -> Composed:
    """Return what composing a job's overrides with another seed would give; that takes 0.1 s."""
    _check_typed(override)
    seed: dict[str, Any] = {"seed": override.value()}
    texts = [str(override.input_line) if _key(text) == "seed" else text for text in job.overrides]
    return replace(
        job, config=replace(job.config, **seed), content=job.content | seed, stored=job.stored | seed, overrides=texts
    )


def _unread(resolved: Any, written: Any) -> Any:
    """Return resolved settings, but the text of those that a resolver computes: a secret must not get into a file."""
    if isinstance(resolved, dict) and isinstance(written, dict):
        return {name: _unread(value, written.get(name)) for name, value in resolved.items()}
    if isinstance(resolved, list) and isinstance(written, list):
        return [_unread(value, text) for value, text in zip(resolved, written, strict=True)]
    return written if isinstance(written, str) and re.search(r"\$\{[^}]*:", written) else resolved


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


def _names(override: Override) -> list[str]:
    """Return the choices that an override names; a glob is expanded from those that exist, so it cannot name another."""
    value = override.value()
    if isinstance(value, Glob):
        return []
    if override.is_sweep_override():
        return [text.strip("'\"") for text in override.sweep_string_iterator()]
    return [str(item) for item in (value if isinstance(value, list) else [value]) if item is not None]


def _texts(override: Override, names: Iterable[str]) -> list[str]:
    """Return the values that an override gives a key, as they are typed; a glob chooses among names, or files of the group."""
    value = override.value()
    if isinstance(value, Glob) and (found := value.filter(list(names))):
        return list(found)
    if override.is_sweep_override():
        return [str(text) for text in override.sweep_string_iterator()]
    return [override.get_value_element_as_str()]


def _key(text: str) -> str:
    return text.lstrip("+~").partition("=")[0].partition("@")[0]


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in (str(name) for name in node if name != "hydra"):
        yield f"{prefix}{name}"
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing()):
            yield from _keys(child, f"{prefix}{name}.")


def _unknown_in_a_file(error: Exception) -> ConfigError | None:
    """Return the message for a file that sets a key the schema does not have; None for other failures."""
    text = _root_text(error)
    found, file = re.search(r"Key '([^']*)' not in '(\w+)'", text), re.search(r"In '([^']+)'", text)
    nested = {f"{name}.": value for name, value in vars(Config()).items() if is_dataclass(value)}
    for prefix, section in ({"": Config()} | nested).items():
        if found is not None and found[2] == type(section).__name__:
            return schema.unknown(found[1], vars(section), prefix, f" in {file[1]}.yaml" if file else "")
    return None


def _refused(error: BaseException) -> ConfigError:
    key, cause = None, error
    while not (key := getattr(cause, "full_key", None)) and cause.__cause__ is not None:
        cause = cause.__cause__
    return ConfigError(_root_text(error), where=str(key or "configuration"))


def _root_text(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = map(str.strip, str(error).splitlines())
    kept = (line for line in lines if line and not re.match(r"(full_key|object_type|reference_type)\s*[:=]", line))
    return " ".join(kept) or type(error).__name__


def _quoted(path: Path) -> str:
    return "'" + str(path.resolve()).replace("\\", "\\\\").replace("'", "\\'") + "'"
