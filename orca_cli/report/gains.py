"""The gains of `paired` in words and tables, and as a record for other programs."""

import math
from dataclasses import asdict
from statistics import fmean

from orca_cli.report.collect import Record
from orca_cli.report.differences import LARGEST_P, LEAST, ROUNDING, Effect, no_effect
from orca_cli.report.layout import (
    Entry,
    Layout,
    Line,
    clean,
    decimals_of,
    headers,
    number_text,
    p_text,
    settings_text,
)
from orca_cli.report.paired import Block, Comparison, Overall, left_out_text
from orca_cli.terminal import counted

MARGIN = 0.5  # points, or per cent of the error: a mean gain within it counts as none
_MARKED = f"{LEAST} or more differences and p <= {LARGEST_P} after Holm's correction"


def sentence(arm: Overall, comparison: Comparison) -> str:
    """Return what is known about an arm, as one line.

    Such as "otdd: helps, +1.9 [1.1, 2.7] points (n = 12 sets x 5 seeds, p = 0.02)". An arm helps or
    harms where the sign of its gain is sure and the interval has one sign. It has no effect beyond
    `MARGIN` where six differences or more say so by two one-sided t tests. Else it is undecided.
    """
    gain = arm.gain
    n_arms = len(comparison.overall)
    fewest, largest = arm.seeds
    seeds = counted(largest, "seed")
    if fewest < largest:
        seeds = f"{fewest} to {seeds}"
    # n counts the differences that the arm is judged by: sets, or the seeds of a single set.
    evidence = f"n = {arm.sets} sets x {seeds}"
    if arm.sets == 1:
        evidence = f"n = {seeds}, one set"
    evidence += f", p = {p_text(arm.holm_p)}"
    if n_arms > 1:
        evidence += f" corrected for {n_arms} arms"
    lower_end, upper_end = gain.interval or (0.0, 0.0)  # a single difference is never sure
    p_within = no_effect(gain, MARGIN)
    # The sign-flip test and the t interval may disagree; a verdict on the sign needs both.
    if is_sure(arm) and lower_end > 0:
        verdict = "helps"
    elif is_sure(arm) and upper_end < 0:
        verdict = "harms"
    elif gain.n >= LEAST and p_within <= LARGEST_P:
        verdict = f"no effect beyond ±{MARGIN:g} {comparison.unit}"
        evidence += f"; two one-sided t tests: p = {p_text(p_within)}"
    else:
        verdict = "undecided"
        # Not even differences of one sign would be sure.
        # Holm's correction multiplies the smallest p by the number of arms.
        if gain.smallest * n_arms > LARGEST_P:
            evidence += "; too few differences to reach p = 0.05"
    return f"{arm.arm}: {verdict}, {gain_text(gain, 1)} {comparison.unit} ({evidence})"


def is_sure(judged: Overall | Block) -> bool:
    """Return whether a mean gain's sign is shown: six differences or more, Holm's p <= 0.05."""
    return judged.gain.n >= LEAST and judged.holm_p <= LARGEST_P


def gain_text(effect: Effect, decimals: int | None) -> str:
    """Return a mean and its interval, such as "+1.2 [0.3, 2.2]"; one difference has no interval.

    `decimals` is their least number; there are more, up to nine, where the largest of the three
    would be shown as 0. None gives three significant digits.
    """
    interval_ends = effect.interval or ()
    largest_size = max(map(abs, (effect.mean, *interval_ends)))
    # A size of 0 but for rounding is shown as 0.
    if decimals is not None and ROUNDING < largest_size < math.inf:
        # At this many decimals the largest of the three shows a digit other than 0.
        needed_decimals = -math.floor(math.log10(largest_size))
        decimals = min(9, max(decimals, needed_decimals))
    mean_text = number_text(effect.mean, decimals, "+")
    if effect.interval is None:
        return mean_text
    lower_end, upper_end = effect.interval
    return f"{mean_text} [{number_text(lower_end, decimals)}, {number_text(upper_end, decimals)}]"


def layouts_of(comparison: Comparison) -> list[Layout]:
    """Return two tables: the arms over all sets, with their sentences, and the arms by set."""
    return [_over_sets(comparison), _by_set(comparison)]


def _over_sets(comparison: Comparison) -> Layout:
    axis = clean(comparison.axis)
    baseline = clean(comparison.baseline)
    rows = []
    for arm in comparison.overall:
        texts = [
            str(arm.sets),
            f"{arm.wins}/{arm.ties}/{arm.losses}",
            p_text(arm.gain.p),
            p_text(arm.holm_p),
        ]
        # In the order of the columns below.
        gain_entry = Entry(text=gain_text(arm.gain, 1), best=is_sure(arm))
        rows.append(Line(names=[clean(arm.arm)], entries=[gain_entry, *map(Entry, texts)]))
    caption = (
        f"Gain over {axis}={baseline}, in pairs of equal seed, settings, data and length, but for "
        f"what {axis} sets; above 0: lower error. Mean [95 % t interval] over sets, each with the "
        "mean over its seeds and settings. % of the error: the difference over the mean of both "
        "errors. p: exact sign-flip test; Holm: corrected for the number of arms. "
        f"Bold and *: {_MARKED}."
    )
    return Layout(
        names=[axis],
        columns=[["gain", comparison.unit], ["sets"], ["wins/ties/losses"], ["p"], ["p, Holm"]],
        rows=rows,
        caption=caption,
        notes=[sentence(arm, comparison) for arm in comparison.overall],
    )


