"""Where the configuration files and the program's folders are, and what the files say without being composed.

A file name in `conf/GROUP/` is a name that the user types; the first comment of the file is its description. What a task's
file changes for a protocol (`departures`), and sets for a protocol and a body (`hparams`), are variants:

    task:
      departures:
        paper:                     # settings of the task with protocol=paper
          description: ...
          train_on_validation: true
      hparams:
        clean:
          roberta:                 # settings of a run with protocol=clean and body=roberta
            description: ...
            train: {epochs: 25, lr: 1e-4}

The two blocks come last. Each variant has a name that can be typed, such as `hparams=clean/deepsea-roberta`. Files in
conf/hparams and a user's own folders hparams and departures are variants as well.
"""

import codecs
import itertools
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orca_cli.exceptions import ConfigError, UnsafeError, suggest

_MOST_BYTES = 1_000_000  # of one file
_MOST_VALUES = 100_000  # in one file, aliases resolved
_PLAIN = "settings are plain values"
_ADDS = "a folder of your own holds task/x.yaml, body/x.yaml, ... and adds choices"
BLOCKS = ("departures", "hparams")
# Sections that a block `hparams` may set; what is trained on and where results go are not among them.
_SECTIONS = ("align", "body", "embedder", "finetune", "metric", "predictor", "source", "train")
_PACKAGE = Path(__file__).resolve().parent.parent


def config_dir() -> Path:
    """Return the folder of the program's own configuration, in the package (wheel) or next to it (checkout)."""
    for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    what = f"no conf/config.yaml in {_PACKAGE} or {_PACKAGE.parent}"
    raise ConfigError(what, where="conf", hint="install the program again")


def choices(group: str, extra: Path | None = None) -> dict[str, Path]:
    """Return name -> file of what a group, such as `task`, offers in conf/ and in the user's own folder, sorted by name.

    ConfigError where there is no such folder, or a file has the name of one of the program's: Hydra would take it instead.
    """
    if extra is not None and not extra.is_dir():
        hint = "give a folder that holds task/, body/, ... of yours"
        raise ConfigError("no such folder", where=f"--config-dir {extra}", hint=hint)
    builtin, users = _files(config_dir() / group), {} if extra is None else _files(extra / group)
    for name in sorted(builtin.keys() & users.keys()):
        raise ConfigError(
            f"the program has its own '{name}'", where=str(users[name]), hint="rename it"
        )
    return dict(sorted((builtin | users).items()))


def key_of(text: str) -> str:
    """Return the key, or the group, of an override."""
    return text.lstrip("+~").partition("=")[0].partition("@")[0]


def calls_resolver(text: str) -> bool:
    """Return whether a setting may read the environment or run code: every call of a resolver has a colon behind `${`."""
    return (
        re.search(r"\$\{.*:", text, re.DOTALL) is not None
    )  # its name can itself be interpolated, `${${a}:TOKEN}`


def quoted(path: Path) -> str:
    """Return a path as the value of an override."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _files(folder: Path) -> dict[str, Path]:
    """Return name -> file; files in folders below have names such as `paper/deepsea-roberta`."""
    return {
        file.relative_to(folder).as_posix().removesuffix(".yaml"): file
        for file in folder.rglob("*.yaml")
    }


def default_choices() -> dict[str, str]:
    """Return group -> file that a run takes unless another is typed or picked, as conf/config.yaml lists them."""
    path = config_dir() / "config.yaml"
    if not isinstance(lines := content(path).get("defaults"), list):
        raise ConfigError(
            "has no list 'defaults'", where=str(path), hint="install the program again"
        )
    return {group: name for line in lines if isinstance(line, dict) for group, name in line.items()}


def default_folders() -> dict[str, Path]:
    """Return where runs, data and cache go unless the configuration says otherwise.

    Runs: $ORCA_RUNS, else ./runs. Data and cache: below $ORCA_HOME, else below the user's cache folder.
    """
    import platformdirs

    home = Path(os.environ.get("ORCA_HOME") or platformdirs.user_cache_dir("orca_cli"))
    return {
        "runs": Path(os.environ.get("ORCA_RUNS") or "runs"),
        "data": home / "data",
        "cache": home / "cache",
    }


def description(path: Path) -> str:
    """Return the first comment line of a file that is not a directive such as `# @package`; empty where none is."""
    comment = re.search(r"^\s*#[ \t#]*([^\s#@].*)$", _text(path), re.MULTILINE)
    return comment[1].strip() if comment else ""


def comments(path: Path) -> dict[str, str]:
    """Return key -> what a file's comments say of it, behind it or above; without the groups above it and a task's variants."""
    meanings: dict[str, str] = {}
    above: list[str] = []
    # The lines at the top say what the whole file is.
    for line in itertools.dropwhile(lambda line: line.startswith("#"), _text(path).splitlines()):
        text = line.strip()
        if text in ("departures:", "hparams:"):
            break
        if text.startswith("#"):
            above.append(text.lstrip("#").strip())
            continue
        if key := re.match(r"([\w.]+):", text):
            behind = re.search(r"\s#\s*(.+)", text)
            if meaning := behind[1] if behind else " ".join(above):
                meanings.setdefault(key[1], meaning)
        above = []
    return meanings


def picks(defaults: Any) -> dict[str, str]:
    """Return group -> choice of the lines `override /group: choice` in a file's defaults."""
    lines = (
        [line for line in defaults if isinstance(line, dict)] if isinstance(defaults, list) else []
    )
    pairs = [
        (str(key).partition("override /")[2], str(value))
        for line in lines
        for key, value in line.items()
    ]
    return {group: choice for group, choice in pairs if group}


