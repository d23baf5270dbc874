"""The configuration files and the program's folders: their places, and the content of each file.

`compose` merges the files into the configuration of a run.

A file `conf/GROUP/NAME.yaml` is the choice NAME of a group; its first comment is the description of
the choice. A task's file may have variants: settings of the task that a protocol changes
(`departures`), and settings of a run for a protocol and a body (`hparams`):

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

These two blocks come last in a file. Each variant has a name for the command line, such as
`hparams=clean/deepsea-roberta`. Files in conf/hparams, and in a user's folders hparams and
departures, are variants as well.
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

# Limits on one file, which is normally a page of text.
_MOST_BYTES = 1_000_000
_MOST_VALUES = 100_000  # after aliases are resolved
_PLAIN = "use plain values: texts, numbers, lists and mappings"
_ADDS = "a folder of settings files can only add choices: files such as task/x.yaml or body/x.yaml"
# Blocks with variants in a task's file. They are also groups, whose files are variants as well.
BLOCKS = ("departures", "hparams")
# Sections that a block `hparams` may set: neither the data nor the folders of results.
_SECTIONS = ("align", "body", "embedder", "finetune", "metric", "predictor", "source", "train")
_PACKAGE = Path(__file__).resolve().parent.parent


def config_dir() -> Path:
    """Return the program's own conf/, in the package (wheel) or next to it (checkout)."""
    for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(
        f"neither '{_PACKAGE}' nor '{_PACKAGE.parent}' has a file conf/config.yaml",
        where="conf",
        hint="reinstall the program",
    )


def choices(group: str, extra: Path | None = None) -> dict[str, Path]:
    """Return name -> file of the choices of a group, such as `task`, sorted by name.

    The files are those in the program's conf/ and those in the user's folder `extra`.

    Raises:
        ConfigError: `extra` does not exist, or has a file with the same name as one of the
            program's files, which Hydra would replace.
    """
    if extra is not None and not extra.is_dir():
        raise ConfigError(
            "is not a folder",
            where=f"--config-dir {extra}",
            hint="give a folder with subfolders such as task/ or body/",
        )
    program_files = _files(config_dir() / group)
    user_files = _files(extra / group) if extra is not None else {}
    # The first name in alphabetical order, so that the message does not change from run to run.
    for name in sorted(program_files.keys() & user_files.keys()):
        where = str(user_files[name])
        message = f"has the same name as the program's own {group} '{name}'"
        raise ConfigError(message, where=where, hint="rename it")
    files = program_files | user_files
    return dict(sorted(files.items()))


def key_of(text: str) -> str:
    """Return the key, or the group, of an override."""
    # `+` and `~` add and remove a key; `@` puts a group under another key.
    return re.split("[=@]", text.lstrip("+~"))[0]


def value_of(text: str) -> str:
    """Return the value of an override as text without quotes, or "" if it has no value."""
    return text.partition("=")[2].strip("'\"")


def calls_resolver(text: str) -> bool:
    """Return whether a setting calls a resolver of OmegaConf.

    A resolver may read environment variables or run code. Every call has a colon after `${`; the
    name before the colon can itself be interpolated: `${${a}:TOKEN}`.
    """
    return re.search(r"\$\{.*:", text, re.DOTALL) is not None


def quoted(path: Path) -> str:
    """Return a path as the value of an override."""
    # Hydra does not interpret a quoted value, but these two characters have to be escaped in it.
    escaped = str(path).replace("\\", "\\\\")
    escaped = escaped.replace("'", "\\'")
    return f"'{escaped}'"


def _files(folder: Path) -> dict[str, Path]:
    """Return name -> file; files in subfolders have names such as `paper/deepsea-roberta`."""
    files = {}
    for file in folder.rglob("*.yaml"):
        relative = file.relative_to(folder)
        name = relative.as_posix().removesuffix(".yaml")
        files[name] = file
    return files


def default_choices() -> dict[str, str]:
    """Return group -> default choice, as conf/config.yaml lists them."""
    path = config_dir() / "config.yaml"
    lines = content(path).get("defaults")
    if not isinstance(lines, list):
        raise ConfigError("has no list 'defaults'", where=str(path), hint="reinstall the program")
    chosen: dict[str, str] = {}
    # The other lines of the list are texts, such as _self_.
    for line in lines:
        if isinstance(line, dict):
            chosen |= line
    return chosen


