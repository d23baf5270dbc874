"""The generated tasks are learned: minutes on a tiny body, better than the best constant predictor."""

import pytest

from tests.checkpoints import save_tiny_bert

pytestmark = pytest.mark.slow
SIZES = ["align.epochs=5", "align.source_points=500", "train.lr=2e-3"]


def test_darcy(run, orca, tiny):
    sizes = ["task.num_train=150", "task.nodes=61", "source=digits", "train.epochs=20", *SIZES]
    result = run("task=darcy", f"body.checkpoint={tiny['swin']}", *sizes).result
    assert result["synthetic"]
    assert result["error"]["value"] < 0.75 * result["trivial_error"]
    assert "synthetic" in orca("report")[1]


def test_listops(run, tmp_path):
    body = save_tiny_bert(tmp_path / "body", max_position_embeddings=512)
    sizes = ["task.num_train=1500", "task.max_length=60", "source.size=400", "train.epochs=12", *SIZES]
    result = run("task=listops", f"body.checkpoint={body}", *sizes).result
    assert result["error"]["value"] < 0.9 * result["trivial_error"]
