"""The only module that uses Hydra and OmegaConf: it composes overrides with the files of conf/.

The result is a plain `schema.Config`, with dictionaries for the parts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
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
from orca_cli.config import configuration, parts, schema, setting_checks, study
from orca_cli.config.composed import Composed, Sweep
from orca_cli.config.configuration import (
    BLOCKS,
    calls_resolver,
    choices,
    config_dir,
    default_folders,
    in_task,
    key_of,
    value_of,
)
from orca_cli.config.declarations import declared_node
from orca_cli.config.ranges import check_value
from orca_cli.config.schema import GROUPS, NEEDED_GROUPS, Config
from orca_cli.exceptions import ConfigError, UsageError

# Groups whose choice the command line may set.
_ALL_GROUPS = (*NEEDED_GROUPS, "protocol", "hparams", "departures", "study", "tracker")
_QUOTING = (
    "write key=value, and put a value with commas, brackets or non-ASCII letters in quotes: "
    "\"key='my value'\""
)
# Settings that only a file may have: the origin of its data, and its variants.
_FILE_METADATA = re.compile(r"(task|source)\.data(\.|$)|task\.(departures|hparams)(\.|$)")
# Exceptions that Hydra raises if it cannot read a file or an override.
_UNREADABLE = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)


def _parse(overrides: list[str], loader: Any = None) -> list[Override]:
    """Parse overrides; raise ConfigError for the first invalid override.

    `glob()` needs the loader, which finds the choices of a group.
    """
    try:
        return OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    except OverrideParseException as error:
        raise ConfigError(
            f"'{error.override}' is not a valid setting", where="command line", hint=_QUOTING
        ) from error


def _texts_of(override: Override, names: Iterable[str]) -> list[str]:
    """Return the values that an override gives to its key, as the command line has them.

    A glob chooses among `names` or, if it matches no name, among the files of its group.
    """
    value = override.value()
    if isinstance(value, Glob):
        # The glob may be meant for the choices of an axis, which are not files.
        matches = value.filter(list(names))
        if matches:
            return list(matches)
    # The values of an axis stay text, since each of them becomes an override again.
    if override.is_sweep_override():
        return [str(text) for text in override.sweep_string_iterator()]
    return [override.get_value_element_as_str()]


def _check_typed(override: Override) -> None:
    """Check a value from the command line by its declaration; OmegaConf would accept 3 as text."""
    key = override.key_or_group
    declarations = schema.declared()
    if _FILE_METADATA.match(key):
        raise ConfigError(
            "is a description in the file of a task or source, not a setting",
            where=key,
            hint="remove it from the command",
        )
    # Hydra's own settings could name code to run.
    if key.startswith("hydra"):
        raise ConfigError(
            "cannot be set on the command line, since the program itself sets Hydra's options",
            where=key,
            hint="use paths.runs for the folder of runs, -m for a sweep, --on for a cluster",
        )
    # The parsed value would no longer show the call.
    if calls_resolver(str(override.input_line)):
        raise ConfigError(
            f"'{override.input_line}' calls an OmegaConf resolver ('${{name:...}}')",
            where=key,
            hint="write the value itself, or use a variable of the shell ($NAME)",
        )
    # A part may be removed, but a setting of the schema has to have a value.
    if override.is_delete() and key in declarations:
        raise ConfigError("cannot be removed", where=key, hint=f"omit ~{key} from the command")
    # The values of a sweep are checked when each of its jobs is composed.
    if override.is_delete() or override.is_sweep_override():
        return
    setting_checks.check_is_setting(key, override.value())
    # Only the name of a tracker's setting is checked now; its value is checked after composing.
    if key.startswith("tracker."):
        setting_checks.check_secrets(None, key)
    value = override.value()
    if isinstance(value, QuotedString):
        value = value.text
    # An interpolated value is known only when all files have been composed; it is checked then.
    is_interpolated = isinstance(value, str) and "${" in value
    if key in declarations and not is_interpolated:
        check_value(value, declarations[key], key)


def _refused(error: BaseException) -> ConfigError:
    """Return the one-line ConfigError for an error of Hydra or OmegaConf."""
    cause = _cause_with_a_key(error)
    key = str(getattr(cause, "full_key", None) or "")
    section = getattr(cause, "parent_node", None)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(section, DictConfig):
        prefix, dot, setting_name = key.rpartition(".")
        # The blocks of a task's file are not settings that a user could set.
        allowed = [setting for setting in section if setting not in ("hydra", *BLOCKS)]
        # Hydra names the file only in the text of its error.
        file_match = re.search(r"In '([^']+)'", str(error))
        file_note = f" in {file_match[1]}.yaml" if file_match else ""
        return setting_checks.unknown(setting_name, allowed, prefix + dot, file_note)
    message = str(cause if key else error) or type(error).__name__
    hint = "run `orca list settings` to see types and defaults"
    return ConfigError(message.splitlines()[0], where=key or "configuration", hint=hint)


def _cause_with_a_key(error: BaseException) -> BaseException:
    """Return the outermost error of a chain that names a key, or else the innermost error."""
    # Hydra wraps OmegaConf's error, whose key the message needs, in its own errors.
    cause = error
    while not getattr(cause, "full_key", None):
        inner = cause.__cause__ or cause.__context__
        if inner is None:
            break
        cause = inner
    return cause


def to_yaml(content: dict[str, Any]) -> str:
    """Return a configuration as YAML text."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


