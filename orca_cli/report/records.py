"""The report as data: CSV with one line a method and task, JSON with the values of all seeds; numbers are unrounded."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from orca_cli.report.cells import UNFINISHED, Cell, Column, Row, score_of
from orca_cli.report.notes import notes_of, seeds_text
from orca_cli.report.tables import Table
from orca_cli.report.text import clean

SCHEMA = 1
CSV_COLUMNS = (
    "task",
    "error",
    "percent",
    "protocol",
    "synthetic",
    "size",
    "chosen_on_test",
    "body",
    "source",
    "metric",
    "finetune",
    "settings",
    "mean",
    "standard_deviation",
    "n",
    "seeds",
    "best",
    "rank",
    "trivial_low",
    "trivial_high",
    "undefined",
    *UNFINISHED,
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_text(table: Table) -> str:
    """Return CSV with a header; errors are as stored, so fractions where `percent` is true."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in table.rows:
        for column, cell, trivial in zip(table.columns, row.cells, table.trivial, strict=True):
            low, high = trivial or (None, None)
            names = (column.task, column.error_name, column.percent, column.protocol)
            marks = (column.synthetic, column.size, column.chosen_on_test)
            method = row.method
            settings = ", ".join(f"{key}={value}" for key, value in method.settings)
            numbers = (cell.mean, cell.deviation, len(cell.values), seeds_text([run.seed for run in cell.runs]))
            counts = (cell.undefined, *(cell.unfinished[state] for state in UNFINISHED))
            fields = (*names, *marks, method.body, method.source, method.metric, method.finetune, settings, *numbers)
            writer.writerow(map(_field, (*fields, cell.best, row.rank, low, high, *counts)))
    return file.getvalue()


def _field(value: Any) -> str:
    """Return a field; text that a spreadsheet would compute is quoted with an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    text = clean(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def json_text(table: Table) -> str:
    """Return the report as JSON, ASCII only; `schema` counts up when its form changes."""
    record = {
        "schema": SCHEMA,
        "columns": [
            {**vars(column), "trivial": list(bounds) if bounds else None}
            for column, bounds in zip(table.columns, table.trivial, strict=True)
        ],
        "rows": [_row(row, table.columns) for row in table.rows],
        "unfinished": [
            {"run": str(run.path), "state": run.state, "reason": run.reason, "task": run.task, "seed": run.seed}
            for run in table.unfinished
        ],
        "broken": [{"run": str(entry.path), "reason": entry.reason} for entry in table.broken],
        "superseded": [str(run.path) for run in table.superseded],
        "notes": notes_of(table),
    }
    return json.dumps(record, indent=2, allow_nan=False) + "\n"


def _row(row: Row, columns: list[Column]) -> dict[str, Any]:
    method = row.method
    return {
        "body": method.body,
        "source": method.source,
        "metric": method.metric,
        "finetune": method.finetune,
        "settings": dict(method.settings),
        "rank": row.rank,
        "cells": [_cell(cell, column) for cell, column in zip(row.cells, columns, strict=True)],
    }


def _cell(cell: Cell, column: Column) -> dict[str, Any]:
    scores = [(run, score_of(run)) for run in cell.runs]
    return {
        "task": column.task,
        "protocol": column.protocol,
        "mean": cell.mean,
        "standard_deviation": cell.deviation,
        "n": len(cell.values),
        "best": cell.best,
        "values": [
            {"seed": run.seed, "value": score.value, "n": score.n, "skipped": score.skipped, "run": str(run.path)}
            for run, score in scores
        ],
        "unfinished": {state: count for state, count in sorted(cell.unfinished.items()) if count},
    }
