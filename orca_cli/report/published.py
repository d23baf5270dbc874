"""Other people's results from a csv file, below a table."""

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from orca_cli.exceptions import DataError, suggest
from orca_cli.report.table import Reference, Table

# The columns of the file.
_COLUMNS = ("task", "method", "error", "source")


class _PublishedResult(NamedTuple):
    """A line of other people's results."""

    task: str
    method: str
    error: float
    source: str


def with_published(table: Table, path: Path) -> Table:
    """Return a table with other people's results below it: the lines of a csv file for its tasks.

    The file has the columns task, method, error and source. `error` is in the units of result.json:
    fractions where tables show per cent, so 0.1939 for 19.39 %. Of several results for a cell the
    first counts.

    Raises:
        DataError: the file cannot be read, a field is empty, an error is in per cent or not finite,
            or the table has none of the file's tasks.
    """
    in_percent: dict[str, bool] = {}
    for column in table.columns:
        in_percent |= dict.fromkeys((column.task, column.name), column.percent)
    published_tasks = set()
    number_of_source: dict[str, int] = {}
    rows: dict[str, list[Reference | None]] = {}
    for result in _published_results(path, in_percent):
        # Lines of other tasks are read and checked as well, since a task may be misspelt.
        published_tasks.add(result.task)
        if result.task not in in_percent:
            continue
        # Sources are numbered in the order of the lines.
        number = number_of_source.setdefault(result.source, len(number_of_source) + 1)
        label = f"{result.method} [{number}]"
        references = rows.setdefault(label, [None for _ in table.columns])
        for position, column in enumerate(table.columns):
            is_of_column = result.task in (column.task, column.name)
            if is_of_column and references[position] is None:
                remark = "on real data (our runs use synthetic data)" if column.synthetic else ""
                references[position] = Reference(low=result.error, high=result.error, words=remark)
    if not rows:
        task_names = ", ".join(sorted(published_tasks)) or "the file has no lines"
        hint = "`orca report` shows the report's tasks"
        if published_tasks and in_percent:
            hint = suggest(min(published_tasks), in_percent)
        raise DataError(
            f"none of the file's tasks ({task_names}) is in the report", where=str(path), hint=hint
        )
    notes = [
        f"[{number}] reported by others, under their own conditions: {source}"
        for source, number in number_of_source.items()
    ]
    # The rows of the best baseline and of the constant stay below these rows.
    return replace(table, references=rows | table.references, remarks=[*notes, *table.remarks])


def _published_results(path: Path, in_percent: Mapping[str, bool]) -> Iterator[_PublishedResult]:
    """Yield the lines of a csv file.

    `in_percent`: task of the table -> whether its errors are fractions of at most 1.
    """
    # The header is line 1.
    line_number = 1
    try:
        # Some spreadsheets begin a file in UTF-8 with a byte order mark, which is not part of the
        # first name.
        with open(path, encoding="utf-8-sig", newline="") as file:
            for fields in csv.DictReader(file, skipinitialspace=True):
                line_number += 1
                yield _published_result(fields, in_percent)
    except (OSError, ValueError, csv.Error) as problem:
        hint = f"write {','.join(_COLUMNS)} into each line, in UTF-8; write 19.39 % as 0.1939"
        raise DataError(
            f"cannot be read: {problem}", where=f"{path}, line {line_number}", hint=hint
        ) from problem


def _published_result(
    fields: Mapping[str, str | None], in_percent: Mapping[str, bool]
) -> _PublishedResult:
    """Return the result of a line.

    Raises:
        ValueError: a field is empty, or the error is not finite, or is a percentage above 1.
    """
    # A field is None if the line is too short.
    texts = [fields.get(name) or "" for name in _COLUMNS]
    task, method, error_text, source = map(str.strip, texts)
    # `float` itself raises ValueError for a text that is not a number.
    is_complete = task and method and source
    if not is_complete or not math.isfinite(float(error_text)):
        raise ValueError(f"a field is empty, or the error '{error_text}' is not finite")
    error = float(error_text)
    # A fraction above 1 was most likely meant in per cent.
    if error > 1 and in_percent.get(task):
        raise ValueError(f"the error must be a fraction between 0 and 1, got {error:g}")
    return _PublishedResult(task=task, method=method, error=error, source=source)
