"""Checks of settings before any data are read: names, ranges, contradictions and secrets.

The range of a setting is part of its declaration, in the schema or in the signature of a part.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import is_dataclass
from typing import Any, Literal

from orca_cli.config import parts
from orca_cli.config.configuration import BLOCKS
from orca_cli.config.declarations import RESERVED
from orca_cli.config.ranges import check_value
from orca_cli.config.schema import NEEDED_GROUPS, Config, declared, lookup
from orca_cli.exceptions import ConfigError, suggest

# Names that end in one of these words; `tokens` and `author` are harmless.
_SECRET_NAMES = re.compile(
    r"(?:^|[._-])"
    r"(?:token|password|passwd|secret|credentials?|auth|api_?key|access_?key|private_?key)$",
    re.I,
)
# Prefixes of the keys of Hugging Face, GitHub, OpenAI, AWS and Slack.
_SECRET_KEYS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|sk-[\w-]{16,}"
    r"|AKIA[A-Z0-9]{12,}|xox[a-z]-[\w-]{8,})"
)
# An address with a user name, perhaps with a password.
_LOGIN = re.compile(r"(\w+://)[^\s/@]+@")
_SECRET_HINT = (
    "set the secret as an environment variable, such as WANDB_API_KEY, since the folder of a run "
    "records all settings"
)

# Groups of parts; the names are also the keys of their settings.
PARTS = (*NEEDED_GROUPS, "tracker")
# Groups that may have no part, such as metric=none. The data decide an embedder or finetune mode
# that is left open in this way.
_OPTIONAL = ("metric", "tracker", "embedder", "finetune")
# Settings of a group that are not arguments of its part.
_NOT_ARGUMENTS = {
    "task": ("kind", "loss", "error", "data", "name", "train_fraction", *BLOCKS),
    "body": ("weights",),
    "source": ("data",),
}
# Settings of the tasks for own data, which newcomers set without choosing such a task.
_OF_OWN_DATA = ("task.train", "task.test", "task.validation", "task.target")
_OWN_DATA_HINT = (
    "for your own data choose task=arrays, task=table or task=images, and then set task.train=FILE"
)
_CONTRADICTION_HINT = "use another value, or remove the setting"


def check_settings(config: Config) -> None:
    """Raise ConfigError for the first setting that is not allowed or contradicts another."""
    # The prefix of a section's keys -> the section; the prefix of the top level is empty.
    sections: dict[str, Any] = {"": config}
    for key, section in vars(config).items():
        if is_dataclass(section):
            sections[f"{key}."] = section
    for prefix, section in sections.items():
        # The override `+KEY=VALUE` may have added a name.
        for name in vars(section).keys() - section.__dataclass_fields__.keys():
            raise unknown(name, section.__dataclass_fields__, prefix)
    # In the order of the schema, so that the same mistake always gives the same message.
    for key, annotation in declared().items():
        check_value(lookup(config, key), annotation, key)
    # Contradictions come last, since each of these checks needs values that are in range.
    for where, message in _contradictions(config):
        raise ConfigError(message, where=where, hint=_CONTRADICTION_HINT)


def _contradictions(config: Config) -> Iterator[tuple[str, str]]:
    """Yield setting and message of each contradiction between settings."""
    train = config.train
    # null: the budget decides the length of the warm-up.
    warmup_epochs = train.warmup_epochs or 0
    chooses_on_test = train.validate_on == "test"
    if config.precision == "fp16" and config.device == "cpu":
        yield "precision", "fp16 needs a GPU and cannot be combined with device=cpu"
    # A user who sets a budget other than the default expects an effect.
    if config.budget != Config.budget and config.protocol != "clean":
        message = (
            f"has no effect with protocol={config.protocol}, which decides the training length"
        )
        yield f"budget={config.budget}", message
    if train.decay_epochs is not None and train.decay_epochs < warmup_epochs:
        message = (
            f"must be at least train.warmup_epochs={warmup_epochs:g}, got {train.decay_epochs}"
        )
        yield "train.decay_epochs", message
    folds_setting = f"train.folds={train.folds}"
    # With a single fold, no samples would be left to train on.
    if train.folds == 1:
        yield folds_setting, "must be 0 or at least 2: a single fold leaves no samples to train on"
    if train.folds and (train.members or 1) > 1:
        message = f"cannot be combined with {folds_setting}, which fine-tunes a model for each fold"
        yield f"train.members={train.members}", message
    # Both settings train on all samples, so no samples are left for choosing the weights.
    if (train.folds or train.refit is True) and (chooses_on_test or train.select == "best"):
        setting = folds_setting if train.folds else "train.refit=true"
        message = (
            "trains on all samples, so none are left to choose the best epoch on; cannot be "
            "combined with train.select=best or train.validate_on=test"
        )
        yield setting, message
    yield from _weight_contradictions(config)
    # test=false promises that the test split stays closed.
    if not config.test and chooses_on_test:
        message = (
            "cannot be combined with train.validate_on=test, which reads the test split every epoch"
        )
        yield "test=false", message


def _weight_contradictions(config: Config) -> Iterator[tuple[str, str]]:
    """Yield setting and message of each contradiction of the weights of classes and labels."""
    kind = lookup(config, "task.kind")
    weighs_classes = config.train.class_weights is not None
    weighs_labels = config.train.positive_weight is not None
    # null: the data decide the kind later, and the program checks the weights at that point.
    if weighs_classes and kind not in (None, "classes", "dense"):
        message = (
            f"does not apply to task.kind={kind} (the setting for labels is train.positive_weight)"
        )
        yield "train.class_weights", message
    if weighs_labels and kind not in (None, "labels", "dense"):
        message = (
            f"does not apply to task.kind={kind} (the setting for classes is train.class_weights)"
        )
        yield "train.positive_weight", message
    # With dense targets, which may be classes or labels, both could have passed the checks above.
    if weighs_classes and weighs_labels:
        yield "train.class_weights", "cannot be combined with train.positive_weight"


def unknown(name: Any, allowed: Iterable[Any], prefix: str = "", file: str = "") -> ConfigError:
    """Return the error for a key that a section does not have; its hint is the closest known key.

    `prefix` is the prefix of the section, such as `train.`; `file` is a note for the message on the
    file in which the key is.
    """
    key = f"{prefix}{name}"
    hint = suggest(str(name), map(str, allowed))
    if key in _OF_OWN_DATA:
        hint = _OWN_DATA_HINT
    elif not prefix:
        hint = _section_hint(str(name)) or hint
    return ConfigError(f"unknown setting '{key}'{file}", where=key, hint=hint)


def check_budget(config: Config, typed_keys: Collection[str]) -> None:
    """Raise ConfigError if budget=quick is explicitly set but a file sets the epochs itself."""
    epochs = config.train.epochs
    if "budget" in typed_keys and config.budget == "quick" and epochs is not None:
        raise ConfigError(
            f"has no effect, since train.epochs={epochs} is already set",
            where="budget=quick",
            hint="set train.epochs=null as well, so that the budget decides the epochs",
        )


def unknown_choice(group: str, name: str, allowed: Iterable[str]) -> ConfigError:
    """Return the error for a choice that a group does not have."""
    hint = suggest(name, allowed)
    if group == "body":
        hint += f"; to use any checkpoint, set body=auto body.checkpoint={name}"
    return ConfigError(f"unknown {group} '{name}'", where=group, hint=hint)


def check_is_setting(key: str, value: Any) -> None:
    """Raise ConfigError if a section of settings, such as `train`, is set to a text or number."""
    settings_below = [name for name in declared() if name.startswith(f"{key}.")]
    if not settings_below or key in PARTS or isinstance(value, (dict, type(None))):
        return
    hint = _OWN_DATA_HINT if key == "train" else "run `orca list settings` to see all settings"
    raise ConfigError(
        f"is a group of settings; set one of them, such as {settings_below[0]}",
        where=key,
        hint=hint,
    )


def _section_hint(name: str) -> str:
    """Return a hint with the setting that a name without its section may mean, or ""."""
    closest = suggest(name, {key.rpartition(".")[2] for key in declared()})
    if not closest.startswith("did you"):
        return ""
    _, setting_name, _ = closest.split("'")
    # Settings of stage 3 come first: in other programs, such a name means a setting of training.
    keys = [key for key in declared() if key.rpartition(".")[2] == setting_name]
    keys.sort(key=lambda key: not key.startswith("train."))
    return f"did you mean '{keys[0]}'?"


def part_node(config: object, name: str) -> dict[str, Any]:
    """Return the `_target_` node of a group's part, with its arguments only."""
    left_out = _NOT_ARGUMENTS.get(name, ())
    settings = getattr(config, name)
    return {key: entry for key, entry in settings.items() if key not in left_out}


