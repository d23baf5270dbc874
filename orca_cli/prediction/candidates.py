"""The models that a run has fitted and kept, by its record: the transfer and its baselines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orca_cli.baselines.names import CONSTANT, NAMES, START, TRANSFER
from orca_cli.report.collect import mapping
from orca_cli.runs.directory import keeps_weights

# Candidate -> its description; the constant, which cannot predict, is left out.
CANDIDATE_NAMES = {
    TRANSFER: "the cross-modal transfer",
    START: "the transfer before its first training step",
    **NAMES,
}
del CANDIDATE_NAMES[CONSTANT]


def candidates(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the records of a run's candidates by name, in the order of its leaderboard.

    A run of an earlier version of the program has only the transfer. The result may be untrusted,
    so names that no candidate has are left out.
    """
    leaderboard = result.get("candidates")
    if not isinstance(leaderboard, list):
        leaderboard = []
    by_name = {}
    for entry in leaderboard:
        name = mapping(entry).get("name")
        if isinstance(name, str) and name in CANDIDATE_NAMES:
            by_name[name] = entry
    if TRANSFER not in by_name:
        by_name[TRANSFER] = {
            "validation_error": result.get("validation_error"),
            **mapping(result.get("error")),
            "error": mapping(result.get("error")).get("value"),
        }
    return by_name


def kept(run: Path, result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the candidates of a completed run that can predict, in the form of `candidates`."""
    # With keep_weights=false the run keeps no candidates.
    if not keeps_weights(run):
        return {}
    return {
        name: record
        for name, record in candidates(result).items()
        if name == TRANSFER or record.get("kept") is True
    }
