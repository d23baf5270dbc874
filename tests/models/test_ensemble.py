"""Several models as one: their mean, in the form of a single model's outputs."""

import numpy as np
import pytest
import torch
from torch import nn

from orca_cli.models.ensemble import Ensemble, averaged, twin


@pytest.mark.parametrize("kind", ["classes", "class_maps", "labels"])
def test_classes_and_labels_have_the_mean_of_the_probabilities(kind):
    def probability(logits):
        return logits.double().sigmoid() if kind == "labels" else logits.double().softmax(1)

    shape = (3, 5, 4, 7) if kind == "class_maps" else (3, 5, 4)
    outputs = list(3 * torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    expected = torch.stack([probability(output) for output in outputs]).mean(0)
    np.testing.assert_allclose(probability(averaged(outputs, kind)), expected, rtol=1e-5)


def test_known_means():
    """One model is sure of the first class, two lean to the second; two are as sure as can be; numbers."""
    sure, lean = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    combined = averaged([sure, lean, lean], "classes")
    p = (1 / (1 + np.exp(-9)) + 2 / (1 + np.e)) / 3
    assert float(combined[0, 0] - combined[0, 1]) == pytest.approx(np.log(p / (1 - p)), rel=1e-5)
    assert averaged([torch.tensor([[200.0, -200.0]])] * 2, "labels").tolist() == [[200.0, -200.0]]
    assert averaged([torch.tensor([[1.0, 4.0]]), torch.tensor([[3.0, 0.0]])], "values").tolist() == [[2.0, 2.0]]


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.predictor = nn.Linear(3, 3), nn.Linear(3, 2)
        self.body._aside = (nn.Linear(9, 9),)

    def forward(self, x, valid=None):
        return self.predictor(self.body(x))


def test_a_twin_shares_what_is_not_its_own():
    model = Toy()
    other = twin(model, ["predictor.weight", "predictor.bias"])
    assert other.body.weight.data_ptr() == model.body.weight.data_ptr()
    assert other.body._aside is model.body._aside
    before = model.predictor.weight.clone()
    other.predictor.weight.data += 1
    assert torch.equal(model.predictor.weight, before)
    x = torch.ones(1, 3)
    expected = (model(x) + other(x)) / 2
    assert torch.equal(Ensemble([model, other], "values")(x), expected)
