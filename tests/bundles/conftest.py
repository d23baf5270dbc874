"""Three runs with predictions, of which one method has two seeds, and the bundle of them."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from orca_cli import storage
from orca_cli.cli import main
from tests.report.trees import add_run

Edit = Callable[[dict[str, bytes]], None]
SECRET = "hf_" + "x" * 30
DATA = "/home/somebody/my data/x.npz"


def add_scored_run(
    root: Path, *, seed: int, metric: str = "otdd", wrong: int = 5, data: str = DATA, **fields: object
) -> Path:
    """Write a completed run of 40 predictions, `wrong` of which are, with records that name this machine."""
    targets = np.arange(40) % 4
    outputs = np.eye(4, dtype=np.float32)[np.where(np.arange(40) < wrong, (targets + 1) % 4, targets)]
    error = {"name": "0-1 error", "value": wrong / 40, "n": 40, "skipped": 0, "percent": True, "others": {}}
    variant = {"train.lr": "2e-4", "task.train": data}
    path = add_run(root, seed=seed, metric=metric, variant=variant, error=error, value=wrong / 40, **fields)  # type: ignore[arg-type]
    task = {"error": {"_target_": "orca_cli.scoring.classification.ZeroOne"}, "train": variant["task.train"]}
    settings = {"task": task, "seed": seed, "train": {"lr": 2e-4, "error_chunks": None}, "tracker": {"api_key": SECRET}}
    (path / "config.yaml").write_text(yaml.safe_dump(settings))
    (path / "overrides.txt").write_text(f"train.lr=2e-4\ntask.train={data}\ntracker.api_key={SECRET}\n")
    environment = {
        "schema": 1,
        "python": "3.11",
        "folder": "/home/somebody/work",
        "command": ["/home/somebody/orca", "run"],
    }
    environment["files"] = {data: "sha256:00"}  # type: ignore[assignment]
    (path / "env.json").write_text(json.dumps(environment))
    for stage in ("1_build", "3_finetune"):
        (path / stage).mkdir()
    (path / "1_build" / "summary.json").write_text(json.dumps({"schema": 1, "kind": "classes"}))
    np.savez(path / "3_finetune" / "predictions.npz", outputs=outputs, targets=targets)
    files = [file for file in path.rglob("*") if file.is_file() and file.name not in ("status.json", "lock")]
    storage.seal(path, files, owner=json.loads((path / "result.json").read_text())["identity"])
    return path


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpacking waits for the disk of the whole machine, on which other tests write."""
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `runs` and the bundle of these, `all.zip`."""
    folder = tmp_path_factory.mktemp("made")
    for seed in (0, 1):
        add_scored_run(folder / "runs", seed=seed, wrong=5 + seed)
        add_scored_run(folder / "runs", seed=seed, metric="none", wrong=9 + seed)
    variant = {"train.lr": "2e-4", "task.train": DATA}
    add_run(folder / "runs", seed=7, state="failed", variant=variant)
    assert main(["pack", str(folder / "runs"), "--against", "metric=none", "--out", str(folder / "all.zip")]) == 0
    return folder


def members(bundle: Path) -> dict[str, bytes]:
    """Return name -> content of what is in a bundle."""
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(bundle: Path, target: Path, edit: Edit, *, listed: bool) -> Path:
    """Write a bundle anew with an edit; `listed` makes bundle.json fit it, as somebody would who knows the format."""
    content = members(bundle)
    edit(content)
    folder = target.with_suffix(".folder")
    for name, inner in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(inner)
    if listed:
        record = storage.read_checked_json(folder / "bundle.json")
        record["files"] = {
            name: {"size": len(inner), "sha256": storage.sha256_file(folder / name)}
            for name, inner in content.items()
            if name != "bundle.json"
        }
        storage.write_checked_json(folder / "bundle.json", record)
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(folder).as_posix())
    shutil.rmtree(folder)
    return target
