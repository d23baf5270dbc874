"""The benchmark of stage 3 runs: its models and settings are its own, and nothing else would notice that they no longer fit."""

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
    found = {part: figures for line in lines for part, figures in json.loads(line).items()}
    assert list(found) == ["minilm", "disk", "size"]
    for step in (found["minilm"]["step"], found["disk"]["step"]):
        assert step["blocks"] >= 1
        assert min(step["ours over plain"], step["ours over trainer"]) > 0
    assert found["size"]["many over few"] > 0
