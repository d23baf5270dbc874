"""`orca score`: every error of the program is computed again from saved predictions, and any other number is refused."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from orca_cli import parts, scoring
from orca_cli.cli import main
from tests.report.trees import add_run

N, K, W = 60, 3, 30
RNG = np.random.default_rng(0)
GROUPS = np.repeat(np.arange(20), 3)
CLASSES = (RNG.normal(size=(N, K)), np.repeat(np.arange(20) % K, 3))
LABELS = (RNG.normal(size=(N, K)), np.repeat(RNG.integers(0, 2, (20, K)), 3, axis=0).astype(np.float32))
VALUES = (RNG.normal(size=(N, K)), RNG.normal(size=(N, K)))
ROLL = (RNG.normal(size=(N, K, 5)), RNG.integers(0, 2, (N, K, 5)).astype(np.float32))
MASK = (RNG.normal(size=(N, 1, 4, 4)), RNG.integers(0, 2, (N, 1, 4, 4)).astype(np.float32))
MAP = (RNG.uniform(1, 9, (4, 1, W, W)), RNG.uniform(1, 9, (4, 1, W, W)))
FIELD = (RNG.normal(size=(N, 1, 5)), RNG.normal(size=(N, 1, 5)))

# Class -> kind, arguments, outputs and targets; what an error of records needs is saved with them.
ERRORS: dict[str, tuple[str, dict[str, Any], tuple[np.ndarray, np.ndarray]]] = {
    "classification.ZeroOne": ("classes", {}, CLASSES),
    "classification.Balanced": ("classes", {}, CLASSES),
    "classification.ClassAUROC": ("classes", {}, CLASSES),
    "classification.MacroF1": ("classes", {"by": "records", "also_first": 2}, CLASSES),
    "multilabel.MeanAveragePrecision": ("labels", {"by": "records"}, LABELS),
    "multilabel.MeanAUROC": ("labels", {}, LABELS),
    "multilabel.LabelMacroF1": ("labels", {}, LABELS),
    "values.RMSE": ("values", {}, VALUES),
    "values.MAE": ("values", {}, VALUES),
    "values.OneMinusR2": ("values", {}, VALUES),
    "values.NormalisedRMSE": ("values", {}, VALUES),
    "regression.RelativeL2": ("dense", {}, FIELD),
    "regression.MeanSquared": ("dense", {}, FIELD),
    "sequences.NatsPerFrame": ("dense", {}, ROLL),
    "masks.MaskError": ("dense", {"report": "balanced"}, MASK),
    "distances.LongRangeMAE": ("dense", {"separation": 5}, MAP),
    "chunks.ChunkMean": (
        "classes",
        {"error": {"_target_": "orca_cli.scoring.classification.ZeroOne"}, "size": 25, "batch": 10},
        CLASSES,
    ),
}


def _node(name: str) -> dict[str, Any]:
    return {"_target_": f"orca_cli.scoring.{name}", **ERRORS[name][1]}


def _add(root: Path, name: str, *, with_groups: bool = True, node: Any = None) -> Path:
    """Write a completed run whose result is what the error says of its predictions."""
    kind, _, (outputs, targets) = ERRORS[name]
    outputs, targets = outputs.astype(np.float32), targets.astype(np.int64 if kind == "classes" else np.float32)
    groups = GROUPS[: len(outputs)]
    error = parts.build(_node(name), "task.error")
    score = error(*map(torch.from_numpy, (outputs, targets, groups)))
    assert score.value is not None
    fields = {"n": score.n, "skipped": score.skipped, "percent": error.percent, "others": dict(score.others)}
    run = add_run(root, value=score.value, error={"name": error.name, **fields}, seed=len(list(root.glob("*/*"))))
    (run / "1_build").mkdir()
    (run / "1_build" / "summary.json").write_text(json.dumps({"schema": 1, "kind": kind}))
    (run / "config.yaml").write_text(yaml.safe_dump({"task": {"error": _node(name) if node is None else node}}))
    (run / "3_finetune").mkdir()
    saved = {"outputs": outputs, "targets": targets} | ({"groups": groups} if with_groups else {})
    np.savez(run / "3_finetune" / "predictions.npz", **saved)
    return run


def test_every_error_of_the_program_is_tried() -> None:
    modules = [
        importlib.import_module(f"orca_cli.scoring.{one.name}") for one in pkgutil.iter_modules(scoring.__path__)
    ]
    found = {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in modules
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if kind.__module__ == module.__name__ and name[0] != "_" and hasattr(kind, "constant")
    }
    assert found == set(ERRORS)


@pytest.mark.parametrize("name", ERRORS)
def test_each_error_is_computed_again_and_another_number_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = _add(tmp_path, name)
    assert main(["score", str(run), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["runs"]
    record = json.loads((run / "result.json").read_text())
    assert found["error"] == {
        "name": record["error"]["name"],
        "recorded": record["error"]["value"],
        "computed": record["error"]["value"],
    }
    assert {one["name"] for one in found["others"]} == set(record["error"]["others"])
    record["error"]["value"] *= 1.0001
    (run / "result.json").write_text(json.dumps(record))
    assert main(["score", str(run)]) == 13
    assert capsys.readouterr().err.count("\n") == 1


def test_predictions_that_changed_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = _add(tmp_path, "classification.ZeroOne"), _add(tmp_path, "classification.ZeroOne")
    path = bad / "3_finetune" / "predictions.npz"
    with np.load(path) as saved:
        np.savez(path, outputs=-saved["outputs"], targets=saved["targets"])
    assert main(["score", str(bad), str(good)]) == 13
    out, err = capsys.readouterr()
    assert [line.split()[-1] for line in out.splitlines() if good.name in line] == ["equal"]
    assert bad.name in err
    path.write_bytes(b"PK damaged")
    assert main(["score", str(bad)]) == 11
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_no_longer_known_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _add(tmp_path, "classification.MacroF1", with_groups=False)
    assert main(["score", str(run)]) == 11
    assert "cannot be computed from what the run saved" in capsys.readouterr().err
    assert main(["score", str(add_run(tmp_path, seed=9, state="failed"))]) == 11
    assert "not completed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "target", ["orca_cli.storage.folders.remove", "orca_cli.models.predictors.Pooled", "os.system"]
)
def test_settings_that_name_no_error_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    run = _add(tmp_path, "values.RMSE", node={"_target_": target})
    assert main(["score", str(run)]) == 12
    assert capsys.readouterr().err.count("\n") == 1


def test_predictions_behind_a_link_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = _add(tmp_path, "values.RMSE"), _add(tmp_path, "values.RMSE")
    path = run / "3_finetune" / "predictions.npz"
    path.unlink()
    path.symlink_to(other / "3_finetune" / "predictions.npz")
    assert main(["score", str(run)]) == 12
    assert "is a link" in capsys.readouterr().err