def default_folders() -> dict[str, Path]:
    """Return the default folders of runs, data and cache.

    The folder of runs is $ORCA_RUNS, else ./runs. The folders of data and cache are below
    $ORCA_HOME, else below the user's cache folder.
    """
    import platformdirs

    home = Path(os.getenv("ORCA_HOME") or platformdirs.user_cache_dir("orca_cli"))
    runs = Path(os.getenv("ORCA_RUNS") or "runs")
    return {
        "runs": runs,
        "data": home / "data",
        "cache": home / "cache",
    }


def description(path: Path) -> str:
    """Return the first comment of a file that is not a directive such as `# @package`, or ""."""
    comment = re.search(r"^\s*#[ \t#]*([^\s#@].*)$", _text(path), re.MULTILINE)
    return comment[1].strip() if comment else ""


def comments(path: Path) -> dict[str, str]:
    """Return key -> meaning, from the comment after a key in a file, or else the comments above it.

    The result has keys without the sections above them, and omits the variants of a task.
    """
    meanings: dict[str, str] = {}
    comments_above: list[str] = []
    # The comment at the top describes the whole file.
    lines = itertools.dropwhile(lambda line: line.startswith("#"), _text(path).splitlines())
    for line in lines:
        stripped_line = line.strip()
        # Variants come last in a file, and their keys are not settings of the task.
        if stripped_line in ("departures:", "hparams:"):
            break
        if stripped_line.startswith("#"):
            comments_above.append(stripped_line.lstrip("#").strip())
            continue
        key_match = re.match(r"([\w.]+):", stripped_line)
        comment_behind = re.search(r"\s#\s*(.+)", stripped_line)
        meaning = comment_behind[1] if comment_behind else " ".join(comments_above)
        if key_match and meaning:
            # If a key occurs twice, its first comment counts.
            meanings.setdefault(key_match[1], meaning)
        # A comment describes the next line only.
        comments_above = []
    return meanings


def picks(defaults: Any) -> dict[str, str]:
    """Return group -> choice of the lines `override /group: choice` in a file's defaults."""
    chosen: dict[str, str] = {}
    if not isinstance(defaults, list):
        return chosen
    for line in defaults:
        if not isinstance(line, dict):
            continue
        for key, choice in line.items():
            group = str(key).partition("override /")[2]
            if group:
                chosen[group] = str(choice)
    return chosen


def content(path: Path) -> dict[str, Any]:
    """Return a file's settings as they are written; interpolations stay text.

    Raises:
        ConfigError: the file cannot be read, is too large, or is not a YAML mapping.
        UnsafeError: the file would need far more memory than its size, or asks for Python objects.
    """
    yaml_text = _text(path)
    try:
        # In two steps, so that the nodes are checked before they become objects.
        loader = yaml.SafeLoader(yaml_text)
        root_node = loader.get_single_node()
        if root_node is not None:
            _check_nodes(root_node, path)
        settings = None if root_node is None else loader.construct_document(root_node)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or error
        where = str(path) if mark is None else _line(path, mark)
        # The safe loader raises this error only for a tag such as !!python/object.
        if isinstance(error, yaml.constructor.ConstructorError):
            message = f"asks for a Python object: {problem}"
            raise UnsafeError(message, where=where, hint=_PLAIN) from error
        raise ConfigError(f"is not valid YAML: {problem}", where=where) from error
    except RecursionError as error:
        raise UnsafeError("is nested too deeply", where=str(path), hint=_PLAIN) from error
    return mapping(settings, f"{path}:1")


def mapping(node: Any, where: str, allowed: Collection[str] = ()) -> dict[str, Any]:
    """Return a mapping from a file with its keys as text; return {} for null.

    Raises:
        ConfigError: `node` is not a mapping, or has a key that is not in `allowed`. An empty
            `allowed` allows all keys.
    """
    if not isinstance(node, dict | None):
        raise ConfigError("must be a mapping", where=where, hint="write lines `key: value`")
    # YAML reads keys such as 1 or no as numbers and bools.
    settings = {str(key): entry for key, entry in (node or {}).items()}
    for key in settings:
        if allowed and key not in allowed:
            raise ConfigError(f"unknown key '{key}'", where=where, hint=suggest(key, allowed))
    return settings


