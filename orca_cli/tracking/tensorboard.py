"""Curves for TensorBoard, by accelerate: event files in the tracker's folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.exceptions import UnavailableError
from orca_cli.tracking import scalars

_FILES = "events.out.tfevents.*"
_ERRORS = ("final/test_error", "final/validation_error")


class TensorBoard:
    """Writes every line as scalars at its epoch, the settings as hyper-parameters, and the final errors as their metrics.

    The files are a copy of the curves: where lines are taken back, as in a resumed run, they are written anew.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Start writing into a folder, in place of what is there.

        Raises:
            UnavailableError: the package tensorboard is not installed.
        """
        if importlib.util.find_spec("tensorboard") is None:
            what, hint = "tracker=tensorboard needs the package tensorboard", "pip install 'orca-transfer[tensorboard]'"
            raise UnavailableError(what, where="tracker", hint=hint)
        self._folder, self._settings = folder, scalars.settings(settings)
        self._lines: dict[str, list[dict[str, Any]]] = {}
        self._open()

    def record(self, stage: str, line: Mapping[str, Any]) -> None:
        """Write a line."""
        self._lines.setdefault(stage, []).append(dict(line))
        self._write(stage, line)

    def rewind(self, stage: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Make the stage's curve these lines."""
        earlier, now = self._lines.get(stage, []), [dict(line) for line in lines]
        if now[: len(earlier)] == earlier:
            for line in now[len(earlier) :]:
                self.record(stage, line)
            return
        self._lines[stage] = now
        self._tracker.finish()
        self._open()
        for name, known in self._lines.items():
            for line in known:
                self._write(name, line)

    def ended(self, state: str, result: Mapping[str, Any]) -> None:
        """Write the final errors, and close the file."""
        if result:
            self._tracker.log(scalars.final(result), step=0)
        self._tracker.tracker.file_writer.add_summary(self._summaries[2])
        self._tracker.finish()

    def _open(self) -> None:
        from accelerate.tracking import TensorBoardTracker
        from torch.utils.tensorboard.summary import hparams

        for file in self._folder.glob(_FILES):
            storage.remove(file)
        # With purge_step a TensorBoard that has read the earlier file forgets it.
        self._tracker = TensorBoardTracker(self._folder.name, self._folder.parent, purge_step=0)
        self._tracker.start()
        # Not `store_init_configuration`: it writes them as two more runs, each into a folder named after the time.
        self._summaries = hparams(self._settings, dict.fromkeys(_ERRORS, 0.0))
        for summary in self._summaries[:2]:
            self._tracker.tracker.file_writer.add_summary(summary)
        self._tracker.tracker.flush()

    def _write(self, stage: str, line: Mapping[str, Any]) -> None:
        values, epoch = scalars.point(stage, line)
        self._tracker.log(values, step=epoch)
