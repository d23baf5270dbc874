"""Turn `_target_` nodes of the configuration into objects, and nothing but the program's own parts and torch's.

A configuration names code. So a node may name only a class or function that is defined in one of the allowed modules:
`orca_cli.storage.shutil.rmtree` is refused, because `rmtree` is not ours.
"""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

from orca_cli.exceptions import ConfigError, UnsafeError, suggest

TARGET = "_target_"
_PLUGINS = tuple(f"orca_cli.{name}" for name in ("tasks", "sources", "models", "metrics", "losses", "scoring"))
_TORCH = ("torch.nn", "torch.optim")
_extra_modules: set[str] = set()


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
        ConfigError: unknown name, unknown, missing or doubly given arguments.
        UnsafeError: the name lies outside the allowed modules.
    """
    target = resolve(node, key)
    arguments = {
        name: build(value, f"{key}.{name}") if _is_node(value) else value
        for name, value in node.items()
        if name != TARGET
    }
    accepted = inspect.signature(target).parameters
    arguments |= {name: value for name, value in given.items() if name in accepted}
    _bind(target, arguments, key)
    return target(**arguments)


def check(node: dict[str, Any], key: str, given: Iterable[str] = ()) -> None:
    """Raise what `build` would raise for this node, without calling anything."""
    target = resolve(node, key)
    arguments: dict[str, Any] = {}
    for name, value in node.items():
        if _is_node(value):
            check(value, f"{key}.{name}")
        if name != TARGET:
            arguments[name] = value
    accepted = inspect.signature(target).parameters
    _bind(target, arguments | {name: None for name in given if name in accepted}, key)
    _check_types(target, arguments, key)


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


def _bind(target: Callable[..., Any], arguments: dict[str, Any], key: str) -> None:
    parameters = inspect.signature(target).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in arguments:
        if name not in parameters and not takes_any:
            raise ConfigError(
                f"{target.__qualname__} has no parameter '{name}'",
                where=f"{key}.{name}",
                hint=suggest(str(name), parameters),
            )
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and parameter.kind not in variadic and name not in arguments:
            raise ConfigError("a value is needed", where=f"{key}.{name}", hint=f"give {key}.{name}=...")


def _check_types(target: Callable[..., Any], arguments: dict[str, Any], key: str) -> None:
    """Hold plain values against the parameters' annotations; parameters of richer types are left to their owners."""
    function = target.__init__ if inspect.isclass(target) else target
    hints = typing.get_type_hints(function) if target.__module__.startswith("orca_cli.") else {}
    for name, value in arguments.items():
        kinds = _plain_kinds(hints.get(name))
        if kinds and not _is_node(value) and not _is_one_of(value, kinds):
            allowed = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ConfigError(f"{value!r} is of the wrong type", where=f"{key}.{name}", hint=f"allowed: {allowed}")


def _plain_kinds(hint: Any) -> tuple[type, ...]:
    """Return the plain types that an annotation allows; empty where it allows others as well."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    plain = (bool, int, float, str, type(None))
    return tuple(members) if all(member in plain for member in members) and hint is not None else ()


def _is_one_of(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):  # a bool is an int to Python, but not to people
        return bool in kinds
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)
