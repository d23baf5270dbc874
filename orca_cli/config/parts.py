"""Turn the `_target_` nodes of a configuration into parts: objects that a run uses.

A configuration names code, and its author may not be trusted. Every place of a configuration that
may have a node therefore has a list of admitted names (`admitted`), which is checked before any
import. Parts in a user's own modules need `--allow-module`. Errors and losses have short names as
well: `task.error=balanced`.
"""

import dataclasses
import functools
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from orca_cli.config import configuration
from orca_cli.config.ranges import check_value
from orca_cli.config.schema import is_within
from orca_cli.exceptions import ConfigError, UnsafeError, suggest

TARGET = "_target_"
# Modules that the user trusts; --allow-module adds them.
_extra_modules: set[str] = set()
# A default that no caller can write into.
_NOTHING: Mapping[str, Any] = types.MappingProxyType({})

# Short names of errors and losses, for each kind of task.
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

# Setting -> kind -> short name -> class. Dense targets are either numbers or a class at every
# position; only the data show which of the two they are.
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
# Losses of torch that compare outputs with targets. The other losses of torch need more tensors or
# other targets, or have parameters that would have to be trained.
_TORCH_LOSSES = (
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "MSELoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "PoissonNLLLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
)
# Place -> place that admits the same names: an error over chunks may average any other error.
_SAME = {"task.error.error": "task.error"}
# A place outside the configuration: the file preprocessing.json of a run names one of the classes
# in `_PREPROCESSING`, which turn new data into inputs.
PREPROCESSING = "preprocessing"
_PREPROCESSING = (
    "orca_cli.data.arrays.preprocessing.ArrayPreprocessing",
    "orca_cli.data.images.reader.ImagePreprocessing",
    "orca_cli.data.table.preprocessing.TablePreprocessing",
)


def allow_module(name: str) -> None:
    """Allow `_target_` to name parts of one of the user's modules (`--allow-module NAME`)."""
    _extra_modules.add(name)


@functools.cache
def admitted(place: str) -> frozenset[str]:
    """Return the names that a place of the configuration admits without `--allow-module`.

    A place is a group, such as `metric`, or a key below a group, such as `task.loss`. It admits the
    names that the program's own files of that group have at this place. `task.error` and
    `task.loss` also admit the classes with short names, and `task.loss` admits losses of torch. The
    user's files do not add names.
    """
    place = _SAME.get(place, place)
    if place == PREPROCESSING:
        return frozenset(_PREPROCESSING)
    group, _, setting = place.partition(".")
    # A place below the group, such as an argument of its part, has its own list.
    admitted_names = set(_named_in_files(group).get(place, ()))
    if group == "task" and setting in _NAMES:
        for class_paths in _NAMES[setting].values():
            admitted_names |= {_HOME + path for path in class_paths.values()}
    if place == "task.loss":
        admitted_names |= {f"torch.nn.{name}" for name in _TORCH_LOSSES}
    return frozenset(admitted_names)


def admits(place: str, name: str) -> bool:
    """Return whether a place admits a dotted name, by its list or by `--allow-module`."""
    module = name.rpartition(".")[0] or name
    return name in admitted(place) or is_within(module, _extra_modules)


def check_admitted(node: Any, key: str, place: str = "") -> None:
    """Raise UnsafeError if a node, or one inside it, names a part that its place does not admit.

    `key` and `place` are as in `resolve`. The check imports nothing. It ignores everything that is
    not a node, since `build` refuses that.
    """
    if not _is_node(node):
        return
    place = place or key
    name = node[TARGET]
    if isinstance(name, str):
        module = name.rpartition(".")[0] or name
        if not admits(place, name):
            hint = suggest(name, admitted(place))
            # The program's own code needs no trust: the name is only at the wrong place.
            if not is_within(module, ("orca_cli",)):
                hint = f"if you trust this module, add --allow-module {module}; {hint}"
            raise UnsafeError(f"'{name}' is not allowed", where=f"{key}.{TARGET}", hint=hint)
    # Arguments that are nodes have their own places.
    for argument, value in node.items():
        check_admitted(value, f"{key}.{argument}", f"{place}.{argument}")


