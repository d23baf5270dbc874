"""What every body must do, whatever its family, on a tiny random checkpoint of it that is saved here.

For a body of your own (docs/adding.md), whose name stands in conf/body or whose file is elsewhere:
pytest tests/models/test_conformance.py --body NAME_OR_FILE --checkpoint FOLDER
"""

import json
import re
import shutil
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
from orca_cli.prediction.export import export
from orca_cli.prediction.loading import open_model
from tests.checkpoints import save_tiny
from tests.models.conftest import build

BODIES = sorted(path.stem for path in (config_dir() / "body").glob("*.yaml"))
SAME = ("auto", "minilm", "swin_tiny")  # the code and the tiny checkpoint of another
ROLES = ("query", "key", "value", "output", "feed_forward")
CASES = [("dense", (2, 30)), ("classes", (3, 9, 7)), ("dense", (1, 2, 5, 3))]


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
    return changed(request.config.getoption("checkpoint") or save_tiny(name, root / "drawn"), root / "random", noisy)


@pytest.fixture(scope="session")
def node(name, folder):
    """The body's settings, on the tiny checkpoint."""
    path = config_dir() / "body" / f"{name}.yaml" if name in BODIES else Path(name)
    node = yaml.safe_load(path.read_text(encoding="utf-8"))["body"]
    parts.allow_module(node["_target_"].rpartition(".")[0])
    return node | {"checkpoint": str(folder)}


@pytest.fixture
def body(node):
    return parts.build(node, "body").eval()


def made(body, **settings):
    return build(body, **({"input_shape": (2, 30)} | settings)).eval()


def inputs(shape, n=3):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


def sounds(n):
    return np.random.default_rng(0).uniform(-1, 1, (n, 4000)).astype(np.float32)


def valid_part(shape, lengths):
    """Return [B, *E] bool, False from each sample's length on, counted row by row."""
    extent = shape[1:]
    places = torch.arange(int(np.prod(extent))).reshape(extent)
    return torch.stack([places < length for length in lengths])


def changed(folder, place, change):
    """Return a copy of a checkpoint whose tensors (name -> tensor) went through `change`."""
    shutil.copytree(folder, place)
    for file in place.glob("*.safetensors"):
        save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return str(place)


