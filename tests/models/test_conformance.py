"""Requirements for every body, whatever its family, on a tiny random checkpoint saved here.

For a body of your own (docs/adding.md), whose name stands in conf/body or whose file is elsewhere:
pytest tests/models/test_conformance.py --body NAME_OR_FILE --checkpoint FOLDER
"""

import importlib.util
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import orca_cli
from orca_cli.config import parts
from orca_cli.config.configuration import config_dir
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.models.assembly import load_body
from orca_cli.models.finetuning.modes import BitFit, LoRA, Prompt
from orca_cli.prediction.export import export
from orca_cli.prediction.loading import open_model
from tests.checkpoints import save_tiny
from tests.models.conftest import build

BODIES = sorted(path.stem for path in (config_dir() / "body").glob("*.yaml"))
# They have the code and the tiny checkpoint of another.
SAME = ("auto", "minilm", "swin_tiny", "dinov2_small")
ROLES = ("query", "key", "value", "output", "feed_forward")
CASES = [("dense", (2, 30)), ("classes", (3, 9, 7)), ("dense", (1, 2, 5, 3))]
# Bodies that refuse a finetune mode. Windows and position biases allow no prompt; a deep prompt
# needs a list of layers.
NO_BIASES = {"t5", "smollm2", "mistral", "qwen3", "modernbert"}
NO_PROMPT = {"swin", "beit"}
LAYERS_LISTED = {"bert", "roberta", "antiberty", "vit", "deit", "dinov2", "siglip"}


def pytest_generate_tests(metafunc):
    """Run every test of this file for every file of conf/body, or for the one that is typed."""
    if "name" in metafunc.fixturenames:
        typed = metafunc.config.getoption("body")
        names = [typed] if typed else [name for name in BODIES if name not in SAME]
        metafunc.parametrize("name", names, scope="session")


@pytest.fixture(scope="session")
def folder(name, tmp_path_factory, request):
    """A checkpoint whose weights are all random.

    Families draw some weights as zeros, which would hide the effect of others.
    """
    root = tmp_path_factory.mktemp("checkpoint")
    return changed(
        request.config.getoption("checkpoint") or save_tiny(name, root / "drawn"),
        root / "random",
        noisy,
    )


@pytest.fixture(scope="session")
def node(name, folder):
    """The body's settings, on the tiny checkpoint."""
    path = config_dir() / "body" / f"{name}.yaml" if name in BODIES else Path(name)
    node = yaml.safe_load(path.read_text(encoding="utf-8"))["body"]
    if name not in BODIES:  # a file of somebody's own
        parts.allow_module(node["_target_"].rpartition(".")[0])
    return node | {"checkpoint": str(folder)}


@pytest.fixture
def body(node):
    return parts.build(node, "body").eval()


@pytest.fixture
def source(body):
    """Two examples of what the body was pretrained on."""
    if body.modality == "text":
        return ["a", "the list of a list"]
    return np.random.default_rng(0).random((2, 3, 20, 30), dtype=np.float32)


def made(body, **settings):
    return build(body, **({"input_shape": (2, 30)} | settings)).eval()


def inputs(shape, n=3):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


def changed(folder, place, change):
    """Return a copy of a checkpoint whose tensors (name -> tensor) went through `change`."""
    shutil.copytree(folder, place)
    for file in place.glob("*.safetensors"):
        save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return str(place)


