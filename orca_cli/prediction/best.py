"""Which run of a folder of runs is best: by the validation error, never by the test error."""

import math
from pathlib import Path
from typing import Any

from orca_cli.exceptions import DataError
from orca_cli.report.collect import collect, mapping
from orca_cli.runs.directory import RESULT, read_or_empty
from orca_cli.runs.preprocessing import can_predict
from orca_cli.terminal import percent_or_number

_COMPARABLE = "run them with train.folds=5 (or train.refit=false), or give one by its folder"


def best_run(folder: Path) -> tuple[Path, str]:
    """Return the completed run with the lowest validation error (the first of equals), or the only run; and why it is best.

    Runs whose weights were chosen on the test split, or without a validation error, are left out.

    Raises:
        DataError: there is no such run, or they were validated on different data or by different errors.
    """
    validated: dict[
        tuple[str, str, bool], list[tuple[float, Path]]
    ] = {}  # by validation data, error, whether in per cent
    unvalidated: list[Path] = []
    for run in collect([folder]).runs:
        result = read_or_empty(run.path / RESULT)
        selected: dict[str, Any] = result.get("selected") or {}
        error: Any = result.get("validation_error")
        if run.state != "completed" or not can_predict(run.path) or selected.get("on") == "test":
            continue
        if selected.get("on") == "nothing":
            unvalidated.append(run.path)
        elif type(error) in (int, float) and math.isfinite(error):
            samples = selected.get("sha256") or mapping(mapping(result.get("splits")).get("val")).get("sha256")
            measured = mapping(result.get("error"))
            measure = str(measured.get("name")), measured.get("percent") is True
            validated.setdefault((str(samples), *measure), []).append((float(error), run.path))
    if not validated and len(unvalidated) == 1:
        return unvalidated[0], f"{unvalidated[0]}: the only run"
    best = {key: min(runs, key=lambda run: run[0]) for key, runs in validated.items()}
    if len(best) != 1:
        what = "holds no completed run on data of your own, chosen by a validation split, with its weights"
        hint = "orca report shows the runs; those of benchmarks keep no preprocessing, and predict no new data"
        if unvalidated:
            what = f"all {len(unvalidated)} runs trained on their validation samples, so that no validation error compares them"
            hint = _COMPARABLE
        if best:
            what = f"the runs were validated on {len(best)} different sets of data or errors, which cannot be compared"
            hint = f"give one of the best of each: {', '.join(path.name for _, path in best.values())}"
        raise DataError(what, where=str(folder), hint=hint)
    (((_, name, percent), (lowest, path)),) = best.items()
    count = sum(map(len, validated.values()))
    text = f"{path}: {name} {percent_or_number(lowest, percent)} on validation, the lowest of {count} runs"
    left_out = f"{len(unvalidated)} that trained on their validation samples are left out"
    return path, f"{text}; {left_out}: {_COMPARABLE}" if unvalidated else text
