"""Rare classes and labels: what is said of them, and how the loss weighs them."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from orca_cli.config.schema import Train
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import IGNORED_CLASS
from orca_cli.scoring.losses import MaskedBCE, MaskedCrossEntropy, MaskedMSE
from orca_cli.stages.class_balance import uneven_note, weighted

NAN = float("nan")
RARE = np.repeat([0, 1, 2], [60, 9, 31])
BALANCED, POSITIVE = {"class_weights": "balanced"}, {"positive_weight": "balanced"}


def task(targets, kind="classes", names=(), k=3):
    samples = SimpleNamespace(targets=lambda: np.asarray(targets))
    return SimpleNamespace(kind=kind, train=samples, num_outputs=k, class_names=names)


def test_balanced_weights_of_classes_are_those_of_scikit_learn():
    loss = weighted(MaskedCrossEntropy(), task(RARE), Train(**BALANCED))
    assert loss.weight == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=RARE))
    # In maps positions count; a class that does not occur has weight 1.
    maps = np.array([[0, 0, 0, 2], [0, 0, IGNORED_CLASS, 2]])
    loss = weighted(MaskedCrossEntropy(), task(maps, "dense"), Train(**BALANCED))
    assert loss.weight == pytest.approx([7 / (2 * 5), 1.0, 7 / (2 * 2)])
    loss = weighted(nn.CrossEntropyLoss(label_smoothing=0.1), task(RARE), Train(class_weights=[1, 2, 3]))
    assert (loss.weight.tolist(), loss.label_smoothing) == ([1, 2, 3], 0.1)


def test_balanced_labels_weigh_present_and_absent_alike():
    labels = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, NAN, NAN]])
    loss = weighted(MaskedBCE(count_missing=True), task(labels, "labels"), Train(**POSITIVE))
    # A label that all or no training samples have cannot be balanced.
    assert (loss.positive_weight, loss.count_missing) == ([3.0, 1.0, 1.0], True)
    assert weighted(MaskedBCE(), task(labels, "labels"), Train(positive_weight=[1, 2, 3])).positive_weight == [1, 2, 3]


REFUSED = [
    (MaskedCrossEntropy([1, 1, 2]), task(RARE), BALANCED, "weights of its own; use task.loss=cross"),
    (MaskedCrossEntropy(), task(RARE, names=("a", "b", "c")), {"class_weights": [1.0]}, r"in their order: a, b, c"),
    (MaskedMSE(), task(np.zeros((4, 3)), "dense"), BALANCED, "not classes; for labels use train.pos"),
    (MaskedCrossEntropy(), task(RARE, "dense"), POSITIVE, "not labels; for classes use train.class"),
    (MaskedMSE(), task(np.eye(3), "dense"), {"positive_weight": [1, 2, 3]}, "the loss MaskedMSE"),
]


@pytest.mark.parametrize(("loss", "task_data", "settings", "message"), REFUSED)
def test_what_cannot_be_weighed_is_refused(loss, task_data, settings, message):
    with pytest.raises(ConfigError, match=message):
        weighted(loss, task_data, Train(**settings))


def test_uneven_classes_and_rare_labels_are_counted_with_the_settings_to_use():
    note = uneven_note(task(RARE, names=("no", "yes", "other")), Train())
    assert note.startswith("training samples of each class: yes 9, other 31, no 60; train.class_weights=balanced")
    assert uneven_note(task(np.repeat([0, 1, 2], [36, 9, 9])), Train()) == ""  # four times is not over four times
    assert "0 9, 2 9, 1 37" in uneven_note(task(np.repeat([0, 1, 2], [9, 37, 9])), Train())
    assert "positions of each class" in uneven_note(task(np.array([[0] * 9 + [1]]), "dense", k=2), Train())

    labels = np.zeros((100, 3))
    labels[:50], labels[:3, 1], labels[3:, 1] = 1, 1, 0
    note = uneven_note(task(labels, "labels", ("a", "b", "c")), Train())
    assert "samples that have each label, of 100: b 3, a 50, c 50; train.positive_weight=balanced" in note
    labels[:50] = 1
    for even in (task(labels, "labels"), task(np.zeros((9, 3)), "dense"), task(np.zeros((9, 1)), "values", k=1)):
        assert uneven_note(even, Train()) == ""
