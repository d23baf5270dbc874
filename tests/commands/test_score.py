"""`orca score`: every error of the program is computed again from saved predictions, and any other number is refused."""

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


def _add(root, error, *, with_groups=True, node=None):
    """Write a completed run whose result is what an error, by its case or name, says of its predictions."""
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
def test_each_error_is_computed_again_and_another_number_is_found(tmp_path, capsys, case):
    run = _add(tmp_path, case)
    assert main(["score", str(run), "--json"]) == 0
    entry = json.loads(capsys.readouterr().out)
    record = json.loads((run / "result.json").read_text())
    name, value = record["error"]["name"], record["error"]["value"]
    assert entry["error"] == {"name": name, "recorded": value, "computed": value}
    assert {one["name"] for one in entry["others"]} == set(record["error"]["others"])
    record["error"]["value"] = value * 1.0001 + 1e-6
    (run / "result.json").write_text(json.dumps(record))
    assert main(["score", str(run)]) == 13
    assert capsys.readouterr().err.count("\n") == 1


TARGETS = ("orca_cli.storage.folders.remove", "orca_cli.models.predictors.Pooled", "os.system")


def test_what_is_refused(tmp_path):
    damaged, linked = (_add(tmp_path, "regression.RMSE") for _ in range(2))
    (damaged / PREDICTIONS).write_bytes(b"PK damaged")
    (linked / PREDICTIONS).rename(linked / "elsewhere.npz")
    (linked / PREDICTIONS).symlink_to(linked / "elsewhere.npz")
    cases = [(damaged, 11, "predictions.npz"), (linked, 12, "is a link")]
    cases += [
        (_add(tmp_path, "regression.RMSE", node={"_target_": target}), 12, target)
        for target in TARGETS
    ]
    cases.append((add_run(tmp_path, seed=99, state="failed"), 11, "not completed"))
    records = _add(tmp_path, "classification.MacroF1", with_groups=False)
    cases.append((records, 11, "cannot be computed from what the run saved"))
    for run, code, message in cases:
        assert message in refused(code, "score", run)


def test_an_export_has_nothing_to_score():
    exported = Path(__file__).parent.parent / "recorded" / "exported"
    assert "an export has no saved predictions; give the run that it was made of" in refused(
        11, "score", exported
    )
