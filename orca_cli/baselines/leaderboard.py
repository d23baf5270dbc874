"""The leaderboard of a run: the transfer and the baselines, compared on the same samples.

It is made from result.json alone. This module does not import torch.
"""

from collections.abc import Mapping
from typing import Any

from orca_cli.baselines.names import CONSTANT, START, TRANSFER

# Samples on which candidates can be compared. A transfer that was validated on the test split, or
# on no samples, is not compared with the baselines.
_JUDGES = ("validation", "folds")


def leaderboard(
    result: Mapping[str, Any], judged: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return `judged`, `candidates` and `leader` of a result record.

    Args:
        result: the record of a completed run, with `baselines`.
        judged: samples that its baselines were compared on (`Subject.judged`); None, if the run has
            no baselines, for the samples that the transfer was validated on.

    Returns:
        judged: the samples, with their SHA-256, which shows whether runs can be compared. The
            SHA-256 is None if the transfer was validated on other samples, or not at all.
        candidates: name, validation_error, error, interval, seconds and kept of each candidate,
            lowest validation error first, and the transfer first among equals. Candidates without a
            validation error come last, such as a transfer that was validated on other samples.
        leader: name of the first candidate that has a validation error and is kept, or None.
    """
    # Older versions of orca recorded fewer entries.
    selected = result.get("selected") or {}
    if judged is None:
        num_folds = selected.get("folds") or None
        judged = {"on": selected.get("on"), "n": selected.get("n"), "folds": num_folds}
    is_judged = judged["on"] == selected.get("on") and judged["on"] in _JUDGES
    candidates = [_transfer(result, is_judged=is_judged)]
    start_error = (selected.get("start") or {}).get("validation_error")
    if is_judged and start_error is not None:
        candidates.append(_candidate(START, {"validation_error": start_error}))
    for name, baseline in result["baselines"].items():
        # The constant only shows whether a model has learned anything; nobody predicts with it.
        if name != CONSTANT:
            candidates.append(_candidate(name, baseline))
    # Sorting keeps the order of equals.
    candidates.sort(key=_rank)
    leader = None
    for candidate in candidates:
        if candidate["kept"] and candidate["validation_error"] is not None:
            leader = candidate["name"]
            break
    judge = {**judged, "sha256": selected.get("sha256") if is_judged else None}
    return {"judged": judge, "candidates": candidates, "leader": leader}


def _transfer(result: Mapping[str, Any], *, is_judged: bool) -> dict[str, Any]:
    seconds = result["seconds"]
    # Only the stages that make the transfer count, not its test.
    made_s = sum(seconds.get(stage, 0.0) for stage in ("build", "align", "finetune"))
    transfer = {
        "validation_error": result["validation_error"] if is_judged else None,
        "error": result["error"]["value"],
        "interval": result["error"].get("interval"),
        "seconds": round(made_s, 2),
        "kept": result.get("keep_weights", True),
    }
    return _candidate(TRANSFER, transfer)


def _candidate(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "validation_error": record.get("validation_error"),
        "error": record.get("error"),
        "interval": record.get("interval"),
        "seconds": record.get("seconds"),
        "kept": record.get("kept", False),
    }


def _rank(candidate: Mapping[str, Any]) -> tuple[bool, float]:
    validation_error = candidate["validation_error"]
    return validation_error is None, validation_error or 0.0
