"""Commands, options and settings that the program once had: what does their job now, for whoever still types them."""

from __future__ import annotations

# `orca COMMAND`, or `orca COMMAND OPTION` -> what to do in its place.
COMMANDS = {
    "select": "nothing predicted which body is best (docs/evidence/body-ranking.md): compare short runs, "
    "orca run -m body=A,B budget=quick, then orca report",
    "pack": "archive the folder of runs, such as with tar; orca score computes their errors again from saved predictions",
    "verify": "orca score RUN computes an error again from saved predictions, orca doctor RUN checks a run's files",
    "body train": "orca run task=images task.path=FOLDER finetune=scratch trains from random weights; body.checkpoint=FOLDER "
    "takes any pretrained body",
    "data import": "task.path=FOLDER reads files where they are, and orca data list NAME says where they belong",
    "doctor --resume-test": "interrupt a run and type it again: a resume that cannot be exact is refused",
    "report --watch": "watch orca report prints it again every two seconds",
    "report --curves": "curves are in orca report --open, and in each run's metrics.jsonl",
}

_ALWAYS_ALL_STEPS = "alignment takes all its align.epochs steps; metric=none leaves it out"
_OF_PROTOCOLS = "it is part of protocol=paper and protocol=release"

# Key of a setting -> what to do in its place.
SETTINGS = {
    "align.select": _ALWAYS_ALL_STEPS,
    "align.candidates": _ALWAYS_ALL_STEPS,
    "align.probe_epochs": _ALWAYS_ALL_STEPS,
    "align.stop": _ALWAYS_ALL_STEPS,
    "align.patience": _ALWAYS_ALL_STEPS,
    "align.dtype": "distances are computed in float32, and in float64 where they need it",
    "align.optimizer": f"stage 2 uses AdamW; {_OF_PROTOCOLS} to use that of stage 3",
    "align.momentum": f"stage 2 uses AdamW; {_OF_PROTOCOLS} to use that of stage 3",
    "align.betas": f"stage 2 uses AdamW; {_OF_PROTOCOLS} to use those of stage 3",
    "train.betas": "they are 0.9 and 0.98, as in the paper's code",
    "train.longer_by": "give train.epochs=N",
    "train.loss_units": f"targets are scaled by their deviation; {_OF_PROTOCOLS} to leave them as they are",
    "train.accumulation_reduce": f"gradients are means over a step's samples; {_OF_PROTOCOLS} to add those of batches",
    "train.error_chunks": "errors are those of the whole split; averages over chunks are part of protocol=release",
}
