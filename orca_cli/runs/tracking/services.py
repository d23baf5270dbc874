"""Send curves, settings and final errors to TensorBoard, W&B and MLflow by accelerate's trackers.

No tracker can end a run, delay it for long or change it: each tracker works in a thread, and its
failure is logged once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from orca_cli.exceptions import OrcaError, UnavailableError, need
from orca_cli.interfaces import Recorder
from orca_cli.terminal import log

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

_LONGEST = 500  # characters of a setting; some versions of MLflow reject longer settings
_NOT_SHOWN = ("tracker", "paths")  # groups of settings that do not say what a run computes
_UNSAFE = re.compile(r"[^\w./ -]")  # characters that MLflow does not accept in names
_KEY = "WANDB_API_KEY"
_WAIT_S = 20  # longest time that W&B waits for its server
# State of a run -> its name in MLflow.
_STATES = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
# Longest time that a run waits for a tracker: imports from a cold disk, a new database, an upload.
_PATIENCE_S = 120.0
_LAST_PATIENCE_S = 5.0  # the same at the end of a run that is not completed


class Guarded:
    """A recorder that passes all calls to another recorder, in a separate thread.

    Lines wait in a queue, so that no step of a run waits for a disk or a network. Only the start
    and the end of the run wait, for at most `patience_s`. After a failure the recorder gets no more
    calls, and the run continues.

    Args:
        make: function that makes the recorder; it is called in the thread.
        name: the recorder's name in warnings.
        patience_s: the longest wait, in seconds.
    """

    def __init__(
        self, make: Callable[[], Recorder], name: str, *, patience_s: float = _PATIENCE_S
    ) -> None:
        self._make = make
        self._name = name
        self._patience_s = patience_s
        self._calls: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()
        # Set when the recorder is made, when the thread ends, and after a failure.
        self._started = threading.Event()
        self._done = threading.Event()
        # Set at the first failure; later failures are silent.
        self._lost = threading.Event()

    def start(self) -> None:
        """Make the recorder and wait for it, since its imports must not overlap with the run's."""
        # A daemon thread does not keep the process alive when a tracker hangs.
        try:
            threading.Thread(target=self._work, name="orca-tracker", daemon=True).start()
        except RuntimeError as error:
            self._lose(str(error))
            return
        # The thread cannot be stopped, so it is abandoned.
        if not self._started.wait(self._patience_s):
            self._lose(f"did not start within {self._patience_s:g} s")

    def record(self, stage: str, line: Mapping[str, Any]) -> None:
        """Pass on a copy of a line."""
        # A copy, since the caller may change its line before the thread takes it.
        self._calls.put(("record", (stage, dict(line))))

    def ended(self, state: str, result: Mapping[str, Any]) -> None:
        """Pass on the end, and wait until the recorder has taken all calls.

        A second call does nothing.
        """
        if self._lost.is_set() or self._done.is_set():
            return
        self._calls.put(("ended", (state, result)))
        patience_s = self._patience_s
        # A run that was stopped should end soon.
        if state != "completed":
            patience_s = min(patience_s, _LAST_PATIENCE_S)
        if not self._done.wait(patience_s):
            self._lose(f"did not record all curves within {patience_s:g} s after the run's end")

    def _work(self) -> None:
        """Pass on calls until the last call, in the thread; a failure closes the recorder."""
        recorder: Recorder | None = None
        # For the message, if the recorder cannot be made.
        name = "start"
        try:
            recorder = self._make()
            self._started.set()
            while not self._lost.is_set() and name != "ended":
                name, arguments = self._calls.get()
                getattr(recorder, name)(*arguments)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - none may end the run
            message = str(error)
            # The text of other errors does not name the class of the error.
            if not isinstance(error, OrcaError):
                message = f"{type(error).__name__}: {error}"
            message_line = " ".join(message.split())
            self._lose(f"failed at '{name}': {message_line}")
            if recorder is not None:
                # The recorder can close its files and its connection.
                with suppress(Exception, SystemExit):
                    recorder.ended("failed", {})
        finally:
            # Nothing waits for a recorder that has failed.
            self._started.set()
            self._done.set()

    def _lose(self, reason: str) -> None:
        """Pass no more calls to the recorder, and warn once."""
        if self._lost.is_set():
            return
        self._lost.set()
        log.warning(
            f"tracker {self._name}: {reason}; the run continues without the tracker, and writes its"
            " curves to metrics.jsonl only"
        )


