"""Training losses as a CSV file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orca_cli import storage


class Losses:
    """Writes losses.csv."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "losses.csv"
        self._rows: list[str] = []

    def record(self, stage: str, line: Mapping[str, Any]) -> None:
        """Add a row."""
        if stage == "finetune":
            self._rows.append(f"{line['epoch']},{line['train_loss']}")
            storage.write_text(self._path, "epoch,train_loss\n" + "\n".join(self._rows) + "\n")

    def ended(self, state: str, result: Mapping[str, Any]) -> None:
        """Do nothing."""
