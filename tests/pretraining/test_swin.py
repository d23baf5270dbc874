"""The small Swin: it learns, it is a body, the same seed gives the same bits, resumed or not, and nothing is half-written."""

import json
import os
import signal

import numpy as np
import pytest
import torch

from orca_cli.cli import main
from orca_cli.exceptions import ConfigError, InterruptionError, NonFiniteError, StorageError
from orca_cli.models.bodies import swin as swin_body
from orca_cli.models.bodies.base import _statistics
from orca_cli.pretraining import swin
from orca_cli.pretraining.images import ImageSet, Part
from orca_cli.progress import Silent
from orca_cli.storage import read_tensors
from tests.checkpoints import SHARED

SETTINGS = swin.Pretraining(epochs=2, batch_size=8)


def stripes(seed=0):
    """Images with vertical stripes, and with horizontal ones."""
    rng = np.random.default_rng(seed)

    def part(count):
        y = np.arange(count) % 2
        wave = (np.arange(32) // 4 % 2 * 160).astype(np.uint8)
        x = np.stack([np.broadcast_to(wave if label else wave[:, None], (3, 32, 32)) for label in y])
        return Part(x + rng.integers(0, 60, x.shape, dtype=np.uint8), y.astype(np.int64))

    return ImageSet(part(24), part(16), ("lying", "standing"), "stripes")


def train(folder, settings=SETTINGS, images=None):
    return swin.train(folder, images or stripes(), settings, "cpu", Silent())


def test_it_learns_and_is_a_body_with_the_statistics_of_its_images(tmp_path):
    images = stripes()
    record = train(tmp_path / "own", swin.Pretraining(epochs=8, batch_size=8), images)
    assert record["held_out_accuracy"] == 1.0
    assert record["loss"][-1] < 0.7 * record["loss"][0]
    assert record["parameters"] == pytest.approx(930_000, rel=0.01)
    body = swin_body.load(str(tmp_path / "own"))
    stored = read_tensors(tmp_path / "own" / "model.safetensors")
    assert torch.equal(body.state_dict()["norm.weight"], stored["swin.layernorm.weight"])
    assert body.canvas == (32, 32)
    pixels = images.train.x / 255
    np.testing.assert_allclose(_statistics(body.folder)[0], pixels.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(_statistics(body.folder)[1], pixels.std((0, 2, 3)), atol=1e-5)
    # Its classifier, applied as the file says, gives the accuracy of the record.
    from transformers import SwinForImageClassification

    model = SwinForImageClassification.from_pretrained(tmp_path / "own").eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in _statistics(body.folder))
    with torch.no_grad():
        logits = model((torch.from_numpy(images.held_out.x) / 255 - mean) / std).logits
    assert (logits.argmax(-1).numpy() == images.held_out.y).all()
    assert model.config.id2label == {0: "lying", 1: "standing"}


def test_seeds_decide_the_bits_and_a_finished_training_is_not_repeated(tmp_path, monkeypatch):
    first, again = (train(tmp_path / name) for name in ("a", "b"))
    assert first["weights_sha256"] == again["weights_sha256"]
    other = train(tmp_path / "c", swin.Pretraining(epochs=2, batch_size=8, seed=1))
    assert other["weights_sha256"] != first["weights_sha256"]
    monkeypatch.setattr(swin, "_optimize", lambda *_: pytest.fail("trained again"))
    assert train(tmp_path / "a") == first
    with pytest.raises(ConfigError, match="is there already, and is not the result of this command"):
        train(tmp_path / "a", swin.Pretraining(epochs=3, batch_size=8))


@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_an_interrupted_training_resumes_with_the_same_bits(tmp_path, monkeypatch, stop_at):
    wanted = train(tmp_path / "whole")
    real, taken = swin._step, []

    def step(*arguments):
        taken.append(1)
        if len(taken) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(swin, "_step", step)
    with pytest.raises(InterruptionError):
        train(tmp_path / "own")
    assert not (tmp_path / "own").exists()
    record = train(tmp_path / "own")
    assert len(taken) == 6  # 2 epochs of 3 steps, none twice
    assert record == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own", "whole"]


def test_nothing_half_written_has_the_folders_name(tmp_path, monkeypatch):
    def full(path, value):
        raise StorageError("no space left", where=str(path))

    with monkeypatch.context() as patch:
        patch.setattr(swin.storage, "write_json", full)
        with pytest.raises(StorageError):
            train(tmp_path / "own")
    assert not (tmp_path / "own").exists()
    assert train(tmp_path / "own")["held_out_accuracy"] > 0
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="is not the result"):
        train(tmp_path / "mine")


def test_a_loss_that_is_not_finite_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(swin, "_step", lambda *_: float("nan"))
    with pytest.raises(NonFiniteError, match="the loss is nan at step 0; use a smaller --lr"):
        train(tmp_path / "own")


def test_the_command_trains_and_its_folder_is_used_by_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ORCA_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    images = stripes()
    np.savez("own.npz", x_train=images.train.x, y_train=images.train.y)
    words = ["body", "train", "small", "--data", "own.npz", "--epochs", "1", "--batch-size", "8", "--json"]
    assert main(words) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["train"], record["held_out"], record["classes"]) == (22, 2, 2)
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["weights_sha256"] == record["weights_sha256"]
    np.savez("maps.npz", x=np.random.default_rng(0).normal(size=(30, 2, 12, 12)), y=np.arange(30) % 2)
    task = ["task=arrays", "task.train=maps.npz", "task.kind=classes", "body=swin_tiny", "body.checkpoint=small"]
    assert main(["run", "--dry-run", "metric=none", *task]) == 0
    assert "body        swin_tiny, width 64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "0"], "--epochs: 0 is out of range"),
        (["--size", "40"], "--size: 40 is not a multiple of 32"),
        (["--lr", "0"], "--lr: 0.0 is out of range"),
        (["--seed", "-1"], "--seed: -1 is out of range"),
    ],
)
def test_numbers_out_of_range_are_one_line(words, message, capsys):
    assert main(["body", "train", "folder", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="ORCA_TEST_DATA has no models")
def test_the_form_is_that_of_a_body_pretrained_elsewhere(tmp_path):
    stored = read_tensors(SHARED / "models" / "swin-micro-cifar10" / "model.safetensors")
    swin.make_model(32, 10, 0).save_pretrained(tmp_path)  # names in files are older than those in memory
    ours = read_tensors(tmp_path / "model.safetensors")
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in stored.items()}
