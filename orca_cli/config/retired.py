"""What the program once had: what does the job of a command, option or setting now, and where a part has moved to."""

from __future__ import annotations

# `orca COMMAND`, or `orca COMMAND OPTION` -> what to do in its place.
COMMANDS = {
    "select": "no measure before fine-tuning predicts the error (docs/evidence/body-ranking.md): run the bodies, "
    "orca run -m body=A,B seed=0,1,2, then orca report --against body=A",
    "pack": "zip the folders of runs: orca report, orca score and orca runs read them once unpacked",
    "verify": "orca score RUN computes an error again from saved predictions, orca doctor RUN checks a run's files",
    "body train": "body.checkpoint=FOLDER takes any folder that transformers' save_pretrained wrote",
    "data import": "orca data list NAME says where files belong, orca data get NAME verifies and unpacks them there; "
    "task.path=FOLDER reads them where they are",
    "doctor --resume-test": "kill a run and type it again: it resumes exactly, or is refused; tests/reliability measures that",
    "worker": "type the sweep itself on each machine that sees the folder of runs, without --enqueue: they share its runs; "
    "or orca run -m ... --on ray, --on slurm (docs/cluster.md)",
    "run --enqueue": "leave it out, and type the sweep on each machine that sees the folder of runs: they share its runs; or "
    "--on ray, --on slurm (docs/cluster.md)",
    "tune --jobs": "type --at-once N",
    "tune --storage": "a search is one file in the folder of runs; its trials run on other machines by --on ray, --on slurm",
    "report --watch": "type `watch orca report`, which repeats it every two seconds",
    "report --curves": "curves are in orca report --format html, and in each run's metrics.jsonl",
    "report --open": "orca report --format html --out page.html writes the page",
    "report --by": "--where keeps the runs of one value; a row is a method",
}

_ALWAYS_ALL_STEPS = "alignment takes all its align.epochs steps; metric=none leaves it out"
_PROTOCOLS_ONLY = "it is part of protocol=paper and protocol=release"

# Key of a setting -> what to do in its place.
SETTINGS = {
    "align.select": _ALWAYS_ALL_STEPS,
    "align.candidates": _ALWAYS_ALL_STEPS,
    "align.probe_epochs": _ALWAYS_ALL_STEPS,
    "align.stop": _ALWAYS_ALL_STEPS,
    "align.patience": _ALWAYS_ALL_STEPS,
    "align.dtype": "distances are computed in float32, and in float64 where they need it",
    "align.optimizer": f"stage 2 uses AdamW; {_PROTOCOLS_ONLY} to use that of stage 3",
    "align.momentum": f"stage 2 uses AdamW; {_PROTOCOLS_ONLY} to use that of stage 3",
    "align.betas": f"stage 2 uses AdamW; {_PROTOCOLS_ONLY} to use those of stage 3",
    "train.adapt_rate": "a run trains at the rate that is set; orca tune searches for one",
    "train.betas": "they are 0.9 and 0.98, as in the paper's code",
    "train.longer_by": "give train.epochs=N",
    "train.loss_units": f"targets are scaled by their deviation; {_PROTOCOLS_ONLY} to leave them as they are",
    "train.accumulation_reduce": f"gradients are means over a step's samples; {_PROTOCOLS_ONLY} to add those of batches",
    "train.error_chunks": "errors are those of the whole split; averages over chunks are part of protocol=release",
}

# Package of parts -> where they are now, for the settings of finished runs and exported models. The first that fits counts.
_MOVED = {
    "orca_cli.tasks.arrays.": "orca_cli.data.arrays.",
    "orca_cli.tasks.hub.": "orca_cli.data.hub.",
    "orca_cli.tasks.images.": "orca_cli.data.images.",
    "orca_cli.tasks.table.": "orca_cli.data.table.",
    "orca_cli.tasks.shared.": "orca_cli.data.",
    "orca_cli.tasks.": "orca_cli.benchmarks.",
    "orca_cli.sources.": "orca_cli.benchmarks.sources.",
    "orca_cli.finetuning.": "orca_cli.models.finetuning.",
    "orca_cli.augmentation.": "orca_cli.models.augmentation.",
    "orca_cli.losses.masked.": "orca_cli.scoring.losses.",
    "orca_cli.tracking.": "orca_cli.runs.tracking.",
}


def current_target(name: str) -> str:
    """Return the dotted name that a `_target_` has now."""
    moved = next((before for before in _MOVED if name.startswith(before)), "")
    return _MOVED.get(moved, "") + name.removeprefix(moved)
