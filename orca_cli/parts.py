"""Turn `_target_` nodes of the configuration into objects, and nothing but the program's own parts and torch's.

A configuration names code. So a node may name only a class or function that is defined in one of the allowed modules:
`orca_cli.storage.folders.shutil.rmtree` is refused, because `rmtree` is not ours.
"""

from __future__ import annotations

import importlib
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt

from orca_cli.exceptions import ConfigError, UnsafeError, suggest

TARGET = "_target_"
CHECKER = "check_settings"
_PLUGINS = tuple(
    f"orca_cli.{name}"
    for name in ("tasks", "sources", "models", "metrics", "losses", "scoring", "finetuning", "tracking")
)
_TORCH = ("torch.nn", "torch.optim")
_extra_modules: set[str] = set()
_NOTHING: Mapping[str, Any] = types.MappingProxyType({})
# What a whole number may be at most: what arrays and files can hold.
_LARGEST = 2**63 - 1
_SHOWN = 80  # characters of a value in a message


def allow_module(name: str) -> None:
    """Allow `_target_` to name things defined in a module of the user's own (`--allow-module NAME`)."""
    _extra_modules.add(name)


def build(node: dict[str, Any], key: str, **given: Any) -> Any:
    """Call what a node names with its other entries; nested nodes are built first.

    Args:
        node: `_target_` and keyword arguments.
        key: the node's place in the configuration, for messages.
        given: arguments that only the program knows, such as folders; passed where the callable takes them.

    Raises:
        ConfigError: unknown name, unknown, missing or doubly given arguments, or what the part itself refuses.
        UnsafeError: the name lies outside the allowed modules.
    """
    target = resolve(node, key)
    arguments = {
        name: build(value, f"{key}.{name}") if _is_node(value) else value
        for name, value in node.items()
        if name != TARGET
    }
    accepted = _parameters(target)
    arguments |= {name: value for name, value in given.items() if name in accepted}
    _bind(target, arguments, key)
    _check_types(target, arguments, key)
    if inspect.isfunction(target) or target.__module__.startswith("orca_cli."):
        return target(**arguments)
    try:
        return target(**arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ConfigError(f"{target.__qualname__} refuses its settings: {error}", where=key) from error


def check(node: dict[str, Any], key: str, given: Iterable[str] = (), known: Mapping[str, Any] = _NOTHING) -> None:
    """Raise what `build` would raise for this node because of its settings; nothing is read and no function is called.

    A function of a module that has a `check_settings` beside it is asked by that: it takes some of the function's
    arguments by name, and raises ConfigError for values that are out of range or contradict each other.

    Args:
        node: `_target_` and keyword arguments.
        key: the node's place in the configuration, for messages.
        given: names of arguments that only the program knows, and not before a run.
        known: arguments that the program knows already.
    """
    target = resolve(node, key)
    arguments: dict[str, Any] = {}
    for name, value in node.items():
        if _is_node(value):
            check(value, f"{key}.{name}")
        if name != TARGET:
            arguments[name] = value
    parameters = _parameters(target)
    _bind(target, arguments, key, (*given, *known), known)
    _check_types(target, arguments | {name: value for name, value in known.items() if value is not None}, key)
    checker = getattr(sys.modules[target.__module__], CHECKER, None)
    if inspect.isfunction(target) and inspect.isfunction(checker):
        defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
        settings = defaults | arguments | dict(known)
        checker(**{name: settings[name] for name in _parameters(checker)})


def resolve(node: dict[str, Any], key: str) -> Callable[..., Any]:
    """Return the class or function that a node's `_target_` names.

    Raises:
        ConfigError: there is no such thing.
        UnsafeError: it is not defined inside the allowed modules.
    """
    name = node.get(TARGET)
    where = f"{key}.{TARGET}"
    if not isinstance(name, str) or "." not in name:
        raise ConfigError(f"{name!r} is not a dotted name of a class or function", where=where)
    module_name, attribute = name.rsplit(".", 1)
    if not _allowed(module_name):
        raise UnsafeError(
            f"'{name}' lies outside {', '.join((*_PLUGINS, *_TORCH))}",
            where=where,
            hint=f"if you trust it, add --allow-module {module_name}",
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"no module '{error.name}'", where=where) from error
    except Exception as error:  # noqa: BLE001 - a module of the user's own may raise what it likes
        raise ConfigError(
            f"'{module_name}' cannot be imported: {type(error).__name__}: {error}",
            where=where,
            hint="--traceback shows where",
        ) from error
    target = getattr(module, attribute, None)
    if target is None:
        raise ConfigError(
            f"'{module_name}' has no '{attribute}'", where=where, hint=suggest(attribute, _public(module))
        )
    if not (inspect.isclass(target) or inspect.isfunction(target)) or not _allowed(target.__module__):
        raise UnsafeError(
            f"'{name}' is not defined there", where=where, hint="name a class or function by its own module"
        )
    return target


def _allowed(module: str) -> bool:
    return any(module == root or module.startswith(f"{root}.") for root in (*_PLUGINS, *_TORCH, *_extra_modules))


def _public(module: Any) -> list[str]:
    return [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and TARGET in value


def _parameters(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(target).parameters


def _bind(
    target: Callable[..., Any],
    arguments: dict[str, Any],
    key: str,
    given: Iterable[str] = (),
    known: Iterable[str] = (),
) -> None:
    parameters = _parameters(target)
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    own = [name for name, parameter in parameters.items() if parameter.kind not in variadic and name not in given]
    words = [*own, *known]
    for name in arguments:
        if name in given or (name not in parameters and not takes_any):
            raise ConfigError(
                f"{target.__qualname__} has no parameter '{name}'",
                where=f"{key}.{name}",
                hint=suggest(str(name), words),
            )
    for name in own:
        if parameters[name].default is inspect.Parameter.empty and name not in arguments:
            raise ConfigError("a value is needed", where=f"{key}.{name}", hint=f"give {key}.{name}=...")


def _check_types(target: Callable[..., Any], arguments: dict[str, Any], key: str) -> None:
    """Hold plain values against the parameters' annotations; parameters of richer types are left to their owners."""
    hints = _hints(target)
    for name, value in arguments.items():
        hint = hints.get(name)
        if hint is None or _is_node(value) or fits(value, hint):
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and fits(0, hint)
        what = "out of range" if number and not abs(value) <= _LARGEST else "of the wrong type"
        raise ConfigError(f"{shown(value)} is {what}", where=f"{key}.{name}", hint=f"allowed: {in_words(hint)}")


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # annotations that cannot be resolved say nothing
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value read from YAML is what a parameter's annotation allows; annotations of other types allow all.

    To people a bool is no number, and NaN and infinity are no settings; whole numbers fit where fractions do.
    """
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return fits(value, members[0]) and all(_holds(value, bound) for bound in _bounds(hint))
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, member) for member in members)
    if origin is typing.Literal:
        return any(value == member and type(value) is type(member) for member in members)
    if origin in (list, Sequence):
        return isinstance(value, (list, tuple)) and all(fits(item, members[0]) for item in value)
    if origin is tuple and members:
        return isinstance(value, (list, tuple)) and len(value) == len(members) and all(map(fits, value, members))
    if hint in (int, float):
        whole = isinstance(value, int) and abs(value) <= _LARGEST
        fraction = hint is float and isinstance(value, float) and math.isfinite(value)
        return not isinstance(value, bool) and (whole or fraction)
    return isinstance(value, hint) if hint in (bool, str, type(None)) else True


def _bounds(hint: Any) -> list[Any]:
    """Return the single bounds of an annotated type; annotations of other kinds do not limit a value."""
    found: list[Any] = []
    for item in typing.get_args(hint)[1:]:
        found += list(item) if isinstance(item, GroupedMetadata) else [item]
    return [bound for bound in found if isinstance(bound, (Ge, Gt, Le, Lt))]


def _holds(value: Any, bound: Any) -> bool:
    if isinstance(bound, Ge):
        return value >= bound.ge
    if isinstance(bound, Gt):
        return value > bound.gt
    return value <= bound.le if isinstance(bound, Le) else value < bound.lt


_BOUND_WORDS = {Ge: ("at least", "ge"), Gt: ("above", "gt"), Le: ("at most", "le"), Lt: ("below", "lt")}


def in_words(hint: Any) -> str:
    """Return what an annotation allows, such as "int, at least 1, or null"."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        words = [
            f"{word} {getattr(bound, name)}" for bound in _bounds(hint) for word, name in [_BOUND_WORDS[type(bound)]]
        ]
        return " ".join([in_words(members[0]), " and ".join(words)]).strip()
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(in_words, members))
    if origin is typing.Literal:
        return ", ".join(map(str, members))
    if origin in (list, Sequence):
        return f"list of {in_words(members[0])}"
    if origin is tuple and members:
        return f"[{', '.join(map(in_words, members))}]"
    return {type(None): "null", bool: "true or false"}.get(hint, getattr(hint, "__name__", str(hint)))


def shown(value: Any) -> str:
    """Return a value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
