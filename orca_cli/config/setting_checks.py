"""Whether the settings of a run are those that the schema declares, within their ranges, and do not contradict each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from orca_cli.config import retired
from orca_cli.config.ranges import check_value
from orca_cli.config.schema import NEEDED_GROUPS, Config, Train, declared, lookup
from orca_cli.exceptions import ConfigError, suggest


def check(config: Config) -> None:
    """Raise ConfigError for the first setting that its declaration does not allow, and for settings in contradiction."""
    for key, hint in declared().items():
        check_value(lookup(config, key), hint, key)
    train = config.train
    if config.precision == "fp16" and config.device == "cpu":
        raise ConfigError("fp16 needs a GPU, not device=cpu", where="precision", hint="use precision=fp32 or bf16")
    if config.budget != Config.budget and config.protocol != "clean":
        what = f"has no effect on protocol={config.protocol}, which sets the length of training itself"
        raise ConfigError(what, where=f"budget={config.budget}", hint="give train.epochs=... instead")
    if train.decay_epochs is not None and train.decay_epochs < (train.warmup_epochs or 0):
        what = f"{train.decay_epochs:g} is before the end of train.warmup_epochs={train.warmup_epochs:g}"
        raise ConfigError(what, where="train.decay_epochs", hint="allowed: train.warmup_epochs or more")
    _check_selection(train)
    if config.align.method == "mona" and train.compile:
        what = "differentiates a step of the body twice, and compiled layers cannot be"
        raise ConfigError(what, where="align.method=mona", hint="leave train.compile out")
    if not config.test and train.validate_on == "test":
        what = "contradicts train.validate_on=test, which opens the test split every epoch"
        raise ConfigError(what, where="test=false", hint="use train.validate_on=validation")


def _check_selection(train: Train) -> None:
    """Raise ConfigError where settings of the choice of weights contradict each other."""
    if train.folds == 1:
        raise ConfigError("1 is not allowed", where="train.folds", hint="allowed: 0 (none), or 2 and more")
    if train.folds and (train.members or 1) > 1:
        what = f"contradicts train.folds={train.folds}, which fine-tunes a model for each fold"
        raise ConfigError(what, where=f"train.members={train.members}", hint="leave one of them out")
    uses = {f"train.folds={train.folds}": bool(train.folds), "train.refit=true": train.refit is True}
    for setting in (name for name, used in uses.items() if used):
        if train.select == "best":
            what = "leaves no samples to choose by, and train.select=best chooses"
            raise ConfigError(what, where=setting, hint="use train.select=last or auto, or leave one of them out")
        if train.validate_on == "test":
            what = "does not go with train.validate_on=test"
            raise ConfigError(what, where=setting, hint="leave one of them out")


def check_keys(content: dict[str, Any], known: dict[str, Any] | None = None, prefix: str = "") -> None:
    """Raise ConfigError where `+key=value` added a key to the schema's, or `~key` took one away."""
    known = asdict(Config()) if known is None else known
    for name in known:
        if name not in content:
            hint = f"take ~{prefix}{name} out of the command"
            raise ConfigError("cannot be left out", where=prefix + name, hint=hint)
    for name, value in content.items():
        if name not in known:
            raise unknown(name, known, prefix)
        if isinstance(known[name], dict) and name not in NEEDED_GROUPS:
            check_keys(value, known[name], f"{name}.")


def unknown(name: Any, known: Iterable[Any], prefix: str = "", place: str = "") -> ConfigError:
    """Return the error for a key that a section does not have, with the closest one that it has."""
    key = f"{prefix}{name}"
    hint = retired.SETTINGS.get(key) or suggest(str(name), map(str, known))
    return ConfigError(f"no such setting: '{key}'{place}", where=key, hint=hint)
