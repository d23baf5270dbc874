"""The formulas of `orca verify` and those of the program, written apart, say the same."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from orca_cli import parts
from orca_cli.bundles.errors import ranking
from orca_cli.bundles.errors.score import CannotComputeError, Saved
from orca_cli.bundles.errors.table import CHUNKS, TABLE, compute
from orca_cli.scoring.defaults import default_error
from tests.commands.test_score import ERRORS, GROUPS, _node
from tests.properties import examples


def _both(name: str, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> tuple[Any, Any, Any]:
    node = _node(name)
    error = parts.build(node, "task.error")
    theirs = error(*map(torch.from_numpy, (outputs, targets, groups)))
    return compute(node, ERRORS[name][0], Saved(outputs, targets, groups), None, 1), theirs, error


def test_every_error_of_the_program_has_a_formula() -> None:
    assert {f"orca_cli.scoring.{name}" for name in ERRORS} == {*TABLE, CHUNKS}


@pytest.mark.parametrize("name", ERRORS)
@examples(8)
@given(seed=st.integers(0, 10_000), coarse=st.sampled_from([0.0, 0.5, 3.0]), unknown=st.booleans())
def test_both_agree_on_any_predictions(name: str, seed: int, coarse: float, unknown: bool) -> None:
    draw = np.random.default_rng(seed)
    kind, _, (outputs, targets) = ERRORS[name]
    order = draw.permutation(len(outputs))
    outputs, targets, groups = outputs[order], targets[order], GROUPS[order]
    outputs = (outputs + draw.normal(size=outputs.shape)).astype(np.float32)
    if coarse:  # many ties
        outputs = np.round(outputs / coarse).astype(np.float32) * np.float32(coarse)
    targets = targets.astype(np.int64 if kind == "classes" else np.float32)
    if unknown:
        targets = np.where(draw.random(targets.shape) < 0.1, -100 if kind == "classes" else np.nan, targets)
        targets = targets.astype(np.int64 if kind == "classes" else np.float32)
        groups = np.arange(len(outputs))  # samples of one record have one target
    mine, theirs, error = _both(name, outputs, targets, groups)
    assert (mine.name, mine.percent, mine.n, mine.skipped) == (error.name, error.percent, theirs.n, theirs.skipped)
    assert mine.value == pytest.approx(theirs.value, rel=1e-9, abs=1e-12)
    assert dict(mine.others) == pytest.approx(dict(theirs.others), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kind", ["classes", "labels", "values", "dense"])
@pytest.mark.parametrize("integers", [True, False])
def test_a_task_without_an_error_has_the_usual_one(kind: str, integers: bool) -> None:
    outputs = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    targets = np.arange(12) % 3 if integers else (outputs > 0).astype(np.float32)
    if (kind in ("labels", "values")) == integers or (kind == "classes" and not integers):
        return  # not targets of that kind
    expected = default_error(kind, integers)
    score = expected(torch.from_numpy(outputs), torch.from_numpy(targets))
    mine = compute(None, kind, Saved(outputs, targets), None, 1)
    assert (mine.name, mine.value) == (expected.name, pytest.approx(score.value))


def test_areas_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(3)
    present, scores = draw.random(200) < 0.3, np.round(draw.normal(size=200), 1)
    assert ranking.auroc(scores, present) == pytest.approx(metrics.roc_auc_score(present, scores))
    assert ranking.average_precision(scores, present) == pytest.approx(metrics.average_precision_score(present, scores))


@pytest.mark.parametrize(
    ("node", "what"),
    [
        ({"_target_": "os.system"}, "not an error of the program"),
        ({"_target_": "mine.Error"}, "not an error of the program"),
        ({"_target_": ["a"]}, "not an error of the program"),
        ({"_target_": "orca_cli.scoring.classification.MacroF1", "by": 3}, "not an argument"),
        ({"_target_": "orca_cli.scoring.classification.MacroF1", "num_classes": True}, "not an argument"),
        ({"_target_": "orca_cli.scoring.classification.ZeroOne", "saved": 1}, "not an argument"),
        ({"_target_": CHUNKS, "size": 0, "error": {"_target_": "x"}}, "no size"),
        ("rmse", "not a name of the errors"),
        ([1], "not an error"),
    ],
)
def test_what_a_stranger_names_is_not_called(node: Any, what: str) -> None:
    saved = Saved(np.zeros((4, 2), np.float32), np.zeros(4, np.int64))
    with pytest.raises(CannotComputeError, match=what):
        compute(node, "classes", saved, None, 1)


def test_a_class_of_any_number_takes_no_memory() -> None:
    saved = Saved(np.zeros((3, 2), np.float32), np.array([0, 2**62, 1]))
    node = {"_target_": "orca_cli.scoring.classification.Balanced"}
    assert compute(node, "classes", saved, None, 1).n == 2


def test_verify_imports_no_heavy_package() -> None:
    code = (
        "import sys; from orca_cli.cli import main\n"
        "try: main(['verify', sys.argv[1]])\n"
        "except SystemExit: pass\n"
        "import orca_cli.bundles.verification\n"
        "heavy = {'torch', 'transformers', 'ot', 'hydra', 'omegaconf', 'scipy', 'sklearn', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code, "absent.zip"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