def build(node: dict[str, Any], key: str, **runtime: Any) -> Any:
    """Call the class or function that a node names, with the node's other entries as arguments.

    Nested nodes are built first. A function whose parameter `settings` is annotated with a
    dataclass gets the entries as a record of that class.

    Args:
        node: `_target_` and keyword arguments.
        key: place of the node in the configuration; see `admitted`.
        runtime: arguments of the program, such as folders; a callable gets those that it has as
            parameters.

    Raises:
        ConfigError: the name is unknown, arguments are unknown or missing, or the part refuses its
            settings.
        UnsafeError: the place does not admit the name.
    """
    # `resolve` checks the names at every depth before any of them is called.
    target = resolve(node, key)
    parameters = parameters_of(target)
    arguments = _arguments(node)
    # A part gets a folder or a reporter only if it has a parameter for it.
    arguments |= {name: value for name, value in runtime.items() if name in parameters}
    # Before nested nodes are built, so that an unknown argument is found before any work.
    bind(target, arguments, key)
    for name, argument in arguments.items():
        if _is_node(argument):
            arguments[name] = build(argument, f"{key}.{name}")
    record_class = _settings_record(target)
    if record_class is not None:
        # The function's own parameters, such as folders, are not fields of the record.
        own_parameters = inspect.signature(target).parameters
        own_names = own_parameters.keys() & arguments.keys()
        own_arguments = {name: arguments.pop(name) for name in own_names}
        return target(settings=record_class(**arguments), **own_arguments)
    # Functions and the program's own classes raise OrcaErrors; another error of theirs is a bug.
    if inspect.isfunction(target) or target.__module__.startswith("orca_cli."):
        return target(**arguments)
    try:
        return target(**arguments)
    # Classes of torch raise errors of these types for bad settings.
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"{target.__qualname__} does not accept its settings: {error}", where=key
        ) from error


def check(
    node: dict[str, Any],
    key: str,
    reserved: Iterable[str] = (),
    fixed: Mapping[str, Any] = _NOTHING,
) -> Any:
    """Raise the errors that `build` would raise because of this node's settings; read no data.

    A class is built, which is cheap and may check more. A function is not called; but, as in
    `build`, the function `check_settings` of its module is called if it exists: it gets some of the
    function's arguments by name, and raises ConfigError for values that contradict each other.

    Args:
        node, key: as in `build`.
        reserved: names of the arguments that the program passes when a run starts.
        fixed: arguments that the program passes and whose values are already known, by name.

    Returns:
        The object, if `node` names a class and `reserved` is empty; else None.
    """
    target = resolve(node, key)
    # Reserved arguments are known only in a run, so a class that needs them cannot be built yet.
    if inspect.isclass(target) and not reserved:
        return build(node, key)
    arguments = _arguments(node)
    for name, argument in arguments.items():
        if _is_node(argument):
            check(argument, f"{key}.{name}")
    bind(target, arguments, key, reserved=reserved, fixed=fixed)
    return None


def resolve(node: dict[str, Any], key: str, place: str = "") -> Callable[..., Any]:
    """Return the class or function that a node's `_target_` names.

    Raises ConfigError or UnsafeError as `build` does. Messages name the node by `key`, which is
    also its place (see `admitted`) unless `place` is given.
    """
    if not isinstance(node, dict):
        raise ConfigError(
            f"must be a mapping with the key _target_, got {node!r}",
            where=key,
            hint="correct it, or remove it",
        )
    name = node.get(TARGET)
    where = f"{key}.{TARGET}"
    if not isinstance(name, str) or "." not in name:
        raise ConfigError(
            f"must be the dotted name of a class or function, got {name!r}", where=where
        )
    # Before the import: importing a module runs its code.
    check_admitted(node, key, place)
    module_name, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # noqa: BLE001 - a module of the user may raise any exception
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"'{module_name}' cannot be imported: {reason}",
            where=where,
            hint="rerun the command with --traceback to see where it fails",
        ) from error
    target = getattr(module, attribute, None)
    if target is None:
        offered = [name for name, value in vars(module).items() if _module_of(value) == module_name]
        raise ConfigError(
            f"'{module_name}' has no class or function '{attribute}'",
            where=where,
            hint=suggest(attribute, offered),
        )
    is_code = inspect.isclass(target) or inspect.isfunction(target)
    # A listed name may be imported from another module, as torch.nn imports its losses.
    is_listed = name in admitted(place or key)
    # Any other name has to be defined in a trusted module: otherwise such a module would offer
    # everything that it imports, such as os.system.
    if not is_code or not (is_listed or is_within(_module_of(target), _extra_modules)):
        raise UnsafeError(
            f"'{name}' is not a class or function that the named module itself defines",
            where=where,
            hint="write MODULE.NAME, where MODULE defines the class or function NAME",
        )
    return target


def named(setting: str, value: Any, kind: str | None, integer_targets: bool | None = None) -> Any:
    """Return the `_target_` node for the short name of an error or loss; return a node unchanged.

    `kind` and `integer_targets` are None until the data have shown them. Raises ConfigError if the
    kind has no such error or loss.
    """
    if not isinstance(value, str):
        return value
    class_paths: dict[str, str] = {}
    # As long as the kind is not known, a name of any kind passes.
    for table in _tables(kind, integer_targets):
        class_paths |= _NAMES[setting][table]
    if value not in class_paths:
        scope = ""
        if kind is not None:
            scope = f" for task.kind={kind}"
        if kind == "dense" and integer_targets:
            scope += " with integer targets"
        raise ConfigError(
            f"unknown {setting} '{value}'{scope}",
            where=f"task.{setting}",
            hint=suggest(value, class_paths),
        )
    return {TARGET: _HOME + class_paths[value]}