def content(path: Path) -> dict[str, Any]:
    """Return a file's settings as they are written; nothing is composed, and interpolations stay text.

    Raises:
        ConfigError: the file cannot be read, is too large, is not YAML, or is not a mapping of settings.
        UnsafeError: it would take far more memory than its size, or asks for objects of Python.
    """
    text = _text(path)
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is not None:
            _check_nodes(root, path)
        value = None if root is None else loader.construct_document(root)
    except (yaml.YAMLError, ValueError) as error:
        mark, what = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        place = str(path) if mark is None else f"{path}:{mark.line + 1}"
        if isinstance(error, yaml.constructor.ConstructorError):
            raise UnsafeError(f"asks for an object: {what}", where=place, hint=_PLAIN) from error
        raise ConfigError(f"is not valid YAML: {what}", where=place) from error
    except RecursionError as error:
        raise UnsafeError("is nested too deeply", where=str(path), hint=_PLAIN) from error
    return mapping(value, f"{path}:1")


def mapping(value: Any, where: str, known: Collection[str] = ()) -> dict[str, Any]:
    """Return a part of a file's content with its keys as text, empty for null.

    Raises:
        ConfigError: it is not a mapping, or has a key that is not among those that are known, if any are.
    """
    if not isinstance(value, dict | None):
        raise ConfigError("is not a mapping", where=where, hint="write key: value")
    settings = {str(key): entry for key, entry in (value or {}).items()}
    for key in settings:
        if known and key not in known:
            raise ConfigError(f"no such key: '{key}'", where=where, hint=suggest(key, known))
    return settings


@dataclass(frozen=True)
class Variant:
    """Settings under a name that can be typed."""

    path: Path  # the file that holds them
    description: str
    settings: dict[
        str, Any
    ]  # as they are written; with `defaults` where a file of its own picks in other groups


def variants(group: str, extra: Path | None = None) -> dict[str, Variant]:
    """Return name -> choice of a group of conf/, sorted by name; tasks' files hold some of `departures` and `hparams`."""
    named = {
        name: Variant(path, description(path), content(path))
        for name, path in choices(group, extra).items()
    }
    for task, path in choices("task", extra).items() if group in BLOCKS else ():
        for block, name, text, settings in in_task(task, content(path), str(path)):
            if block == group and name in named:  # Hydra would take the file
                what = f"the file of task={task} has its own '{name}'"
                raise ConfigError(what, where=str(named[name].path), hint="rename it")
            if block == group:
                named[name] = Variant(path, text, settings)
    return dict(sorted(named.items()))


