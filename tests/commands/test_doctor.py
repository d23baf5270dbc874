"""`orca doctor`: its verdict, and that it finds what is really wrong."""

import hashlib
import json
import shutil

import pytest

from orca_cli import storage
from orca_cli.config import configuration
from orca_cli.data.untrusted import downloads
from orca_cli.models import checkpoints
from orca_cli.runs.claim import claim
from orca_cli.runs.directory import RunDirectory, RunName
from tests.commands.called import call, read_json, read_text, refused

CONF = configuration.config_dir()
CHECKPOINT = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(autouse=True)
def packaged(tmp_path, monkeypatch):
    """Replace the real package by one with tiny weights, and use fresh folders."""
    root = tmp_path / "site" / "tiny_weights" / "model"
    root.mkdir(parents=True)
    (root.parent / "__init__.py").touch()
    (root / "config.json").write_text("{}")
    (root / "model.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    package = checkpoints.Packaged(
        package="tiny_weights", folder="model", sha256=digest, extra="offline"
    )
    monkeypatch.setitem(checkpoints.PACKAGED, CHECKPOINT, package)
    monkeypatch.setattr(downloads, "hub_answers", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("ORCA_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))
    return root


def verdict(code):
    """Return the verdict, which is said last, and to other programs as well."""
    actual, out, _ = call("doctor")
    record = json.loads(call("doctor", "--json")[1])
    assert (actual, record["exit_code"], record["works"]) == (code, code, code == 0)
    assert "".join(out.split()).endswith(
        "".join(record["verdict"].split())
    )  # folded at the console's width
    return record["verdict"]


def test_a_working_machine(tmp_path, monkeypatch):
    assert verdict(0) == "this machine can run orca"
    record = read_json("doctor")
    assert (record["schema"], record["weights"]["from"]) == (
        1,
        "package tiny_weights, checksum verified",
    )
    assert not (tmp_path / "home").exists()
    (tmp_path / "runs").write_text("a file")
    assert "ORCA_RUNS" in verdict(30)
    (tmp_path / "runs").unlink()
    monkeypatch.setenv("ORCA_HOME", "/proc/no")
    assert "ORCA_HOME" in verdict(30)


@pytest.mark.parametrize(
    ("name", "text"), [("body/minilm.yaml", "body: ["), ("config.yaml", "defaults:")]
)
def test_a_damaged_file_of_the_program_is_named(tmp_path, monkeypatch, name, text):
    monkeypatch.setattr(configuration, "config_dir", lambda: tmp_path / "conf")
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf" / name).write_text(text)
    assert name in verdict(14)


def test_weights(packaged, tmp_path, monkeypatch):
    (packaged / "model.safetensors").write_bytes(b"Weights")
    assert "differs from the published checksum" in verdict(14)
    (packaged / "model.safetensors").unlink()
    snapshot = tmp_path / "hub" / f"models--{CHECKPOINT.replace('/', '--')}" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "bert"}')
    assert "pip install 'orca-transfer[offline]'" in verdict(14)  # a download that was interrupted
    monkeypatch.setattr(downloads, "hub_answers", lambda: True)
    assert "will be downloaded" in read_json("doctor")["weights"]["from"]
    (snapshot / "model.safetensors").write_bytes(b"weights")
    weights = read_json("doctor")["weights"]
    assert (weights["from"], weights["folder"]) == ("cache of the model hub", str(snapshot))


@pytest.fixture
def run(tmp_path):
    """A completed run as a run leaves it, without training."""
    name = RunName(
        task="digits",
        body="minilm",
        source="digits",
        metric="otdd",
        finetune="full",
        seed=0,
        protocol="clean",
        identity="a" * 64,
        settings="b" * 64,
        variant={"train.lr": "1"},
    )
    with claim(tmp_path / "runs", name) as run:
        assert isinstance(run, RunDirectory)
        run.write_environment({"schema": 1})
        run.set_state("finetune", step=3)
        with storage.commit_folder(run.stage("finetune") / "best", owner=name.identity) as folder:
            (folder / "model.safetensors").write_bytes(b"weights")
        run.write_result({"error": {"value": 0.5}, "inexact": ["threads"]})
    return run.path


@pytest.mark.parametrize("named_by", [str, lambda run: run.name], ids=["folder", "name"])
def test_an_intact_run_is_found(run, named_by):
    before = (run / "status.json").read_bytes()
    out = read_text("doctor", named_by(run))
    assert "intact: 4 files compared with their checksums; state of the run: completed" in out
    assert "resumed inexactly: threads" in out
    record = read_json("doctor", named_by(run))
    assert (record["code"], record["damaged"]) == (0, [])
    assert (run / "status.json").read_bytes() == before


def test_a_damaged_file_is_named(run):
    """Damage anywhere: tests/reliability/test_damage.py."""
    file = run / "3_finetune" / "best" / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    code, out, _ = call("doctor", run)
    assert (code, "3_finetune/best" in out) == (13, True)


def test_a_folder_without_a_run_is_refused(tmp_path):
    (tmp_path / "other").mkdir()
    refused(11, "doctor", tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_an_unknown_name_is_refused():
    refused(11, "doctor", "2026-nothing")


def test_a_run_in_use_is_refused(run):
    with storage.lock(run / "lock"):
        refused(20, "doctor", run)
