"""The leaderboard of a run: the transfer and the simple models, judged on the same samples.

Made of result.json alone. Imports no torch.
"""

from collections.abc import Mapping
from typing import Any

from orca_cli.baselines.names import CONSTANT, START, TRANSFER

# What judges; a run that is validated on the test split, or on nothing, is not judged.
_JUDGES = ("validation", "folds")


def leaderboard(
    result: Mapping[str, Any], judged: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return `judged`, `candidates` and `leader` of a result record.

    Args:
        result: the record of a completed run, with `baselines`.
        judged: on what its simple models were judged (`Subject.judged`); None without any, for
            what the transfer was validated on.

    Returns:
        judged: with the SHA-256 of its samples, by which runs are compared; None where other
            samples validated the transfer, or none.
        candidates: name, validation_error, error, interval, seconds and kept of each, lowest
            validation error first, the transfer first among equals. Those without one come last,
            as the transfer that other samples validated.
        leader: the name of the first that has a validation error and is kept, or None.
    """
    # Older programs recorded less of it.
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
        # It shows that a model has learned something, and is nothing to predict with.
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
    # Its making alone, as of the simple models: without the test.
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
