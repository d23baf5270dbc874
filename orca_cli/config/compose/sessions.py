"""Hydra, while it is started: runs composed, sweeps and studies expanded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from orca_cli import signals
from orca_cli.config import configuration, schema, study, variants
from orca_cli.config.compose.composed import Composed, Sweep, checked, reseeded
from orca_cli.config.compose.overrides import ALL_GROUPS, UNREADABLE, check_typed, parse, refused, texts_of
from orca_cli.config.configuration import choices, config_dir, default_folders, key_of
from orca_cli.config.schema import NEEDED_GROUPS, Config
from orca_cli.config.variants import BLOCKS, in_task
from orca_cli.exceptions import ConfigError, suggest


@contextmanager
def session(extra: Path | None = None) -> Iterator[Session]:
    """Start Hydra on the program's configuration folder and, where one is given, the user's own, which is checked."""
    if extra is not None:
        for group in ALL_GROUPS:
            choices(group, extra)  # raises where a file would replace one of the program's
        configuration.check_untrusted(extra, (*ALL_GROUPS, "space"))
        for block in BLOCKS:
            if any("/" in name for name in choices(block, extra)):
                variants.variants(block, extra)  # raises where a file would replace what a task's file says
    ConfigStore.instance().store(name="schema", node=Config)
    for block in BLOCKS:  # those of another session
        ConfigStore.instance().repo.pop(block, None)
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
    _stored: set[str] = field(default_factory=set)  # tasks whose variants Hydra has been given

    def compose(self, overrides: list[str]) -> Composed:
        """Compose one run; ConfigError for unknown choices or keys, and missing or wrong values."""
        for text in overrides:
            if key_of(text) == "study":
                raise ConfigError("a study is a sweep", where=text, hint="add -m")
        self._check_choices(parse(overrides))
        return self._compose(overrides)

    def expand(self, overrides: list[str], *, may_be_empty: bool = False) -> Sweep:
        """Compose every job of a sweep: a study's arms; comma lists, range(...), glob(...), choice(...).

        ConfigError where none is left, unless `may_be_empty` allows that for a study.
        """
        chosen = [text for text in overrides if key_of(text) == "study"]
        parsed = parse([text for text in overrides if text not in chosen], GlobalHydra.instance().config_loader())
        self._check_choices(parse(chosen))
        if chosen:
            sweep = self._study(chosen[-1].partition("=")[2].strip("'\""), parsed)
            if not sweep.jobs and not may_be_empty:
                hint = "; ".join(study.absent_lines(sweep.absent)) or "see its `except`"
                raise ConfigError("no run is left", where=f"study={sweep.study}", hint=hint)
            return sweep
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
        preset = study.Study.read(name, choices("study", self._extra)[name])
        typed: dict[str, list[tuple[str, str]]] = {}
        for override in parsed:
            key = override.key_or_group
            # An axis may have choices that the group of that name lacks, such as a metric with settings.
            if not set(texts_of(override, preset.axes.get(key, ()))) <= set(preset.axes.get(key, ())):
                self._check_choices([override])
            if key == "task" and key not in preset.axes and study.SET in preset.axes:
                preset = preset.narrowed(study.SET, texts_of(override, choices("task", self._extra)), "task")
            elif key in preset.axes:
                setting = key if key in (*ALL_GROUPS, *schema.declared()) else ""
                preset = preset.narrowed(key, texts_of(override, preset.axes[key]), setting)
            elif override.is_delete():
                typed[key] = [("null", str(override.input_line))]
            else:
                element = override.get_key_element()
                typed[key] = [(text, f"{element}={text}") for text in texts_of(override, ())]
        folders = [pairs[-1][0].strip("'\"") for key, pairs in typed.items() if key == "paths.data"]
        arms = preset.arms(typed, Path(folders[0] if folders else default_folders()["data"]).expanduser())
        jobs = []
        made: dict[tuple[str, ...], Composed] = {}  # by all overrides but the seed, whose arms are composed once
        for arm in (arm for arm in arms if not arm.lacks):
            signals.check()
            rest = tuple(text for text in arm.overrides if key_of(text) != "seed")
            seed = parse([text for text in arm.overrides if key_of(text) == "seed"])
            if rest in made and len(seed) == 1 and not made[rest].interpolates_seed:
                job = reseeded(made[rest], seed[0])
            else:
                job = made[rest] = self._compose(arm.overrides)
            jobs.append(replace(job, labels=arm.labels))
        return Sweep(jobs, name, study.absent(arms))

    def _compose(self, overrides: list[str]) -> Composed:
        # Hydra reads the word nan as a number, which no setting takes.
        overrides = [re.sub(r"=nan$", "='nan'", text) for text in overrides]
        for override in parse(overrides):
            check_typed(override)
        try:
            cfg = self._load(overrides)
        except UNREADABLE as error:
            raise refused(error) from error
        hydra = cfg.hydra
        with open_dict(cfg):
            del cfg["hydra"]
        return checked(cfg, hydra)

    def _load(self, overrides: list[str]) -> DictConfig:
        """Compose; tasks outside the paper get a source that needs no files instead of the one that their body picks.

        The file of that source names it (`data.without_files`). A task is not aligned with its own data.
        """
        self._store_variants(overrides)
        load = GlobalHydra.instance().config_loader().load_configuration
        cfg = load("config", overrides, RunMode.RUN)
        task, instead = cfg.hydra.runtime.choices["task"], OmegaConf.select(cfg, "source.data.without_files")
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
        typed = [text.partition("=")[2].strip("'\"") for text in overrides if key_of(text) in ("task", *BLOCKS)]
        words = [name.rpartition("/")[2] for name in (configuration.default_choices()["task"], *typed)]
        for task, path in choices("task", self._extra).items():
            if task in self._stored or not any(word == task or word.startswith(f"{task}-") for word in words):
                continue
            self._stored.add(task)
            content: Any = OmegaConf.to_container(OmegaConf.load(path))
            for block, name, _, settings in in_task(task, content, str(path)):
                folder, _, stem = name.rpartition("/")
                ConfigStore.instance().store(stem, settings, group=f"{block}/{folder}", package="_global_")

    def _check_choices(self, parsed: list[Override]) -> None:
        for override in parsed:
            group = override.key_or_group
            is_none_or_list = override.is_delete() or isinstance(override.value(), (list, type(None)))
            if group in NEEDED_GROUPS and is_none_or_list:
                raise ConfigError("one choice is needed", where=group, hint=f"orca list {group} shows the choices")
            if group not in ALL_GROUPS or is_none_or_list:
                continue
            files = choices(group, self._extra)
            for name in (text.strip("'\"") for text in texts_of(override, files)):
                if name in files:
                    configuration.content(files[name])  # raises where the file is not YAML
                    continue
                allowed = variants.variants(group, self._extra) if group in BLOCKS else files
                if name not in allowed:
                    raise ConfigError(f"no such {group}: '{name}'", where=group, hint=suggest(name, allowed))
