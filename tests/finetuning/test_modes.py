"""Finetune modes on real bodies: what they train, and that a checkpoint holds that and no frozen weight of the body."""

import pytest
import torch

from orca_cli.exceptions import CheckpointError
from orca_cli.finetuning.frozen import Frozen
from orca_cli.finetuning.full import Full
from orca_cli.finetuning.head import Head
from orca_cli.finetuning.layernorm import LayerNorm
from orca_cli.finetuning.scratch import Scratch
from orca_cli.models.assembly import build_model
from orca_cli.models.bodies import swin, text
from tests.checkpoints import save_tiny_bert, save_tiny_swin

MODES = [Frozen, Full, Head, LayerNorm, Scratch]


@pytest.fixture(scope="module", params=["bert", "swin"])
def make(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bodies")
    path = {"bert": save_tiny_bert, "swin": save_tiny_swin}[request.param](folder / request.param)
    family = {"bert": text, "swin": swin}[request.param]

    def model():
        body = family.load(str(path))
        return build_model(body=body, kind="classes", input_shape=(2, 40), num_outputs=3, seed=0)

    return model


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_trains_what_it_says_and_applying_it_again_changes_nothing(make, mode):
    model = make()
    mode().apply(model)
    names = trained(model)
    everything = {name for name, _ in model.named_parameters()}
    own = {name for name in everything if not name.startswith("body.")}
    norms = {
        f"body.{path}.{name}"
        for path, module in model.body.named_modules()
        if isinstance(module, torch.nn.LayerNorm)
        for name, _ in module.named_parameters()
    }
    assert norms
    expected = {
        Full: everything,
        Scratch: everything,
        LayerNorm: own | norms,
        Frozen: own,
        Head: {name for name in everything if name.startswith("predictor.")},
    }[mode]
    assert names == expected
    mode().apply(model)
    assert trained(model) == names


@pytest.mark.parametrize("mode", MODES)
def test_what_is_saved_brings_back_the_trained_model_on_a_fresh_body(make, mode):
    model, fresh = make(), make()
    mode().apply(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    state = mode().trainable_state(model)
    mode().apply(fresh)
    mode().load_trainable_state(fresh, state)
    x = torch.randn(2, 2, 40)
    assert torch.equal(model.eval()(x), fresh.eval()(x))
    frozen = {f"body.{name}" for name, parameter in model.body.named_parameters() if not parameter.requires_grad}
    assert not frozen & set(state)
    with torch.no_grad():
        next(iter(model.predictor.parameters())).add_(1.0)
    assert torch.equal(fresh(x), fresh.eval()(x))  # copies: what is trained on does not change what was saved


def test_the_checkpoint_of_another_mode_is_refused(make):
    model = make()
    Head().apply(model)
    state = Head().trainable_state(model)
    Full().apply(model)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        Full().load_trainable_state(model, state)
