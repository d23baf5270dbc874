"""What every body must do, whatever its family, on a tiny random checkpoint of it that is saved here.

For a body of your own (docs/adding.md), whose name stands in conf/body or whose file is elsewhere:
pytest tests/models/test_conformance.py --body NAME_OR_FILE --checkpoint FOLDER
"""

import copy
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
SAME = (
    "auto",
    "minilm",
    "swin_tiny",
    "dinov2_small",
)  # the code and the tiny checkpoint of another
ROLES = ("query", "key", "value", "output", "feed_forward")
CASES = [("dense", (2, 30)), ("classes", (3, 9, 7)), ("dense", (1, 2, 5, 3))]
# Bodies that refuse some finetune modes: windows and position biases every prompt, unnamed layers a deep one.
NO_BIASES, NO_PROMPT = {"t5", "smollm2", "mistral", "qwen3", "modernbert"}, {"swin", "beit"}
LAYERS_LISTED = {"bert", "roberta", "antiberty", "vit", "deit", "dinov2", "siglip"}


def pytest_generate_tests(metafunc):
    """Run every test of this file for every file of conf/body, or for the one that is typed."""
    if "name" in metafunc.fixturenames:
        typed = metafunc.config.getoption("body")
        names = [typed] if typed else [name for name in BODIES if name not in SAME]
        metafunc.parametrize("name", names, scope="session")


@pytest.fixture(scope="session")
def folder(name, tmp_path_factory, request):
    """A checkpoint whose weights are all random: with those that families draw as zeros, others would have no effect."""
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
    generator, floating = torch.Generator().manual_seed(7), torch.is_floating_point
    noise = {
        name: torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()
    }
    return {
        name: value + 0.05 * noise[name] if floating(value) else value
        for name, value in tensors.items()
    }


def test_takes_inputs_of_any_shape_and_every_weight_is_used(body):
    for kind, shape in CASES:
        model = made(body, kind=kind, input_shape=shape).train()
        model.zero_grad()
        outputs = model(inputs(shape))
        assert outputs.shape == (3, 3, *(shape[1:] if kind == "dense" else ()))
        outputs.square().sum().backward()
        assert all(
            weight.grad is not None and torch.isfinite(weight.grad).all()
            for weight in model.parameters()
        )
        assert model.embedder.convolution.weight.grad.any()


