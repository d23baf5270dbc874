"""Small trees of run folders as runs leave them, and the reports on them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import socket
from itertools import count
from pathlib import Path
from typing import Any

from orca_cli.report.collect import collect
from orca_cli.report.paired import compare
from orca_cli.report.table import build_table
from tests.commands.called import read_text

NATS = {"percent": False, "name": "nats"}
RELATIVE = {"percent": False, "name": "relative_l2"}
_minute = count()


def digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _stamp() -> str:
    """Return the time of the next run, a minute after the last."""
    number = next(_minute)
    day = number // 1440 % 28 + 1
    return f"2026-01-{day:02}_{number // 60 % 24:02}-{number % 60:02}-00.{number:06}"


def add_run(
    root: Path,
    *,
    task="digits",
    body="minilm",
    source="stdlib_docs",
    metric="otdd",
    finetune="full",
    seed=0,
    protocol="clean",
    state="completed",
    value: float | None = 0.1,
    identity=None,
    settings=None,
    name=None,
    error=None,
    variant=None,
    data=None,
    **fields: Any,
) -> Path:
    """Write the records of one run; `error` and `fields` replace entries of its result record."""
    names = {"task": task, "body": body, "source": source, "metric": metric, "finetune": finetune}
    variant = variant or {}
    identity = identity or digest([names, seed, protocol, variant])
    if name is None:
        text = f"{_stamp()}_{body}_{metric}_{finetune}_s{seed}_{identity[:8]}"
        name = text.replace("/", "-")
    path = root / (data or task) / name
    path.mkdir(parents=True)
    record = {
        "schema": 2,
        "run_id": path.name,
        **names,
        "seed": seed,
        "protocol": protocol,
        "identity": identity,
        "settings": settings or digest([names, protocol, variant]),
        "variant": variant,
        "state": state,
    }
    # Older versions have not recorded the name of the data set.
    if data is not None:
        record["data"] = data
    failure = None
    if state == "failed":
        failure = {"kind": "NonFiniteError", "message": "the loss became NaN"}
    stage = state if state in ("build", "align", "finetune") else "finetune"
    status = record | {"stage": stage, "step": None, "exit_code": None, "error": failure, "pid": 1}
    status["host"] = socket.gethostname()
    (path / "status.json").write_text(json.dumps(status))
    (path / "lock").touch()
    if state == "completed":
        measured = {"name": "zero_one", "value": value, "n": 497, "skipped": 0, "percent": True}
        result = record | {
            "synthetic": False,
            "error": measured | (error or {}),
            "validation_error": value,
            "trivial_error": 0.9,
            "test_reads": 1,
            "splits": {"test": {"n": 497, "sha256": "a" * 64}},
            "seconds": {"build": 1.0, "align": 2.0, "finetune": 3.0},
        }
        (path / "result.json").write_text(json.dumps(result | fields))
    return path


def details(seed: int = 0, *, metric: str = "otdd", epochs: int = 60) -> dict[str, Any]:
    """Return fields of a result record like a real run's: curves, times, choices, baselines."""
    is_aligned = metric != "none"
    wave = [1 + 0.05 * math.sin(epoch + seed) for epoch in range(epochs)]
    align = [{"epoch": epoch, "loss": 40 * 0.94**epoch * wave[epoch]} for epoch in range(epochs)]
    learning = [
        {"epoch": epoch, "step": 7 * epoch, "train_loss": 3.9 * 0.9**epoch * wave[epoch - 1]}
        | {"validation_error": 0.1 + 0.6 * 0.9**epoch * wave[epoch - 1], "validation_loss": None}
        for epoch in range(1, epochs + 1)
    ]
    distances = {"before": 43.0 + seed, "after": 9.0}
    models = {"constant": 0.9, "linear": 0.3, "forest": 0.2, "minirocket": 0.05}
    return {
        "seconds": {
            "build": 1.0,
            "align": 12.0 * is_aligned,
            "finetune": 60.0 + seed,
            "baselines": 4.0,
        },
        "metric_value": distances if is_aligned else dict.fromkeys(distances),
        "alignment": {"select": "auto", "steps": epochs * is_aligned, "tried": {}},
        "selected": {"by": "last", "epoch": epochs, "on": "nothing", "n": 0, "reason": None},
        "curves": {"align": align if is_aligned else [], "finetune": learning},
        "baselines": {name: {"error": error, "seconds": 0.4} for name, error in models.items()},
    }


def add_arms(root, *, seeds=(0,), arms=None, **fields) -> None:
    """Write a run for each metric and seed; `arms`: metric -> its error, or its errors by seed."""
    for metric, errors in (arms or {"none": 0.5, "otdd": 0.4}).items():
        by_seed = (
            enumerate(errors) if isinstance(errors, list) else [(seed, errors) for seed in seeds]
        )
        for seed, value in by_seed:
            add_run(root, metric=metric, seed=seed, value=value, **fields)


def add_pairs(root, gains, *, base=0.5, **fields) -> None:
    """Write two runs for each gain, with metric none and metric otdd, and seeds from 0 on."""
    add_arms(
        root, arms={"none": [base] * len(gains), "otdd": [base - gain for gain in gains]}, **fields
    )


HOSTILE = (
    "=cmd()|[/red]x[/blue]\x1b]0;x\x07\n\u202e\\end{tabular}\"'--></title></style>"
    "<script>alert(1)</script>&lt;_%$#^~{}`*"
)


def hostile(root):
    """Return the table of runs that have HOSTILE for all names, two completed and a failed one."""
    fields = details(0) | {"baselines": {HOSTILE: {"error": 0.3}}}
    fields |= dict.fromkeys(("body", "source", "finetune", "protocol", "size"), HOSTILE)
    for number, (metric, state) in enumerate(
        (("none", "completed"), (HOSTILE, "completed"), ("x", "failed"))
    ):
        names = {
            "task": "t",
            "metric": metric,
            "state": state,
            "name": f"2026-01-01_00-00-0{number}.000000_x",
        }
        run = add_run(root, **names, variant={HOSTILE: HOSTILE}, error={"name": HOSTILE}, **fields)
        for record in filter(Path.exists, (run / "status.json", run / "result.json")):
            content = json.loads(record.read_text())
            error = content.get("error") or {"kind": HOSTILE, "message": HOSTILE}
            record.write_text(json.dumps(content | {"task": HOSTILE, "error": error}))
    return table_of(root)


def table_of(root):
    return build_table(collect([root]))


def compared(root, against="metric=none"):
    return compare(table_of(root), *against.split("="))


def report(*words):
    """Return the output of `orca report` as one line, without its line breaks."""
    return " ".join(read_text("report", *words).split())


def csv_lines(text):
    return list(csv.DictReader(io.StringIO(text)))
