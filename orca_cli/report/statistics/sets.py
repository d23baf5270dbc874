"""What sets have to be like to be counted: one column each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from orca_cli.exceptions import DataError
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Column


def check_sets(columns: Iterable[Column], option: str) -> None:
    """Refuse several columns of one set, such as two protocols of a task, which would count as several sets.

    Args:
        columns: those that methods are compared on.
        option: that compares them.

    Raises:
        DataError: a set has several columns.
    """
    of: dict[str, list[Column]] = defaultdict(list)
    for column in columns:
        of[column.name].append(column)
    for name, own in of.items():
        if len(own) > 1:
            key = next(key for key in vars(own[0]) if len({getattr(column, key) for column in own}) > 1)
            values = ", ".join(sorted({str(getattr(column, key)) for column in own}))
            what = clean(
                f"{name} was measured in {len(own)} ways ({key}: {values}), which would count as {len(own)} sets"
            )
            hint = "protocol=..." if key == "protocol" else "KEY=VALUE of a setting in which their runs differ"
            raise DataError(what, where=option, hint=f"narrow with --where {hint}")