def _by_set(comparison: Comparison) -> Layout:
    """Return the gains of every arm on each set, with the mean errors of baseline and arm below."""
    # Rows are made in this order, so that those of an arm are together.
    blocks = sorted(comparison.blocks, key=lambda block: (block.arm, block.others))
    columns = sorted({block.column for block in blocks})
    # What all blocks share is in a note, so that rows name only what tells them apart.
    shared = set(blocks[0].others)
    for block in blocks:
        shared.intersection_update(block.others)
    entries_of: dict[tuple[str, str], list[Entry]] = {}  # arm and settings -> its gains by column
    has_settings = False
    for block in blocks:
        # Settings in which blocks differ tell the rows of an arm apart.
        telling_settings = [setting for setting in block.others if setting not in shared]
        if telling_settings:
            has_settings = True
        row_names = (clean(block.arm), clean(settings_text(telling_settings)))
        # "-" on sets where the arm has no pair with these settings.
        entries = entries_of.setdefault(row_names, [Entry(text="-") for _ in columns])
        entries[columns.index(block.column)] = _gain_entry(block)
    # The names of a row are its arm and, where any row has some, its settings.
    name_headers = [clean(comparison.axis)]
    if has_settings:
        name_headers.append("with")
    rows = []
    for row_names, entries in entries_of.items():
        # Without settings in any row there is no column for them.
        shown_names = list(row_names[: len(name_headers)])
        rows.append(Line(names=shown_names, entries=entries))
    caption = (
        "Gain on each set, in points where the error is a per cent: mean [95 % t interval] over "
        "seeds (number of seeds), baseline's mean error > arm's. "
        f"Bold and *: {_MARKED} over all gains here."
    )
    return Layout(
        names=name_headers,
        columns=headers(columns),
        rows=rows,
        caption=caption,
        notes=_notes_by_set(comparison, shared),
    )


def _gain_entry(block: Block) -> Entry:
    """Return a block's gain; below it the mean errors, and what was chosen for the two methods."""
    # Stored errors are fractions where they are shown in per cent.
    baseline_error = block.column.scale * fmean(block.baseline)
    arm_error = block.column.scale * fmean(block.errors)
    # Per cents have a decimal, as the gains over all sets; other errors need theirs by size.
    decimals = 1 if block.column.percent else decimals_of([baseline_error, arm_error])
    errors = f"{number_text(baseline_error, decimals)} > {number_text(arm_error, decimals)}"
    if block.chosen:
        errors += f", at {clean(' > '.join(block.chosen))}"
    text = f"{gain_text(block.gain, decimals)} ({block.gain.n})"
    return Entry(text=text, rest=errors, best=is_sure(block))


def _notes_by_set(comparison: Comparison, shared: set[tuple[str, str]]) -> list[str]:
    """Return the settings that all blocks share, and which runs and pairs do not count."""
    notes = []
    if shared:
        settings = settings_text(sorted(shared))
        notes.append(f"all with {clean(settings, longest=2000)}")
    n_same = comparison.same
    if n_same:
        # Without pairs that differ in more than the axis, which have a note of their own.
        n_pairs = n_same
        for arm in comparison.overall:
            n_pairs += arm.pairs
        pairs_text = counted(n_pairs, "pair")
        notes.append(
            f"left out of {pairs_text}, as the same computation (equal final weights): {n_same}"
        )
    if comparison.left_out:
        notes.append(f"left out: {left_out_text(comparison.axis, comparison.left_out)}")
    # Within a pair the program is the same; between pairs it may differ, which a reader should
    # know.
    if len(comparison.programs) > 1:
        programs = clean(", ".join(comparison.programs))
        notes.append(f"programs, each of which made both runs of its pairs: {programs}")
    if comparison.unpaired:
        runs_text = counted(comparison.unpaired, "completed run")
        partner = f"{clean(comparison.axis)}={clean(comparison.baseline)}"
        notes.append(f"{runs_text} without a partner of {partner}: left out")
    return notes


def record_of(comparison: Comparison) -> Record:
    """Return the comparison as a JSON-able record.

    Errors of all pairs are as stored, gains in points where errors are per cent.
    """
    arms = [asdict(arm) | {"sentence": sentence(arm, comparison)} for arm in comparison.overall]
    sets = []
    for block in comparison.blocks:
        # Settings as an object, so that each has a field of its own in CSV.
        fields = asdict(block) | {"others": dict(block.others)}
        # The fields of the column come first: task, protocol and so on.
        sets.append(fields.pop("column") | fields)
    left_out = []
    for pair in comparison.left_out:
        # Under the names that a block has for them, so that CSV puts them in the same columns.
        facts = {"arm": pair.arm, "seeds": [pair.seed], "differs": pair.differs}
        left_out.append(vars(pair.column) | facts)
    return {
        "schema": 6,
        "against": {comparison.axis: comparison.baseline},
        "margin": MARGIN,
        "unit": comparison.unit,
        "arms": arms,
        "sets": sets,
        "unpaired": comparison.unpaired,
        "same_computation": comparison.same,
        "left_out": left_out,
        "programs": comparison.programs,
    }