def noisy(tensors, deviation=0.05):
    generator = torch.Generator().manual_seed(7)
    noise = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()}
    return {
        name: tensor + deviation * noise[name] if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def is_finite(tensors):
    return all(tensor is not None and torch.isfinite(tensor).all() for tensor in tensors)


@pytest.mark.parametrize(("kind", "shape"), CASES, ids=str)
def test_takes_inputs_of_any_shape_and_every_weight_is_used(body, kind, shape):
    model = made(body, kind=kind, input_shape=shape).train()
    outputs = model(inputs(shape))
    assert outputs.shape == (3, 3, *(shape[1:] if kind == "dense" else ()))
    outputs.square().sum().backward()
    assert is_finite([weight.grad for weight in model.parameters()])
    assert model.embedder.convolution.weight.grad.any()


def test_a_sample_has_the_outputs_that_it_has_alone(body):
    model = made(body)
    x, valid = inputs((2, 30)), valid_part((2, 30), [30, 11, 5])
    with torch.no_grad():
        alone = torch.cat([model(x[i : i + 1], valid[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(model(x, valid), alone, rtol=1e-3, atol=1e-4)


def test_an_answer_depends_on_all_that_is_valid_and_on_nothing_else(body):
    model = made(body)
    x, valid = inputs((2, 30)).requires_grad_(), valid_part((2, 30), [30, 11, 5])
    model(x, valid).square().sum().backward()
    assert torch.equal(x.grad.abs().sum(1) > 0, valid)


def test_all_its_weights_are_those_of_the_file(node, folder, tmp_path):
    """Adding 1 to every tensor of the file adds 1 to every weight: none is initialised at random."""

    def grown(tensors):
        return {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}

    original = parts.build(node, "body")
    other = parts.build(node | {"checkpoint": changed(folder, tmp_path / "grown", grown)}, "body")
    assert list(original.parameters())
    for (name, before), after in zip(original.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(before + 1, after), name
    assert original.checkpoint_digest != other.checkpoint_digest


def test_checkpoints_that_do_not_fit_are_refused(node, folder, tmp_path):
    def place(name):
        return int(match[1]) if (match := re.search(r"\.(\d+)\.", name)) else -1

    def deeper(tensors):
        last = max(map(place, tensors))
        more = {name.replace(f".{last}.", f".{last + 1}.", 1): tensor.clone() for name, tensor in tensors.items()}
        return more | tensors

    def shallower(tensors):
        """Without the first layer; other towers may stand in the same file."""
        return {name: tensor for name, tensor in tensors.items() if place(name) != 0}

    for change, message in ((deeper, "more layers than config.json names"), (shallower, "missing")):
        with pytest.raises(DataError, match=message):
            parts.build(node | {"checkpoint": changed(folder, tmp_path / change.__name__, change)}, "body")
    other = changed(folder, tmp_path / "other", dict)
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"model_type": "perceiver"}))
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
    assert not set(names_by_role["feed_forward"]) & {name for role in ROLES[:4] for name in names_by_role[role]}


def test_the_source_is_embedded_without_gradient(body):
    images = np.random.default_rng(0).random((2, 3, 20, 30), dtype=np.float32)
    source = {"text": ["a", "the list of a list"], "image": images, "audio": sounds(n=2)}[body.modality]
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
    assert prefix is None or prefix.shape[1] == body.width
    assert prefix is not None or not body.needs_prefix


def test_reset_draws_all_weights_anew_and_leaves_the_source(body):
    before = {name: weight.detach().clone() for name, weight in body.named_parameters()}
    source = {"text": ["a list"], "image": np.full((1, 3, 32, 32), 0.5, np.float32), "audio": sounds(n=1)}[
        body.modality
    ]
    embedded = body.embed_source(source).x
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        body.reset_weights()
        drawn.append([weight.detach().clone() for weight in body.parameters()])
    assert all(map(torch.equal, *drawn))
    after = dict(body.named_parameters())
    assert not [name for name, weight in before.items() if weight.dim() > 1 and torch.equal(weight, after[name])]
    assert torch.equal(body.embed_source(source).x, embedded)


def test_a_run_its_export_and_its_predictions_agree_to_the_bit(name, node, tmp_path, monkeypatch):
    """For a run that trained norms only and needs the checkpoint to predict."""
    monkeypatch.setenv("ORCA_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))
    y = np.arange(48) % 3
    x = np.random.default_rng(0).normal(size=(48, 2, 30)).astype(np.float32) + y[:, None, None]
    for part, rows in (("train", slice(36)), ("test", slice(36, 48))):
        np.savez(tmp_path / f"{part}.npz", x=x[rows], y=y[rows])
    words = [f"body={Path(name).stem}", f"body.checkpoint={node['checkpoint']}", "finetune=layernorm"]
    words += ["task=arrays", "task.kind=classes", *(f"task.{part}={tmp_path / part}.npz" for part in ("train", "test"))]
    words += ["metric=none", "baselines=none", "train.epochs=1", "train.batch_size=12", "train.warmup_epochs=0"]
    outcome = orca_cli.run(*words, config_dir=None if name in BODIES else Path(name).resolve().parent.parent)
    assert outcome.state == "completed", outcome.failure
    expected = np.load(outcome.path / "3_finetune" / "predictions.npz")["outputs"]
    assert np.array_equal(orca_cli.load(outcome.path).outputs(x[36:]), expected)
    export(open_model(outcome.path), tmp_path / "export")
    assert np.array_equal(orca_cli.load(tmp_path / "export").outputs(x[36:]), expected)
