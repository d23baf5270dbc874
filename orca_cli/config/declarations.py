"""The settings of a part, as the signature of its `_target_` declares them.

They are read from the source, so that `orca list` imports no library. A parameter is written

    size: Annotated[Count, "images, balanced over the classes"] = 2000

with its default, a literal or a constant of its module, and its meaning as the last text.
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
# Group -> arguments of its parts that the program passes once a run starts (stages/build.py).
RESERVED = {
    "task": _FOLDERS,
    "source": ("seed", *_FOLDERS),
    "tracker": ("name", "folder", "store", "settings"),
}
MISSING = "???"  # the value of a setting that has to be given


@dataclass(frozen=True)
class Setting:
    """A parameter that a configuration may set."""

    default: Any  # as YAML holds it; MISSING where there is none
    meaning: str  # empty where none is declared


def declared_node(group: str, node: Any) -> dict[str, Any]:
    """Return a part's node as its signature declares it, with all settings at their defaults.

    Args:
        group: of the part, such as `task`.
        node: the settings of a file for the part. Nothing is declared if it names no part, or
            one that the group does not admit.
    """
    settings = settings_of(group, node)
    if not settings:
        return {}
    declared_settings: dict[str, Any] = {parts.TARGET: node[parts.TARGET]}
    # The first setting of every task, though few of their functions have it as a parameter.
    if "kind" in node:
        declared_settings["kind"] = node["kind"]
    for name, setting in settings.items():
        declared_settings[name] = setting.default
    return declared_settings


def settings_of(group: str, node: Any) -> dict[str, Setting]:
    """Return name -> setting of the part that a node names, without what the program passes."""
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

    Fields of a record that a function takes as `settings` count as its parameters. A source that
    cannot be read declares nothing; parameters with computed defaults are left out. To find a
    module outside the program, its packages are imported.
    """
    module, _, name = target.rpartition(".")
    path = _source(module)
    if path is None:
        return {}
    try:
        syntax_tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    # Only statements of the module's top level: the name is looked up there.
    for statement in syntax_tree.body:
        # A part may be offered by another module than its own.
        if isinstance(statement, ast.ImportFrom) and statement.module:
            for alias in statement.names:
                if name == (alias.asname or alias.name):
                    return declared(f"{statement.module}.{alias.name}")
        if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == name:
            return _Module(module, syntax_tree).settings(statement)
    return {}


def _source(module: str) -> Path | None:
    """Return the file of a module; None where it has none."""
    package, *submodules = module.split(".")
    # find_spec would import the packages of the module.
    if package == _PACKAGE.name:
        path = _PACKAGE.joinpath(*submodules)
        if path.is_dir():
            return path / "__init__.py"
        return path.with_suffix(".py")
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # noqa: BLE001 - a package of the user's own may raise what it likes
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
        # A class declares its settings in __init__, or as fields if it is a dataclass.
        for member in statement.body:
            if isinstance(member, ast.FunctionDef) and member.name == "__init__":
                return self._parameters(member)
        fields: dict[str, Setting] = {}
        for member in statement.body:
            if not isinstance(member, ast.AnnAssign) or not isinstance(member.target, ast.Name):
                continue
            # A constant of the class is no setting.
            if "ClassVar" not in ast.unparse(member.annotation):
                self._add(fields, member.target.id, member.annotation, member.value)
        return fields

    def _parameters(self, function: ast.FunctionDef) -> dict[str, Setting]:
        arguments = function.args
        # As ast has them: defaults of the last positional parameters, and one entry, perhaps None,
        # for each keyword-only parameter.
        n_without_default = len(arguments.args) - len(arguments.defaults)
        defaults = [*[None] * n_without_default, *arguments.defaults, *arguments.kw_defaults]
        parameters = [*arguments.args, *arguments.kwonlyargs]
        settings: dict[str, Setting] = {}
        for parameter, default in zip(parameters, defaults, strict=True):
            # The fields of the record take the place of the parameter; the function's own come on
            # top.
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
        # A name such as Count is looked up in the module; its annotation may hold a meaning.
        if isinstance(annotation, ast.Name):
            annotation = self._constant(annotation.id)
        if isinstance(default, ast.Name):
            default = self._constant(default.id)
        if default is not None:
            try:
                value = ast.literal_eval(default)
            # A call, for example; Hydra then composes without this default, and the part uses its
            # own.
            except ValueError:
                return
        if isinstance(value, tuple):
            value = list(value)  # as YAML would hold it
        settings[name] = Setting(default=value, meaning=_meaning(annotation))

    def _constant(self, name: str) -> ast.expr:
        for statement in self.tree.body:
            if isinstance(statement, ast.Assign) and _is_name(statement.targets[0], name):
                return statement.value
        # Not a constant of this module, such as a type that it imports.
        return ast.Name(name)


def _is_name(target: ast.expr, name: str) -> bool:
    return isinstance(target, ast.Name) and target.id == name


def _meaning(annotation: ast.expr | None) -> str:
    """Return the last text in `Annotated[type, ..., "text"]`; empty where there is none."""
    for expression in ast.walk(annotation or ast.Constant(None)):
        if not isinstance(expression, ast.Subscript) or not _is_name(expression.value, "Annotated"):
            continue
        # The children are the entries in brackets and then the context, which is no entry.
        last_entry = list(ast.iter_child_nodes(expression.slice))[-2]
        if isinstance(last_entry, ast.Constant) and isinstance(last_entry.value, str):
            return last_entry.value
    return ""
