"""The gains of `paired` as sentences and tables, and as a record for other programs."""

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

MARGIN = 0.5  # points, or per cent of the error; mean gains up to this size count as no effect
_MARKED = f"significant (at least {LEAST} differences, p <= {LARGEST_P} after Holm's correction)"


def sentence(arm: Overall, comparison: Comparison) -> str:
    """Return the verdict on an arm, as one line.

    Such as "otdd: helps, +1.9 [1.1, 2.7] points (n = 12 data sets x 5 seeds, p = 0.02)". An arm
    helps or harms if the sign of its gain is significant (`is_sure`) and the interval leaves out 0.
    It has no effect beyond `MARGIN` if two one-sided t tests of at least six differences show that.
    Otherwise it is undecided.
    """
    gain = arm.gain
    n_arms = len(comparison.overall)
    fewest, largest = arm.seeds
    seeds = counted(largest, "seed")
    if fewest < largest:
        seeds = f"{fewest} to {seeds}"
    # The differences that are tested are those of data sets, or of the seeds of a single data set.
    evidence = f"n = {arm.sets} data sets x {seeds}"
    if arm.sets == 1:
        evidence = f"n = {seeds}, one data set"
    evidence += f", p = {p_text(arm.holm_p)}"
    if n_arms > 1:
        evidence += f" corrected for {n_arms} arms"
    lower_end, upper_end = gain.interval or (0.0, 0.0)  # a single difference is never significant
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
        # Even differences of the same sign would not be significant: Holm's correction multiplies
        # the smallest p by the number of arms.
        if gain.smallest * n_arms > LARGEST_P:
            evidence += "; too few differences to reach p = 0.05"
    return f"{arm.arm}: {verdict}, {gain_text(gain, 1)} {comparison.unit} ({evidence})"


def is_sure(judged: Overall | Block) -> bool:
    """Return whether a mean gain is significant: at least six differences, Holm's p <= 0.05."""
    return judged.gain.n >= LEAST and judged.holm_p <= LARGEST_P


def gain_text(effect: Effect, decimals: int | None) -> str:
    """Return a mean and its interval, such as "+1.2 [0.3, 2.2]"; one difference has no interval.

    `decimals` is the smallest number of decimals. There are more, up to nine, if the largest of the
    three numbers would otherwise be shown as 0. None gives three significant digits.
    """
    interval_ends = effect.interval or ()
    largest_size = max(map(abs, (effect.mean, *interval_ends)))
    # A size that differs from 0 by rounding only is shown as 0.
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
    """Return two tables: arms over all data sets, with their verdicts, and arms by data set."""
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
        # The entries are in the order of the columns below.
        gain_entry = Entry(text=gain_text(arm.gain, 1), best=is_sure(arm))
        rows.append(Line(names=[clean(arm.arm)], entries=[gain_entry, *map(Entry, texts)]))
    caption = (
        f"gain: error with {axis}={baseline} minus the arm's error; above 0, the arm is better. "
        "Both runs of a pair have the same seed, settings, data and training length, except for "
        f"differences that {axis} causes. Shown: mean [95 % t interval] over data sets, "
        "or over the seeds if there is only one data set. A data set counts once, with the mean "
        "over its seeds and settings. "
        "points: percentage points. % of the error: the difference divided by the mean of the two "
        "errors. wins/ties/losses: number of data sets with a gain above, equal to and below 0. "
        "p: exact sign-flip test. Holm: p corrected for the number of arms. "
        f"Bold and *: {_MARKED}."
    )
    return Layout(
        names=[axis],
        columns=[
            ["gain", comparison.unit],
            ["data sets"],
            ["wins/ties/losses"],
            ["p"],
            ["p, Holm"],
        ],
        rows=rows,
        caption=caption,
        notes=[sentence(arm, comparison) for arm in comparison.overall],
    )


