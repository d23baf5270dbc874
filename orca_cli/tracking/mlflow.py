"""Curves for MLflow, by accelerate: into a database beside the runs, or to a server."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from orca_cli.exceptions import UnavailableError
from orca_cli.tracking import scalars
from orca_cli.tracking.sent import Sent

_STATES = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}


class MLflow:
    """One MLflow run, found again by the run's name, so that a resumed run goes on in it.

    Args:
        name: of the run.
        folder: of the tracker's own files.
        store: where the database is kept without a server.
        settings: as parameters.
        uri: of a store; null takes MLFLOW_TRACKING_URI, and without one a database in `store`.
        experiment: that the run belongs to.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        store: Path,
        settings: Mapping[str, Any],
        uri: Annotated[str | None, "Of a store; null: MLFLOW_TRACKING_URI, or sqlite in the folder of runs."] = None,
        experiment: Annotated[str, "MLflow's experiment."] = "orca",
    ) -> None:
        if importlib.util.find_spec("mlflow") is None:
            what, hint = "tracker=mlflow needs the package mlflow", "pip install 'orca-transfer[mlflow]'"
            raise UnavailableError(what, where="tracker", hint=hint)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for variable, limit in _LIMITS.items():
            os.environ.setdefault(variable, limit)
        import mlflow
        from accelerate.tracking import MLflowTracker
        from mlflow.exceptions import MlflowException

        for library in ("mlflow", "alembic"):
            logging.getLogger(library).setLevel(logging.ERROR)
        own = uri or os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(own or f"sqlite:///{store.absolute() / 'mlflow.db'}")
        artifacts = None if own else str(store.absolute() / "mlflow")
        client = mlflow.MlflowClient()
        if client.get_experiment_by_name(experiment) is None:
            with suppress(MlflowException):  # another process was faster
                client.create_experiment(experiment, artifact_location=artifacts)
        found = client.get_experiment_by_name(experiment)
        runs = [] if found is None else client.search_runs([found.experiment_id], f"attributes.run_name = '{name}'")
        self._tracker = MLflowTracker(
            experiment, logging_dir=artifacts, run_name=name, run_id=runs[0].info.run_id if runs else None
        )
        self._tracker.start()
        self._sent = Sent(folder / "sent_mlflow.jsonl", self._send)
        if not runs:
            self._sent.forget()
            self._tracker.store_init_configuration(scalars.settings(settings))  # parameters cannot be changed

    def record(self, stage: str, line: Mapping[str, Any]) -> None:
        """Send a line, unless an earlier attempt has."""
        self._sent.record(stage, line)

    def rewind(self, stage: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Send those of the lines that were not sent before."""
        self._sent.rewind(stage, lines)

    def ended(self, state: str, result: Mapping[str, Any]) -> None:
        """Send the final errors, and end MLflow's run."""
        import mlflow

        if result:
            self._tracker.log(scalars.final(result))
        mlflow.end_run(_STATES.get(state, "FAILED"))  # accelerate's own `finish` always says FINISHED

    def _send(self, curve: str, line: Mapping[str, Any]) -> None:
        values, epoch = scalars.point(curve, line)
        self._tracker.log(values, step=epoch)
