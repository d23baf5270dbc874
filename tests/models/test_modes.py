"""Finetune modes on real bodies: what they train, what a checkpoint of it holds, and known answers."""

import copy
import importlib.util

import pytest
import torch

from orca_cli.exceptions import CheckpointError, ConfigError
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
from orca_cli.models.transfer import twin
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
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def step(model, x):
    """Take one optimizer step on some loss."""
    optimizer = torch.optim.SGD(trained(model).values(), lr=0.5)
    model(x).square().mean().backward()
    optimizer.step()


MODES = {
    "lora, bert": ("bert", lambda: LoRA(rank=2)),
    "lora, swin": ("swin", lambda: LoRA(rank=2, roles=["query", "feed_forward"])),
    "bitfit, swin": ("swin", BitFit),
    "prompt, bert": ("bert", lambda: Prompt(tokens=3)),
    "prompt, vit": ("vit", lambda: Prompt(tokens=3, depth="deep", train_embedder=False)),
} | {
    f"{mode.__name__.lower()}, swin": ("swin", mode)
    for mode in (Frozen, Full, Head, LayerNorm, Scratch)
}


def without_adapters(model):
    """Return the names that each mode without parameters of its own trains."""

    def of_body(kind):
        modules = (
            (path, part) for path, part in model.body.named_modules() if isinstance(part, kind)
        )
        return {
            f"body.{path}.{key}" for path, part in modules for key, _ in part.named_parameters()
        }

    everything = {name for name, _ in model.named_parameters()}
    norms, linears = of_body(torch.nn.LayerNorm), of_body(torch.nn.Linear)
    new = {name for name in everything if not name.startswith("body.")}
    return {
        Full: everything,
        Scratch: everything,
        LayerNorm: new | norms,
        BitFit: new | {name for name in norms | linears if name.endswith(".bias")},
        Frozen: new,
        Head: {name for name in everything if name.startswith("predictor.")},
    }


CASES = [pytest.param(name, marks=needs_peft if name.startswith("lora") else ()) for name in MODES]


@pytest.mark.parametrize("case", CASES)
def test_a_mode_trains_what_it_says_and_a_checkpoint_of_it_brings_the_model_back(make, case):
    name, mode = MODES[case]
    x, model, fresh = inputs(name), make(name), make(name)
    expected = without_adapters(model).get(mode)
    mode().apply(model)
    model.eval()
    names = set(trained(model))
    assert names == (expected or names)
    without_embedder = case in ("head, swin", "prompt, vit")
    assert any(key.startswith("embedder.") for key in names) == (not without_embedder)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    step(model, x)
    step(model, x)  # A of LoRA has no gradient while B is 0
    after = model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed <= names
    assert any(key.startswith("predictor.") for key in changed)
    inner_names = {key for key in names if key.startswith("body.")}
    assert bool(inner_names) == (mode not in (Frozen, Head))
    assert (
        not inner_names or len(inner_names & changed) > len(inner_names) / 2
    )  # biases of keys have no gradient
    mode().apply(model)  # changes nothing
    assert set(trained(model)) == names
    assert model.state_dict().keys() == before.keys()

    state, outputs = trained_state(model), model(x)
    frozen = {key for key, value in model.body.named_parameters() if not value.requires_grad}
    assert not {f"body.{key}" for key in frozen} & set(state)
    step(model, x)  # what was saved are copies
    torch.manual_seed(7)  # other first values
    mode().apply(fresh)
    load_trained_state(fresh.eval(), state)
    assert torch.equal(fresh(x), outputs)
    other = twin(fresh, state)  # as for several members: weights of its own, shared body
    with torch.no_grad():
        for value in trained(other).values():
            value.zero_()
    assert torch.equal(fresh(x), outputs)
    assert not torch.equal(other(x), outputs)


@needs_peft
@pytest.mark.parametrize("name", ["bert", "swin"])
def test_lora_starts_as_the_frozen_model_and_can_be_merged(make, name):
    """By its definition: W + (alpha / rank) B A."""
    x, model, plain = inputs(name), make(name), make(name)
    LoRA(rank=2, alpha=6.0).apply(model)
    Head().apply(plain)  # torch chooses kernels by whether a gradient is needed
    assert torch.equal(model(x), plain(x))
    step(model, x)
    expected = model(x).detach()
    assert not torch.allclose(expected, plain(x))
    model.body, adapted = plain.body, model.body
    with torch.no_grad():
        for path in (path for role in ("query", "value") for path in plain.body.linear_names(role)):
            layer = adapted.get_submodule(path)
            update = 3.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            plain.body.get_submodule(path).weight += update
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_a_deep_prompt_replaces_what_the_layer_before_made_of_the_last_one(make):
    """By hand, on a ViT: the layers one after the other, with its prompt after the classification token."""
    x, model = inputs("vit"), make("vit")
    body = copy.deepcopy(model.body)
    Prompt(tokens=3, depth="deep").apply(model)
    first, second = model.body.prompt.x, model.body.layers[1].prompt.x
    tokens = model.embed(x).x
    start = model.embedder.class_token.view(1, 1, -1).expand(4, -1, -1)
    hidden = body.layers[0](torch.cat([start, first.expand(4, -1, -1), tokens], 1))
    hidden = body.layers[1](torch.cat([hidden[:, :1], second.expand(4, -1, -1), hidden[:, 4:]], 1))
    torch.testing.assert_close(model.features(x).x, body.norm(hidden))


def test_padding_and_the_future_stay_out_with_a_prompt(make):
    model = make("bert", kind="dense")
    Prompt(tokens=3, depth="deep").apply(model)
    valid = torch.ones(4, 40, dtype=torch.bool)
    valid[:, 25:] = False
    x = inputs("bert")
    changed = torch.where(valid[:, None], x, 9.0)
    torch.testing.assert_close(model(x, valid)[..., :25], model(changed, valid)[..., :25])
    causal = make("bert", kind="dense", causal=True)
    Prompt(tokens=3, depth="deep").apply(causal)
    later = x.clone()
    later[..., 20:] += 1.0
    torch.testing.assert_close(causal(x)[..., :20], causal(later)[..., :20])
    assert not torch.allclose(causal(x)[..., 20:], causal(later)[..., 20:])


def test_a_body_that_cannot_take_a_mode_says_why(make):
    model = make("bert")
    model.body.linears = {"output": model.body.linears["output"]}
    with pytest.raises(
        ConfigError,
        match="no linear layers of the roles query, value; allowed for this body: output",
    ):
        LoRA().apply(model)
    with pytest.raises(ConfigError, match="takes no tokens before those of the input; use another"):
        Prompt().apply(make("swin"))
    with pytest.raises(
        ConfigError, match="a prompt of 40 beside 40 tokens .* takes; use embedder.max_tokens=24"
    ):
        Prompt(tokens=40).apply(make("gpt2"))
    state = trained_state(model)
    Head().apply(model)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_trained_state(model, state)
