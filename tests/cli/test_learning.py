"""The generated tasks are learned: minutes on a tiny body, better than the best constant predictor."""

import pytest

from tests.checkpoints import save_tiny_bert
from tests.cli.conftest import results

pytestmark = pytest.mark.slow


def test_darcy(orca, environment, tiny):
    sizes = ["task.num_train=150", "task.nodes=61", "source=digits", "align.epochs=5", "align.source_points=500"]
    code, _, err = orca(
        "run", "task=darcy", f"body.checkpoint={tiny['swin']}", *sizes, "train.epochs=20", "train.lr=2e-3"
    )
    assert code == 0, err
    (result,) = results(environment)
    assert result["synthetic"]
    assert result["error"]["value"] < 0.75 * result["trivial_error"]
    assert "synthetic" in orca("report")[1]


def test_listops(orca, environment, tmp_path):
    body = save_tiny_bert(tmp_path / "body", max_position_embeddings=512)
    sizes = [
        "task.num_train=1500",
        "task.max_length=60",
        "source.size=400",
        "align.epochs=5",
        "align.source_points=500",
    ]
    code, _, err = orca("run", "task=listops", f"body.checkpoint={body}", *sizes, "train.epochs=12", "train.lr=2e-3")
    assert code == 0, err
    (result,) = results(environment)
    assert result["error"]["value"] < 0.9 * result["trivial_error"]