def noisy(tensors):
    generator = torch.Generator().manual_seed(7)
    return {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(("kind", "shape"), CASES, ids=str)
def test_takes_inputs_of_any_shape_and_uses_every_weight(body, kind, shape):
    model = made(body, kind=kind, input_shape=shape).train()
    outputs = model(inputs(shape))
    assert outputs.shape == (3, 3, *(shape[1:] if kind == "dense" else ()))
    outputs.square().sum().backward()
    for weight in model.parameters():
        assert weight.grad is not None
        assert torch.isfinite(weight.grad).all()
    assert model.embedder.convolution.weight.grad.any()


VALID = torch.arange(30) < torch.tensor([[30], [11], [5]])


def test_an_answer_depends_on_the_valid_positions_alone(body):
    x = inputs((2, 30)).requires_grad_()
    made(body)(x, VALID).square().sum().backward()
    assert torch.equal(x.grad.abs().sum(1) > 0, VALID)


@torch.no_grad()
def test_an_answer_is_that_of_a_sample_alone(body):
    model, x = made(body), inputs((2, 30))
    alone = [model(x[row : row + 1], VALID[row : row + 1]) for row in range(3)]
    torch.testing.assert_close(model(x, VALID), torch.cat(alone), rtol=1e-3, atol=1e-4)


def test_all_its_weights_are_those_of_the_file(body, node, folder, tmp_path):
    """Adding 1 to all tensors of the file adds 1 to all weights, so none is drawn at random."""

    def grown(tensors):
        return {
            name: tensor + 1 if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
        }

    other = parts.build(node | {"checkpoint": changed(folder, tmp_path / "grown", grown)}, "body")
    assert list(body.parameters())
    for (name, before), after in zip(body.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(before + 1, after), name
    assert body.checkpoint_digest != other.checkpoint_digest


def layer_of(name):
    """Return the number of the layer that a tensor of a file belongs to, or -1."""
    match = re.search(r"\.(\d+)\.", name)
    return int(match[1]) if match else -1


def deeper(tensors):
    last = max(map(layer_of, tensors))
    more = {
        name.replace(f".{last}.", f".{last + 1}.", 1): tensor.clone()
        for name, tensor in tensors.items()
    }
    return more | tensors


def shallower(tensors):
    """Without the first layer; other towers may be in the same file."""
    return {name: tensor for name, tensor in tensors.items() if layer_of(name) != 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [(deeper, "belongs to a layer that config.json does not have"), (shallower, "missing")],
)
def test_weights_of_another_depth_are_refused(node, folder, tmp_path, change, message):
    checkpoint = changed(folder, tmp_path / "changed", change)
    with pytest.raises(DataError, match=message):
        parts.build(node | {"checkpoint": checkpoint}, "body")


def test_a_checkpoint_of_another_family_is_refused(node, folder, tmp_path):
    checkpoint = changed(folder, tmp_path / "other", dict)
    file = Path(checkpoint) / "config.json"
    config = json.loads(file.read_text()) | {"model_type": "perceiver"}
    file.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="belongs to the family 'perceiver', but this body needs"):
        parts.build(node | {"checkpoint": checkpoint}, "body")


def test_every_linear_layer_has_a_role(body):
    names_by_role = {role: body.linear_names(role) for role in ROLES}
    assert all(names_by_role.values())
    linears = {name for name, module in body.named_modules() if isinstance(module, torch.nn.Linear)}
    with_role = {name for names in names_by_role.values() for name in names}
    assert with_role <= linears
    # Swin merges patches between its stages, which is none of the roles.
    assert not [name for name in linears - with_role if not name.endswith("downsample.reduction")]


def test_no_layer_of_attention_is_one_of_feed_forward(body):
    of_attention = {name for role in ROLES[:4] for name in body.linear_names(role)}
    assert not of_attention & set(body.linear_names("feed_forward"))


def test_the_source_is_embedded_without_gradient(body, source):
    tokens = body.embed_source(source)
    assert tokens.x.shape == (*tokens.mask.shape, body.width)
    assert torch.isfinite(tokens.x).all()
    assert not tokens.x.requires_grad


def test_examples_of_the_source_are_told_apart(body, source):
    tokens = body.embed_source(source)
    if body.modality == "text":
        shorter, longer = tokens.mask.sum(1)
        assert shorter < longer == tokens.mask.shape[1]
    else:
        assert tokens.x.shape[1] == np.prod(tokens.grid) > 1
        assert not torch.equal(tokens.x[0], tokens.x[1])


def test_a_prefix_has_the_width_of_tokens(body):
    prefix = body.prefix_tokens()
    assert prefix.shape[1] == body.width if prefix is not None else not body.needs_prefix


@pytest.fixture
def drawn(node):
    """A function: the body with weights drawn by seed 0."""
    return lambda: load_body(node | {"weights": "random"}, seed=0).eval()


def test_random_weights_are_all_drawn_by_the_seed(body, drawn):
    for before, first, again in zip(
        body.parameters(), drawn().parameters(), drawn().parameters(), strict=True
    ):
        assert torch.equal(first, again)
        assert first.dim() == 1 or not torch.equal(before, first)


def test_random_weights_leave_the_source_as_it_is(body, drawn, source):
    assert torch.equal(drawn().embed_source(source).x, body.embed_source(source).x)


MODES = {
    "bitfit": BitFit(),
    "shallow": Prompt(tokens=4),
    "deep": Prompt(tokens=4, depth="deep"),
    "lora": LoRA(rank=2),
}


def refuses(name, mode):
    """Return whether a body of conf/body does not take a mode."""
    if mode == "bitfit":
        return name in NO_BIASES
    if mode == "deep" and name not in LAYERS_LISTED:
        return True
    return mode in ("shallow", "deep") and name in NO_PROMPT


@pytest.mark.parametrize("mode", MODES)
def test_takes_a_finetune_mode_or_refuses_it(name, body, mode):
    """What a mode trains within the body gets gradients."""
    if mode == "lora" and importlib.util.find_spec("peft") is None:
        pytest.skip("the extra lora is not installed")
    model = made(body, kind="dense", input_shape=(3, 6, 6))
    try:
        MODES[mode].apply(model)
    except ConfigError:
        assert name not in BODIES or refuses(name, mode)
        return
    assert name not in BODIES or not refuses(name, mode)
    outputs = model.eval()(inputs((3, 6, 6), n=2))
    assert outputs.shape == (2, 3, 6, 6)
    outputs.square().mean().backward()
    gradients = [
        weight.grad
        for key, weight in model.named_parameters()
        if key.startswith("body.") and weight.requires_grad
    ]
    assert any(gradient is not None and gradient.any() for gradient in gradients)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A function: the model of a run that trained a body's norms, new inputs, their outputs."""

    def run(name, node):
        root = tmp_path_factory.mktemp("run")
        y = np.arange(24) % 3
        x = np.random.default_rng(0).normal(size=(24, 2, 30)).astype(np.float32) + y[:, None, None]
        np.savez(root / "train.npz", x=x[:18], y=y[:18])
        np.savez(root / "test.npz", x=x[18:], y=y[18:])
        words = [
            f"body={Path(name).stem}", f"body.checkpoint={node['checkpoint']}", "task=arrays",
            "task.kind=classes", f"task.train={root / 'train.npz'}",
            f"task.test={root / 'test.npz'}", "embedder=patch", "metric=none", "finetune=layernorm",
            "baselines=none", "train.epochs=1", "train.folds=0",
        ]  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ORCA_RUNS", str(root / "runs"))
            patch.setenv("ORCA_HOME", str(root / "home"))
            outcome = orca_cli.run(
                *words, config_dir=None if name in BODIES else Path(name).resolve().parent.parent
            )
        assert outcome.state == "completed", outcome.failure
        expected = np.load(outcome.path / "3_finetune" / "predictions.npz")["outputs"]
        assert np.array_equal(orca_cli.load(outcome.path).outputs(x[18:]), expected)
        return open_model(outcome.path), x[18:], expected

    runs = {}
    return lambda name, node: runs.get(name) or runs.setdefault(name, run(name, node))


def test_a_run_and_its_export_agree_to_the_bit(name, body, node, trained, family, tmp_path):
    """Most bodies take the place of that of a BERT's run, so that not each is trained."""
    if name in BODIES and name not in ("bert", "swin"):
        loaded, x, _ = trained("bert", {"checkpoint": str(family("bert"))})
        loaded = replace(loaded, members=(made(body),), record=replace(loaded.record, body=node))
        with torch.no_grad():
            expected = loaded.model(torch.from_numpy(loaded.preprocessing.inputs(x)[0])).numpy()
    else:
        loaded, x, expected = trained(name, node)
    export(loaded, tmp_path / "export")
    assert np.array_equal(orca_cli.load(tmp_path / "export").outputs(x), expected)