@contextmanager
def session(extra: Path | None = None) -> Iterator[Session]:
    """Start Hydra on the program's configuration folder and on the user's own, `extra`.

    The user's folder is checked first, since it may come from an untrusted author.
    """
    if extra is not None:
        _check_extra(extra)
    config_store = ConfigStore.instance()
    config_store.store(name="schema", node=Config)
    for group in (*BLOCKS, "declared"):
        # An earlier session may have stored nodes of other files.
        config_store.repo.pop(group, None)
    folders = create_config_search_path(str(config_dir()))
    if extra is not None:
        # With the setting hydra.searchpath instead, glob() would not search this folder.
        extra_url = f"file://{extra.resolve()}"
        folders.prepend(provider="--config-dir", path=extra_url, anchor="schema")
    version.setbase("1.3")
    # Hydra keeps its state in a global, which an earlier session may have left.
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2(task_name="orca", config_search_path=folders)
    try:
        yield Session(extra)
    finally:
        GlobalHydra.instance().clear()


def _check_extra(extra: Path) -> None:
    """Raise ConfigError or UnsafeError for a folder that does more than add choices."""
    for group in _ALL_GROUPS:
        # Called for its error, since a file of this folder may have the name of a program's file.
        choices(group, extra)
    configuration.check_untrusted(extra, (*_ALL_GROUPS, "space"))
    # A file in a folder PROTOCOL/ may have the name of a variant in a task's file.
    for block in BLOCKS:
        if any("/" in name for name in choices(block, extra)):
            configuration.variants(block, extra)


