"""Cross-modal transfer of pretrained transformers: the three stages of ORCA on the command line.

From Python, `run` executes a run, and `load` returns a finished run as a predictor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch and Hydra take seconds to import
    from pathlib import Path

    from orca_cli.prediction.predictor import Predictor
    from orca_cli.runs.outcome import Outcome

__version__ = "0.1.0"
__all__ = ["__version__", "load", "run"]


def load(
    run: str | Path | Outcome,
    *,
    model: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    checkpoint: str | None = None,
) -> Predictor:
    """Return a finished run, or an exported run, as an estimator like those of scikit-learn.

    Args:
        run: folder or name of the run, or the outcome that `run` returned.
        model: name of a model that the run kept, such as "forest". The `leader` in result.json is
            the model with the lowest validation error. None selects "transfer", the model that the
            run trained, or the only model of an export. A baseline on table features or raw inputs
            is loaded without torch.
        device: auto, cpu, cuda, cuda:N or mps.
        batch_size: samples per forward pass; None uses the batch size of the run, which gives
            exactly the run's predictions.
        checkpoint: folder or hub id of the body's checkpoint, if the run needs it and it has moved.

    Raises:
        DataError: the run does not exist, or it is not completed.
        ConfigError: the run kept no model with this name.
        OrcaError: the run is damaged or cannot predict (see `prediction.loading.open_model`), or
            this machine lacks the device.
    """
    from orca_cli.exceptions import DataError
    from orca_cli.prediction.loading import open_model
    from orca_cli.prediction.predictor import Predictor
    from orca_cli.runs.claim import named
    from orca_cli.runs.outcome import Outcome

    if isinstance(run, Outcome) and (run.path is None or run.state not in ("completed", "skipped")):
        failure = ""
        if run.failure is not None:
            failure = f": {run.failure.error}"
        raise DataError(
            f"cannot predict, since its state is {run.state}{failure}",
            where="run",
            hint="use a completed run",
        )
    reference = run.path if isinstance(run, Outcome) else run
    folder = named(str(reference))
    return Predictor(open_model(folder, checkpoint, model), device, batch_size)


def run(
    *overrides: str,
    config_dir: str | Path | None = None,
    force: bool = False,
    check: bool = True,
) -> Outcome:
    """Execute a run as `orca run KEY=VALUE ...` does, unless it is completed; return its outcome.

    Args:
        overrides: settings such as "task=arrays", "task.train=my.npz".
        config_dir: folder with the user's own settings files.
        force: whether to run a completed run again.
        check: whether to raise an error if the run fails or is stopped; otherwise the outcome has a
            `failure`.

    Raises:
        ConfigError: a setting is wrong.
        OrcaError: the run failed or was stopped, and `check` is set. The message and the exit code
            of the class are those of the command line.
    """
    from pathlib import Path

    from orca_cli import experiment
    from orca_cli.config import compose

    with compose.session(None if config_dir is None else Path(config_dir)) as session:
        job = session.compose(list(overrides))
    outcome = experiment.run(job, force=force)
    failure = outcome.failure
    if not check or failure is None:
        return outcome
    if failure.cause is failure.error:
        raise failure.error
    raise failure.error from failure.cause