@dataclass(frozen=True)
class Variant:
    """Settings under a name that the command line can choose."""

    path: Path  # the file that contains the settings
    description: str
    # The settings as they are written; with `defaults` if the variant is a file that makes choices
    # in other groups.
    settings: dict[str, Any]


def variants(group: str, extra: Path | None = None) -> dict[str, Variant]:
    """Return name -> choice of a group of conf/, sorted by name.

    Choices of `departures` and `hparams` may also be in the files of tasks. Raises ConfigError if
    a file has the same name as such a choice, since Hydra would use the file.
    """
    by_name: dict[str, Variant] = {}
    for name, path in choices(group, extra).items():
        by_name[name] = Variant(path, description(path), content(path))
    # Only these two groups have choices inside other files.
    if group not in BLOCKS:
        return by_name
    for task, path in choices("task", extra).items():
        for block, name, text, settings in in_task(task, content(path), str(path)):
            if block != group:
                continue
            if name in by_name:
                raise ConfigError(
                    f"has the same name as the variant '{name}' in the file of task={task}",
                    where=str(by_name[name].path),
                    hint="rename it",
                )
            by_name[name] = Variant(path, text, settings)
    return dict(sorted(by_name.items()))


def in_task(
    task: str, content: dict[str, Any], where: str
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield block, name, description and settings of every variant in a task's file."""
    task_settings = content.get("task")
    if not isinstance(task_settings, dict):
        return
    # Descriptions are popped, since they are not settings.
    departures = mapping(task_settings.get("departures"), f"{where}: departures")
    for protocol, entry in departures.items():
        settings = mapping(entry, f"{where}: departures.{protocol}")
        description_text = str(settings.pop("description", ""))
        # The settings have the form of a file of the group: with the section as a key.
        yield "departures", f"{protocol}/{task}", description_text, {"task": settings}
    hparams = mapping(task_settings.get("hparams"), f"{where}: hparams")
    for protocol, bodies in hparams.items():
        hparams_of_protocol = mapping(bodies, f"{where}: hparams.{protocol}")
        for body, entry in hparams_of_protocol.items():
            block = f"{where}: hparams.{protocol}.{body}"
            # A variant may not set data and folders, so that a task's file cannot redirect a run.
            settings = mapping(entry, block, ("description", *_SECTIONS))
            description_text = str(settings.pop("description", ""))
            yield "hparams", f"{protocol}/{task}-{body}", description_text, settings


def _check_nodes(root: yaml.Node, path: Path) -> None:
    """Refuse duplicate keys, and aliases by which 200 bytes can expand to 10^9 values."""
    # id of a node -> number of values in it, with aliases resolved; 0 while they are counted.
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        where = _line(path, node.start_mark)
        if id(node) not in sizes:
            # A call that finds this 0 comes from the node's own children: it contains itself.
            sizes[id(node)] = 0
            # Aliases share a node: its values are counted once, and added for each alias.
            sizes[id(node)] = 1 + sum(size(child) for child in _children(node, path))
        if sizes[id(node)] == 0:
            raise UnsafeError("contains itself", where=where, hint=_PLAIN)
        if sizes[id(node)] > _MOST_VALUES:
            raise UnsafeError(
                f"expands to more than {_MOST_VALUES} values", where=where, hint=_PLAIN
            )
        return sizes[id(node)]

    size(root)


def _children(node: yaml.Node, path: Path) -> list[yaml.Node]:
    """Return the children of a node; raise ConfigError for a key that occurs twice."""
    if not isinstance(node, yaml.CollectionNode):
        return []
    if not isinstance(node, yaml.MappingNode):
        return list(node.value)
    key_nodes = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    last_of_name = {key.value: key for key in key_nodes}
    for key in key_nodes:
        last_node = last_of_name[key.value]
        if last_node is not key:
            where = _line(path, last_node.start_mark)
            message = f"duplicate key '{key.value}'"
            raise ConfigError(message, where=where, hint="remove one of the two keys")
    children: list[yaml.Node] = []
    # Keys as well as values: a key may be a collection too.
    for pair in node.value:
        children.extend(pair)
    return children


def _line(path: Path, mark: Any) -> str:
    """Return file and line (counted from 1) of a mark of the YAML parser, for a message."""
    return f"{path}:{mark.line + 1}"


def check_untrusted(folder: Path, groups: tuple[str, ...]) -> None:
    """Refuse an untrusted folder whose files do more than add choices to groups.

    Hydra composes its files together with the program's own. They could replace the program's
    files, change how Hydra runs and logs (which can run any code), read the environment, or lead
    out of the folder.
    """
    # Resolved, since the path of the folder itself may be a link.
    real_folder = folder.resolve()
    yaml_files = [*folder.rglob("*.yaml"), *folder.rglob("*.yml")]
    for path in sorted(yaml_files):
        path_parts = path.relative_to(folder).parts
        group = path_parts[0]
        where = str(path)
        if not path.resolve().is_relative_to(real_folder):
            raise UnsafeError(
                "is a link that leads out of the folder",
                where=where,
                hint="replace the link by the file",
            )
        # A file directly in the folder could replace config.yaml.
        if group == "hydra" or len(path_parts) == 1:
            raise UnsafeError("would change how the program runs", where=where, hint=_ADDS)
        if group not in groups:
            raise ConfigError(
                f"is in the folder '{group}', which is not the name of a group",
                where=where,
                hint=suggest(group, groups),
            )
        for package in re.findall(r"^\s*#\s*@package\s+(\S+)", _text(path), re.MULTILINE):
            if package not in ("_global_", "_group_", group):
                raise UnsafeError(
                    f"'@package {package}' would set other parts of the configuration",
                    where=where,
                    hint=_ADDS,
                )
        for key, text in _texts(content(path)):
            _check_untrusted_text(key, text, where)


def _check_untrusted_text(key: str, text: str, where: str) -> None:
    """Raise UnsafeError for a key or a value that runs a resolver or changes how Hydra runs.

    `text` is the dotted key `key` itself, or the value of this key.
    """
    if calls_resolver(text):
        message = f"'{key}' calls an OmegaConf resolver ('${{name:...}}')"
        raise UnsafeError(message, where=where, hint="write the value in place of ${...}")
    # `override /hydra/...` and `group@package` in a defaults list choose other files of Hydra.
    changes_hydra = key.startswith("defaults") and ("hydra" in text or "@" in text)
    section = key.partition(".")[0]
    if changes_hydra or section in ("hydra", "paths"):
        raise UnsafeError(
            f"'{text}' at '{key}' would change how the program runs",
            where=where,
            hint="remove it, and use the command line for settings of the program",
        )


def _texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the text of every key and scalar in nested settings."""
    if isinstance(node, dict):
        for name, entry in node.items():
            inner_key = f"{key}.{name}" if key else str(name)
            # OmegaConf interpolates keys as well.
            yield inner_key, str(name)
            yield from _texts(entry, inner_key)
    elif isinstance(node, list):
        for entry in node:
            yield from _texts(entry, key)
    else:
        yield key, str(node)


def _text(path: Path) -> str:
    """Return the text of a file; raise ConfigError if it is unreadable, too large or not UTF-8."""
    try:
        with open(path, "rb") as file:
            # One byte above the limit shows that the file is too large without reading all of it.
            encoded = file.read(_MOST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot be read: {reason}", where=str(path)) from error
    if len(encoded) > _MOST_BYTES:
        raise ConfigError(
            f"is larger than the limit of {_MOST_BYTES:,} bytes",
            where=str(path),
            hint="make it smaller: a settings file normally has about a page of text",
        )
    # Hydra's reader would treat the mark as a part of the first key.
    if encoded.startswith(codecs.BOM_UTF8):
        raise ConfigError(
            "begins with a byte order mark",
            where=f"{path}:1",
            hint="save it as UTF-8 without a byte order mark",
        )
    try:
        return encoded.decode("utf-8")
    except UnicodeDecodeError as error:
        line = encoded.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            "cannot be read: it is not UTF-8 text", where=f"{path}:{line}", hint="save it as UTF-8"
        ) from error
