"""Find the baselines that a completed run lacks, and add them to its record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import storage, terminal
from orca_cli.baselines.leaderboard import leaderboard
from orca_cli.baselines.names import CONSTANT, NAMES, baseline_names
from orca_cli.config.schema import Config
from orca_cli.exceptions import InterruptionError, OrcaError, interruption_in
from orca_cli.runs.directory import CANDIDATES, START_FILE, SUMMARY, RunDirectory, read_or_empty
from orca_cli.runs.preprocessing import can_predict

if TYPE_CHECKING:  # torch takes seconds to import, and a run that lacks nothing does not need it
    from orca_cli.baselines.compute import Baseline
    from orca_cli.interfaces import Samples
    from orca_cli.stages.build import Built


def lacking(config: Config, folder: RunDirectory, result: Mapping[str, Any]) -> list[str]:
    """Return the names of the baselines that a completed run should have but lacks.

    A run lacks a baseline that is not in its record. A run that keeps its models also lacks a
    baseline whose model is not in its folder. A run that was not tested lacks no baseline.
    """
    splits = result.get("splits") or {}
    summary = read_or_empty(folder.stage("build") / SUMMARY)
    # A summary that cannot be read is empty, and does not show which baselines the run should have.
    if "test" not in splits or not {"kind", "input_shape"} <= summary.keys():
        return []
    names = baseline_names(
        config.baselines,
        config.task,
        kind=summary["kind"],
        input_shape=summary["input_shape"],
        samples=splits["train"]["n"],
    )
    recorded = result.get("baselines") or {}
    is_keeping = can_predict(folder.path)
    lacking_names = []
    for name in names:
        if name not in recorded or (is_keeping and _is_lost(folder, name, recorded[name])):
            lacking_names.append(name)
    return lacking_names


def _is_lost(folder: RunDirectory, name: str, record: Mapping[str, Any]) -> bool:
    """Return whether a baseline's model should be in the run's folder but is not."""
    # Older versions of orca kept no models, and their records lack the entry `kept`.
    is_kept = record.get("kept", name != CONSTANT and record.get("error") is not None)
    return bool(is_kept) and not _model_folder(folder, name).exists()


def _model_folder(folder: RunDirectory, name: str) -> Path:
    return folder.path / CANDIDATES / name


def complete(
    config: Config,
    folder: RunDirectory,
    names: Sequence[str],
    *,
    built: Built | None,
    test: Samples | None,
) -> InterruptionError | None:
    """Compute the baselines that a completed run lacks.

    The models are written to the run's folder. Then the baselines, the comparison, the leaderboard
    and the time that the baselines took are written to result.json.

    Every failure is logged, and the run stays completed.

    Args:
        config, folder: settings and folder of the run, which this process has claimed.
        names: names of the baselines that the run lacks. Baselines in its record are taken from the
            cache as well, for the comparison.
        built, test: result of stage 1 and the test split, if this process has them; see
            `subject.subject_of`.

    Returns:
        The interruption that ended the computation, or None. Baselines that were computed before it
        are in the record and in the cache.
    """
    # These modules import torch, which takes seconds; only a run that lacks baselines needs it.
    from orca_cli.baselines.compute import compute
    from orca_cli.baselines.subject import saved_outputs, subject_of
    from orca_cli.baselines.verdict import verdict

    start = time.monotonic()
    stop = None
    before = folder.result()
    recorded = before.get("baselines") or {}
    comparison = before.get("comparison")
    baselines: dict[str, Baseline] = {}
    try:
        subject = subject_of(config, folder, built, test)
        # The comparison needs the outputs of all baselines; the cache has the outputs of earlier
        # computations.
        compared = [name for name in NAMES if name in names or name in recorded]
        cache = Path(config.paths.cache or "")
        for name, baseline in compute(compared, subject, cache, terminal.LogReporter()):
            baselines[name] = _kept(folder, name, baseline)
        comparison = verdict(subject.error, *saved_outputs(folder), baselines)
    except Exception as error:  # noqa: BLE001 - the run stays completed, whatever fails
        stop = interruption_in(error)
        reason = error if isinstance(error, OrcaError) else f"{type(error).__name__}: {error}"
        reason_line = " ".join(str(reason).split())
        terminal.log.warning(
            f"baselines: {reason_line}; rerun the command to compute the missing baselines"
        )
    if not baselines:
        return stop
    records = dict(recorded)
    for name, baseline in baselines.items():
        # A failure now does not replace figures in the record.
        if baseline.outputs is not None or name not in recorded:
            records[name] = baseline.record()
    # Read again: opening the test split has changed the count of its readings.
    result = folder.result()
    # Earlier processes that computed baselines of this run took time as well.
    spent_s = result["seconds"].get("baselines", 0.0) + time.monotonic() - start
    # Baselines are recorded in the order of NAMES, whichever was computed first.
    result["baselines"] = {name: records[name] for name in NAMES if name in records}
    result["comparison"] = comparison
    result["seconds"] = result["seconds"] | {"baselines": round(spent_s, 2)}
    folder.write_result(result | leaderboard(result, subject.judged))
    return stop


def _kept(folder: RunDirectory, name: str, baseline: Baseline) -> Baseline:
    """Write a baseline's model to the run's folder, if the run keeps its models.

    Returns the baseline without its model, which may be large.
    """
    from orca_cli.baselines import plain
    from orca_cli.training.cache import save_tensors

    model = baseline.model
    is_kept = model is not None and can_predict(folder.path)
    path = _model_folder(folder, name)
    # The run's manifest has the checksum of an existing model, so it is not written again.
    if model is not None and is_kept and not path.exists():
        with storage.commit_folder(path, owner=folder.name.identity) as temporary:
            plain.write(temporary, model)
            if baseline.start:
                save_tensors(temporary / START_FILE, baseline.start)
    return replace(baseline, kept=is_kept, model=None, start={})
