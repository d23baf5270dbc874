"""The bodies that are compared: names of conf/body, each with overrides of its own.

bodies=minilm,antiberty                names
bodies=minilm,swin_tiny:FOLDER         NAME:CHECKPOINT is body.checkpoint=CHECKPOINT: a folder or an id
bodies=minilm,minilm:random            NAME:random is finetune=scratch: the layers' weights are drawn at random
bodies=FILE.yaml                       a mapping of names to overrides, as the choices of a study's axis are written:

    minilm: body=minilm
    swin: [body=swin_tiny, body.checkpoint=FOLDER, embedder.max_tokens=null]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orca_cli import configuration, study
from orca_cli.configuration import key_of
from orca_cli.exceptions import ConfigError

RANDOM = "random"
_FILES = (".yaml", ".yml")


@dataclass(frozen=True)
class Entry:
    """One body.

    Args:
        label: what it is called in the table.
        overrides: KEY=VALUE, `body=` among them; they beat what is typed for all.
    """

    label: str
    overrides: tuple[str, ...]


def parse(text: str) -> list[Entry]:
    """Return the entries of the value of `bodies=`.

    Raises:
        ConfigError: none or the same twice, a file that is not such a mapping, or an entry that names no body.
        UnsafeError: an override of a file sets how the program runs.
    """
    text = text.strip().strip("[]")
    if text.endswith(_FILES) and "," not in text:
        return _checked(_read(Path(text).expanduser()))
    return _checked([_typed(word.strip().strip("'\"")) for word in text.split(",") if word.strip()])


def merged(*groups: Iterable[str]) -> list[str]:
    """Return overrides with one for each key, that of the last group."""
    return list({key_of(text): text for group in groups for text in group}.values())


def _typed(word: str) -> Entry:
    name, separator, variant = word.partition(":")
    if not name or (separator and not variant):
        raise ConfigError(f"'{word}' is not a body", where="bodies", hint="write NAME, NAME:CHECKPOINT or NAME:random")
    if not separator:
        return Entry(name, (f"body={name}",))
    if variant == RANDOM:
        return Entry(word, (f"body={name}", "finetune=scratch"))
    quoted = variant.replace("\\", "\\\\").replace("'", "\\'")
    return Entry(f"{name}:{Path(variant).name}", (f"body={name}", f"body.checkpoint='{quoted}'"))


def _read(path: Path) -> list[Entry]:
    return [
        Entry(label, texts)
        for label, texts in study.read_choices("bodies", configuration.content(path), str(path)).items()
    ]


def _checked(entries: list[Entry]) -> list[Entry]:
    if not entries:
        raise ConfigError(
            "names no body", where="bodies", hint="such as bodies=minilm,antiberty; orca list body shows them"
        )
    seen: set[str] = set()
    for entry in entries:
        if entry.label in seen:
            hint = "in a file, bodies=FILE.yaml, each has a name of its own"
            raise ConfigError(f"'{entry.label}' is there twice", where="bodies", hint=hint)
        seen.add(entry.label)
        if not any(key_of(text) == "body" for text in entry.overrides):
            raise ConfigError(f"'{entry.label}' has no body=NAME", where="bodies", hint="add it to its overrides")
    return entries
