"""`orca doctor --resume-test`: a short run is killed at random points and gone on with; does it end with the same bits?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orca_cli import seeding, terminal
from orca_cli.exceptions import FingerprintError, OrcaError, UsageError

SCHEMA = 1
# All three stages in some seconds, with a checkpoint after every step.
_SHORT = (
    "task=digits",
    "source.size=200",
    "task.train_size=100",
    "align.epochs=10",
    "align.source_points=300",
    "train.epochs=8",
    "train.warmup_epochs=2",
    "train.checkpoint_s=0",
)
_COMPARED = ("weights_sha256", "error", "validation_error", "trivial_error", "metric_value", "splits", "inexact")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_LOOK_S = 0.01


def resume_test(settings: list[str], *, kills: int, as_json: bool) -> int:
    """Run once as a whole and once with `kills` times SIGKILL, print both, and return the exit code.

    Args:
        settings: KEY=VALUE of the run; none: a short one on a tiny body made for it.
        kills: how often the second run is killed.
        as_json: print JSON.

    Raises:
        UsageError: `kills` is below 1.
        OrcaError: a run failed by itself; with its exit code.
    """
    if kills < 1:
        raise UsageError("at least one kill is needed", where="--kills")
    with tempfile.TemporaryDirectory(prefix="orca-resume-test-") as name:
        folder = Path(name)
        if not settings:
            terminal.stderr().print("a short run of digits on a tiny body; --resume-test KEY=VALUE takes another")
            settings = [*_SHORT, f"body.checkpoint={_tiny_body(folder / 'body')}"]
        start = time.monotonic()
        whole = _whole_run(settings, folder / "whole")
        seconds = time.monotonic() - start
        terminal.stderr().print(f"whole run: {seconds:.0f} s, weights {whole['result']['weights_sha256'][:12]}")
        points = _points(kills, whole["progress"])
        killed, told = _killed_run(settings, folder / "killed", points)
    differing = [key for key in _COMPARED if killed["result"][key] != whole["result"][key]]
    if killed["losses"] != whole["losses"]:
        differing.append("losses")
    hits = sum(text.startswith("killed") for text in told)
    code = FingerprintError.code if differing or not hits else 0
    if differing:
        verdict = f"runs do not go on exactly here: {', '.join(differing)} differ"
    elif not hits:
        verdict = "nothing was tested: every attempt ended before it could be killed; use more epochs"
    else:
        verdict = f"killed {hits} times and gone on with: the same bits as the whole run"
    if as_json:
        record = {"schema": SCHEMA, "exact": code == 0, "verdict": verdict, "exit_code": code, "attempts": told}
        terminal.print_text(json.dumps(record | {"settings": settings, "seconds": round(seconds, 1)}, indent=2) + "\n")
    else:
        terminal.print_result(verdict)
    return code


def _points(kills: int, total: int) -> list[float]:
    """Return the random amounts of progress at which to kill, in order; 1 is the first record of a step or epoch."""
    generator = seeding.numpy_generator(int.from_bytes(os.urandom(4), "big"), "resume-test")
    return sorted(float(point) for point in generator.uniform(1, max(total - 1, 1), size=kills))


def _whole_run(settings: list[str], runs: Path) -> dict[str, Any]:
    with _started(settings, runs) as process:
        process.wait()
    _check_ended_well(process, runs)
    return _outcome(runs)


def _killed_run(settings: list[str], runs: Path, points: list[float]) -> tuple[dict[str, Any], list[str]]:
    """Kill the run once it has come to each point, then let it end; returns its outcome and what happened."""
    told = []
    for point in points:
        with _started(settings, runs) as process:
            while process.poll() is None and _progress(runs) < int(point):
                time.sleep(_LOOK_S)
            time.sleep(0.2 * (point % 1))  # inside the next step
            alive = process.poll() is None
            process.kill()
        if alive:
            told.append(f"killed in stage {_stage(runs)}, at {_progress(runs)} of the records of steps and epochs")
        else:
            _check_ended_well(process, runs)
            told.append("ended before it could be killed")
        terminal.stderr().print(told[-1])
    with _started(settings, runs) as process:
        process.wait()
    _check_ended_well(process, runs)
    return _outcome(runs), told


@contextmanager
def _started(settings: list[str], runs: Path) -> Iterator[subprocess.Popen]:
    """Start the program anew, as a user would; it is gone at the end of the block."""
    command = [sys.executable, "-m", "orca_cli", "run", "--quiet", *settings, f"paths.runs={runs}"]
    runs.mkdir(exist_ok=True)
    with open(runs / "errors", "w+b") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def _check_ended_well(process: subprocess.Popen, runs: Path) -> None:
    if process.returncode:
        lines = (runs / "errors").read_text(errors="replace").strip().splitlines()
        error = OrcaError(lines[-1].removeprefix("orca: error: ") if lines else "the run failed", where="--resume-test")
        error.code = max(process.returncode, 1)
        raise error


def _progress(runs: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in runs.glob("*/*/[23]_*/metrics.jsonl"))


def _stage(runs: Path) -> str:
    for path in runs.glob("*/*/status.json"):
        return str(json.loads(path.read_text())["state"])
    return "build"


def _outcome(runs: Path) -> dict[str, Any]:
    (path,) = runs.glob("*/*/result.json")
    lines = [json.loads(line) for line in (path.parent / "3_finetune" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train_loss"] for line in lines]
    return {"result": json.loads(path.read_text()), "progress": _progress(runs), "losses": losses}


def _tiny_body(folder: Path) -> Path:
    """Save a random BERT of 2 layers and width 32, with dropout and a tokenizer of single letters."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizer(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder
