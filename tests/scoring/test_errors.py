"""Every error of the program: its formula, its best constant, the inputs that it refuses, and its short names."""

import importlib
import inspect
import pkgutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orca_cli import scoring
from orca_cli.config import parts
from orca_cli.exceptions import ConfigError, DataError, NonFiniteError
from orca_cli.interfaces import KINDS
from orca_cli.scoring.checks import aurocs
from orca_cli.scoring.classification import MacroF1, ZeroOne
from orca_cli.scoring.dense import LongRangeMAE
from orca_cli.scoring.losses import MaskedBCE, MaskedCrossEntropy, MaskedMSE, default_loss
from orca_cli.scoring.multilabel import MeanAveragePrecision
from orca_cli.scoring.regression import RMSE, MeanSquared
from orca_cli.scoring.reported import ChunkMean, named_error
from tests.properties import examples
from tests.scoring.cases import CASES, FORMS
from tests.scoring.formulas import FORMULAS

NAN = float("nan")
SINGLE = [case for case in CASES if case.name in FORMULAS]


def test_every_error_of_the_program_has_a_formula_and_cases():
    modules = [f"orca_cli.scoring.{one.name}" for one in pkgutil.iter_modules(scoring.__path__)]
    errors = {
        f"{name.rpartition('.')[2]}.{kind}"
        for name in modules
        for kind, part in inspect.getmembers(importlib.import_module(name), inspect.isclass)
        if part.__module__ == name and kind[0] != "_" and hasattr(part, "constant")
    }
    assert errors == {*FORMULAS, "reported.ChunkMean"} == {case.name for case in CASES}
    assert {FORMS[case.form] for case in CASES} == set(KINDS)


@pytest.mark.parametrize("case", SINGLE, ids=str)
@examples(6)
@given(
    st.integers(0, 2**31), st.sampled_from([0.0, 0.5, 3.0]), st.sampled_from([0.0, 0.2, 0.8, 1.0])
)
def test_every_error_is_what_its_formula_says(case, seed, coarse, unknown):
    arrays = case.drawn(seed, coarse, unknown)
    expected = FORMULAS[case.name](*arrays, **case.settings)
    score = parts.build(case.node, "task.error")(*arrays)
    assert (score.n, score.skipped) == (expected.n, expected.skipped)
    values = numbers(expected.value, expected.others)
    assert numbers(score.value, score.others) == pytest.approx(
        values, rel=1e-9, abs=1e-12, nan_ok=True
    )


def numbers(value, others):
    return {key: NAN if one is None else one for key, one in {"value": value, **others}.items()}


def rivals(case, targets, constant):
    """Yield constants, none of which may beat the best constant of a training set."""
    yield from (np.zeros_like(constant), np.ones_like(constant), constant + 0.3, constant - 0.3)
    if case.form in ("classes", "positions"):
        yield from np.eye(len(constant)).reshape(4, 4, *(1,) * (constant.ndim - 1))
    elif case.form == "maps":
        yield from (np.full_like(constant, distance) for distance in range(2, 12))
    elif case.form in ("values", "fields"):
        yield from (np.nanmean(targets, 0), *np.nan_to_num(targets[:5]))


@pytest.mark.parametrize("case", SINGLE, ids=str)
def test_no_other_constant_is_better_on_its_targets(case):
    error = parts.build(case.node, "task.error")
    counts_unknown = case.settings.get("count_padding") or case.settings.get("count_ignored")
    for seed, unknown in ((0, 0.0), (1, 0.2), (2, 1.0)):
        outputs, targets, groups = case.drawn(seed, 0.0, unknown)
        constant = error.constant(targets, outputs.shape[1])
        assert constant.shape == outputs.shape[1:]
        assert np.isfinite(constant).all()
        value = error(np.broadcast_to(constant, outputs.shape), targets, groups).value
        if unknown == 1.0:
            assert value is None or counts_unknown
        elif "records" not in case.settings.values() and not (
            unknown and counts_unknown
        ):  # the best one of samples
            for rival in rivals(case, targets, constant):
                assert (
                    value
                    <= error(np.broadcast_to(rival, outputs.shape), targets, groups).value + 1e-3
                )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_that_are_not_numbers_are_reported(case):
    """And those whose shape does not fit: (n, H, W) against (n, 1, H, W) would broadcast to (n, n, H, W)."""
    error, (outputs, targets, groups) = (
        parts.build(case.node, "task.error"),
        case.drawn(0, 0.0, 0.2),
    )
    for wrong in (outputs[:, 0], outputs[:, None]):
        with pytest.raises(DataError, match=r"task\.error: outputs .* do not fit .* targets"):
            error(wrong, targets, groups)
    # A class may have a score of NaN, and a logit may be infinite.
    is_number = case.form in ("values", "fields", "rolls", "maps")
    for value in (NAN, float("inf")) if is_number else (NAN,) if case.form == "masks" else ():
        targets[..., 0, -1] = 7.0  # near, and far apart in sequence
        outputs[..., 0, -1] = value
        with pytest.raises(
            NonFiniteError, match=r"task\.error: outputs contain NaN .*\(.+ of .+\)"
        ):
            error(outputs, targets, groups)


