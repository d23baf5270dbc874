"""Predictions, probabilities and scores against scikit-learn's."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, r2_score

from orca_cli.prediction import export
from orca_cli.prediction.targets import Decoder
from orca_cli.tasks.shared.targets import TargetForm

RNG = np.random.default_rng(0)


def test_classes_in_the_form_of_the_data():
    logits = torch.from_numpy(RNG.normal(size=(50, 3)).astype(np.float32))
    for classes, wanted in (((-5, 5, 70), [-5, 5, 70]), (("a", "b", "ä"), ["a", "b", "ä"])):
        decoder = Decoder(TargetForm("classes", 3, tuple(map(str, classes)), classes), 3)
        assert decoder.classes.tolist() == wanted
        assert decoder.predictions(logits).tolist() == [wanted[k] for k in logits.argmax(1)]
        targets = RNG.integers(0, 3, 50)
        assert decoder.score(logits.numpy(), targets) == accuracy_score(targets, logits.argmax(1))
    assert Decoder(TargetForm("class_maps", 3, extent=(4,)), 3).classes.tolist() == [0, 1, 2]
    huge = torch.tensor([[1e4, -1e4, 0.0]])
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


@pytest.mark.parametrize("form", [TargetForm("maps", 2, extent=(5,)), TargetForm("values", 2)])
def test_numbers_are_scored_by_the_mean_r2_of_their_outputs(form):
    shape = (40, 2, 5) if form.kind == "maps" else (40, 2)
    wanted = RNG.normal(size=shape)
    found = wanted + RNG.normal(size=shape) * 0.3
    decoder = Decoder(form, 2)
    by_output = [r2_score(wanted[:, k].ravel(), found[:, k].ravel()) for k in (0, 1)]
    assert decoder.score(found, wanted) == pytest.approx(np.mean(by_output))
    assert decoder.classes is None
    wanted[:10] = np.nan
    by_output = [r2_score(wanted[10:, k].ravel(), found[10:, k].ravel()) for k in (0, 1)]
    assert decoder.score(found, wanted) == pytest.approx(np.mean(by_output))


def test_what_is_unknown_is_neither_right_nor_wrong():
    decoder = Decoder(TargetForm("labels", 2), 2)
    wrong = np.array([[1.0, 1.0], [1.0, 1.0]], np.float32)
    assert decoder.score(wrong, np.array([[0.0, 0.0], [np.nan, np.nan]])) == 0.0
    wanted, found = RNG.normal(size=(20, 2)), RNG.normal(size=(20, 2))
    wanted[:, 1] = np.nan
    assert Decoder(TargetForm("values", 2), 2).score(found, wanted) == pytest.approx(
        r2_score(wanted[:, 0], found[:, 0])
    )


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1e-5), (1e6, 1.0), (0.0, 1.0)])
def test_a_graph_that_gives_the_mean_alone_is_no_export(mean, std):
    scaled = SimpleNamespace(has_scale=True, scale_mean=torch.tensor([mean]), scale_std=torch.tensor([std]))
    expected = [mean + std * RNG.normal(size=(3, 1))]
    export.check_same([expected[0] + 1e-5 * std], expected, scaled)
    with pytest.raises(export.NotExportedError, match="outputs differ by .* deviations of the targets"):
        export.check_same([np.full((3, 1), mean)], expected, scaled)
    with pytest.raises(export.NotExportedError, match=r"outputs differ by 0\.5 \("):
        export.check_same([np.ones((3, 2))], [np.full((3, 2), 0.5)], SimpleNamespace(has_scale=False))
