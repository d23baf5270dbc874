"""Curves for Weights & Biases, by accelerate: into the tracker's folder, or online."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from orca_cli.exceptions import UnavailableError
from orca_cli.tracking import scalars
from orca_cli.tracking.sent import Sent

_KEY = "WANDB_API_KEY"
_START_S, _END_S = 20, 20  # how long W&B may wait for its server


class WeightsAndBiases:
    """One W&B run, whose id follows from the run's name, so that a resumed run goes on in it; epochs are its x axis.

    Args:
        name: of the run.
        folder: where W&B keeps its files, also those that it has not sent yet.
        settings: as hyper-parameters.
        mode: offline opens no connection; online needs the key in WANDB_API_KEY.
        project, entity: where the run is shown.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        settings: Mapping[str, Any],
        mode: Annotated[Literal["offline", "online"], "Whether lines are sent as the run goes on."] = "offline",
        project: Annotated[str, "W&B's project."] = "orca",
        entity: Annotated[str | None, "Account or team; null: the key's own."] = None,
    ) -> None:
        if importlib.util.find_spec("wandb") is None:
            what, hint = "tracker=wandb needs the package wandb", "pip install 'orca-transfer[wandb]'"
            raise UnavailableError(what, where="tracker", hint=hint)
        if mode == "online" and not os.environ.get(_KEY):  # W&B would ask for it on the terminal
            what = f"online needs W&B's key in the environment variable {_KEY}"
            raise UnavailableError(what, where="tracker.mode", hint="or use tracker.mode=offline")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb
        from accelerate.tracking import WandBTracker

        own = wandb.Settings(silent=True, console="off", symlink=False, init_timeout=_START_S, finish_timeout=_END_S)
        identity = hashlib.sha256(name.encode()).hexdigest()[:16]
        where = {"id": identity, "name": name, "dir": str(folder), "entity": entity, "mode": mode}
        if mode == "online":
            where["resume"] = "allow"
        self._tracker = WandBTracker(project, settings=own, **where)
        self._tracker.start()
        self._tracker.store_init_configuration(scalars.settings(settings))
        self._sent = Sent(folder / f"sent_wandb_{mode}.jsonl", self._send)
        if mode == "online" and not self._tracker.tracker.resumed:
            self._sent.forget()
        self._curves: set[str] = set()

    def record(self, stage: str, line: Mapping[str, Any]) -> None:
        """Send a line, unless an earlier attempt has."""
        self._sent.record(stage, line)

    def rewind(self, stage: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Send those of the lines that were not sent before."""
        self._sent.rewind(stage, lines)

    def ended(self, state: str, result: Mapping[str, Any]) -> None:
        """Send the final errors, and end W&B's run."""
        if result:
            self._tracker.log(scalars.final(result))
        self._tracker.tracker.finish(exit_code=0 if state == "completed" else 1)

    def _send(self, curve: str, line: Mapping[str, Any]) -> None:
        values, epoch = scalars.point(curve, line)
        prefix = next(iter(values)).rpartition("/")[0]
        if prefix not in self._curves:
            self._curves.add(prefix)
            self._tracker.tracker.define_metric(f"{prefix}/*", step_metric=f"{prefix}/epoch")
        self._tracker.log(values | {f"{prefix}/epoch": epoch})