def in_task(
    task: str, content: dict[str, Any], where: str
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield block, name, description and settings of every variant in the plain content of a task's file."""
    node = content.get("task")
    if not isinstance(node, dict):
        return
    for protocol, settings in mapping(node.get("departures"), f"{where}: departures").items():
        rest = mapping(settings, f"{where}: departures.{protocol}")
        yield "departures", f"{protocol}/{task}", str(rest.pop("description", "")), {"task": rest}
    for protocol, bodies in mapping(node.get("hparams"), f"{where}: hparams").items():
        for body, settings in mapping(bodies, f"{where}: hparams.{protocol}").items():
            rest = mapping(
                settings, f"{where}: hparams.{protocol}.{body}", ("description", *_SECTIONS)
            )
            yield "hparams", f"{protocol}/{task}-{body}", str(rest.pop("description", "")), rest


def _check_nodes(root: yaml.Node, path: Path) -> None:
    """Refuse keys that occur twice, and aliases that blow up: a file of 200 bytes can stand for 10^9 values."""
    sizes: dict[
        int, int
    ] = {}  # of a node with all that its aliases stand for; 0 while they are counted

    def size(node: yaml.Node) -> int:
        where = f"{path}:{node.start_mark.line + 1}"
        if id(node) not in sizes:
            sizes[id(node)] = 0
            parts = list(node.value) if isinstance(node, yaml.CollectionNode) else []
            if isinstance(node, yaml.MappingNode):
                keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
                last = {key.value: key for key in keys}
                if again := next(
                    (last[key.value] for key in keys if last[key.value] is not key), None
                ):
                    place = f"{path}:{again.start_mark.line + 1}"
                    raise ConfigError(
                        f"duplicate key {again.value}", where=place, hint="keep one of them"
                    )
                parts = [part for pair in node.value for part in pair]
            sizes[id(node)] = 1 + sum(map(size, parts))
        if not 0 < sizes[id(node)] <= _MOST_VALUES:
            what = (
                f"stands for more than {_MOST_VALUES} values"
                if sizes[id(node)]
                else "contains itself"
            )
            raise UnsafeError(what, where=where, hint=_PLAIN)
        return sizes[id(node)]

    size(root)


def check_untrusted(folder: Path, groups: tuple[str, ...]) -> None:
    """Refuse a folder of other people's files that do more than add choices to groups.

    They are composed beside the program's own, where they could replace those, change how Hydra runs and logs (which can
    name any code), read the environment, or lead out of the folder.
    """
    root = folder.resolve()
    for path in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
        group, where = path.relative_to(folder).parts[0], str(path)
        if not path.resolve().is_relative_to(root):
            raise UnsafeError(
                "is a link that leads out of the folder", where=where, hint="put the file there"
            )
        if group == "hydra" or len(path.relative_to(folder).parts) == 1:
            raise UnsafeError("would change how the program runs", where=where, hint=_ADDS)
        if group not in groups:
            raise ConfigError(
                f"there is no group '{group}'", where=where, hint=suggest(group, groups)
            )
        for package in re.findall(r"^\s*#\s*@package\s+(\S+)", _text(path), re.MULTILINE):
            if package not in ("_global_", "_group_", group):
                raise UnsafeError(
                    f"'@package {package}' puts its settings elsewhere", where=where, hint=_ADDS
                )
        for key, text in _texts(content(path)):
            if calls_resolver(text):
                raise UnsafeError(
                    f"{key} runs a resolver", where=where, hint="give the value itself"
                )
            changes_run = key.startswith("defaults") and ("hydra" in text or "@" in text)
            if changes_run or key.partition(".")[0] in ("hydra", "paths"):
                what = f"'{text}' at '{key}' would change how the program runs"
                raise UnsafeError(what, where=where, hint="type what may be typed")


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield all keys and scalars of nested settings as texts, each with the dotted key where it stands."""
    if isinstance(value, dict):
        for name, entry in value.items():
            inner = f"{key}.{name}" if key else str(name)
            yield inner, str(name)
            yield from _texts(entry, inner)
    elif isinstance(value, list):
        yield from (pair for entry in value for pair in _texts(entry, key))
    else:
        yield key, str(value)


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    if len(raw) > _MOST_BYTES:
        raise ConfigError(
            f"is larger than {_MOST_BYTES} bytes",
            where=str(path),
            hint="settings are a page of text",
        )
    if raw.startswith(codecs.BOM_UTF8):
        raise ConfigError(
            "begins with a byte order mark", where=f"{path}:1", hint="save it as UTF-8 without one"
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            "cannot be read: is not UTF-8", where=f"{path}:{line}", hint="save it as UTF-8"
        ) from error
