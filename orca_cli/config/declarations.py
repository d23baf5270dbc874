"""The settings of a part, as the signature of its `_target_` declares them.

This module reads them from the source file, so that `orca list` imports no library. The parameter

    size: Annotated[Count, "images, balanced over the classes"] = 2000

declares a default, which is a literal or a constant of its module, and a meaning, which is the last
text of the annotation.
"""

import ast
import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli.config import parts

_PACKAGE = Path(__file__).parent.parent
_FOLDERS = ("data_folder", "cache_folder", "reporter")
# Group -> arguments that the program passes to its parts when a run starts (stages/build.py).
RESERVED = {
    "task": _FOLDERS,
    "source": ("seed", *_FOLDERS),
    "tracker": ("name", "folder", "store", "settings"),
}
MISSING = "???"  # the value of a setting that the user has to set


@dataclass(frozen=True)
class Setting:
    """A parameter that a configuration may set."""

    default: Any  # as in YAML; MISSING if the parameter has no default
    meaning: str  # empty if the parameter declares no meaning


def declared_node(group: str, node: Any) -> dict[str, Any]:
    """Return a part's node as its signature declares it, with all settings at their defaults.

    Args:
        group: group of the part, such as `task`.
        node: settings of a file for the part. The result is empty if they do not name a part, or
            name a part that the group does not admit.
    """
    settings = settings_of(group, node)
    if not settings:
        return {}
    declared_settings: dict[str, Any] = {parts.TARGET: node[parts.TARGET]}
    # `kind` is the first setting of every task, although few of their functions have it as a
    # parameter.
    if "kind" in node:
        declared_settings["kind"] = node["kind"]
    for name, setting in settings.items():
        declared_settings[name] = setting.default
    return declared_settings


def settings_of(group: str, node: Any) -> dict[str, Setting]:
    """Return name -> setting of the part that a node names, without the program's own arguments."""
    target = node.get(parts.TARGET) if isinstance(node, dict) else None
    if not isinstance(target, str) or not parts.admits(group, target):
        return {}
    # A copy, since `declared` caches its dictionaries.
    settings = dict(declared(target))
    for name in RESERVED.get(group, ()):
        settings.pop(name, None)
    return settings


@functools.cache
def declared(target: str) -> dict[str, Setting]:
    """Return name -> setting of a function or class, in the order of its signature.

    If a function has a parameter `settings`, the fields of this record count as its parameters. The
    result is empty if the source cannot be read, and has no parameters with computed defaults. To
    find a module outside the program, this function imports the packages around the module.
    """
    module, _, name = target.rpartition(".")
    path = _source(module)
    if path is None:
        return {}
    try:
        syntax_tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    # Only statements of the module's top level, because the name is looked up on this level.
    for statement in syntax_tree.body:
        # A module may import the part from the module that defines it.
        if isinstance(statement, ast.ImportFrom) and statement.module:
            for alias in statement.names:
                if name == (alias.asname or alias.name):
                    return declared(f"{statement.module}.{alias.name}")
        if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == name:
            return _Module(module, syntax_tree).settings(statement)
    return {}


def _source(module: str) -> Path | None:
    """Return the file of a module, or None if it has no file."""
    package, *submodules = module.split(".")
    # For the program's own modules without find_spec, which would import their packages.
    if package == _PACKAGE.name:
        path = _PACKAGE.joinpath(*submodules)
        if path.is_dir():
            return path / "__init__.py"
        return path.with_suffix(".py")
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # noqa: BLE001 - a package of the user may raise any exception
        return None
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin)


@dataclass(frozen=True)
class _Module:
    name: str
    tree: ast.Module

    def settings(self, statement: ast.ClassDef | ast.FunctionDef) -> dict[str, Setting]:
        """Return the settings of a function or class of this module."""
        if isinstance(statement, ast.FunctionDef):
            return self._parameters(statement)
        # A class declares its settings in __init__; a dataclass declares them as fields.
        for member in statement.body:
            if isinstance(member, ast.FunctionDef) and member.name == "__init__":
                return self._parameters(member)
        fields: dict[str, Setting] = {}
        for member in statement.body:
            if not isinstance(member, ast.AnnAssign) or not isinstance(member.target, ast.Name):
                continue
            # A constant of the class is not a setting.
            if "ClassVar" not in ast.unparse(member.annotation):
                self._add(fields, member.target.id, member.annotation, member.value)
        return fields

    def _parameters(self, function: ast.FunctionDef) -> dict[str, Setting]:
        arguments = function.args
        # ast lists the defaults of the last positional parameters only, but has an entry, perhaps
        # None, for each keyword-only parameter.
        n_without_default = len(arguments.args) - len(arguments.defaults)
        defaults = [*[None] * n_without_default, *arguments.defaults, *arguments.kw_defaults]
        parameters = [*arguments.args, *arguments.kwonlyargs]
        settings: dict[str, Setting] = {}
        for parameter, default in zip(parameters, defaults, strict=True):
            # The fields of the record replace the parameter `settings`; the function's own
            # parameters beat fields of the same name.
            if parameter.arg == "settings" and isinstance(parameter.annotation, ast.Name):
                record = f"{self.name}.{parameter.annotation.id}"
                settings = declared(record) | settings
            elif parameter.arg != "self":
                self._add(settings, parameter.arg, parameter.annotation, default)
        return settings

    def _add(
        self,
        settings: dict[str, Setting],
        name: str,
        annotation: ast.expr | None,
        default: ast.expr | None,
    ) -> None:
        """Add a parameter, unless its default is computed."""
        value: Any = MISSING
        # A name such as Count is looked up in the module, since its annotation may have a meaning.
        if isinstance(annotation, ast.Name):
            annotation = self._constant(annotation.id)
        if isinstance(default, ast.Name):
            default = self._constant(default.id)
        if default is not None:
            try:
                value = ast.literal_eval(default)
            # The default is an expression such as a call. Hydra then composes without it, and the
            # part computes it.
            except ValueError:
                return
        if isinstance(value, tuple):
            value = list(value)  # the form that YAML has
        settings[name] = Setting(default=value, meaning=_meaning(annotation))

    def _constant(self, name: str) -> ast.expr:
        for statement in self.tree.body:
            if isinstance(statement, ast.Assign) and _is_name(statement.targets[0], name):
                return statement.value
        # The name is not a constant of this module; it may be an imported type.
        return ast.Name(name)


def _is_name(target: ast.expr, name: str) -> bool:
    return isinstance(target, ast.Name) and target.id == name


def _meaning(annotation: ast.expr | None) -> str:
    """Return the last text in `Annotated[type, ..., "text"]`, or "" if it has no text."""
    for expression in ast.walk(annotation or ast.Constant(None)):
        if not isinstance(expression, ast.Subscript) or not _is_name(expression.value, "Annotated"):
            continue
        # The children are the entries in brackets, followed by the context, which is not an entry.
        last_entry = list(ast.iter_child_nodes(expression.slice))[-2]
        if isinstance(last_entry, ast.Constant) and isinstance(last_entry.value, str):
            return last_entry.value
    return ""
