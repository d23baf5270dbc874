"""What `orca select` prints: the table of bodies, what follows from it, and how well scores predicted the errors of runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from orca_cli import terminal
from orca_cli.body_ranking import agreement

if TYPE_CHECKING:  # imports torch
    from orca_cli.body_ranking.rank import Ranked

_WORDS = {"distance": "distance", "before": "distance before alignment", "logme": "LogME", "probe": "linear probe"}


def of_ranking(record: Mapping[str, Any], found: Sequence[Ranked], random: Sequence[str]) -> Iterator[RenderableType]:
    """Yield the table, what follows from it, and what does not."""
    from orca_cli.body_ranking.intervals import conclusions

    taken = [one for one in found if one.distance is not None]
    scale = taken[0].seeds[0].scale
    percent, error = record["error"]["percent"], record["error"]["name"]
    rows = [[str(place), *_cells(one, record["runs"][one.label], percent)] for place, one in enumerate(taken, start=1)]
    probe, runs = f"probe ({error})", "runs' test error (n)"
    counts = f"{len(taken)} {'body' if len(taken) == 1 else 'bodies'}, {_count(len(taken[0].seeds), 'seed')}"
    yield f"{record['task']}: {counts}, metric {record['metric']}"
    yield terminal.table(["", "body", f"distance/{scale}", "95 % interval", "before", "LogME", probe, runs], rows)
    for one in found:
        if one.distance is None:
            yield f"cannot take the task: {one.label}: {one.reason}"
        elif one.reason:
            yield f"- {one.label}: {one.reason}"
    for line in conclusions({one.label: one.distance for one in taken if one.distance is not None}):
        yield f"- {line}"
    yield from _caveats(taken, scale, random)
    yield from (f"- {line}" for line in _agreement_lines(record["agreement"], percent))
    yield f"next: {record['next']}"


def _cells(one: Ranked, run: Mapping[str, Any], percent: bool) -> Iterator[str]:
    assert one.distance is not None
    low, high = one.distance.interval
    yield from (one.label, f"{one.distance.mean:.3f}", f"{low:.3f} to {high:.3f}")
    yield from (_plain(one.mean("before")), _plain(one.mean("logme")), _error(one.mean("probe"), percent))
    yield f"{_error(run['error'], percent)} ({run['n']})" if run["n"] else "-"


def _caveats(taken: Sequence[Ranked], scale: str, random: Sequence[str]) -> Iterator[str]:
    below = [one.label for one in taken if one.distance is not None and one.distance.mean < 1]
    if scale == "floor" and below:
        yield (
            f"- below 1: {', '.join(below)}: nearer to the source than its own fresh points are, since the tokens have drawn "
            "together; there lower is not closer (docs/select.md)"
        )
    if len(taken[0].seeds) == 1:
        yield "- one seed: the intervals are of draws of points alone, and too narrow; seed=0,1,2 has those of the whole"
    if random:
        who = ", ".join(random)
        yield f"- the distance does not see a body's layers, which are random in {who}: only the embedder's start differs there"


def _agreement_lines(found: Mapping[str, Any], percent: bool) -> Iterator[str]:
    for score, known in found.items():
        if known is not None:
            regret = f"{100 * known['regret']:.1f} points" if percent else f"{known['regret']:.4g}"
            found_here = f"tau {known['tau']:+.2f}, rho {known['rho']:+.2f} over {known['n']} bodies"
            yield f"{_WORDS[score]} and the runs' errors: {found_here}; its choice is {regret} above the best"


def of_agreement(selections: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield the correlations of every task, those over all tasks, and which score predicted best."""
    rows = []
    for selection, task in zip(selections, record["tasks"], strict=True):
        known = next((one for one in task["agreement"].values() if one is not None), None)
        cells = [f"{one['tau']:+.2f} / {one['rho']:+.2f}" if one else "-" for one in task["agreement"].values()]
        runs = [run["n"] for run in task["runs"].values()]
        n = known["n"] if known else sum(map(bool, runs))
        rows.append([task["task"], selection["metric"], str(n), str(sum(runs)), *cells])
    yield "Each score beside the runs' mean test errors, over bodies: Kendall's tau / Spearman's rho; +1: ordered alike"
    yield terminal.table(["task", "metric", "bodies", "runs", *_WORDS.values()], rows)
    if not any(record["pooled"].values()):
        yield f"- no task has {agreement.LEAST} bodies with runs of the same settings: orca select says which runs these are"
    pooled = {score: one for score, one in record["pooled"].items() if one is not None}
    for score, one in pooled.items():
        between = "" if one["interval"] is None else f" ({one['interval'][0]:+.2f} to {one['interval'][1]:+.2f})"
        n = f"{_count(one['tasks'], 'task')}, {one['bodies']} pairs of task and body"
        p = f"p {one['p']:.3f}" if one["p"] >= 0.001 else "p < 0.001"
        yield f"- {_WORDS[score]}: mean tau {one['tau']:+.2f}{between} over {n}; {p} of as high a one by chance"
    yield from _which(pooled)


def _which(pooled: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield which score predicted best, as far as intervals over tasks that do not overlap say so."""
    if len(pooled) < 2:
        return
    first, *others = sorted(pooled, key=lambda score: -pooled[score]["tau"])
    undecided = [
        score
        for score in others
        if pooled[first]["interval"] is None
        or pooled[score]["interval"] is None
        or pooled[score]["interval"][1] >= pooled[first]["interval"][0]
    ]
    if undecided:
        names = ", ".join(_WORDS[score] for score in undecided)
        yield f"- {_WORDS[first]} has the highest tau; its lead over {names} is undecided"
    else:
        yield f"- {_WORDS[first]} predicted the errors best"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _error(value: float | None, percent: bool) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{100 * value:.1f} %" if percent else f"{value:.4g}"
