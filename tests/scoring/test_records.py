"""Macro F1 and mean average precision, by samples and by records: against scikit-learn and by hand."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from orca_cli import parts
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import IGNORED_CLASS
from orca_cli.scoring.classification import MacroF1
from orca_cli.scoring.multilabel import MeanAveragePrecision
from tests.properties import examples

NAN = float("nan")


def one_hot(classes, k):
    return torch.nn.functional.one_hot(torch.as_tensor(classes), k).float()


def expected_f1(truth, predicted, k):
    present = sorted((set(truth) | set(predicted)) & set(range(k)))
    return 1 - f1_score(truth, predicted, labels=present, average="macro", zero_division=0) if present else None


@examples(60)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(2, 6), st.integers(1, 8))
def test_macro_f1_agrees_with_scikit_learn_over_samples_and_records(seed, n, k, num_records):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, num_records, n) * 7 - 3  # any numbers name records
    label = rng.integers(0, k, 100)
    truth = label[groups]
    outputs = rng.integers(0, 3, (n, k)) / 2.0  # few levels: many ties
    predicted = outputs.argmax(1)
    votes = []
    for record in np.unique(groups):
        mine = groups == record
        count = Counter(predicted[mine].tolist())
        best = [c for c in range(k) if count[c] == max(count.values())]
        votes.append(max(best, key=lambda c: (outputs[mine, c].mean(), -c)))
    record_truth = label[np.unique(groups)]
    given_ = torch.from_numpy(outputs), torch.from_numpy(truth), torch.from_numpy(groups)

    score = MacroF1()(*given_)
    by_sample, by_record = expected_f1(truth, predicted, k), expected_f1(record_truth, votes, k)
    assert score.value == pytest.approx(by_sample)
    assert score.n == len(set(truth) | set(predicted))
    assert score.n + score.skipped == k
    assert score.others == {"1 - macro F1 of records": pytest.approx(by_record)}

    score = MacroF1(by="records", also_first=2)(*given_)
    assert score.value == pytest.approx(by_record)
    assert score.others["1 - macro F1 of samples"] == pytest.approx(by_sample)
    first_two = expected_f1(record_truth, votes, 2)
    if k > 2:
        assert score.others["1 - macro F1 of records, classes 0-1"] == (first_two and pytest.approx(first_two))
    assert MacroF1(num_classes=2)(*given_[:2]).value == pytest.approx(expected_f1(truth, predicted, 2))


def test_votes_are_counted_before_outputs_are_compared():
    # Record 5: classes 0, 0, 1, the last one loudly. Record 2: one vote each, class 1 with the larger mean output.
    outputs = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 90.0], [1.0, 0.0], [0.0, 2.0]])
    groups = torch.tensor([5, 5, 5, 2, 2])
    assert MacroF1(by="records")(outputs, torch.tensor([0, 0, 0, 1, 1]), groups).value == 0
    assert MacroF1(by="records")(outputs, torch.tensor([1, 1, 1, 0, 0]), groups).value == 1
    # Without the loud sample, which is no number, the record's votes stay as they are; a record of NaN alone is wrong.
    broken = outputs.clone()
    broken[2] = NAN
    broken[3:] = NAN
    score = MacroF1(by="records")(broken, torch.tensor([0, 0, 0, 1, 1]), groups)
    assert (score.value, score.n) == (0.5, 2)


def test_outputs_of_nan_are_wrong_and_ignored_samples_do_not_count():
    truth = torch.tensor([0, 1, 1, IGNORED_CLASS])
    outputs = one_hot([0, 1, 1, 0], 2)
    assert MacroF1()(outputs, truth).value == 0
    outputs[2] = NAN
    assert MacroF1()(outputs, truth).value == pytest.approx(1 - (1 + 2 / 3) / 2)
    assert MacroF1(by="records")(one_hot([0, 1, 1, 0], 2), truth, torch.tensor([0, 1, 1, 2])).value == 0


def test_macro_f1_of_positions_and_of_nothing():
    targets = torch.tensor([[[0, 1], [2, IGNORED_CLASS]]])
    outputs = one_hot([[[0, 1], [1, 0]]], 4).movedim(-1, 1)
    score = MacroF1()(outputs, targets)
    assert (score.value, score.n, score.skipped) == (pytest.approx(1 - (1 + 2 / 3 + 0) / 3), 3, 1)
    nothing = MacroF1()(torch.zeros(2, 3), torch.full((2,), IGNORED_CLASS), torch.arange(2))
    assert (nothing.value, nothing.n, nothing.skipped) == (None, 0, 3)


@examples(30)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(2, 5))
def test_no_constant_class_is_better_than_macro_f1s_constant(seed, n, k):
    targets = torch.from_numpy(np.random.default_rng(seed).integers(0, k, n))
    for error in (MacroF1(), MacroF1(num_classes=2)):
        value = error(error.constant(targets, k).expand(n, k), targets).value
        for other in range(k):
            rival = error(one_hot([other] * n, k), targets).value
            assert value is None or rival is None or value <= rival + 1e-9
    assert MacroF1().constant(torch.zeros(2, 3, dtype=torch.long), 4).shape == (4, 3)


def test_average_precision_of_records_pools_outputs_first():
    rng = np.random.default_rng(1)
    groups = rng.permutation(np.repeat(np.arange(20), rng.integers(1, 6, 20)))
    labels = rng.integers(0, 2, (20, 5)).astype(np.float32)
    labels[:, 4] = 0
    labels[3, 0] = NAN
    outputs = rng.normal(size=(len(groups), 5))
    pooled = np.stack([outputs[groups == r].mean(0) for r in range(20)])
    known = ~np.isnan(labels)
    by_record = [average_precision_score(labels[known[:, j], j], pooled[known[:, j], j]) for j in range(4)]
    arguments = torch.from_numpy(outputs), torch.from_numpy(labels[groups]), torch.from_numpy(groups)
    score = MeanAveragePrecision(by="records")(*arguments)
    assert (score.value, score.n, score.skipped) == (pytest.approx(1 - np.mean(by_record)), 4, 1)
    samples = MeanAveragePrecision()(*arguments)
    assert samples.value == MeanAveragePrecision()(*arguments[:2]).value
    assert score.others == {"1 - mAP of samples": samples.value}
    assert samples.others == {"1 - mAP of records": score.value}


@pytest.mark.parametrize(
    ("error", "outputs", "targets"),
    [
        (MacroF1(by="records"), torch.zeros(3, 2), torch.tensor([0, 1, 1])),
        (MeanAveragePrecision(by="records"), torch.zeros(3, 2), torch.eye(3)[:, :2]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_of_records_need_records_that_agree(error, outputs, targets):
    with pytest.raises(DataError, match=r"task\.error\.by: .*not cut from records"):
        error(outputs, targets)
    with pytest.raises(DataError, match="different targets"):
        error(outputs, targets, torch.tensor([0, 0, 1]))
    with pytest.raises(DataError, match=r"records \(2,\) do not fit 3"):
        error(outputs, targets, torch.tensor([0, 1]))
    # As one figure among others it is left out where records have several targets.
    assert type(error)()(outputs, targets, torch.tensor([0, 0, 1])).others == {}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("classification.MacroF1", {"by": "record"}, r"by: 'record'.*records"),
        ("multilabel.MeanAveragePrecision", {"by": "clips"}, "by"),
        ("classification.MacroF1", {"also_first": 0}, "also_first: 0"),
    ],
)
def test_settings_out_of_range_are_refused(name, settings, message):
    with pytest.raises(ConfigError, match=rf"task\.error\.{message}"):
        parts.build({"_target_": f"orca_cli.scoring.{name}", **settings}, "task.error")


def test_more_classes_than_outputs_are_refused():
    with pytest.raises(DataError, match="5 classes, but 3 outputs"):
        MacroF1(num_classes=5)(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
