"""Rare classes and labels: how the loss weighs them."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from orca_cli.config.schema import Config, Train
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import IGNORED_CLASS
from orca_cli.scoring.losses import MaskedBCE, MaskedCrossEntropy
from orca_cli.stages.task_loss import make_loss, weighted

NAN = float("nan")
RARE = np.repeat([0, 1, 2], [60, 9, 31])
BALANCED, POSITIVE = {"class_weights": "balanced"}, {"positive_weight": "balanced"}


def task(targets, kind="classes", k=3):
    samples = SimpleNamespace(targets=lambda: np.asarray(targets))
    return SimpleNamespace(kind=kind, train=samples, num_outputs=k)


def test_balanced_weights_of_classes_are_those_of_scikit_learn():
    loss = weighted(MaskedCrossEntropy(), task(RARE), Train(**BALANCED))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=RARE)
    assert loss.weight == pytest.approx(expected)


def test_positions_of_maps_count_and_absent_classes_weigh_1():
    maps = np.array([[0, 0, 0, 2], [0, 0, IGNORED_CLASS, 2]])
    loss = weighted(MaskedCrossEntropy(), task(maps, "dense"), Train(**BALANCED))
    assert loss.weight == pytest.approx([7 / (2 * 5), 1.0, 7 / (2 * 2)])


def test_a_loss_of_torch_keeps_its_settings_beside_weights():
    plain = nn.CrossEntropyLoss(label_smoothing=0.1)
    loss = weighted(plain, task(RARE), Train(class_weights=[1, 2, 3]))
    assert (loss.weight.tolist(), loss.label_smoothing) == ([1, 2, 3], 0.1)


def test_balanced_labels_weigh_present_and_absent_alike():
    labels = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, NAN, NAN]])
    loss = weighted(MaskedBCE(count_missing=True), task(labels, "labels"), Train(**POSITIVE))
    # A label that all or no training samples have cannot be balanced.
    assert (loss.positive_weight, loss.count_missing) == ([3.0, 1.0, 1.0], True)
    listed = weighted(MaskedBCE(), task(labels, "labels"), Train(positive_weight=[1, 2, 3]))
    assert listed.positive_weight == [1, 2, 3]


@pytest.mark.parametrize(
    ("weights", "kind", "settings", "message"),
    [
        (
            [1, 1, 2],
            "classes",
            BALANCED,
            "accepts no weights or has weights of its own; use task.loss=cross",
        ),
        (
            None,
            "classes",
            {"class_weights": [1.0]},
            "needs 3 weights, one for each output, got 1; give them in the order",
        ),
        (None, "dense", POSITIVE, "train.positive_weight for labels"),
    ],
)
def test_what_cannot_be_weighed_is_refused(weights, kind, settings, message):
    with pytest.raises(ConfigError, match=message):
        weighted(MaskedCrossEntropy(weights), task(RARE, kind), Train(**settings))


COUNTS_ALL = Config(task={"loss": {"_target_": "torch.nn.L1Loss"}})


def test_a_loss_that_counts_unknown_targets_is_refused():
    with pytest.raises(ConfigError, match="L1Loss does not skip unknown"):
        make_loss(COUNTS_ALL, task(np.where(np.eye(3), np.nan, 1.0), "values"))


def test_a_loss_that_counts_all_targets_suits_known_ones():
    loss = make_loss(COUNTS_ALL, task(np.where(np.eye(3), 0.5, 1.0), "values"))
    assert isinstance(loss, nn.L1Loss)
