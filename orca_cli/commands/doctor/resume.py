"""`orca doctor --resume-test`: kill a short run at random points and resume it; does it end with the same bits?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli import seeding, terminal
from orca_cli.exceptions import FingerprintError, OrcaError, UsageError
from orca_cli.terminal import Result

# All three stages in a few seconds, with a checkpoint after every step.
_SHORT = (
    *("task=digits", "source.size=200", "task.train_size=100"),
    *("align.epochs=10", "align.source_points=300"),
    *("train.epochs=8", "train.warmup_epochs=2", "train.checkpoint_s=0", "baselines=none"),
)
_COMPARED = ("weights_sha256", "error", "validation_error", "trivial_error", "metric_value", "splits", "inexact")
_LOOK_S = 0.01


@dataclass(frozen=True)
class Ended:
    """How a run ended: its result record, the lines in its curves, the training losses."""

    result: Mapping[str, Any]
    progress: int
    losses: list[float]


def resume_test(settings: list[str], *, kills: int) -> Result:
    """Run once without interruption and once with `kills` times SIGKILL, and compare.

    Args:
        settings: KEY=VALUE of the run; none: a short one on a tiny body made for it.
        kills: how often the second run is killed.

    Returns:
        The verdict, and what happened to each attempt that was to be killed; exit code 22 if the bits differ, or if nothing
        was tested.

    Raises:
        UsageError: `kills` is below 1.
        OrcaError: a run failed by itself; with its exit code.
    """
    if kills < 1:
        raise UsageError("at least one kill is needed", where="--kills")
    with tempfile.TemporaryDirectory(prefix="orca-resume-test-") as name:
        folder = Path(name)
        if not settings:
            terminal.print_error("a short run of digits on a tiny body; --resume-test KEY=VALUE uses another")
            settings = [*_SHORT, f"body.checkpoint={_tiny_body(folder / 'body')}"]
        start = time.monotonic()
        whole = _run(settings, folder / "whole")
        seconds = time.monotonic() - start
        terminal.print_error(f"uninterrupted run: {seconds:.0f} s, weights {whole.result['weights_sha256'][:12]}")
        # Random amounts of progress at which to kill; 1 is the first record of a step or epoch.
        generator = seeding.numpy_generator(int.from_bytes(os.urandom(4), "big"), "resume-test")
        points = sorted(generator.uniform(1, max(whole.progress - 1, 1), size=kills).tolist())
        killed, attempts = _killed_run(settings, folder / "killed", points)
    differing = [key for key in _COMPARED if killed.result[key] != whole.result[key]]
    differing += ["losses"] if killed.losses != whole.losses else []
    hits = sum(text.startswith("killed") for text in attempts)
    if differing:
        verdict = f"runs do not resume exactly here: {', '.join(differing)} differ"
    elif not hits:
        verdict = "nothing was tested: every attempt ended before it could be killed; use more epochs"
    else:
        verdict = f"killed {hits} times and resumed: the same bits as the uninterrupted run"
    code = FingerprintError.code if differing or not hits else 0
    about = {"verdict": verdict, "attempts": attempts, "settings": settings, "seconds": round(seconds, 1)}
    return Result({"schema": 1, "exact": code == 0, "exit_code": code, **about}, [verdict], code=code)


def _run(settings: list[str], runs: Path) -> Ended:
    with _started(settings, runs) as process:
        process.wait()
    _check_success(process, runs)
    (path,) = runs.glob("*/*/result.json")
    lines = [json.loads(line) for line in (path.parent / "3_finetune" / "metrics.jsonl").read_text().splitlines()]
    return Ended(json.loads(path.read_text()), _progress(runs), [line["train_loss"] for line in lines])


def _killed_run(settings: list[str], runs: Path, points: list[float]) -> tuple[Ended, list[str]]:
    """Kill the run when it reaches each point, then let it end; returns how it ended and what happened."""
    attempts = []
    for point in points:
        with _started(settings, runs) as process:
            while process.poll() is None and _progress(runs) < int(point):
                time.sleep(_LOOK_S)
            time.sleep(0.2 * (point % 1))  # within the next step
            alive = process.poll() is None
            process.kill()
        if alive:
            states = [json.loads(path.read_text())["state"] for path in runs.glob("*/*/status.json")]
            stage = states[0] if states else "build"
            attempts.append(f"killed in stage {stage}, after {_progress(runs)} records of steps and epochs")
        else:
            _check_success(process, runs)
            attempts.append("ended before it could be killed")
        terminal.print_error(attempts[-1])
    return _run(settings, runs), attempts


@contextmanager
def _started(settings: list[str], runs: Path) -> Iterator[subprocess.Popen]:
    """Start the program as a user would; it has ended when the block ends."""
    command = [sys.executable, "-m", "orca_cli", "run", "--quiet", *settings, f"paths.runs={runs}"]
    runs.mkdir(exist_ok=True)
    with open(runs / "errors", "w+b") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def _check_success(process: subprocess.Popen, runs: Path) -> None:
    if process.returncode:
        lines = (runs / "errors").read_text(errors="replace").strip().splitlines()
        error = OrcaError(lines[-1].removeprefix("orca: error: ") if lines else "the run failed", where="--resume-test")
        error.code = max(process.returncode, 1)
        raise error


def _progress(runs: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in runs.glob("*/*/[23]_*/metrics.jsonl"))


def _tiny_body(folder: Path) -> Path:
    """Save a random BERT of 2 layers and width 32, with dropout and a tokenizer of single letters."""
    import string

    import torch
    from transformers import BertConfig, BertModel, BertTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder.mkdir()
    letters = string.ascii_lowercase
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
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
