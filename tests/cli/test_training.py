"""What stage 3 learns and says, by the command line."""

import json

import numpy as np
import pytest

from orca_cli.training import engine
from tests.checkpoints import save_tiny_bert
from tests.cli.conftest import results, run_folders
from tests.scaled import break_loss


@pytest.fixture
def numbers(tmp_path, tiny):
    """Return a function that runs a regression of maps whose targets are in given units; they depend on the inputs."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 1, 16)).astype(np.float32)
    y = np.cumsum(x[:, 0], axis=1) / 4

    def words(units, *more):
        np.savez(tmp_path / f"{units}.npz", x=x, y=(y * units).astype(np.float32))
        return [
            "run", "task=arrays", "task.kind=dense", f"task.train={tmp_path / f'{units}.npz'}",
            f"body.checkpoint={tiny['bert']}", "metric=none", "train.epochs=15", "train.lr=3e-3", "train.warmup_epochs=1",
            "train.batch_size=16", "train.refit=false", *more,
        ]  # fmt: skip

    return words


def test_regression_learns_the_same_in_any_units(orca, environment, numbers):
    errors = []
    for units in (1.0, 1e-6, 1e6):
        code, _, err = orca(*numbers(units))
        assert code == 0, err
        result = results(environment)[-1]
        errors.append(result["error"]["value"] / result["trivial_error"])
        line = result["curves"]["finetune"][-1]
        assert line["train_loss"] == pytest.approx(
            line["validation_error"], rel=0.6
        )  # both in the task's units, squared
    assert errors[0] < 0.7
    assert errors[1:] == pytest.approx(errors[:1] * 2, rel=0.02)


def test_a_warmup_longer_than_training_is_shortened_and_told(orca, environment, numbers):
    words = numbers(1.0, "train.epochs=2", "train.warmup_epochs=5")
    code, _, err = orca(*words)
    assert code == 0, err
    assert "warm-up shortened from 5 to 1 of 2 epochs (train.warmup_limit=0.5)" in err
    (result,), (run,) = results(environment), run_folders(environment)
    assert result["training"]["warmup_epochs"] == 1
    assert json.loads((run / "1_build" / "summary.json").read_text())["warmup_epochs"] == 1
    lines = [json.loads(line) for line in (run / "3_finetune" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["lr"] < lines[0]["lr"]
    code, _, err = orca(*words, "train.warmup_limit=null")
    assert code == 0
    assert "shortened" not in err


def test_what_auto_comes_to_is_recorded_and_another_is_noticed_on_resume(
    orca, environment, small, tmp_path, monkeypatch
):
    words = [
        "run", *small, f"body.checkpoint={save_tiny_bert(tmp_path / 'wide', hidden_size=64)}", "metric=none",
        "train.checkpoint_s=0", "train.adapt_rate=false",
    ]  # fmt: skip
    monkeypatch.setattr(engine, "_cpu_computes_bf16", lambda: True)
    with monkeypatch.context() as broken:
        break_loss(broken, 6)
        assert orca(*words)[0] != 0
    monkeypatch.setattr(engine, "_cpu_computes_bf16", lambda: False)
    code, _, err = orca(*words)
    assert code != 0
    assert "precision (bf16, now fp32)" in err
    for has, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(engine, "_cpu_computes_bf16", lambda has=has: has)
        code, _, err = orca(*words, "--force")
        assert code == 0, err
        run = run_folders(environment)[-1]
        assert results(environment)[-1]["training"]["precision"] == precision
        assert json.loads((run / "1_build" / "summary.json").read_text())["precision"] == precision
    half, full = results(environment)
    assert half["weights_sha256"] != full["weights_sha256"]
    assert orca(*words, "--force", "protocol=release", "body=bert")[0] == 0
    assert results(environment)[-1]["training"]["precision"] == "fp32"
