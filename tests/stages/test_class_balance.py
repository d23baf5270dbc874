"""Rare classes and labels: how the loss weighs them."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from orca_cli.config.schema import Config, Train
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import IGNORED_CLASS
from orca_cli.scoring.losses import MaskedBCE, MaskedCrossEntropy
from orca_cli.stages.build import make_loss, weighted

NAN = float("nan")
RARE = np.repeat([0, 1, 2], [60, 9, 31])
BALANCED, POSITIVE = {"class_weights": "balanced"}, {"positive_weight": "balanced"}


def task(targets, kind="classes", k=3):
    samples = SimpleNamespace(targets=lambda: np.asarray(targets))
    return SimpleNamespace(kind=kind, train=samples, num_outputs=k)


def test_balanced_weights_of_classes_are_those_of_scikit_learn():
    loss = weighted(MaskedCrossEntropy(), task(RARE), Train(**BALANCED))
    assert loss.weight == pytest.approx(
        compute_class_weight("balanced", classes=np.arange(3), y=RARE)
    )
    # In maps positions count; a class that does not occur has weight 1.
    maps = np.array([[0, 0, 0, 2], [0, 0, IGNORED_CLASS, 2]])
    loss = weighted(MaskedCrossEntropy(), task(maps, "dense"), Train(**BALANCED))
    assert loss.weight == pytest.approx([7 / (2 * 5), 1.0, 7 / (2 * 2)])
    loss = weighted(
        nn.CrossEntropyLoss(label_smoothing=0.1), task(RARE), Train(class_weights=[1, 2, 3])
    )
    assert (loss.weight.tolist(), loss.label_smoothing) == ([1, 2, 3], 0.1)


def test_balanced_labels_weigh_present_and_absent_alike():
    labels = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, NAN, NAN]])
    loss = weighted(MaskedBCE(count_missing=True), task(labels, "labels"), Train(**POSITIVE))
    # A label that all or no training samples have cannot be balanced.
    assert (loss.positive_weight, loss.count_missing) == ([3.0, 1.0, 1.0], True)
    assert weighted(
        MaskedBCE(), task(labels, "labels"), Train(positive_weight=[1, 2, 3])
    ).positive_weight == [1, 2, 3]


REFUSED = [
    (
        MaskedCrossEntropy([1, 1, 2]),
        task(RARE),
        BALANCED,
        "weights of its own; use task.loss=cross",
    ),
    (
        MaskedCrossEntropy(),
        task(RARE),
        {"class_weights": [1.0]},
        "1 weights, but 3 outputs; give one for each",
    ),
    (MaskedCrossEntropy(), task(RARE, "dense"), POSITIVE, "train.positive_weight for labels"),
]


def test_what_cannot_be_weighed_is_refused():
    for loss, task_data, settings, message in REFUSED:
        with pytest.raises(ConfigError, match=message):
            weighted(loss, task_data, Train(**settings))


def test_a_loss_that_counts_unknown_targets_is_refused():
    config = Config(task={"loss": {"_target_": "torch.nn.L1Loss"}})
    for gap, is_refused in ((np.nan, True), (0.5, False)):
        with (
            pytest.raises(ConfigError, match="L1Loss does not leave out unknown")
            if is_refused
            else nullcontext()
        ):
            make_loss(config, task(np.where(np.eye(3), gap, 1.0), "values"))
