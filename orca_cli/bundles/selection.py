"""The runs that a bundle's options mean, and what `orca report` shows of them; the same for packing and for verifying."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orca_cli import terminal
from orca_cli.bundles.layout import Options
from orca_cli.report.records.collect import Collection, Run, collect
from orca_cli.report.records.filters import pair, where
from orca_cli.report.records.studies import of_study
from orca_cli.report.rendering.output import Page
from orca_cli.report.statistics.paired import compare
from orca_cli.report.tables.table import build_table


def selected(folders: Sequence[Path], options: Options) -> Collection:
    """Return the runs of some folders that the options mean.

    Raises:
        DataError: there are none, or no run has what an option asks for.
        UsageError: an option is not KEY=VALUE.
    """
    found = collect(folders)
    if options.study is not None:
        found = of_study(found, folders, options.study)
    for key in ("task", "metric"):
        if names := getattr(options, key):
            found = where(found, f"{key}={','.join(names)}")
    for text in options.where:
        found = where(found, text)
    return found


def pages(runs: Path, options: Options) -> dict[str, Page]:
    """Return what a report shows of a bundle's runs, by name: the table, and the comparison if there is one.

    Folders of runs are named as in the bundle.

    Raises:
        DataError, UsageError: as `selected`; or the runs have no such comparison.
    """
    found = selected([runs], options)
    relative = [[_moved(run, runs) for run in own] for own in (found.runs, found.superseded)]
    table = build_table(Collection(relative[0], relative[1], []))
    shown = {"table": Page(table)}
    if options.against is not None:
        axis, value = pair(options.against, "--against")
        shown["comparison"] = Page(table, compare(table, axis, value, options.margin))
    return shown


def record_of(page: Page) -> Any:
    """Return what a page is in JSON."""
    return json.loads(terminal.to_json(page.record()))


def _moved(run: Run, root: Path) -> Run:
    return dataclasses.replace(run, path=run.path.relative_to(root))
