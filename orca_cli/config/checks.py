"""Whether settings are right, before any data are read: known, within their ranges, without contradiction or secrets.

Each range is declared where the setting is: in the schema, or in the signature of the part that takes it.
"""

import re
from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Any, Literal

from orca_cli.config import parts
from orca_cli.config.configuration import BLOCKS
from orca_cli.config.ranges import check_value
from orca_cli.config.schema import NEEDED_GROUPS, Config, declared, lookup
from orca_cli.exceptions import ConfigError, suggest

_SECRET_NAMES = re.compile(
    r"(?:^|[._-])(?:token|password|passwd|secret|credentials?|auth|api_?key|access_?key|private_?key)$",
    re.I,
)
_SECRET_KEYS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|sk-[\w-]{16,}|AKIA[A-Z0-9]{12,}|xox[a-z]-[\w-]{8,})"
)
_LOGIN = re.compile(r"(\w+://)[^\s/@]+@")
_SECRET_HINT = "settings are written into the run's folder; give it as an environment variable, such as WANDB_API_KEY"


PARTS = (*NEEDED_GROUPS, "tracker")  # groups of parts, which are also the names of their settings
_OPTIONAL = ("metric", "tracker")  # may name no part, as metric=none does
_FOLDERS = ("data_folder", "cache_folder", "reporter")
# Arguments of parts that the program passes once a run starts (stages/build.py).
_RESERVED = {
    "task": _FOLDERS,
    "source": ("seed", *_FOLDERS),
    "tracker": ("name", "folder", "store", "settings"),
}
# Settings that describe a node; all others are the part's own arguments.
_WORDS = {
    "task": ("kind", "loss", "error", "data", "train_fraction", *BLOCKS),
    "body": ("weights",),
    "source": ("data",),
}


def check_settings(config: Config) -> None:
    """Raise ConfigError for the first setting that its declaration does not allow, and for settings in contradiction."""
    sections = [
        ("", config),
        *((f"{key}.", one) for key, one in vars(config).items() if is_dataclass(one)),
    ]
    for prefix, section in sections:
        for name in (
            vars(section).keys() - section.__dataclass_fields__.keys()
        ):  # that `+` has added
            raise unknown(name, section.__dataclass_fields__, prefix)
    for key, hint in declared().items():
        check_value(lookup(config, key), hint, key)
    train, kind = config.train, lookup(config, "task.kind")
    before, on_test = train.warmup_epochs or 0, train.validate_on == "test"
    folds = f"train.folds={train.folds}" if train.folds else ""
    apart = folds or (
        "train.refit=true" if train.refit is True else ""
    )  # what leaves no samples to choose by
    on_classes, on_labels = train.class_weights is not None, train.positive_weight is not None
    # Whether it is wrong, where, and what.
    contradictions = [
        (config.precision == "fp16" and config.device == "cpu", "precision", "fp16 needs a GPU, not device=cpu"),
        (config.budget != Config.budget and config.protocol != "clean", f"budget={config.budget}",
         f"has no effect on protocol={config.protocol}, which sets the length of training itself"),
        (train.decay_epochs is not None and train.decay_epochs < before, "train.decay_epochs",
         f"{train.decay_epochs} is before the end of train.warmup_epochs={before:g}"),
        (train.folds == 1, folds, "judges no sample; two folds are the least"),
        (folds and (train.members or 1) > 1, f"train.members={train.members}",
         f"contradicts {folds}, which fine-tunes a model for each fold"),
        (apart and (on_test or train.select == "best"), apart,
         "leaves no samples to choose by, as train.select=best and train.validate_on=test would"),
        (on_classes and kind not in (None, "classes", "dense"), "train.class_weights",
         f"does not apply to task.kind={kind}; train.positive_weight is for labels"),
        (on_labels and kind not in (None, "labels", "dense"), "train.positive_weight",
         f"does not apply to task.kind={kind}; train.class_weights are for classes"),
        (on_classes and on_labels, "train.class_weights", "given beside train.positive_weight"),
        (not config.test and on_test, "test=false",
         "contradicts train.validate_on=test, which opens the test split every epoch"),
    ]  # fmt: skip
    for is_wrong, where, what in contradictions:
        if is_wrong:
            raise ConfigError(what, where=where, hint="give another value, or leave it out")


def unknown(name: Any, known: Iterable[Any], prefix: str = "", place: str = "") -> ConfigError:
    """Return the error for a key that a section does not have, with the closest one that it has."""
    key = f"{prefix}{name}"
    return ConfigError(
        f"no such setting: '{key}'{place}", where=key, hint=suggest(str(name), map(str, known))
    )


def part_node(config: object, name: str) -> dict[str, Any]:
    """Return a group's node without the settings that are not the part's own: `_target_` and the part's arguments."""
    return {
        key: value
        for key, value in getattr(config, name).items()
        if key not in _WORDS.get(name, ())
    }


def check_parts(config: Config) -> None:
    """Raise the errors in the settings of parts that `parts.build` would raise; nothing is read."""
    for name in PARTS:
        if not isinstance(getattr(config, name), dict):
            raise ConfigError(
                "a group of settings is needed",
                where=name,
                hint=f"orca list {name} shows the choices",
            )
    check_value(
        config.body.get("weights", "pretrained"), Literal["pretrained", "random"], "body.weights"
    )
    check_secrets(config.tracker, "tracker")
    kind = config.task.get("kind")
    for word in ("loss", "error"):
        if config.task.get(word) is not None:
            parts.check(parts.named(word, config.task[word], kind), f"task.{word}")
    checked = {}
    for name in PARTS:
        known = {"kind": kind} if name == "task" and "kind" in config.task else {}
        if not (name in _OPTIONAL and getattr(config, name).get(parts.TARGET) is None):
            checked[name] = parts.check(
                part_node(config, name), name, _RESERVED.get(name, ()), known
            )
    least, classes = (
        getattr(checked.get("metric"), "least_classes", 1),
        config.align.classes_per_problem,
    )
    if classes is not None and 0 < classes < least:
        metric = config.metric[parts.TARGET].rpartition(".")[2]
        what = f"metric={metric} compares at least {least} classes, and a problem has {classes}"
        hint = "leave it out, or use align.classes_per_problem=0, which takes all classes"
        raise ConfigError(what, where="align.classes_per_problem", hint=hint)


def check_secrets(value: Any, key: str) -> None:
    """Raise ConfigError, which does not repeat it, where a setting or one inside it is a secret by its name or its form."""
    if _SECRET_NAMES.search(key):
        raise ConfigError("a secret is not a setting", where=key, hint=_SECRET_HINT)
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for name, one in inner:
        check_secrets(one, f"{key}.{name}")
    if isinstance(value, str) and (_SECRET_KEYS.search(value) or _LOGIN.search(value)):
        raise ConfigError("holds a key or a login", where=key, hint=_SECRET_HINT)