def bind(
    target: Callable[..., Any],
    arguments: dict[str, Any],
    key: str,
    reserved: Iterable[str] = (),
    fixed: Mapping[str, Any] = _NOTHING,
) -> None:
    """Raise ConfigError for arguments that do not fit the signature of a callable.

    This function checks the values whose type `ranges` knows; the part itself has to check all
    others. `reserved` and `fixed` are as in `check`.
    """
    parameters = parameters_of(target)
    # The program passes these arguments, so a file may not set them.
    passed_names = {*reserved, *fixed}
    settable = []
    takes_any = False
    for name, parameter in parameters.items():
        # *args and **kwargs are not settings themselves.
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
        elif parameter.kind is not parameter.VAR_POSITIONAL and name not in passed_names:
            settable.append(name)
    for name in arguments:
        if name in passed_names or not (name in settable or takes_any):
            raise ConfigError(
                f"unknown setting '{name}'",
                where=f"{key}.{name}",
                hint=suggest(str(name), [*settable, *fixed]),
            )
    for name in settable:
        if parameters[name].default is inspect.Parameter.empty and name not in arguments:
            raise ConfigError("needs a value", where=f"{key}.{name}", hint=f"set {key}.{name}=...")
    annotations = _hints(target)
    values = arguments | dict(fixed)
    for name, argument in values.items():
        if name in annotations and not _is_node(argument):
            check_value(argument, annotations[name], f"{key}.{name}")
    # A module may have a function of this name, which compares arguments with one another.
    checker = getattr(sys.modules[target.__module__], "check_settings", None)
    if inspect.isfunction(target) and inspect.isfunction(checker):
        # Arguments that are not set have their defaults.
        settings = {name: parameter.default for name, parameter in parameters.items()}
        settings |= values
        compared = inspect.signature(checker).parameters
        checker(**{name: settings[name] for name in compared})


def parameters_of(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return a callable's parameters by name.

    If it takes its settings as a record, the fields of the record replace the parameter `settings`.
    """
    parameters = dict(inspect.signature(target).parameters)
    record_class = _settings_record(target)
    if record_class is None:
        return parameters
    del parameters["settings"]
    # The record's fields come first, so that listings show them in the order of the record.
    fields = inspect.signature(record_class).parameters
    return dict(fields) | parameters


def _settings_record(target: Callable[..., Any]) -> type | None:
    """Return the dataclass of a function's parameter `settings`, or None without this parameter."""
    annotation = _hints_of(target).get("settings")
    if inspect.isclass(annotation) and dataclasses.is_dataclass(annotation):
        return annotation
    return None


@functools.cache
def _named_in_files(group: str) -> Mapping[str, set[str]]:
    """Return place -> targets of its nodes in the program's own files of a group."""
    targets_by_place: dict[str, set[str]] = {}
    for stem, path in configuration.choices(group).items():
        content = configuration.content(path)
        variants = [settings for *_, settings in configuration.in_task(stem, content, str(path))]
        # A variant of a task may name another error or loss than the task itself.
        for settings in (content, *variants):
            for place, target in _nodes(settings.get(group, settings), group):
                targets_by_place.setdefault(place, set()).add(target)
    return targets_by_place


def _nodes(settings: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield place and target of every node in `settings`, which are at the place `place`."""
    if not isinstance(settings, dict):
        return
    if isinstance(settings.get(TARGET), str):
        yield place, settings[TARGET]
    for name, entry in settings.items():
        yield from _nodes(entry, f"{place}.{name}")


def _tables(kind: str | None, integer_targets: bool | None) -> Iterable[str]:
    """Return the tables of short names for a task, or all tables if its kind is not known."""
    if kind not in _NAMES["error"]:
        return _NAMES["error"]
    if kind != "dense":
        return (kind,)
    if integer_targets is None:
        return (_DENSE_CLASSES, kind)
    return (_DENSE_CLASSES,) if integer_targets else (kind,)


def _arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: argument for name, argument in node.items() if name != TARGET}


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a callable's parameters, as `parameters_of` has them."""
    hints = _hints_of(target)
    record_class = _settings_record(target)
    return hints if record_class is None else hints | _hints_of(record_class)


def _hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a callable, or {} if they cannot be evaluated, such as torch's."""
    # A class's parameters are those of its constructor.
    annotated = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(annotated, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def _module_of(value: Any) -> str:
    return str(getattr(value, "__module__", ""))


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and TARGET in value
