"""Errors that are chosen by name: against scikit-learn, and by hand."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from orca_cli import parts, short_names
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import IGNORED_CLASS, KINDS
from orca_cli.scoring.classification import Balanced, ClassAUROC
from orca_cli.scoring.multilabel import LabelMacroF1
from tests.properties import examples


@examples(60)
@given(st.integers(0, 2**31), st.integers(2, 60), st.integers(2, 5))
def test_balanced_error_agrees_with_scikit_learn(seed, n, k):
    rng = np.random.default_rng(seed)
    targets, outputs = rng.integers(0, k, n), rng.normal(size=(n, k))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # predicted classes that are not among the targets
        expected = 1 - balanced_accuracy_score(targets, outputs.argmax(1))
    score = Balanced()(torch.from_numpy(outputs), torch.from_numpy(targets))
    assert score.value == pytest.approx(expected)
    assert (score.n, score.skipped) == (len(set(targets)), k - len(set(targets)))


def test_a_constant_has_a_balanced_error_of_chance_however_rare_a_class_is():
    targets = torch.tensor([0] * 95 + [1] * 5 + [IGNORED_CLASS])
    constant = Balanced().constant(targets, 2)
    assert Balanced()(constant.expand(101, 2), targets).value == 0.5
    assert Balanced()(torch.full((101, 2), float("nan")), targets).value == 1.0  # no class is predicted
    assert Balanced()(constant.expand(101, 2), torch.full((101,), IGNORED_CLASS)).value is None


@examples(60)
@given(st.integers(0, 2**31), st.integers(2, 4))
def test_auroc_of_classes_agrees_with_scikit_learn(seed, k):
    rng = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(k), rng.integers(0, k, 30)])
    outputs = rng.normal(size=(len(targets), k))
    probabilities = torch.from_numpy(outputs).softmax(1).numpy()
    expected = roc_auc_score(targets, probabilities[:, 1] if k == 2 else probabilities, multi_class="ovr")
    assert ClassAUROC()(torch.from_numpy(outputs), torch.from_numpy(targets)).value == pytest.approx(1 - expected)


def test_auroc_skips_classes_that_no_or_every_sample_has():
    outputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    score = ClassAUROC()(outputs, torch.tensor([0, 1, 0, 1, 0, 1]))
    assert (score.n, score.skipped) == (2, 1)
    assert ClassAUROC()(outputs, torch.zeros(6, dtype=torch.int64)).value is None
    constant = ClassAUROC().constant(torch.tensor([0, 1, 1]), 3)
    assert ClassAUROC()(constant.expand(6, 3), torch.tensor([0, 1, 0, 1, 0, 2])).value == 0.5


@examples(60)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 5))
def test_macro_f1_of_labels_agrees_with_scikit_learn(seed, n, k):
    rng = np.random.default_rng(seed)
    targets, outputs = rng.integers(0, 2, (n, k)), rng.normal(size=(n, k))
    occurs = (targets.any(0)) | (outputs > 0).any(0)
    score = LabelMacroF1()(torch.from_numpy(outputs), torch.from_numpy(targets).float())
    assert (score.n, score.skipped) == (occurs.sum(), k - occurs.sum())
    if occurs.any():
        each = [f1_score(targets[:, j], outputs[:, j] > 0, zero_division=0) for j in np.flatnonzero(occurs)]
        assert score.value == pytest.approx(1 - np.mean(each))


def test_every_short_name_is_a_part_and_its_error_is_lower_for_better_outputs():
    rng = np.random.default_rng(0)
    targets = {
        ("classes", True): torch.from_numpy(rng.integers(0, 3, 40)),
        ("labels", False): torch.from_numpy(rng.integers(0, 2, (40, 3))).float(),
        ("values", False): torch.from_numpy(rng.normal(2, 1, (40, 3))).float(),
        ("dense", False): torch.from_numpy(rng.normal(2, 1, (40, 3, 5))).float(),
        ("dense", True): torch.from_numpy(rng.integers(0, 3, (40, 5))),
    }
    assert {kind for kind, _ in targets} == set(KINDS)
    for (kind, integer), y in targets.items():
        good = torch.nn.functional.one_hot(y, 3).movedim(-1, 1).float() * 9 if integer else y.clone()
        good = (2 * good - 1) * 9 if kind == "labels" else good
        bad = good[torch.from_numpy(rng.permutation(40))]
        for setting in ("error", "loss"):
            names = short_names._of_kind(setting, kind, integer)
            assert names
            for name in names:
                part = parts.build(short_names.node(setting, name, kind, integer), f"task.{setting}")
                low, high = (part(outputs, y) for outputs in (good, bad))
                if setting == "error":
                    low, high = low.value, high.value
                    assert part.constant(y, 3).shape == good.shape[1:]
                assert low < 0.01 < 0.1 < high, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("error", "balanced", "values"),
            r"task\.error: 'balanced' is not .* of task\.kind=values; allowed: rmse, mae, r2",
        ),
        (("error", "balance", "classes"), r"did you mean 'balanced'\? allowed: zero_one, balanced, macro_f1, auroc"),
        (("error", "rmse", "dense", True), r"'rmse' is not .* with integer targets"),
        (("loss", "huber", "classes"), r"task\.loss: 'huber' .*allowed: cross_entropy"),
        (("error", "f1", None), r"task\.error: 'f1' is not a name of the errors"),
    ],
)
def test_names_that_a_kind_does_not_have_are_refused_with_those_that_it_has(arguments, message):
    with pytest.raises(ConfigError, match=message):
        short_names.node(*arguments)


def test_what_only_the_data_say_is_not_refused_before():
    assert short_names.node("error", "balanced", "dense") == short_names.node("error", "balanced", "dense", True)
    assert short_names.node("error", "balanced", None) == short_names.node("error", "balanced", "classes")
    node = {"_target_": "x.Y"}
    assert short_names.node("error", node, "classes") is node
