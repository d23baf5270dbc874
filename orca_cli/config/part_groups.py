"""The groups of conf/ whose node names a part of the program: what each part is given, and whether its settings are right."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from orca_cli.config import credentials, parts, short_names
from orca_cli.config.schema import Config
from orca_cli.exceptions import ConfigError


@dataclass(frozen=True)
class PartGroup:
    """One group; its name is also that of the setting."""

    reserved: tuple[str, ...] = ()  # arguments that the program passes once a run starts; see stages/build.py
    words: tuple[str, ...] = ()  # settings that describe the node; all others are the part's own arguments
    nested: tuple[str, ...] = ()  # those of `words` that are nodes of parts themselves, or absent
    optional: bool = False  # whether the node may name no part, as `metric=none` does


_FOLDERS = ("data_folder", "cache_folder", "reporter")
PART_GROUPS = {
    "task": PartGroup(_FOLDERS, words=("kind", "loss", "error", "data", "train_fraction"), nested=("loss", "error")),
    "body": PartGroup(words=("weights",)),
    "source": PartGroup(("seed", *_FOLDERS), words=("data",)),
    "metric": PartGroup(optional=True),
    "embedder": PartGroup(),
    "finetune": PartGroup(),
    "augment": PartGroup(optional=True),
    "tracker": PartGroup(("name", "folder", "store", "settings"), optional=True),
}


def part_node(config: Config, name: str) -> dict[str, Any]:
    """Return what of a group's node names a part and the part's own arguments."""
    words = PART_GROUPS[name].words
    return {key: value for key, value in getattr(config, name).items() if key not in words}


def check(config: Config) -> None:
    """Raise the errors in the settings of parts that `parts.build` would raise; nothing is read."""
    for name in PART_GROUPS:
        if not isinstance(getattr(config, name), dict):
            raise ConfigError("a group of settings is needed", where=name, hint=f"orca list {name} shows the choices")
    if (weights := config.body.get("weights", "pretrained")) not in ("pretrained", "random"):
        raise ConfigError(f"'{weights}' is not allowed", where="body.weights", hint="allowed: pretrained, random")
    _check_weights(config)
    check_method(config, config.task.get("kind"))
    for name, group in PART_GROUPS.items():
        node = getattr(config, name)
        for word in group.nested:
            if node.get(word) is not None:
                _check_part(short_names.node(word, node[word], node.get("kind")), f"{name}.{word}")
        if name == "tracker":
            credentials.check(node, name)
        if not (group.optional and node.get(parts.TARGET) is None):
            known = {"kind": node.get("kind")} if "kind" in group.words else {}
            if node.get("kind", "") is None:
                _check_inferred_kind(part_node(config, name), name)
            part = _check_part(part_node(config, name), name, group.reserved, known)
            if name == "metric":
                _check_classes(part, config)
            if name == "augment":
                check_augmentation(part, config.task.get("kind"))


def check_augmentation(part: Any, kind: str | None, extent: tuple[int, ...] = ()) -> None:
    """Raise ConfigError where an augmentation would make a task's targets wrong, or is not for its inputs.

    Args:
        part: the augmentation.
        kind: of the task; None before it is known.
        extent: *E of the inputs; empty before it is known.
    """
    reason = getattr(part, "refused", {}).get(kind)
    dimensions = getattr(part, "dimensions", (1, 2, 3))
    hint = "orca list augmentations shows the others; augment=none leaves it out"
    if reason is not None:
        raise ConfigError(f"does not apply to task.kind={kind}: {reason}", where="augment", hint=hint)
    if extent and len(extent) not in dimensions:
        shapes = {1: "series", 2: "images", 3: "volumes"}
        what = f"is for {' and '.join(shapes[one] for one in dimensions)}, and inputs are {shapes[len(extent)]}"
        raise ConfigError(what, where="augment", hint=hint)


def check_method(config: Config, kind: str | None) -> None:
    """Raise ConfigError where `align.method` does not suit the metric or the kind of the task; None before it is known."""
    where = f"align.method={config.align.method}"
    if config.align.method == "mona" and config.metric.get(parts.TARGET) is None:
        what = "trains the embedder in stage 2, which metric=none leaves out"
        raise ConfigError(what, where=where, hint="give a metric: it measures what the method does")
    if config.align.method == "pare" and kind == "dense":
        what = "does not apply to task.kind=dense: the targets at replaced tokens would be wrong"
        raise ConfigError(what, where=where, hint="use align.method=orca or mona")


def _check_inferred_kind(node: dict[str, Any], group: str) -> None:
    """Raise ConfigError where `kind` is null, and the reader does not infer it from the data."""
    parameter = parts.parameters(node, group).get("kind")
    if parameter is None or "None" not in str(parameter.annotation):
        hint = "allowed: what the task's file says; take it out of the command"
        raise ConfigError("null is not allowed", where=f"{group}.kind", hint=hint)


def _check_weights(config: Config) -> None:
    """Raise ConfigError where weights of classes or labels are given to a task of another kind."""
    kinds = {"class_weights": ("classes", "dense"), "positive_weight": ("labels", "dense")}
    kind = config.task.get("kind")
    for (name, allowed), other in zip(kinds.items(), reversed(kinds), strict=True):
        if kind is not None and kind not in allowed and getattr(config.train, name) is not None:
            hint = f"for {kind} use train.{other}" if kind in kinds[other] else "take it out of the command"
            raise ConfigError(f"does not apply to task.kind={kind}", where=f"train.{name}", hint=hint)
    if config.train.class_weights is not None and config.train.positive_weight is not None:
        what = "given beside train.positive_weight"
        raise ConfigError(what, where="train.class_weights", hint="give one of them")


def _check_part(node: Any, key: str, reserved: tuple[str, ...] = (), known: dict[str, Any] | None = None) -> Any:
    """Check a node, and return the part where it is a class that needs nothing else; None for others."""
    if not isinstance(node, dict):
        raise ConfigError(f"{node!r} is not a `_target_` node", where=key, hint="or leave it out")
    if not reserved and inspect.isclass(parts.resolve(node, key)):
        return parts.build(node, key)  # checks as `parts.check` does, costs nothing, and a class may check more
    parts.check(node, key, reserved, known or {})
    return None


def _check_classes(metric: Any, config: Config) -> None:
    """Raise ConfigError where problems have fewer classes than the metric compares (its `least_classes`)."""
    least, classes = getattr(metric, "least_classes", 1), config.align.classes_per_problem
    if classes is not None and 0 < classes < least:
        name = config.metric[parts.TARGET].rpartition(".")[2]
        what = f"metric={name} compares at least {least} classes, and a problem has {classes}"
        hint = "leave it out, or use align.classes_per_problem=0, which takes all classes"
        raise ConfigError(what, where="align.classes_per_problem", hint=hint)
