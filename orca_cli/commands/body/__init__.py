"""`orca body`: the pretrained bodies themselves; each verb is a module of its own, and reads conf/body by `named`."""

from pathlib import Path
from typing import Any

from orca_cli.config import configuration

VERBS = {
    "list": "the bodies that have a name: family, size, whether they are on this machine",
    "get": "fetch a body's checkpoint now, for machines without a network",
}


def named(extra: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return name -> what is known of a body of conf/body, or of the user's own in the folder `extra`.

    `code` is the module in orca_cli/models/bodies that loads it, `checkpoint` None where it has to be typed.

    Raises:
        ConfigError: a file cannot be read.
    """
    bodies = {}
    for name, path in configuration.choices("body", extra).items():
        node: Any = configuration.content(path).get("body")
        node = node if isinstance(node, dict) else {}
        checkpoint = node.get("checkpoint")
        bodies[name] = {
            "name": name,
            "description": configuration.description(path),
            "code": str(node.get("_target_", "")).rpartition(".")[0].rpartition(".")[2],
            "checkpoint": checkpoint if isinstance(checkpoint, str) and checkpoint not in ("", "???") else None,
        }
    return bodies
