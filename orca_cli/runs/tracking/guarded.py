"""A tracker that can neither end a run, nor hold it up, nor change it: it works in a thread, and a failure is logged once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from orca_cli.exceptions import OrcaError
from orca_cli.interfaces import Recorder
from orca_cli.terminal import log

_PATIENCE_S = 120.0  # imports on a cold disk, a database that is made, what is left to upload
_LAST_S = 5.0  # of patience at the end of a run that is not completed


class Guarded:
    """A recorder that hands everything to another one in a thread of its own.

    Lines wait in a queue, so that no step of a run waits for a disk or a network; only its start and end wait, and not for
    long. After a failure the recorder is given nothing more, and the run goes on.

    Args:
        make: makes the recorder; called in the thread.
        name: how warnings call it.
        patience_s: how long the run waits for it at its start and at its end.
    """

    def __init__(self, make: Callable[[], Recorder], name: str, *, patience_s: float = _PATIENCE_S) -> None:
        self._make, self._name, self._patience_s = make, name, patience_s
        self._calls: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()
        self._started, self._done, self._lost = threading.Event(), threading.Event(), threading.Event()

    def start(self) -> None:
        """Make the recorder, so that what it imports does not meet imports of the run."""
        try:
            threading.Thread(target=self._work, name="orca-tracker", daemon=True).start()
        except RuntimeError as error:
            self._lose(str(error))
            return
        if not self._started.wait(self._patience_s):
            self._lose(f"has not started within {self._patience_s:g} s")

    def record(self, stage: str, line: Mapping[str, Any]) -> None:
        """Pass a line on."""
        self._calls.put(("record", (stage, dict(line))))

    def rewind(self, stage: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Pass the lines on."""
        self._calls.put(("rewind", (stage, list(map(dict, lines)))))

    def ended(self, state: str, result: Mapping[str, Any]) -> None:
        """Pass the end on and wait until the recorder has taken everything; a second call does nothing."""
        if self._lost.is_set() or self._done.is_set():
            return
        self._calls.put(("ended", (state, result)))
        patience_s = self._patience_s if state == "completed" else min(_LAST_S, self._patience_s)
        if not self._done.wait(patience_s):
            self._lose(f"has not taken everything within {patience_s:g} s of the run's end")

    def _work(self) -> None:
        recorder: Recorder | None = None
        name = "start"
        try:
            recorder = self._make()
            self._started.set()
            while not self._lost.is_set() and name != "ended":
                name, arguments = self._calls.get()
                getattr(recorder, name)(*arguments)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - what a tracker raises is not the run's business
            text = str(error) if isinstance(error, OrcaError) else f"{type(error).__name__}: {error}"
            self._lose(f"failed at '{name}': {' '.join(text.split())}")
            if recorder is not None:
                with suppress(Exception, SystemExit):
                    recorder.ended("failed", {})
        finally:
            self._started.set()
            self._done.set()

    def _lose(self, reason: str) -> None:
        if not self._lost.is_set():
            self._lost.set()
            log.warning(
                f"tracker {self._name}: {reason}; the run goes on without it, and has its curves in metrics.jsonl"
            )
