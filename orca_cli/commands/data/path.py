"""`orca data path`: where data are stored, one line, for scripts."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli.commands.data.selection import add_names, select
from orca_cli.exceptions import OrcaError

EXAMPLES = """\
examples:
  orca data path                       the folder of all data sets
  orca data path deepsea               of one; it may not exist yet
  ls "$(orca data path deepsea)\""""


@dataclass(frozen=True)
class Folders:
    """Folders of data sets; "" is the folder of all."""

    folders: dict[str, Path]
    code: int = 0
    failures: tuple[OrcaError, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return the folders for other programs."""
        return {"schema": 1, "folders": {name: str(path) for name, path in self.folders.items()}}

    def show(self) -> Iterator[str]:
        """Yield the folders, a line each."""
        yield from map(str, self.folders.values())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Print the folder of a data set, or of all of them: one line, for scripts."
    parser.epilog = EXAMPLES
    add_names(parser, "*", "task or source; default: the folder of all")


def execute(arguments: argparse.Namespace) -> Folders:
    """Return the folders."""
    chosen = select(arguments.names, arguments.config_dir, needs_name=False)
    names = [entry.name for entry in chosen.entries] if chosen.is_named else [""]
    return Folders({name: chosen.folder.absolute() / name for name in names})
