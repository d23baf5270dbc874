"""Small trees of run folders in the form that a run leaves them."""

from __future__ import annotations

import hashlib
import json
import socket
from itertools import count
from pathlib import Path
from typing import Any

_second = count()


def add_run(
    root: Path,
    *,
    task: str = "digits",
    body: str = "minilm",
    source: str = "stdlib_docs",
    metric: str = "otdd",
    finetune: str = "full",
    seed: int = 0,
    protocol: str = "clean",
    state: str = "completed",
    value: float | None = 0.1,
    identity: str | None = None,
    settings: str | None = None,
    name: str | None = None,
    error: dict[str, Any] | None = None,
    variant: dict[str, str] | None = None,
    **fields: Any,
) -> Path:
    """Write the records of one run; `error` and `fields` replace entries of its result record."""
    names = {"task": task, "body": body, "source": source, "metric": metric, "finetune": finetune}
    variant = variant or {}
    if identity is None:
        words = json.dumps([names, seed, protocol, variant])
        identity = hashlib.sha256(words.encode()).hexdigest()
    number = next(_second)
    stamp = f"2026-01-{number // 1440 % 28 + 1:02}_{number // 60 % 24:02}-{number % 60:02}-00.{number:06}"
    path = root / task / (name or f"{stamp}_{body}_{metric}_{finetune}_s{seed}_{identity[:8]}".replace("/", "-"))
    path.mkdir(parents=True)
    record = {
        "schema": 1,
        "run_id": path.name,
        **names,
        "seed": seed,
        "protocol": protocol,
        "identity": identity,
        "settings": settings or hashlib.sha256(json.dumps([names, protocol, variant]).encode()).hexdigest(),
        "variant": variant,
        "state": state,
    }
    failure = {"kind": "NonFiniteError", "message": "the loss became NaN"} if state == "failed" else None
    stage = state if state in ("build", "align", "finetune") else "finetune"
    status = record | {"stage": stage, "step": None, "exit_code": None, "error": failure, "pid": 1}
    status["host"] = socket.gethostname()
    (path / "status.json").write_text(json.dumps(status))
    (path / "lock").touch()
    if state == "completed":
        result = record | {
            "synthetic": False,
            "error": {"name": "zero_one", "value": value, "n": 497, "skipped": 0, "percent": True} | (error or {}),
            "validation_error": value,
            "trivial_error": 0.9,
            "test_reads": 1,
            "splits": {"test": {"n": 497, "sha256": "a" * 64}},
            "seconds": {"build": 1.0, "align": 2.0, "finetune": 3.0},
        }
        (path / "result.json").write_text(json.dumps(result | fields))
    return path