def test_an_answer_depends_on_all_that_is_valid_and_on_nothing_else_and_is_that_of_a_sample_alone(
    body,
):
    model, valid = made(body), torch.arange(30) < torch.tensor([[30], [11], [5]])
    x = inputs((2, 30)).requires_grad_()
    outputs = model(x, valid)
    outputs.square().sum().backward()
    assert torch.equal(x.grad.abs().sum(1) > 0, valid)
    with torch.no_grad():
        alone = torch.cat([model(x[i : i + 1], valid[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(outputs, alone, rtol=1e-3, atol=1e-4)


def test_all_its_weights_are_those_of_the_file(body, node, folder, tmp_path):
    """Adding 1 to every tensor of the file adds 1 to every weight: none is initialised at random."""

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


def test_checkpoints_that_do_not_fit_are_refused(node, folder, tmp_path):
    def place(name):
        return int(match[1]) if (match := re.search(r"\.(\d+)\.", name)) else -1

    def deeper(tensors):
        last = max(map(place, tensors))
        more = {
            name.replace(f".{last}.", f".{last + 1}.", 1): tensor.clone()
            for name, tensor in tensors.items()
        }
        return more | tensors

    def shallower(tensors):
        """Without the first layer; other towers may stand in the same file."""
        return {name: tensor for name, tensor in tensors.items() if place(name) != 0}

    for change, message in ((deeper, "more layers than config.json names"), (shallower, "missing")):
        with pytest.raises(DataError, match=message):
            parts.build(
                node | {"checkpoint": changed(folder, tmp_path / change.__name__, change)}, "body"
            )
    other = changed(folder, tmp_path / "other", dict)
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(
        json.dumps(config | {"model_type": "perceiver"})
    )
    with pytest.raises(ConfigError, match="is of family 'perceiver', but this body takes"):
        parts.build(node | {"checkpoint": other}, "body")


def test_every_linear_layer_has_its_role(body):
    names_by_role = {role: body.linear_names(role) for role in ROLES}
    assert all(names_by_role.values())
    linears = {name for name, module in body.named_modules() if isinstance(module, torch.nn.Linear)}
    with_role = {name for names in names_by_role.values() for name in names}
    assert with_role <= linears
    # Swin merges patches between its stages, which is none of the roles.
    assert not [name for name in linears - with_role if not name.endswith("downsample.reduction")]
    assert not set(names_by_role["feed_forward"]) & {
        name for role in ROLES[:4] for name in names_by_role[role]
    }


def test_the_source_is_embedded_without_gradient(body, source):
    tokens = body.embed_source(source)
    if body.modality == "text":
        assert tokens.mask.sum(1)[0] < tokens.mask.sum(1)[1] == tokens.mask.shape[1]
    else:
        assert tokens.x.shape[1] == np.prod(tokens.grid) > 1
        assert not torch.equal(tokens.x[0], tokens.x[1])
    assert tokens.x.shape == (*tokens.mask.shape, body.width)
    assert torch.isfinite(tokens.x).all()
    assert not tokens.x.requires_grad
    prefix = body.prefix_tokens()
    assert prefix.shape[1] == body.width if prefix is not None else not body.needs_prefix


def test_random_weights_are_all_drawn_by_the_seed_and_leave_the_source(body, node, source):
    first, again = (load_body(node | {"weights": "random"}, seed=0).eval() for _ in range(2))
    for before, drawn, same in zip(
        body.parameters(), first.parameters(), again.parameters(), strict=True
    ):
        assert torch.equal(drawn, same)
        assert drawn.dim() == 1 or not torch.equal(before, drawn)
    assert torch.equal(first.embed_source(source).x, body.embed_source(source).x)


def test_takes_a_finetune_mode_or_refuses_it(name, body):
    """What one trains within it gets gradients."""
    modes = {
        "bitfit": BitFit(),
        "shallow": Prompt(tokens=4),
        "deep": Prompt(tokens=4, depth="deep"),
    }
    if importlib.util.find_spec("peft") is not None:
        modes |= {"lora": LoRA(rank=2)}
    refused, x, plain = (
        set(),
        inputs((3, 6, 6), n=2),
        made(body, kind="dense", input_shape=(3, 6, 6)),
    )
    for key, mode in modes.items():
        model = copy.deepcopy(plain)
        try:
            mode.apply(model)
        except ConfigError:
            refused.add(key)
            continue
        outputs = model.eval()(x)
        assert outputs.shape == (2, 3, 6, 6)
        outputs.square().mean().backward()
        trained = [
            value
            for key, value in model.named_parameters()
            if key.startswith("body.") and value.requires_grad
        ]
        assert any(value.grad is not None and value.grad.any() for value in trained)
    expected = ({"bitfit"} if name in NO_BIASES else set()) | (
        {"shallow", "deep"} if name in NO_PROMPT else set()
    )
    assert name not in BODIES or refused == expected | (
        set() if name in LAYERS_LISTED else {"deep"}
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A function: the model of a run of a body that trained its norms only, its new inputs, and its outputs for them."""

    def run(name, node):
        root = tmp_path_factory.mktemp("run")
        y = np.arange(24) % 3
        x = np.random.default_rng(0).normal(size=(24, 2, 30)).astype(np.float32) + y[:, None, None]
        for part, rows in (("train", slice(18)), ("test", slice(18, 24))):
            np.savez(root / f"{part}.npz", x=x[rows], y=y[rows])
        files = [f"task.{part}={root / part}.npz" for part in ("train", "test")]
        words = [
            f"body={Path(name).stem}",
            f"body.checkpoint={node['checkpoint']}",
            "task=arrays",
            "task.kind=classes",
        ]
        words += [
            *files,
            "embedder=patch",
            "metric=none",
            "finetune=layernorm",
            "baselines=none",
            "train.epochs=1",
        ]
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


def test_a_run_its_export_and_its_predictions_agree_to_the_bit(
    name, body, node, trained, family, tmp_path
):
    """Most bodies take the place of that of a BERT's run, so that not each is trained."""
    if name in BODIES and name not in ("bert", "swin"):
        loaded, x, _ = trained("bert", {"checkpoint": str(family("bert"))})
        loaded = replace(loaded, members=(made(body),), record=replace(loaded.record, body=node))
        with torch.no_grad():
            expected = loaded.model(loaded.preprocessing.inputs(x)[0]).numpy()
    else:
        loaded, x, expected = trained(name, node)
    export(loaded, tmp_path / "export")
    assert np.array_equal(orca_cli.load(tmp_path / "export").outputs(x), expected)
