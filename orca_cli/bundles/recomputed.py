"""The error of one run of an unpacked bundle, computed again from its predictions; the files may be a stranger's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli import schema
from orca_cli.bundles.errors.score import CannotComputeError, Saved, Score
from orca_cli.bundles.errors.table import compute
from orca_cli.runs.directory import STAGE_FOLDERS, SUMMARY, read_or_empty
from orca_cli.runs.settings import decided
from orca_cli.untrusted.arrays import open_arrays

PREDICTIONS = "predictions.npz"
_MOST_BYTES = 8 * 2**30  # of the arrays of one run
# Another number of threads adds in another order; nobody reads an error to more digits.
_RELATIVE, _ABSOLUTE = 1e-6, 1e-9


@dataclass(frozen=True)
class Compared:
    """What a run recorded, and what its predictions say.

    Args:
        score: what they say.
        different: "NAME: A in result.json, B computed" of every number that is not the same to six digits.
        missing: names of further errors that the predictions do not suffice for.
    """

    score: Score
    different: tuple[str, ...]
    missing: tuple[str, ...]


def recompute(run: Path, content: Mapping[str, Any], result: Mapping[str, Any]) -> Compared:
    """Compute the error of a completed run again, and compare it with its result.

    Args:
        run: its folder.
        content: of its config.yaml.
        result: of its result.json.

    Raises:
        CannotComputeError: what is there does not suffice for it.
        OrcaError: a file is damaged, or would take more memory than there is.
    """
    summary = read_or_empty(run / STAGE_FOLDERS["build"] / SUMMARY)
    node = schema.lookup(content, "task.error")
    chunk, batch = (_setting(run, content, key) for key in ("train.error_chunks", "train.batch_size"))
    for value in (chunk, batch):
        if chunk is not None and type(value) is not int:
            raise CannotComputeError("its settings of chunks are not whole numbers")
    saved = _saved(run / STAGE_FOLDERS["finetune"] / PREDICTIONS)
    try:
        with np.errstate(all="ignore"):
            score = compute(node, str(summary.get("kind")), saved, chunk, batch)
    except (ValueError, IndexError, ArithmeticError, TypeError, LookupError) as error:
        raise CannotComputeError(f"its predictions do not fit its error: {type(error).__name__}") from error
    recorded = result.get("error")
    recorded = recorded if isinstance(recorded, dict) else {}
    others = recorded.get("others")
    others = others if isinstance(others, dict) else {}
    return Compared(
        score,
        tuple(_differences(recorded, others, score)),
        tuple(str(name) for name in others if name not in score.others),
    )


def _differences(recorded: Mapping[str, Any], others: Mapping[str, Any], score: Score) -> Iterator[str]:
    for key, value in (("name", score.name), ("percent", score.percent)):
        if recorded.get(key) != value:
            yield f"{key} of the error: {str(recorded.get(key))[:80]} in result.json, {value} by its settings"
    numbers = {score.name: (recorded.get("value"), score.value)}
    numbers |= {key: (recorded.get(key), getattr(score, key)) for key in ("n", "skipped")}
    numbers |= {str(name): (others[name], score.others[name]) for name in others if name in score.others}
    for name, (before, now) in numbers.items():
        if not same(before, now, _RELATIVE, _ABSOLUTE):
            yield f"{name}: {str(before)[:40]} in result.json, {now} computed"


def same(a: Any, b: Any, relative: float, absolute: float) -> bool:
    """Return whether two values are the same, numbers up to rounding; a bool does not count as a number."""
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in (a, b)):
        return type(a) is type(b) and a == b
    try:
        return math.isclose(a, b, rel_tol=relative, abs_tol=absolute)
    except OverflowError:
        return False


def _setting(run: Path, content: Mapping[str, Any], key: str) -> Any:
    """Return a setting as the run used it; its default where the run is older than the setting."""
    known = decided(run)
    if key in known:
        return known[key]["value"]
    value = schema.lookup(content, key)
    return schema.lookup(schema.Config(), key) if value is None else value


def _saved(path: Path) -> Saved:
    if not path.is_file():
        raise CannotComputeError("its predictions are not there")
    arrays = open_arrays(path, path.name)
    wanted = [name for name in ("outputs", "targets", "groups") if name in arrays and arrays[name].dtype.kind in "fiu"]
    if sum(arrays[name].bytes for name in wanted) > _MOST_BYTES:
        raise CannotComputeError("its predictions are larger than is read")
    found = {name: np.asarray(arrays[name].read()) for name in wanted}
    if not {"outputs", "targets"} <= set(found):
        raise CannotComputeError(f"{PREDICTIONS} lacks outputs or targets")
    saved = Saved(found["outputs"], found["targets"], found.get("groups"))
    if saved.outputs.ndim < 1 or saved.targets.ndim < 1 or len(saved.outputs) != len(saved.targets):
        raise CannotComputeError(f"{PREDICTIONS}: outputs and targets are not of the same samples")
    return saved