@dataclass(frozen=True)
class Session:
    """Composes configurations while Hydra is started; made by `session`."""

    _extra: Path | None
    # Tasks whose variants are stored in Hydra, and choices whose declared defaults are stored.
    _stored: set[str] = field(default_factory=set)

    def compose(self, overrides: list[str]) -> Composed:
        """Compose one run.

        Raises:
            ConfigError: a choice or key is unknown, or a value is missing or wrong.
            UsageError: an override names several values.
        """
        parsed_overrides = _parse(overrides)
        for text, override in zip(overrides, parsed_overrides, strict=True):
            if override.key_or_group == "study":
                raise ConfigError("is a sweep of several runs", where=text, hint="add -m")
            if override.is_sweep_override():
                hint = "to run a sweep over all these values, add -m (orca run -m ...)"
                raise UsageError(f"'{text}' has several values", where=key_of(text), hint=hint)
        self._check_choices(parsed_overrides)
        return self._compose(overrides)

    def expand(self, overrides: list[str], *, may_be_empty: bool = False) -> Sweep:
        """Compose every job of a sweep: a study, comma lists, range(...), glob(...), choice(...).

        Raises ConfigError if no job is left, unless `may_be_empty` allows this for a study.
        """
        study_overrides = [text for text in overrides if key_of(text) == "study"]
        axis_overrides = [text for text in overrides if text not in study_overrides]
        # The loader lets glob() match the files of a group.
        loader = GlobalHydra.instance().config_loader()
        parsed_axes = _parse(axis_overrides, loader)
        self._check_choices(_parse(study_overrides))
        study_name = ""
        preset = study.Study()  # a plain sweep: all its axes come from the command line
        if study_overrides:
            # The last override counts, as with any key that occurs twice.
            study_name = value_of(study_overrides[-1])
            preset = study.Study.read(study_name, choices("study", self._extra)[study_name])
        arms = self._arms(preset, parsed_axes)
        jobs = []
        for arm in arms:
            if arm.lacks:
                continue
            # Composing hundreds of arms takes a while, and a signal must stop it.
            signals.check()
            labels = arm.labels if study_overrides else {}
            jobs.append(replace(self._compose(arm.overrides), labels=labels))
        absent = dict(Counter(arm.lacks for arm in arms if arm.lacks))
        if not jobs and not (study_overrides and may_be_empty):
            reasons = "; ".join(study.absent_lines(absent))
            raise ConfigError(
                "the sweep has no runs",
                where=" ".join(study_overrides) or "-m",
                hint=reasons or "check that each glob() matches a name, and `except` leaves a run",
            )
        return Sweep(jobs=jobs, study=study_name, absent=absent)

    def _arms(self, preset: study.Study, typed: list[Override]) -> list[study.Arm]:
        """Return the arms of a study, given the command line's choices of axes and further axes."""
        typed_axes: dict[str, study.Choices] = {}
        for override in typed:
            key = override.key_or_group
            # An axis may have choices that its group does not have, such as a metric with settings.
            choices_of_axis = preset.axes.get(key, {})
            # Only names that are not choices of the axis have to be files of the group.
            if not set(_texts_of(override, choices_of_axis)) <= set(choices_of_axis):
                self._check_choices([override])
            axis = key
            # A task on the command line replaces the study's data sets.
            if key == "task" and key not in preset.axes:
                axis = study.SET
            if axis in preset.axes:
                preset = self._narrowed(preset, axis, override)
            # Removing a group (~group) is the choice null.
            elif override.is_delete():
                typed_axes[key] = {"null": (str(override.input_line),)}
            else:
                element = override.get_key_element()
                texts = _texts_of(override, ())
                typed_axes[key] = {text: (f"{element}={text}",) for text in texts}
        # Files that a study's arms need are looked up in the data folder of the command line.
        default_folder = str(default_folders()["data"])
        typed_folder = next(iter(typed_axes.get("paths.data", {})), default_folder)
        data_folder = Path(typed_folder.strip("'\""))
        return preset.arms(typed_axes, data_folder.expanduser())

    def _narrowed(self, preset: study.Study, axis: str, override: Override) -> study.Study:
        """Return a study with only those choices of an axis that an override names."""
        key = override.key_or_group
        names: Iterable[str] = preset.axes[axis] if axis == key else choices(key, self._extra)
        is_setting = key in (*_ALL_GROUPS, *schema.declared())
        return preset.narrowed(axis, _texts_of(override, names), key if is_setting else "")

    def _compose(self, overrides: list[str]) -> Composed:
        # Hydra would read nan as a number, which no setting allows; some settings allow the text.
        overrides = [re.sub(r"=nan$", "='nan'", text) for text in overrides]
        for override in _parse(overrides):
            _check_typed(override)
        try:
            settings = self._load(overrides)
            # Kept, since only this section records the choices of groups.
            hydra = settings.hydra
            with open_dict(settings):
                # Hydra's settings are not settings of the run.
                del settings["hydra"]
            # Before interpolations are resolved, so that the message names the missing key itself.
            missing_keys = sorted(OmegaConf.missing_keys(settings))
            if missing_keys:
                raise ConfigError(
                    "needs a value", where=missing_keys[0], hint=f"set {missing_keys[0]}=..."
                )
            content: Any = OmegaConf.to_container(settings, resolve=True)
            config: Any = OmegaConf.to_object(settings)
        except _UNREADABLE as error:
            raise _refused(error) from error
        # The schema is checked first, since the checks of parts rely on its settings.
        setting_checks.check_settings(config)
        setting_checks.check_budget(config, {key_of(text) for text in overrides})
        setting_checks.check_parts(config)
        # Set after `content` was made, so that the record of a run names default folders of this
        # machine only if the user has set them.
        for name, folder in default_folders().items():
            setattr(config.paths, name, getattr(config.paths, name) or str(folder))
        # The overrides are recorded as the user wrote them, with their interpolations.
        typed_overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
        chosen_files = hydra.runtime.choices
        return Composed(
            config=config,
            content=content,
            choices={group: str(chosen_files[group]) for group in GROUPS},
            overrides=list(typed_overrides),
            config_dir=self._extra,
        )

    def _load(self, overrides: list[str]) -> DictConfig:
        """Compose the files with the overrides.

        The file of a body chooses a source, and the file of this source may name a substitute that
        needs no download (`data.without_files`). A task that is not in the paper gets the
        substitute, unless the user sets the source, or the substitute is the data set of the task
        itself.
        """
        self._store_variants(overrides)
        overrides = self._with_bank(overrides)
        settings = self._load_files(overrides)
        task = settings.hydra.runtime.choices["task"]
        substitute = OmegaConf.select(settings, "source.data.without_files")
        is_typed = any(key_of(text) == "source" for text in overrides)
        is_of_paper = OmegaConf.select(settings, "task.departures.paper") is not None
        if not is_typed and not is_of_paper and substitute not in (None, task):
            settings = self._load_files([*overrides, f"source={substitute}"])
        if OmegaConf.is_dict(settings._get_node("task")):
            # Variants have been merged before, as choices of the groups `departures` and `hparams`.
            with open_dict(settings.task):
                for block in BLOCKS:
                    settings.task.pop(block, None)
        return settings

    def _with_bank(self, overrides: list[str]) -> list[str]:
        """Return overrides that choose the filter bank if the user sets one of its own settings.

        This applies only if the embedder is open, as with own data. Without this choice, the data
        would decide the embedder, which may not have such a setting.
        """
        settings_of_embedder = [text for text in overrides if text.startswith("embedder.")]
        if not settings_of_embedder:
            return overrides
        others = [text for text in overrides if text not in settings_of_embedder]
        embedder: Any = OmegaConf.to_container(self._load_files(others).embedder, resolve=False)
        names = {key_of(text).partition(".")[2] for text in settings_of_embedder}
        is_open = embedder.get(parts.TARGET) is None
        if is_open and not names <= embedder.keys():
            return [*overrides, "embedder=multiscale"]
        return overrides

    def _load_files(self, overrides: list[str]) -> DictConfig:
        """Store the declared defaults of the chosen parts in Hydra, then compose."""
        self._store_declared(overrides)
        loader = GlobalHydra.instance().config_loader()
        return loader.load_configuration("config", overrides, RunMode.RUN)

    def _store_declared(self, overrides: list[str]) -> None:
        """Store the declared defaults of parts as choices of the groups `declared/GROUP`.

        The method stores the defaults of all candidates: parts that may be chosen by default, by an
        override, or by the file of another candidate. Defaults of a part that is not chosen in the
        end have no effect.
        """
        candidates = list(configuration.default_choices().items())
        candidates += [(key_of(text), value_of(text)) for text in overrides]
        while candidates:
            group, name = candidates.pop()
            choice = f"{group}/{name}"
            if group not in _ALL_GROUPS or choice in self._stored:
                continue
            path = choices(group, self._extra).get(name)
            if path is None:
                continue
            self._stored.add(choice)
            content = configuration.content(path)
            defaults = content.get("defaults")
            candidates += configuration.picks(defaults).items()
            if group in setting_checks.PARTS:
                # A file with `@package _global_` has its group as a key.
                node = {group: declared_node(group, content.get(group, content))}
                ConfigStore.instance().store(
                    name, node, group=f"declared/{group}", package="_global_"
                )

    def _store_variants(self, overrides: list[str]) -> None:
        """Store the variants in the files of the tasks that overrides name.

        They become choices of the groups `departures` and `hparams`.
        """
        # The default task is included, since the overrides may not set the task.
        chosen_names = [configuration.default_choices()["task"]]
        for text in overrides:
            if key_of(text) in ("task", *BLOCKS):
                chosen_names.append(value_of(text))
        # A variant is named PROTOCOL/TASK or PROTOCOL/TASK-BODY.
        stems = [name.rpartition("/")[2] for name in chosen_names]
        for task, path in choices("task", self._extra).items():
            # A name may contain a dash itself, so the text is not split at the first dash.
            is_named = any(stem == task or stem.startswith(f"{task}-") for stem in stems)
            if task in self._stored or not is_named:
                continue
            self._stored.add(task)
            # Loaded by OmegaConf, which keeps interpolations as text.
            content: Any = OmegaConf.to_container(OmegaConf.load(path))
            for block, variant, _, settings in in_task(task, content, str(path)):
                folder, _, stem = variant.rpartition("/")
                group = f"{block}/{folder}"
                ConfigStore.instance().store(stem, settings, group=group, package="_global_")

    def _check_choices(self, overrides: list[Override]) -> None:
        """Raise ConfigError for the first choice that does not exist or cannot be removed."""
        for override in overrides:
            group = override.key_or_group
            if group not in _ALL_GROUPS:
                continue
            choice_files = choices(group, self._extra)
            if override.is_delete() or isinstance(override.value(), (list, type(None))):
                if group in NEEDED_GROUPS:
                    hint = f"run `orca list {group}` to see the choices"
                    raise ConfigError("needs exactly one choice", where=group, hint=hint)
                continue
            # The texts still have the quotes of the command line.
            typed_names = {text.strip("'\"") for text in _texts_of(override, choice_files)}
            absent_names = typed_names - choice_files.keys()
            allowed: Collection[str] = choice_files
            # A variant may be in a task's file instead of a separate file.
            if absent_names and group in BLOCKS:
                allowed = configuration.variants(group, self._extra)
            for name in sorted(absent_names.difference(allowed)):
                raise setting_checks.unknown_choice(group, name, allowed)