class Curves:
    """Passes every line to one of accelerate's trackers, at its epoch.

    Args:
        tracker: a tracker that has started and has the run's settings.
        end: function that ends the tracker's own run; called with the state in which our run ended.
        has_steps: whether the tracker gets epochs as steps; otherwise as numbers STAGE/epoch.
    """

    def __init__(
        self, tracker: GeneralTracker, end: Callable[[str], Any], *, has_steps: bool = True
    ) -> None:
        self._tracker = tracker
        self._end = end
        self._has_steps = has_steps

    def record(self, stage: str, line: Mapping[str, Any]) -> None:
        """Log a line's numbers as STAGE/NAME, or STAGE/member_NUMBER/NAME for a member's line."""
        columns = dict(line)
        epoch = int(columns.pop("epoch"))
        prefix = stage
        if "member" in columns:
            prefix = f"{stage}/member_{columns.pop('member')}"
        numbers = _numbers(prefix, columns)
        if self._has_steps:
            self._tracker.log(numbers, step=epoch)
        else:
            # `define_metric` in `wandb` makes this number the axis of the stage's curves.
            numbers[f"{stage}/epoch"] = epoch
            self._tracker.log(numbers, step=None)

    def ended(self, state: str, result: Mapping[str, Any]) -> None:
        """Log the errors and distances of a result.json as final/NAME, and end the run."""
        if result:
            error = result.get("error") or {}
            distance = result.get("metric_value") or {}
            finals = {"test_error": error.get("value")}
            further_errors = error.get("others") or {}
            for name, further_error in further_errors.items():
                finals[f"test_{name}"] = further_error
            finals["validation_error"] = result.get("validation_error")
            finals["trivial_error"] = result.get("trivial_error")
            finals["distance_before"] = distance.get("before")
            finals["distance_after"] = distance.get("after")
            self._tracker.log(_numbers("final", finals))
        self._end(state)


def tensorboard(folder: Path, settings: Mapping[str, Any]) -> Curves:
    """Return a recorder that writes event files into a folder.

    A resumed run begins another file in that folder.

    Args:
        folder: the folder of the files.
        settings: the run's settings by dotted names; TensorBoard shows them as hyper-parameters.

    Raises:
        UnavailableError: the package is not installed. `wandb` and `mlflow` raise it too.
    """
    need("tensorboard", "tracker")
    from accelerate.tracking import TensorBoardTracker

    tracker = TensorBoardTracker(folder.name, folder.parent)
    tracker.start()
    # Not `store_init_configuration`, which would make another run for the settings, in a folder
    # named after the time.
    tracker.tracker.add_hparams(_shown(settings), {}, run_name=".")
    return Curves(tracker, lambda state: tracker.finish())


