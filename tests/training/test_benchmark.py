"""The benchmark of stage 3 runs: nothing else would notice if its own models and settings broke."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_part_prints_ratios():
    words = ["minilm", "disk", "size", "--blocks=1", "--steps-only", "--samples", "64", "128", "--samples-read", "128"]
    command = [sys.executable, str(ROOT / "scripts" / "bench_finetune.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"')]
    figures_by_part = {part: figures for line in lines for part, figures in json.loads(line).items()}
    assert list(figures_by_part) == ["minilm", "disk", "size"]
    for step in (figures_by_part["minilm"]["step"], figures_by_part["disk"]["step"]):
        assert step["blocks"] >= 1
        assert min(step["ours over plain"], step["ours over trainer"]) > 0
    assert figures_by_part["size"]["many over few"] > 0
