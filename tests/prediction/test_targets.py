"""Predictions, probabilities and scores against scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, r2_score

from orca_cli.data.targets import TargetForm
from orca_cli.prediction.targets import Decoder

RNG = np.random.default_rng(0)


def test_classes_in_the_form_of_the_data():
    logits = RNG.normal(size=(50, 3)).astype(np.float32)
    for classes, expected in (((-5, 5, 70), [-5, 5, 70]), (("a", "b", "ä"), ["a", "b", "ä"])):
        decoder = Decoder(TargetForm("classes", 3, tuple(map(str, classes)), classes), 3)
        assert decoder.classes.tolist() == expected
        assert decoder.predictions(logits).tolist() == [expected[k] for k in logits.argmax(1)]
        targets = RNG.integers(0, 3, 50)
        assert decoder.score(logits, targets) == accuracy_score(targets, logits.argmax(1))
    assert Decoder(TargetForm("class_maps", 3, extent=(4,)), 3).classes.tolist() == [0, 1, 2]
    huge = np.array([[1e4, -1e4, 0.0]])
    assert decoder.probabilities(huge).tolist() == [[1.0, 0.0, 0.0]]


def test_labels_are_scored_as_whole_sets():
    logits, targets = RNG.normal(size=(50, 4)).astype(np.float32), RNG.integers(0, 2, (50, 4)).astype(np.float32)
    targets[:20] = logits[:20] > 0
    decoder = Decoder(TargetForm("labels", 4), 4)
    assert decoder.score(logits, targets) == accuracy_score(targets, logits >= 0)
    unknown = targets.copy()
    unknown[:, 1] = np.nan
    kept = [0, 2, 3]
    assert decoder.score(logits, unknown) == accuracy_score(targets[:, kept], (logits >= 0)[:, kept])
    unknown[1:], unknown[0, 0] = np.nan, logits[0, 0] < 0
    assert decoder.score(logits, unknown) == 0.0  # what is unknown is neither right nor wrong


@pytest.mark.parametrize("form", [TargetForm("maps", 2, extent=(5,)), TargetForm("values", 2)])
@pytest.mark.parametrize("unknown", [10, 40])
def test_numbers_are_scored_by_the_mean_r2_of_their_outputs(form, unknown):
    shape = (40, 2, 5) if form.kind == "maps" else (40, 2)
    targets = RNG.normal(size=shape)
    outputs = targets + RNG.normal(size=shape) * 0.3
    targets[:10, 0] = targets[:unknown, 1] = np.nan  # where all of an output are unknown, the other one alone counts
    counted = [k for k in (0, 1) if not np.isnan(targets[:, k]).all()]
    rows = [~np.isnan(targets[:, k].ravel()) for k in counted]
    by_output = [
        r2_score(targets[:, k].ravel()[row], outputs[:, k].ravel()[row]) for k, row in zip(counted, rows, strict=True)
    ]
    decoder = Decoder(form, 2)
    assert decoder.score(outputs, targets) == pytest.approx(np.mean(by_output))
    assert decoder.classes is None