def _by_set(comparison: Comparison) -> Layout:
    """Return every arm's gain on each data set, and below it the mean errors of control and arm."""
    # Rows are made in this order, so that the rows of an arm are adjacent.
    blocks = sorted(comparison.blocks, key=lambda block: (block.arm, block.others))
    columns = sorted({block.column for block in blocks})
    # A note names the settings that all blocks share; rows name only settings that differ.
    shared = set(blocks[0].others)
    for block in blocks:
        shared.intersection_update(block.others)
    entries_of: dict[tuple[str, str], list[Entry]] = {}  # arm and settings -> its gains by column
    has_settings = False
    for block in blocks:
        # Settings in which blocks differ distinguish the rows of an arm.
        telling_settings = [setting for setting in block.others if setting not in shared]
        if telling_settings:
            has_settings = True
        row_names = (clean(block.arm), clean(settings_text(telling_settings)))
        # "-" on data sets where the arm has no pair with these settings.
        entries = entries_of.setdefault(row_names, [Entry(text="-") for _ in columns])
        entries[columns.index(block.column)] = _gain_entry(block)
    # The names of a row are its arm and, if any row has settings, its settings.
    name_headers = [clean(comparison.axis)]
    if has_settings:
        name_headers.append("with")
    rows = []
    for row_names, entries in entries_of.items():
        # If no row has settings, the table has no column for them.
        shown_names = list(row_names[: len(name_headers)])
        rows.append(Line(names=shown_names, entries=entries))
    control = clean(f"{comparison.axis}={comparison.baseline}")
    caption = (
        "Gain on each data set, in percentage points if the error is in per cent: mean [95 % t "
        "interval] over seeds (number of seeds). Below each gain, left of >: mean error with "
        f"{control}; right of >: mean error of the arm. Bold and *: {_MARKED}. "
        "Holm's correction is for all gains of this table."
    )
    return Layout(
        names=name_headers,
        columns=headers(columns),
        rows=rows,
        caption=caption,
        notes=_notes_by_set(comparison, shared),
    )


def _gain_entry(block: Block) -> Entry:
    """Return a block's gain, and below it both mean errors and the values that were chosen."""
    # Stored errors are fractions where they are shown in per cent.
    baseline_error = block.column.scale * fmean(block.baseline)
    arm_error = block.column.scale * fmean(block.errors)
    # Percentages have one decimal, like the gains over all data sets; for other errors the size
    # decides.
    decimals = 1 if block.column.percent else decimals_of([baseline_error, arm_error])
    errors = f"{number_text(baseline_error, decimals)} > {number_text(arm_error, decimals)}"
    if block.chosen:
        errors += f", at {clean(' > '.join(block.chosen))}"
    text = f"{gain_text(block.gain, decimals)} ({block.gain.n})"
    return Entry(text=text, rest=errors, best=is_sure(block))


def _notes_by_set(comparison: Comparison, shared: set[tuple[str, str]]) -> list[str]:
    """Return notes on the settings that all blocks share, and on runs and pairs left out."""
    notes = []
    if shared:
        settings = settings_text(sorted(shared))
        notes.append(f"all runs with {clean(settings, longest=2000)}")
    n_same = comparison.same
    if n_same:
        # Without pairs that differ in more than the axis, which have a separate note.
        n_pairs = n_same
        for arm in comparison.overall:
            n_pairs += arm.pairs
        pairs_text = counted(n_pairs, "pair")
        notes.append(
            f"left out: {n_same} of {pairs_text}, since both runs of such a pair computed the same "
            "model (equal final weights)"
        )
    if comparison.left_out:
        notes.append(f"left out: {left_out_text(comparison.axis, comparison.left_out)}")
    # Within a pair the program is the same; between pairs it may differ, which a reader should
    # know.
    if len(comparison.programs) > 1:
        programs = clean(", ".join(comparison.programs))
        notes.append(
            f"these runs were made by several versions of the program ({programs}), but the two "
            "runs of each pair were made by the same version"
        )
    if comparison.unpaired:
        runs_text = counted(comparison.unpaired, "completed run")
        partner = f"{clean(comparison.axis)}={clean(comparison.baseline)}"
        notes.append(f"left out: {runs_text}, for which there is no matching run with {partner}")
    return notes


def record_of(comparison: Comparison) -> Record:
    """Return the comparison as a JSON-able record.

    Errors of all pairs are as stored; gains are in points if the error is in per cent.
    """
    arms = [asdict(arm) | {"sentence": sentence(arm, comparison)} for arm in comparison.overall]
    sets = []
    for block in comparison.blocks:
        # Settings as an object, so that each gets a separate field in CSV.
        fields = asdict(block) | {"others": dict(block.others)}
        # The fields of the column come first: task, protocol and so on.
        sets.append(fields.pop("column") | fields)
    left_out = []
    for pair in comparison.left_out:
        # Under the names of a block's fields, so that CSV puts them in the same columns.
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
