"""Finetune modes on real bodies: trained parameters, checkpoints, and known answers."""

import copy
import importlib.util
from dataclasses import dataclass

import pytest
import torch

from orca_cli.exceptions import CheckpointError, ConfigError
from orca_cli.interfaces import Finetune
from orca_cli.models.finetuning.modes import (
    BitFit,
    Frozen,
    Full,
    Head,
    LayerNorm,
    LoRA,
    Prompt,
    Scratch,
    load_trained_state,
    trained_state,
)
from orca_cli.models.transfer import TransferModel, twin
from tests.models.conftest import build

needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="the extra lora is not installed"
)
SHAPES = {"bert": (2, 40), "gpt2": (2, 40), "swin": (3, 12, 12), "vit": (3, 12, 12)}


@pytest.fixture
def make(load_body):
    return lambda name, **more: build(load_body(name), input_shape=SHAPES[name], **more).eval()


def inputs(name, n=4):
    return torch.randn((n, *SHAPES[name]), generator=torch.Generator().manual_seed(0))


def trained(model):
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def step(model, x):
    """Take one optimizer step on some loss."""
    optimizer = torch.optim.SGD(trained(model).values(), lr=0.5)
    model(x).square().mean().backward()
    optimizer.step()


@dataclass(frozen=True)
class Case:
    """A mode and the body that it is tried on."""

    body: str
    mode: Finetune


SUBSETS = (Frozen(), Full(), Head(), LayerNorm(), Scratch(), BitFit())
CASES = {type(mode).__name__.lower(): Case("swin", mode) for mode in SUBSETS} | {
    "lora, bert": Case("bert", LoRA(rank=2)),
    "lora, swin": Case("swin", LoRA(rank=2, roles=["query", "feed_forward"])),
    "prompt, bert": Case("bert", Prompt(tokens=3)),
    "prompt, vit": Case("vit", Prompt(tokens=3, depth="deep", train_embedder=False)),
}
NO_EMBEDDER = ("head", "prompt, vit")
NO_BODY = ("head", "frozen")


def cases(names=CASES):
    marks = {name: needs_peft for name in names if name.startswith("lora")}
    return [pytest.param(name, marks=marks.get(name, ())) for name in names]


@dataclass
class Tried:
    """A model to which a mode has been applied, and inputs for it."""

    model: TransferModel
    mode: Finetune
    x: torch.Tensor


@pytest.fixture(params=cases())
def name(request):
    return request.param


@pytest.fixture
def tried(make, name):
    case = CASES[name]
    model = make(case.body)
    case.mode.apply(model)
    return Tried(model=model.eval(), mode=case.mode, x=inputs(case.body))


def names_of(model, kind):
    """Return the parameters of the body's modules of a kind, by their names in the model."""
    return {
        f"body.{path}.{key}"
        for path, module in model.body.named_modules()
        if isinstance(module, kind)
        for key, _ in module.named_parameters()
    }


def expected_names(model, mode):
    """Return the names that a mode without parameters of its own trains."""
    everything = {name for name, _ in model.named_parameters()}
    new = {name for name in everything if not name.startswith("body.")}
    norms, linears = names_of(model, torch.nn.LayerNorm), names_of(model, torch.nn.Linear)
    return {
        Full: everything,
        Scratch: everything,
        LayerNorm: new | norms,
        BitFit: new | {name for name in norms | linears if name.endswith(".bias")},
        Frozen: new,
        Head: {name for name in everything if name.startswith("predictor.")},
    }[type(mode)]


@pytest.mark.parametrize("mode", SUBSETS, ids=lambda mode: type(mode).__name__)
def test_a_mode_trains_the_parameters_that_it_names(make, mode):
    model = make("swin")
    mode.apply(model)
    assert set(trained(model)) == expected_names(model, mode)


def test_a_mode_trains_embedder_and_body_where_it_says(tried, name):
    names = list(trained(tried.model))
    assert any(key.startswith("embedder.") for key in names) == (name not in NO_EMBEDDER)
    assert any(key.startswith("body.") for key in names) == (name not in NO_BODY)


def test_steps_change_only_parameters_that_are_trained(tried):
    before = {key: weight.clone() for key, weight in tried.model.state_dict().items()}
    names = set(trained(tried.model))
    step(tried.model, tried.x)
    step(tried.model, tried.x)  # A of LoRA has no gradient while B is 0
    after = tried.model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed <= names
    assert any(key.startswith("predictor.") for key in changed)
    # Most of the body's; biases of keys have no gradient.
    of_body = {key for key in names if key.startswith("body.")}
    assert not of_body or len(of_body & changed) > len(of_body) / 2


def test_a_mode_may_be_applied_again(tried):
    names, state = set(trained(tried.model)), set(tried.model.state_dict())
    tried.mode.apply(tried.model)
    assert set(trained(tried.model)) == names
    assert set(tried.model.state_dict()) == state


def test_a_checkpoint_leaves_out_frozen_parameters_of_the_body(tried):
    frozen = {
        key for key, weight in tried.model.body.named_parameters() if not weight.requires_grad
    }
    assert not {f"body.{key}" for key in frozen} & set(trained_state(tried.model))


