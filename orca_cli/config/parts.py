"""Turn `_target_` nodes of the configuration into objects, and nothing but the program's own parts and torch's.

A configuration names code. So a node may name only a class or function that is defined in one of the allowed modules:
`orca_cli.storage.folders.shutil.rmtree` is refused, because `rmtree` is not ours. Errors and losses have short names as well:
`task.error=balanced`.
"""

import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from orca_cli.config import retired
from orca_cli.config.ranges import check_value
from orca_cli.exceptions import ConfigError, UnsafeError, suggest

TARGET = "_target_"
_PLUGINS = tuple(
    f"orca_cli.{name}"
    for name in ("data", "benchmarks", "models", "metrics", "scoring", "runs.tracking")
)
_CLOSED = (
    "orca_cli.data.untrusted",
    "orca_cli.data.data_folder",
)  # they open, unpack and fetch files
_TORCH = ("torch.nn", "torch.optim")
_extra_modules: set[str] = set()
_NOTHING: Mapping[str, Any] = types.MappingProxyType({})

# Short names of errors and losses, by the kind of a task.
_HOME = "orca_cli.scoring."
_CLASSES = {
    "zero_one": "classification.ZeroOne",
    "balanced": "classification.Balanced",
    "macro_f1": "classification.MacroF1",
}
_NUMBERS = {
    "rmse": "regression.RMSE",
    "mae": "regression.MAE",
    "r2": "regression.OneMinusR2",
    "nrmse": "regression.NormalisedRMSE",
}
_ENTROPY = {"cross_entropy": "losses.MaskedCrossEntropy"}
_NUMBER_LOSSES = {
    "mse": "losses.MaskedMSE",
    "huber": "losses.MaskedHuber",
    "mae": "losses.MaskedMAE",
}

# Setting -> kind -> name -> class. Dense targets are numbers, or a class at every position; only the data say which.
_DENSE_CLASSES = "dense classes"
_NAMES: dict[str, dict[str, dict[str, str]]] = {
    "error": {
        "classes": _CLASSES | {"auroc": "classification.ClassAUROC"},
        "labels": {
            "map": "multilabel.MeanAveragePrecision",
            "auroc": "multilabel.MeanAUROC",
            "macro_f1": "multilabel.LabelMacroF1",
        },
        "values": _NUMBERS,
        "dense": _NUMBERS
        | {"mse": "regression.MeanSquared", "relative_l2": "regression.RelativeL2"},
        _DENSE_CLASSES: _CLASSES,
    },
    "loss": {
        "classes": _ENTROPY,
        "labels": {"bce": "losses.MaskedBCE"},
        "values": _NUMBER_LOSSES,
        "dense": _NUMBER_LOSSES | {"relative_l2": "losses.RelativeL2Loss"},
        _DENSE_CLASSES: _ENTROPY,
    },
}


def allow_module(name: str) -> None:
    """Allow `_target_` to name things defined in a module of the user's own (`--allow-module NAME`)."""
    _extra_modules.add(name)


def build(node: dict[str, Any], key: str, **runtime: Any) -> Any:
    """Call what a node names with its other entries; nested nodes are built first.

    Args:
        node: `_target_` and keyword arguments.
        key: the node's place in the configuration, for messages.
        runtime: arguments that only the program knows, such as folders; passed where the callable takes them.

    Raises:
        ConfigError: unknown name, unknown or missing arguments, or what the part itself refuses.
        UnsafeError: the name is outside the allowed modules.
    """
    target = resolve(node, key)
    arguments = {
        name: value for name, value in retired.current_settings(node).items() if name != TARGET
    }
    arguments |= {
        name: build(value, f"{key}.{name}") for name, value in arguments.items() if _is_node(value)
    }
    arguments |= {
        name: value
        for name, value in runtime.items()
        if name in inspect.signature(target).parameters
    }
    bind(target, arguments, key)
    if inspect.isfunction(target) or target.__module__.startswith("orca_cli."):
        return target(**arguments)
    try:
        return target(**arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"{target.__qualname__} refuses its settings: {error}", where=key
        ) from error


def check(
    node: dict[str, Any],
    key: str,
    reserved: Iterable[str] = (),
    known: Mapping[str, Any] = _NOTHING,
) -> Any:
    """Raise what `build` would raise for this node because of its settings; nothing is read and no function is called.

    As in `build`, a module's `check_settings` is called for its functions: it takes some of the function's arguments by name,
    and raises ConfigError for values that contradict each other. A class is built, which costs nothing and may check more.

    Args:
        node, key: as in `build`.
        reserved: names of arguments that the program passes once a run starts.
        known: arguments that the program knows already.
    """
    target = resolve(node, key)
    if inspect.isclass(target) and not reserved:
        return build(node, key)
    arguments = {name: value for name, value in node.items() if name != TARGET}
    for name in filter(lambda name: _is_node(arguments[name]), arguments):
        check(arguments[name], f"{key}.{name}")
    bind(target, arguments, key, reserved, known)
    return None