def wandb(
    name: str,
    folder: Path,
    settings: Mapping[str, Any],
    mode: Annotated[
        Literal["offline", "online"],
        "online: send curves to W&B during the run; offline: keep them on this machine.",
    ] = "offline",
    project: Annotated[str, "The W&B project."] = "orca",
    entity: Annotated[
        str | None, "W&B account or team; null: the account that owns the W&B key."
    ] = None,
) -> Curves:
    """Return a recorder that writes a W&B run.

    The id of the W&B run follows from our run's name, so that a resumed run continues it. W&B
    stores its files in `folder`, including files that it has not sent yet. mode=online needs the
    key in WANDB_API_KEY.
    """
    if mode == "online" and not os.getenv(_KEY):
        # W&B would ask for it on the terminal.
        raise UnavailableError(
            f"online needs a W&B key in the environment variable {_KEY}",
            where="tracker.mode",
            hint=f"set {_KEY}, or use tracker.mode=offline",
        )
    # Otherwise W&B sends its own errors to its vendor.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    wandb = need("wandb", "tracker")
    from accelerate.tracking import WandBTracker

    quiet_settings = wandb.Settings(
        silent=True, console="off", symlink=False, init_timeout=_WAIT_S, finish_timeout=_WAIT_S
    )
    name_digest = hashlib.sha256(name.encode()).hexdigest()
    tracker = WandBTracker(
        project,
        settings=quiet_settings,
        id=name_digest[:16],
        name=name,
        dir=str(folder),
        entity=entity,
        mode=mode,
        resume="allow" if mode == "online" else None,
    )
    tracker.start()
    tracker.store_init_configuration(_shown(settings))
    for stage in ("align", "finetune"):
        tracker.tracker.define_metric(f"{stage}/*", step_metric=f"{stage}/epoch")

    def end(state: str) -> None:
        tracker.tracker.finish(exit_code=int(state != "completed"))

    # W&B's own steps cannot restart for the next stage, or for lines that are sent twice.
    return Curves(tracker, end, has_steps=False)


def mlflow(
    name: str,
    store: Path,
    settings: Mapping[str, Any],
    uri: Annotated[
        str | None,
        "URI of an MLflow store; null: the URI in the environment variable MLFLOW_TRACKING_URI or,"
        " if the variable is not set, an SQLite file in the folder of runs.",
    ] = None,
    experiment: Annotated[str, "The MLflow experiment."] = "orca",
) -> Curves:
    """Return a recorder that writes an MLflow run.

    The MLflow run has our run's name, by which a resumed run finds and continues it. Without `uri`
    and MLFLOW_TRACKING_URI it is stored in a database in the folder `store`.
    """
    # Otherwise MLflow reports its use to its vendor.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = need("mlflow", "tracker")
    from accelerate.tracking import MLflowTracker

    # Both libraries log every step of making a database.
    for library in ("mlflow", "alembic"):
        logging.getLogger(library).setLevel(logging.ERROR)
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    store_folder = store.absolute()
    mlflow.set_tracking_uri(uri or f"sqlite:///{store_folder / 'mlflow.db'}")
    # Another store has its own place for artifacts.
    artifact_folder = None if uri else str(store_folder / "mlflow")
    with suppress(mlflow.exceptions.MlflowException):  # it exists, or another process makes it
        mlflow.create_experiment(experiment, artifact_location=artifact_folder)
    earlier_runs = mlflow.search_runs(
        experiment_names=[experiment],
        filter_string=f"attributes.run_name = '{name}'",
        output_format="list",
    )
    # Names of runs have the time to the microsecond, so at most one run has this name.
    earlier_run_id = earlier_runs[0].info.run_id if earlier_runs else None
    tracker = MLflowTracker(
        experiment, logging_dir=artifact_folder, run_name=name, run_id=earlier_run_id
    )
    tracker.start()
    if earlier_run_id is None:
        # MLflow does not allow changes to the parameters of a run.
        tracker.store_init_configuration(_shown(settings))

    # Not the tracker's own `finish`, which always says FINISHED.
    def end(state: str) -> None:
        mlflow.end_run(_STATES.get(state, "FAILED"))

    return Curves(tracker, end)


def _numbers(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among values as PREFIX/NAME."""
    numbers = {}
    for name, value in values.items():
        # In Python, booleans are integers.
        if isinstance(value, int | float) and not isinstance(value, bool):
            numbers[_safe(f"{prefix}/{name}")] = value
    return numbers


def _shown(settings: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Return the settings that say what a run computes, as plain values; long texts are cut."""
    shown_settings = {}
    for setting, value in settings.items():
        group = setting.partition(".")[0]
        if group not in _NOT_SHOWN:
            is_number = isinstance(value, int | float)
            shown_settings[_safe(setting)] = value if is_number else str(value)[:_LONGEST]
    return shown_settings


def _safe(name: str) -> str:
    """Return a name that all services accept."""
    return _UNSAFE.sub("_", name)