@pytest.fixture
def restored(make, name, tried):
    """A new model with a trained model's checkpoint: (model, state, the trained one's outputs)."""
    step(tried.model, tried.x)
    state, outputs = trained_state(tried.model), tried.model(tried.x)
    step(tried.model, tried.x)  # what was saved are copies
    torch.manual_seed(7)  # other first values
    fresh = make(CASES[name].body)
    tried.mode.apply(fresh)
    load_trained_state(fresh.eval(), state)
    return fresh, state, outputs


def test_a_checkpoint_brings_the_model_back(tried, restored):
    fresh, _, outputs = restored
    assert torch.equal(fresh(tried.x), outputs)


def test_a_twin_has_trained_weights_of_its_own(tried, restored):
    """As for several members, which share the rest of the body."""
    fresh, state, outputs = restored
    other = twin(fresh, state)
    with torch.no_grad():
        for weight in trained(other).values():
            weight.zero_()
    assert torch.equal(fresh(tried.x), outputs)
    assert not torch.equal(other(tried.x), outputs)


@needs_peft
@pytest.mark.parametrize("body", ["bert", "swin"])
def test_lora_starts_as_the_frozen_model(make, body):
    x, model, plain = inputs(body), make(body), make(body)
    LoRA(rank=2).apply(model)
    Head().apply(plain)  # torch chooses kernels by whether a gradient is needed
    assert torch.equal(model(x), plain(x))


@needs_peft
@pytest.mark.parametrize("body", ["bert", "swin"])
def test_lora_can_be_merged(make, body):
    """By its definition: W + (alpha / rank) B A."""
    x, model, plain = inputs(body), make(body), make(body)
    LoRA(rank=2, alpha=6.0).apply(model)
    step(model, x)
    expected = model(x).detach()
    assert not torch.allclose(expected, plain(x))
    paths = [path for role in ("query", "value") for path in plain.body.linear_names(role)]
    with torch.no_grad():
        for path in paths:
            layer = model.body.get_submodule(path)
            update = 3.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            plain.body.get_submodule(path).weight += update
    # Embedder and predictor have been trained as well.
    model.body = plain.body
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_a_deep_prompt_replaces_the_one_of_the_layer_before(make):
    """By hand, on a ViT: the layers one after the other, with its prompt after the class token."""
    x, model = inputs("vit"), make("vit")
    body = copy.deepcopy(model.body)
    Prompt(tokens=3, depth="deep").apply(model)
    first = model.body.prompt.x.expand(4, -1, -1)
    second = model.body.layers[1].prompt.x.expand(4, -1, -1)
    start = model.embedder.class_token.view(1, 1, -1).expand(4, -1, -1)
    hidden = body.layers[0](torch.cat([start, first, model.embed(x).x], 1))
    hidden = body.layers[1](torch.cat([hidden[:, :1], second, hidden[:, 4:]], 1))
    torch.testing.assert_close(model.features(x).x, body.norm(hidden))


@pytest.fixture
def prompted(make):
    """A function: a dense model on a BERT with a deep prompt."""

    def made(**settings):
        model = make("bert", kind="dense", **settings)
        Prompt(tokens=3, depth="deep").apply(model)
        return model

    return made


def test_padding_stays_out_with_a_prompt(prompted):
    model, x = prompted(), inputs("bert")
    valid = torch.ones(4, 40, dtype=torch.bool)
    valid[:, 25:] = False
    changed = torch.where(valid[:, None], x, 9.0)
    torch.testing.assert_close(model(x, valid)[..., :25], model(changed, valid)[..., :25])


def test_the_future_stays_out_with_a_prompt(prompted):
    model, x = prompted(causal=True), inputs("bert")
    later = x.clone()
    later[..., 20:] += 1.0
    torch.testing.assert_close(model(x)[..., :20], model(later)[..., :20])
    assert not torch.allclose(model(x)[..., 20:], model(later)[..., 20:])


def test_lora_without_layers_of_its_roles_is_refused(make):
    model = make("bert")
    model.body.linears = {"output": model.body.linears["output"]}
    message = "no linear layers with the roles query, value; allowed for this body: output"
    with pytest.raises(ConfigError, match=message):
        LoRA().apply(model)


@pytest.mark.parametrize(
    ("body", "prompt", "message"),
    [
        ("swin", Prompt(), "accepts no prompt tokens before the tokens of the input; use another"),
        (
            "gpt2",
            Prompt(tokens=40),
            "40 prompt tokens and 40 tokens .* accepts; use embedder.max_tokens=24",
        ),
    ],
    ids=["windows", "too long"],
)
def test_a_body_that_cannot_take_a_prompt_says_why(make, body, prompt, message):
    with pytest.raises(ConfigError, match=message):
        prompt.apply(make(body))


def test_a_checkpoint_of_another_mode_is_refused(make):
    model = make("bert")
    state = trained_state(model)
    Head().apply(model)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_trained_state(model, state)
