"""The bodies of conf/body and their checkpoints, read from their files; nothing is composed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli import configuration


@dataclass(frozen=True)
class Named:
    """A file in conf/body.

    Args:
        name: of the body.
        description: first comment of the file.
        code: the module in orca_cli/models/bodies that loads it.
        checkpoint: hub id, package or folder; None where it has to be typed.
    """

    name: str
    description: str
    code: str
    checkpoint: str | None


def named(extra: Path | None = None) -> list[Named]:
    """Return all bodies, by name; `extra` is a folder of the user's own.

    Raises:
        ConfigError: a file cannot be read.
    """
    found = []
    for name, path in configuration.choices("body", extra).items():
        node: Any = configuration.content(path).get("body")
        node = node if isinstance(node, dict) else {}
        checkpoint = node.get("checkpoint")
        is_given = isinstance(checkpoint, str) and checkpoint not in ("", "???")
        code = str(node.get("_target_", "")).rpartition(".")[0].rpartition(".")[2]
        found.append(Named(name, configuration.description(path), code, checkpoint if is_given else None))
    return found
