"""`orca body`: the pretrained bodies themselves; each verb is a module of its own, and reads conf/body by `named`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli.config import configuration

VERBS = {
    "list": "the bodies that have a name, and other checkpoints on this machine: family, size, where they are",
    "get": "fetch a body's checkpoint now, for machines without a network",
}
ABOUT = "The pretrained bodies: which ones are here, fetch one."
EXAMPLES = """\
examples:
  orca body list                            what body=NAME can be used here
  orca body get swin_tiny                   fetch its checkpoint into the hub's cache
  orca body get microsoft/swin-tiny-patch4-window7-224@COMMIT
  orca body get --help                      more about each"""


@dataclass(frozen=True)
class Named:
    """A body of conf/body or of the user's own."""

    name: str
    description: str
    code: str  # the module in orca_cli/models/bodies that loads it
    checkpoint: str | None  # hub id, package or folder; None where it has to be typed


def named(extra: Path | None = None) -> list[Named]:
    """Return all bodies, by name; `extra` is a folder of the user's own.

    Raises:
        ConfigError: a file cannot be read.
    """
    bodies = []
    for name, path in configuration.choices("body", extra).items():
        node: Any = configuration.content(path).get("body")
        node = node if isinstance(node, dict) else {}
        checkpoint = node.get("checkpoint")
        is_given = isinstance(checkpoint, str) and checkpoint not in ("", "???")
        code = str(node.get("_target_", "")).rpartition(".")[0].rpartition(".")[2]
        bodies.append(Named(name, configuration.description(path), code, checkpoint if is_given else None))
    return bodies
