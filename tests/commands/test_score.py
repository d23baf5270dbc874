"""`orca score`: every error is computed again from saved predictions; others are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from orca_cli.cli import main
from orca_cli.config import parts
from tests.commands.called import refused
from tests.report.trees import add_run
from tests.scoring.cases import CASES, FORMS, Case

BY_NAME = {case.name: case for case in reversed(CASES)}  # the first of each
PREDICTIONS = "3_finetune/predictions.npz"


def add_scored_run(root, error, *, with_groups=True, node=None):
    """Write a completed run whose result an error, by its case or name, makes of its predictions."""
    case = error if isinstance(error, Case) else BY_NAME[error]
    outputs, targets, groups = case.drawn(0)
    made = parts.build(case.node, "task.error")
    score = made(outputs, targets, groups)
    assert score.value is not None
    fields = {
        "n": score.n,
        "skipped": score.skipped,
        "percent": made.percent,
        "others": dict(score.others),
    }
    run = add_run(
        root,
        value=score.value,
        error={"name": made.name, **fields},
        seed=len(list(root.glob("*/*"))),
    )
    for stage in ("1_build", "3_finetune"):
        (run / stage).mkdir()
    (run / "1_build" / "summary.json").write_text(
        json.dumps({"schema": 1, "kind": FORMS[case.form]})
    )
    (run / "config.yaml").write_text(
        yaml.safe_dump({"task": {"error": case.node if node is None else node}})
    )
    saved = {"outputs": outputs, "targets": targets} | ({"groups": groups} if with_groups else {})
    np.savez(run / PREDICTIONS, **saved)
    return run


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_error_is_computed_again(tmp_path, capsys, case):
    run = add_scored_run(tmp_path, case)
    assert main(["score", str(run), "--json"]) == 0
    entry = json.loads(capsys.readouterr().out)
    record = json.loads((run / "result.json").read_text())
    value = record["error"]["value"]
    assert entry["error"] == {
        "name": record["error"]["name"],
        "recorded": value,
        "computed": value,
    }
    assert {other["name"] for other in entry["others"]} == set(record["error"]["others"])
    # Another number in the record is found.
    record["error"]["value"] = value * 1.0001 + 1e-6
    (run / "result.json").write_text(json.dumps(record))
    assert main(["score", str(run)]) == 13
    assert capsys.readouterr().err.count("\n") == 1


def test_damaged_predictions_are_refused(tmp_path):
    run = add_scored_run(tmp_path, "regression.RMSE")
    (run / PREDICTIONS).write_bytes(b"PK damaged")
    assert "predictions.npz" in refused(11, "score", run)


def test_a_link_to_predictions_is_refused(tmp_path):
    run = add_scored_run(tmp_path, "regression.RMSE")
    (run / PREDICTIONS).rename(run / "elsewhere.npz")
    (run / PREDICTIONS).symlink_to(run / "elsewhere.npz")
    assert "is a link" in refused(12, "score", run)


@pytest.mark.parametrize(
    "target",
    ["orca_cli.storage.folders.remove", "orca_cli.models.predictors.Pooled", "os.system"],
)
def test_settings_that_name_other_code_are_refused(tmp_path, target):
    run = add_scored_run(tmp_path, "regression.RMSE", node={"_target_": target})
    assert target in refused(12, "score", run)


def test_a_run_that_is_not_completed_is_refused(tmp_path):
    run = add_run(tmp_path, state="failed")
    assert "not completed" in refused(11, "score", run)


def test_predictions_that_do_not_suffice_are_refused(tmp_path):
    run = add_scored_run(tmp_path, "classification.MacroF1", with_groups=False)
    assert "error cannot be computed from the saved predictions" in refused(11, "score", run)


def test_an_export_has_nothing_to_score():
    exported = Path(__file__).parent.parent / "recorded" / "exported"
    assert (
        "is an export, which has no saved predictions; name the run that was exported"
        in refused(11, "score", exported)
    )