def check_parts(config: Config) -> None:
    """Raise the errors that `parts.build` would raise because of settings; read no data."""
    # A group may be null, or a text, after an override such as task=null.
    for name in PARTS:
        if not isinstance(getattr(config, name), dict):
            raise ConfigError(
                "must be a group of settings",
                where=name,
                hint=f"run `orca list {name}` to see the choices",
            )
    weights = config.body.get("weights", "pretrained")
    # Checked separately, since `weights` is not an argument of the part.
    check_value(weights, Literal["pretrained", "random"], "body.weights")
    check_secrets(config.tracker, "tracker")
    kind = config.task.get("kind")
    for setting in ("loss", "error"):
        # null: the kind's default loss or error.
        if config.task.get(setting) is not None:
            node = parts.named(setting, config.task[setting], kind)
            parts.check(node, f"task.{setting}")
    checked_parts = {}
    for name in PARTS:
        settings = getattr(config, name)
        if name in _OPTIONAL and settings.get(parts.TARGET) is None:
            continue
        fixed_arguments: dict[str, Any] = {}
        if name == "task" and "kind" in config.task:
            fixed_arguments["kind"] = kind
        node = part_node(config, name)
        checked_parts[name] = parts.check(node, name, RESERVED.get(name, ()), fixed_arguments)
    metric = checked_parts.get("metric")
    least_classes = 1 if metric is None else metric.least_classes
    # 0 means all classes; only the data show their number.
    classes = config.align.classes_per_problem
    if classes is not None and 0 < classes < least_classes:
        raise ConfigError(
            f"must be 0 (all classes) or at least {least_classes} for this metric, got {classes}",
            where="align.classes_per_problem",
            hint="use another value, or remove the setting",
        )


def check_secrets(node: Any, key: str) -> None:
    """Raise ConfigError for a setting that contains a secret; the message does not show the secret.

    A secret is recognised by its name (password, token, ...) or its form (a key or a login).
    """
    if _SECRET_NAMES.search(key):
        raise ConfigError("a secret must not be a setting", where=key, hint=_SECRET_HINT)
    if isinstance(node, dict):
        for name, entry in node.items():
            check_secrets(entry, f"{key}.{name}")
    elif isinstance(node, list):
        for position, entry in enumerate(node):
            check_secrets(entry, f"{key}.{position}")
    # A secret under any other name is recognised by its form.
    elif isinstance(node, str) and (_SECRET_KEYS.search(node) or _LOGIN.search(node)):
        raise ConfigError("contains an access key or a login", where=key, hint=_SECRET_HINT)
