"""A comparison in words and tables: a sentence for each arm, all sets together, and every set by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from orca_cli.report.statistics.differences import LARGEST_P, LEAST, Effect, holm, mean_of, no_effect
from orca_cli.report.statistics.further import MOST, Further, further
from orca_cli.report.statistics.paired import Block, Comparison, Overall, counts
from orca_cli.report.tables.layout import (
    MISSING,
    PLUS_MINUS,
    Entry,
    Layout,
    alarmed_of,
    alarms_of,
    decimals_of,
    excluded_runs,
    header,
    number,
    p_text,
)
from orca_cli.report.tables.notes import clean, seeds_text
from orca_cli.report.tables.table import Table

_ROUNDING = 1e-9  # gains below are 0 but for rounding
_MARKED = f"{LEAST} or more differences and p <= {LARGEST_P} after Holm's correction"
_OVERALL = (
    *(("sets",), ("wins/ties/losses",), ("gain", "points"), ("worst set", "points"), ("gain", "% of the error")),
    *(("p",), ("p, Holm",), ("least p",)),
)
CSV_COLUMNS = (
    *("task", "error", "percent", "protocol", "arm", "others", "sets", "pairs", "seeds", "unpaired"),
    *("baseline_mean", "mean", "unit", "gain", "low", "high", "p", "smallest_p", "holm_p", "wins", "ties", "losses"),
    *("data", "n", "baseline_chosen", "chosen"),
)


@dataclass(frozen=True)
class Claim:
    """What is known about an arm, and what would decide it.

    Args:
        verdict: helps, harms, no effect or undecided.
        detail: what follows the verdict, such as " by 1.9 points [1.1, 2.7] (n = 12 sets x 5 seeds, p = 0.02)".
        lacks: what an undecided one lacks; None for one that is decided.
    """

    arm: str
    verdict: str
    detail: str
    lacks: Further | None = None

    @property
    def commands(self) -> tuple[str, ...]:
        """Return what runs the seeds that it lacks."""
        return () if self.lacks is None else self.lacks.commands

    @property
    def text(self) -> str:
        """Return the sentence without the commands."""
        return f"{self.arm}: {self.verdict}{self.detail}"

    @property
    def sentence(self) -> str:
        """Return all of it in one line, such as "otdd: undecided, ...; about 6 more seeds: orca run -m ..."."""
        return ": ".join(filter(None, (self.text, " ; ".join(self.commands))))


def claim_of(one: Overall, comparison: Comparison, sign: str = PLUS_MINUS) -> Claim:
    """Return what is known about an arm."""
    effect, unit = one.judged, unit_of(one)
    arms = len(comparison.overall)
    facts = f"{_counted(one)}, p = {p_text(one.corrected)}" + (f" corrected for {arms} arms" if arms > 1 else "")
    places = _decimals(effect, 1)
    if effect.interval is None:
        detail = f", {_signed(effect.mean, places)} {unit} in the only pair ({_counted(one)})"
        return _undecided(detail, one, comparison)
    low, high = effect.interval
    if is_sure(one) and low > 0:
        return Claim(one.arm, "helps", f" by {number(effect.mean, places)} {unit} {_ends(low, high, places)} ({facts})")
    if is_sure(one) and high < 0:
        return Claim(
            one.arm, "harms", f" by {number(-effect.mean, places)} {unit} {_ends(-high, -low, places)} ({facts})"
        )
    if effect.n >= LEAST and (p := no_effect(effect, comparison.margin)) <= LARGEST_P:
        detail = f" beyond {sign}{comparison.margin:g} {unit} ({facts}; two one-sided t tests: p = {p_text(p)})"
        return Claim(one.arm, "no effect", detail)
    what = f"{effect.n} differences" if effect.nonzero == effect.n else f"{effect.nonzero} differences other than 0"
    few = f"; {what} cannot reach p = {LARGEST_P}" if effect.smallest * arms > LARGEST_P else ""
    detail = f", {_signed(effect.mean, places)} {unit} {_ends(low, high, places)} ({facts}{few})"
    return _undecided(detail, one, comparison)


def _counted(one: Overall) -> str:
    """Return how many sets and seeds the judged differences come from."""
    if one.sets == 1:
        return f"n = {one.judged.n} seed{'s' if one.judged.n > 1 else ''}, one set"
    low, high = one.seeds
    return f"n = {one.sets} sets x {low if low == high else f'{low} to {high}'} seed{'s' if high > 1 else ''}"


def _ends(low: float, high: float, places: int | None) -> str:
    return f"[{', '.join(_unsigned_zero(number(value, places)) for value in (low, high))}]"


def _decimals(effect: Effect, least: int | None) -> int | None:
    """Return how many decimals show the first digit of a gain or of an end of its interval: at least some, at most nine."""
    size = max(map(abs, (effect.mean, *(effect.interval or ()))))
    if least is None or size <= _ROUNDING or not math.isfinite(size):
        return least
    return min(9, max(least, -math.floor(math.log10(size))))


def is_sure(one: Overall) -> bool:
    """Return whether the sign of an arm's mean gain is shown: six differences or more, and Holm's p at most 0.05."""
    return one.judged.n >= LEAST and one.corrected <= LARGEST_P


def _undecided(detail: str, one: Overall, comparison: Comparison) -> Claim:
    """Return the claim with how many more seeds or sets are needed."""
    more = further(one, comparison)
    if more.seeds is not None:
        about = "about" if one.seeds[1] > 1 else "at least"
        lacks = f"{about} {more.seeds} more seed{'s' if more.seeds > 1 else ''}"
    elif more.is_hopeless:
        lacks = f"it would take more than {MOST} more seeds"
    else:
        why = "" if more.is_few_sets else "the sets differ more than their seeds: "
        count = f"more than {MOST}" if more.sets is None else f"about {more.sets}"
        lacks = f"{why}{count} more set{'s' if more.sets != 1 else ''}, not more seeds"
    return Claim(one.arm, "undecided", f"{detail}; {lacks}", more)


def unit_of(one: Overall) -> str:
    """Return the unit of the effect that an arm is judged by."""
    return "% of the error" if one.is_relative else "points"


def layouts_of(comparison: Comparison, table: Table, sign: str = PLUS_MINUS) -> list[Layout]:
    """Return two tables: the arms over all sets, with their sentences, and the arms by set."""
    axis, baseline = clean(comparison.axis), clean(comparison.baseline)
    claims = [claim_of(one, comparison, sign) for one in comparison.overall]
    first = Layout(
        names=[axis],
        columns=[list(lines) for lines in _OVERALL],
        rows=[([clean(one.arm)], _overall_entries(one), "") for one in comparison.overall],
        caption=(
            f"Gain over {axis}={baseline}, in pairs of equal seed and settings; above 0: lower error. Mean [95 % t "
            "interval] over sets, each with the mean over its seeds and settings. points: sets whose error is a per cent. "
            "% of the error: the difference over the mean of both errors, mean over all sets. "
            "p: exact sign-flip test; Holm: corrected for the number of arms; least p: the smallest possible with as many "
            f"differences other than 0. Bold and *: {_MARKED}."
        ),
        notes=[
            *("\n".join(clean(line, longest=2000) for line in (one.text, *one.commands)) for one in claims),
            *_limits(comparison),
            *table.remarks,
        ],
        alarms=alarms_of(table),
        heading=table.heading,
    )
    blocks = sorted((block for block in comparison.blocks if block.seeds), key=lambda block: (block.arm, block.others))
    corrected = corrected_of(comparison)
    columns = sorted({block.column for block in blocks})
    shared = set.intersection(*(set(block.others) for block in blocks)) if blocks else set()
    pairs = {(dict(block.others).get("body"), dict(block.others).get("source")) for block in blocks}
    implied = "source" if len({body for body, _ in pairs}) == len(pairs) else ""
    rows: dict[tuple[str, str], list[Entry]] = {}
    for block in blocks:
        settings = (
            f"{name}={value}" for name, value in block.others if (name, value) not in shared and name != implied
        )
        entries = rows.setdefault((clean(block.arm), clean(", ".join(settings))), [Entry(MISSING) for _ in columns])
        entries[columns.index(block.column)] = _block_entry(block, corrected[id(block)])
    common = ", ".join(f"{name}={value}" for name, value in sorted(shared) if name != implied)
    notes = [f"all with {clean(common, longest=2000)}"] if common else []
    if few := sum(len(block.seeds) < LEAST for block in blocks):
        notes.append(f"fewer than {LEAST} seeds in {few} of {len(blocks)} gains: so few cannot reach p = 0.05")
    if comparison.same:
        every = comparison.same + sum(len(block.seeds) for block in blocks)
        notes.append(f"{comparison.same} of {every} pairs are the same computation (equal final weights): left out")
    if comparison.unpaired:
        notes.append(f"{comparison.unpaired} completed runs have no partner with {axis}={baseline} and are left out")
    second = Layout(
        names=[axis, "with"],
        columns=[header(column, len({column.protocol for column in columns}) > 1) for column in columns],
        rows=[(list(key), entries, "") for key, entries in rows.items()],
        caption=(
            "Gain on each set, in points where the error is a per cent: mean [95 % t interval] over seeds (number "
            f"of seeds), baseline's mean error > arm's. Bold and *: {_MARKED} over all gains here."
        ),
        notes=notes,
        problems=excluded_runs(table),
        alarmed=alarmed_of(columns),
    )
    return [first, second]


def corrected_of(comparison: Comparison) -> dict[int, float]:
    """Return id of a block -> p of its gain, corrected for the number of blocks that have pairs (Holm)."""
    blocks = [(block, effect) for block in comparison.blocks if (effect := block.effect) is not None]
    return {id(block): p for (block, _), p in zip(blocks, holm([effect.p for _, effect in blocks]), strict=True)}


def _limits(comparison: Comparison) -> Iterator[str]:
    """Yield why arms cannot be compared with each other, and what they are not judged by."""
    blocks = {one.arm: comparison.judged(one.arm) for one in comparison.overall}
    if len({frozenset((one.column, one.others, one.seeds) for one in judged) for judged in blocks.values()}) > 1:
        counts = (f"{clean(arm)} {sum(len(one.seeds) for one in judged)}" for arm, judged in blocks.items())
        why = "arms have pairs on different sets, settings or seeds, so compare no arm with another"
        yield f"{why}: {', '.join(counts)} pairs"
    if names := clean(", ".join(sorted(comparison.negative))):
        yield f"left out over all sets, since an error below 0 has no per cent of it: {names}"


def _overall_entries(one: Overall) -> list[Entry]:
    return [
        Entry(str(one.sets)),
        Entry(f"{one.wins}/{one.ties}/{one.losses}"),
        Entry(_with_interval(one.points, 2), best=is_sure(one) and not one.is_relative),
        Entry(MISSING if one.worst is None else f"{one.worst[1]:+.1f} {clean(one.worst[0])}"),
        Entry(_with_interval(one.relative, 1), best=is_sure(one) and one.is_relative),
        *(Entry(p_text(p)) for p in (one.judged.p, one.corrected, one.judged.smallest)),
    ]


def _block_entry(block: Block, corrected: float) -> Entry:
    effect = block.effect
    assert effect is not None  # blocks without a pair are not shown
    base, error = (block.column.scale * mean_of(values) for values in (block.baseline, block.errors))
    places = _decimals(effect, 1 if block.column.percent else decimals_of([base, error]))
    lost = f", {block.lost} without partner" if block.lost else ""
    lost += f", at {clean(' > '.join(block.choices))}" if any(block.choices) else ""
    rest = f"{number(base, places)} > {number(error, places)}{lost}"
    is_marked = effect.n >= LEAST and corrected <= LARGEST_P
    return Entry(f"{_with_interval(effect, places)} ({effect.n})", rest, is_marked)


def _with_interval(effect: Effect | None, least: int | None) -> str:
    """Return "+1.2 [0.3, 2.2]" with at least some decimals, or with three significant digits for None."""
    if effect is None:
        return MISSING
    places = _decimals(effect, least)
    return _signed(effect.mean, places) + ("" if effect.interval is None else f" {_ends(*effect.interval, places)}")


def _signed(value: float, places: int | None) -> str:
    text = _unsigned_zero(number(value, places))
    return text if text.startswith("-") else f"+{text}"


def _unsigned_zero(text: str) -> str:
    return text.removeprefix("-") if float(text) == 0 else text


def record_of(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as a JSON-able record, with the values of all pairs; gains in points where errors are per cent."""
    corrected = corrected_of(comparison)
    arms = []
    for one in comparison.overall:
        claim = claim_of(one, comparison)
        arms.append(
            {key: getattr(one, key) for key in ("arm", "sets", "pairs", "wins", "ties", "losses")}
            | {
                "points": one.points and asdict(one.points),
                "worst": one.worst and list(one.worst),
                "relative": asdict(one.relative),
                "judged": "relative" if one.is_relative else "points",
                "holm_p": one.corrected,
                "sentence": claim.sentence,
                "further": claim.lacks and asdict(claim.lacks),
            }
        )
    return {
        "schema": 2,
        "against": {comparison.axis: comparison.baseline},
        "margin": comparison.margin,
        "arms": arms,
        "sets": [
            {
                **vars(block.column),
                "arm": block.arm,
                "others": dict(block.others),
                "seeds": list(block.seeds),
                "baseline": list(block.baseline),
                "errors": list(block.errors),
                "gain": block.effect and asdict(block.effect),
                "holm_p": corrected.get(id(block)),
                "unpaired": block.lost,
                "chosen": list(block.choices),
            }
            for block in comparison.blocks
        ],
        "unpaired": comparison.unpaired,
        "same_computation": comparison.same,
        "negative": sorted(comparison.negative),
    }