def resolve(node: dict[str, Any], key: str) -> Callable[..., Any]:
    """Return the class or function that a node's `_target_` names; ConfigError or UnsafeError as in `build`."""
    if not isinstance(node, dict):
        raise ConfigError(f"{node!r} is not a `_target_` node", where=key, hint="or leave it out")
    name = node.get(TARGET)
    where = f"{key}.{TARGET}"
    if not isinstance(name, str) or "." not in name:
        raise ConfigError(f"{name!r} is not a dotted name of a class or function", where=where)
    name = retired.current_target(name)
    module_name, attribute = name.rsplit(".", 1)
    if not _allowed(module_name):
        what = f"'{name}' is outside {', '.join((*_PLUGINS, *_TORCH))}, or within {' or '.join(_CLOSED)}"
        raise UnsafeError(
            what, where=where, hint=f"if you trust it, add --allow-module {module_name}"
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # noqa: BLE001 - a module of the user's own may raise what it likes
        what = f"'{module_name}' cannot be imported: {type(error).__name__}: {error}"
        raise ConfigError(what, where=where, hint="--traceback shows where") from error
    target = getattr(module, attribute, None)
    if target is None:
        names = [
            name
            for name, value in vars(module).items()
            if getattr(value, "__module__", "") == module_name
        ]
        hint = suggest(attribute, names)
        raise ConfigError(f"'{module_name}' has no '{attribute}'", where=where, hint=hint)
    if not (inspect.isclass(target) or inspect.isfunction(target)) or not _allowed(
        target.__module__
    ):
        hint = "name a class or function by its own module"
        raise UnsafeError(f"'{name}' is not defined there", where=where, hint=hint)
    return target


def named(setting: str, value: Any, kind: str | None, integer_targets: bool | None = None) -> Any:
    """Return the `_target_` node that a short name of an error or loss stands for; any other value as it is.

    Kind and form of the targets are None where only the data tell. ConfigError where a kind has no such error or loss.
    """
    if not isinstance(value, str):
        return value
    tables = _NAMES[setting]
    kinds = [kind] if kind in tables else list(tables)
    if kind == "dense":
        kinds = [_DENSE_CLASSES] * (integer_targets is not False) + [kind] * (not integer_targets)
    names = {name: path for table in kinds for name, path in tables[table].items()}
    if value not in names:
        scope = "" if kind is None else f" for task.kind={kind}"
        scope += " with integer targets" if integer_targets and kind == "dense" else ""
        raise ConfigError(
            f"'{value}' is not allowed{scope}", where=f"task.{setting}", hint=suggest(value, names)
        )
    return {TARGET: _HOME + names[value]}


def _allowed(module: str) -> bool:
    is_part = _is_within(module, (*_PLUGINS, *_TORCH)) and not _is_within(module, _CLOSED)
    return is_part or _is_within(module, _extra_modules)


def _is_within(module: str, roots: Iterable[str]) -> bool:
    return any(module == root or module.startswith(f"{root}.") for root in roots)


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and TARGET in value


def bind(
    target: Callable[..., Any],
    arguments: dict[str, Any],
    key: str,
    reserved: Iterable[str] = (),
    known: Mapping[str, Any] = _NOTHING,
) -> None:
    """Check names and values against the signature; parameters of richer types are left to their owners."""
    parameters, reserved = inspect.signature(target).parameters, {*reserved, *known}
    others = [name for name, one in parameters.items() if one.kind is one.VAR_KEYWORD]
    settable = [
        name
        for name, one in parameters.items()
        if one.kind is not one.VAR_POSITIONAL and name not in reserved
    ]
    settable = [name for name in settable if name not in others]
    for name in arguments:
        if name in reserved or (name not in parameters and not others):
            what = f"{target.__qualname__} has no parameter '{name}'"
            raise ConfigError(
                what, where=f"{key}.{name}", hint=suggest(str(name), [*settable, *known])
            )
    for name in settable:
        if parameters[name].default is inspect.Parameter.empty and name not in arguments:
            raise ConfigError(
                "a value is needed", where=f"{key}.{name}", hint=f"give {key}.{name}=..."
            )
    try:
        hints = typing.get_type_hints(
            target.__init__ if inspect.isclass(target) else target, include_extras=True
        )
    except (
        NameError,
        TypeError,
        AttributeError,
    ):  # of torch's classes, or a module of the user's own
        hints = {}
    for name, value in (arguments | dict(known)).items():
        if name in hints and not _is_node(value):
            check_value(value, hints[name], f"{key}.{name}")
    checker = getattr(sys.modules[target.__module__], "check_settings", None)
    if inspect.isfunction(target) and inspect.isfunction(checker):
        settings = (
            {name: parameter.default for name, parameter in parameters.items()}
            | arguments
            | dict(known)
        )
        checker(**{name: settings[name] for name in inspect.signature(checker).parameters})
