"""scripts/bench_gpu.py without a card: one line and a code; its parts, on the emulated device, at small sizes."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from scripts import bench_gpu
from tests.device.emulated import DEVICE, counted

ROOT = Path(__file__).parent.parent.parent


class Emulated(bench_gpu.Card):
    def __init__(self):
        self.device, self.name, self.setting = DEVICE, "emulated", "auto"

    def settle(self):
        pass

    @contextmanager
    def waits(self):
        counts = []
        with counted() as transfers:
            yield counts
        counts.append(sum(transfers.reads.values()) + sum(transfers.writes.values()))

    def peak_mb(self, work):
        work()
        return 0.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_a_card_it_says_so_in_one_line(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "bench_gpu.py", "--json", tmp_path / "figures.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.strip() == "bench_gpu: no CUDA device on this machine; nothing was measured"
    assert not list(tmp_path.iterdir())


@pytest.fixture
def bench(on_device, monkeypatch, tmp_path):
    choose = lambda setting: torch.device("cpu") if setting == "cpu" else on_device  # noqa: E731
    monkeypatch.setattr("orca_cli.training.engine.choose_device", choose)
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))
    words = [
        "task.train_size=40", "task.validation_size=20", "task.test_size=20", "source.size=80", "align.epochs=2",
        "align.source_points=60", "align.max_samples=4", "metric=mmd", "train.epochs=1",
        "train.warmup_epochs=0", "train.batch_size=8",
    ]  # fmt: skip
    return bench_gpu.Bench(Emulated(), {"points": 80, "width": 8, "classes": 3, "target": 12}, words, {})


SLOW = [pytest.param(part, marks=pytest.mark.slow) for part in ("metrics", "runs")]


@pytest.mark.parametrize("part", ["geomloss", "steps", *SLOW])
def test_every_part_measures(bench, part, capsys):
    record = bench_gpu.measure(bench, [part])[part]
    assert not any("failed" in row for row in record["rows"]), record
    checks = [row["ok"] for row in record["rows"] if "ok" in row]
    assert all(checks), record
    assert bool(checks) == (part in ("metrics", "runs"))
    assert part in capsys.readouterr().out