def csv_lines(comparison: Comparison) -> Iterator[dict[str, object]]:
    """Yield a line for each arm and set, then for each arm over all sets (task: all sets) one in points and a relative one.

    That in points is of the sets whose error is a per cent. `n` is the number of differences: sets, or seeds of a single one.
    """
    corrected = corrected_of(comparison)
    for block in comparison.blocks:
        line = vars(block.column) | {"error": block.column.error_name, "arm": block.arm, "pairs": len(block.seeds)}
        others = ", ".join(f"{name}={value}" for name, value in block.others)
        line |= {"others": others, "seeds": seeds_text(list(block.seeds)), "unpaired": block.lost}
        line |= {"unit": "points" if block.column.percent else block.column.error_name}
        line |= dict(zip(("baseline_chosen", "chosen"), block.choices, strict=False))
        if (effect := block.effect) is not None:
            line |= {"baseline_mean": mean_of(block.baseline), "mean": mean_of(block.errors)} | _numbers(effect)
            line |= {"holm_p": corrected[id(block)]}
        yield line
    for one in comparison.overall:
        blocks = comparison.judged(one.arm)
        percent = [block for block in blocks if block.column.percent]
        for unit, effect, unit_blocks in (("points", one.points, percent), ("relative", one.relative, blocks)):
            if effect is not None:
                wins, ties, losses = counts(unit_blocks)
                line = {"task": "all sets", "arm": one.arm, "sets": wins + ties + losses, "unit": unit}
                line |= {"pairs": sum(len(block.seeds) for block in unit_blocks)}
                line |= {"wins": wins, "ties": ties, "losses": losses} | _numbers(effect)
                yield line | ({"holm_p": one.corrected} if effect is one.judged else {})


def _numbers(effect: Effect) -> dict[str, object]:
    low, high = effect.interval or (None, None)
    return {"gain": effect.mean, "low": low, "high": high, "p": effect.p, "smallest_p": effect.smallest, "n": effect.n}
