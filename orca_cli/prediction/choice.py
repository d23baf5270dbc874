"""Choose the best of all models that the runs in a folder kept, by their validation errors."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from orca_cli.baselines.names import TRANSFER
from orca_cli.exceptions import DataError
from orca_cli.prediction.candidates import kept
from orca_cli.report.collect import Run, collect, mapping, number
from orca_cli.runs.directory import RESULT, read_or_empty
from orca_cli.runs.preprocessing import can_predict
from orca_cli.terminal import counted, percent_or_number

_MAKE_COMPARABLE = (
    "to give these runs validation errors, rerun them with train.folds=5 or train.refit=false; or "
    "name the folder of one run"
)


class Chosen(NamedTuple):
    """A model of a run, and why it is the best."""

    run: Path
    candidate: str
    reason: str


class _Criterion(NamedTuple):
    """How models were validated; only models with the same criterion can be compared."""

    # A text that identifies the samples.
    samples: str
    error: str
    is_percent: bool


def best_model(folder: Path, candidate: str | None = None) -> Chosen:
    """Return the model with the lowest validation error of all that completed runs kept.

    Of models with equal errors, the oldest run comes first, and within a run its leaderboard
    decides. If no model was validated, the model of the only run is returned. Runs that cannot
    predict, runs whose weights were chosen on the test split, and other models without a validation
    error are left out.

    Args:
        folder: folder of all runs, or of the runs on one data set.
        candidate: name of the model that is considered in each run; None for all models.

    Raises:
        DataError: the folder contains no such model, or runs on several data sets, or runs that
            were validated on different samples or by different errors.
    """
    runs = [run for run in collect([folder]).runs if can_predict(run.path)]
    data_sets = sorted({run.data for run in runs})
    # Checked for all runs: a data set whose runs lack a validation error would be ignored silently.
    if len(data_sets) > 1:
        raise DataError(
            f"contains runs on {len(data_sets)} data sets: {', '.join(data_sets)}",
            where=str(folder),
            hint="name the folder of one run, or a folder whose runs are all on one data set",
        )
    validated, unvalidated = _candidates(runs, candidate)
    if not validated and len(unvalidated) == 1:
        run_path = unvalidated[0]
        return Chosen(run_path, candidate or TRANSFER, f"{run_path}: the only run")
    if len(validated) > 1:
        message = (
            "the runs' validation errors cannot be compared: the runs were validated in "
            f"{len(validated)} ways, on different samples or by different errors"
        )
        # `min` takes the first of equal errors.
        best_keys = [min(errors, key=errors.__getitem__) for errors in validated.values()]
        run_names = ", ".join(run_path.name for run_path, _ in best_keys)
        hint = f"name one run; the best runs, one for each way of validation, are: {run_names}"
        raise DataError(message, where=str(folder), hint=hint)
    if not validated:
        raise _nothing_validated(folder, candidate, unvalidated)
    ((criterion, errors),) = validated.items()
    best = min(errors, key=errors.__getitem__)
    run_path, name = best
    lowest = percent_or_number(errors[best], criterion.is_percent)
    reason = f"{name} of {run_path}: {criterion.error} {lowest} on validation"
    if len(errors) > 1:
        candidates = counted(len(errors), "candidate")
        run_count = counted(len({path for path, _ in errors}), "run")
        reason += (
            f", which is the lowest error of {candidates} from {run_count} and therefore optimistic"
        )
    if unvalidated:
        left_out = f"{counted(len(unvalidated), 'run')} that trained on their validation samples"
        reason += f"; left out: {left_out} ({_MAKE_COMPARABLE})"
    return Chosen(run_path, name, reason)


def _nothing_validated(folder: Path, candidate: str | None, unvalidated: list[Path]) -> DataError:
    """Return the error that says why no model can be chosen."""
    if unvalidated:
        message = (
            f"all {len(unvalidated)} runs trained on their validation samples, so they have no "
            "validation errors to compare"
        )
        return DataError(message, where=str(folder), hint=_MAKE_COMPARABLE)
    model = "its weights" if candidate is None else f"a model {candidate!r}"
    message = (
        "contains no usable run, that is, no completed run on your own data that kept "
        f"{model} and did not use the test split for validation"
    )
    hint = (
        "list the runs with `orca report`; runs on benchmarks do not save their preprocessing, so "
        "they cannot predict new data"
    )
    return DataError(message, where=str(folder), hint=hint)


def _candidates(
    runs: Iterable[Run], candidate: str | None
) -> tuple[dict[_Criterion, dict[tuple[Path, str], float]], list[Path]]:
    """Return the models of some runs that may be compared; only models of one name if it is given.

    Returns:
        The validation errors of models by criterion, then by run and name, the oldest run first;
        and the runs without a validated model.
    """
    validated: dict[_Criterion, dict[tuple[Path, str], float]] = defaultdict(dict)
    unvalidated: list[Path] = []
    for run in runs:
        score = run.score
        # A run that was chosen on the test split has no error that could choose it fairly.
        if score is None or score.validated_on == "test":
            continue
        result = read_or_empty(run.path / RESULT)
        criterion = _Criterion(
            samples=_judging_samples(result, candidate),
            error=score.error_name,
            is_percent=score.percent,
        )
        errors = {}
        names = []
        for name, record in kept(run.path, result).items():
            if candidate not in (None, name):
                continue
            names.append(name)
            # Transfers are compared with each other by their own validation errors, even if the
            # leaderboard with the baselines used other samples.
            if candidate == TRANSFER:
                record = result
            validation_error = number(record.get("validation_error"))
            if validation_error is not None:
                errors[run.path, name] = validation_error
        if errors:
            validated[criterion] |= errors
        elif names and score.validated_on == "nothing":
            unvalidated.append(run.path)
    return validated, unvalidated


def _judging_samples(result: Mapping[str, Any], candidate: str | None) -> str:
    """Return a text that identifies the samples on which a run's models were validated.

    It is equal for equal samples. `candidate` is the name of the only model; None for all models.
    """
    selected = mapping(result.get("selected"))
    splits = mapping(result.get("splits"))
    # Baselines are validated by separate folds if the run itself was validated in another way.
    judged = mapping(result.get("judged"))
    if candidate != TRANSFER and judged and judged.get("on") != selected.get("on"):
        return f"{judged.get('n')} samples of {splits.get('train')} and {splits.get('val')}"
    # Records without a digest of these samples are identified by the validation split.
    return str(selected.get("sha256") or splits.get("val"))