@pytest.mark.parametrize(
    ("error", "targets"),
    [
        (MacroF1(by="records"), np.array([0, 1, 1])),
        (MeanAveragePrecision(by="records"), np.eye(3)[:, :2]),
    ],
    ids=["classes", "labels"],
)
@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (None, r"task\.error\.by: .*not cut from records"),
        (np.array([0, 0, 1]), "different targets"),
    ],
    ids=["no records", "mixed records"],
)
def test_errors_of_records_need_records_that_agree(error, targets, groups, message):
    with pytest.raises(DataError, match=message):
        error(np.zeros((3, 2), np.float32), targets, groups)


def test_settings_out_of_range_and_foreign_names_are_refused():
    with pytest.raises(ConfigError, match=r"task\.error\.by: must be one of .*'records'"):
        parts.build(
            {"_target_": "orca_cli.scoring.classification.MacroF1", "by": "record"}, "task.error"
        )
    with pytest.raises(ConfigError, match=r"unknown error 'rmse' .* with integer targets"):
        parts.named("error", "rmse", "dense", True)


# Kind, and whether its targets are classes -> short names of its errors and of its losses, and the default of both.
SHORT_NAMES = {
    ("classes", True): (
        ("zero_one", "balanced", "macro_f1", "auroc"),
        ("cross_entropy",),
        ZeroOne,
        MaskedCrossEntropy,
    ),
    ("labels", False): (("map", "auroc", "macro_f1"), ("bce",), MeanAveragePrecision, MaskedBCE),
    ("values", False): (("rmse", "mae", "r2", "nrmse"), ("mse", "huber", "mae"), RMSE, MaskedMSE),
    ("dense", False): (
        ("rmse", "mse", "relative_l2"),
        ("mse", "huber", "relative_l2"),
        MeanSquared,
        MaskedMSE,
    ),
    ("dense", True): (
        ("zero_one", "balanced", "macro_f1"),
        ("cross_entropy",),
        ZeroOne,
        MaskedCrossEntropy,
    ),
}


@pytest.mark.parametrize(("kind", "integer"), SHORT_NAMES)
def test_every_short_name_is_lower_for_better_outputs(kind, integer):
    rng = np.random.default_rng(0)
    shape = (
        (40,)
        if kind == "classes"
        else (40, 5)
        if integer
        else (40, 3, 5)
        if kind == "dense"
        else (40, 3)
    )
    y = torch.from_numpy(
        rng.integers(0, 3, shape) if integer else rng.normal(2, 1, shape).astype(np.float32)
    )
    y = (y > 2).float() if kind == "labels" else y
    good = torch.nn.functional.one_hot(y, 3).movedim(-1, 1).float() * 9 if integer else y.clone()
    good = (2 * good - 1) * 9 if kind == "labels" else good
    bad = good[torch.from_numpy(rng.permutation(40))]
    errors, losses, *defaults = SHORT_NAMES[kind, integer]
    assert [
        type(named_error(None, kind, integer, None, 1)),
        type(default_loss(kind, integer)),
    ] == defaults
    for setting, names in (("error", errors), ("loss", losses)):
        for name in names:
            part = parts.build(parts.named(setting, name, kind, integer), f"task.{setting}")
            pair = [
                part(z.numpy(), y.numpy()).value if setting == "error" else part(z, y)
                for z in (good, bad)
            ]
            assert pair[0] < 0.01 < 0.1 < pair[1], name


def test_averaging_a_map_in_place_twice_is_three_quarters():
    output = np.random.default_rng(0).uniform(1, 9, (6, 6))
    twice = output.copy()
    for _ in range(2):
        for i in range(6):
            for j in range(i + 1, 6):
                twice[i, j] = (twice[i, j] + twice[j, i]) / 2
    target = np.full((1, 1, 6, 6), NAN)
    target[0, 0, 1, 4] = 5.0
    score = LongRangeMAE(separation=1, symmetrize_twice=True)(output[None, None], target)
    assert score.value == pytest.approx(abs(twice[1, 4] - 5.0))


@pytest.mark.parametrize(
    ("n", "batch", "drop_tail", "chunks", "last"),
    [
        (100_000, 32, True, 97, 1024),  # satellite images: 672 samples dropped
        (32_470, 4, False, 33, 470),  # electrocardiograms
        # 31 full batches and a batch of 16: 32 x 16 is less than a full chunk.
        (2032, 32, True, 1, 1024),
    ],
)
def test_chunks_are_those_of_the_published_code(n, batch, drop_tail, chunks, last):
    class Noted(ZeroOne):
        seen = []

        def __call__(self, outputs, targets, groups=None):
            self.seen.append(super().__call__(outputs, targets))
            return self.seen[-1]

    outputs = np.random.default_rng(0).normal(size=(n, 2))
    score = ChunkMean(Noted(), 1000, batch, drop_tail)(outputs, np.zeros(n, int))
    whole, *parts_of_it = Noted.seen
    assert (whole.n, len(parts_of_it), parts_of_it[-1].n) == (n, chunks, last)
    assert (score.n, score.value) == (
        chunks,
        pytest.approx(np.mean([one.value for one in parts_of_it])),
    )


def test_columns_beyond_one_block_have_the_same_areas():
    """Ranks are taken of some columns at a time: 4 million entries fit at once, and these are more."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3000, 1500)).astype(np.float32)
    present = rng.random(scores.shape) < 0.4
    is_known = rng.random(scores.shape) < 0.9
    areas = aurocs(scores, present, is_known)
    columns = [0, 1397, 1398, 1499]  # the first block has 1,398
    alone = aurocs(scores[:, columns], present[:, columns], is_known[:, columns])
    assert areas.shape == (1500,)
    assert np.array_equal(areas[columns], alone)
