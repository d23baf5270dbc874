"""Cross-modal transfer of pretrained transformers: the three stages of ORCA on the command line.

From Python: `load` gives a finished run as a predictor, `run` makes a run.
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
    """Return a finished run, or an export of one, as an estimator like those of scikit-learn.

    Args:
        run: its folder or name, or what `run` returned.
        model: name of a model that the run kept, such as "forest" (its `leader` in result.json is
            the best by validation); None takes "transfer", or what an export holds. A simple model
            of tables or raw inputs is loaded without torch.
        device: auto, cpu, cuda, cuda:N or mps.
        batch_size: samples per forward pass; None takes that of the run, which keeps the bits of
            its predictions.
        checkpoint: the body's checkpoint, if the run needs it and it has moved.

    Raises:
        DataError: there is no such run, or it is not completed.
        ConfigError: the run kept no model of this name.
        OrcaError: it is damaged or cannot predict (see `prediction.loading.open_model`); the device
            is absent.
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
            f"the run has {run.state}{failure}", where="run", hint="only completed runs predict"
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
    """Run one job as `orca run KEY=VALUE ...` does, or find it completed, and return how it ended.

    Args:
        overrides: such as "task=arrays", "task.train=my.npz".
        config_dir: folder with the user's own files of settings.
        force: run again what is already completed.
        check: raise if the run fails or is stopped; without it, the outcome has a `failure`.

    Raises:
        ConfigError: a setting is wrong.
        OrcaError: with `check`, what the command line would print, as the class of its exit code.
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
