"""Where parts have moved to, for the settings of finished runs and exported models."""

from __future__ import annotations

# Package of parts -> where they are now. The first that fits counts.
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

# File of orca_cli/models -> the files that it was before.
_MERGED = {
    "augmentation.transforms": "channel_dropout crop flip jitter mixup scale time_mask window_slice",
    "embedders.patches": "patch overlap multiscale",
    "finetuning.adapters": "lora ia3",
    "finetuning.prompts": "prompt visual_prompt",
    "finetuning.subsets": "full scratch layernorm bitfit frozen head",
}
_MOVED_FILES = {
    f"orca_cli.models.{now.partition('.')[0]}.{before}.": f"orca_cli.models.{now}."
    for now, files in _MERGED.items()
    for before in files.split()
}


def current_target(name: str) -> str:
    """Return the dotted name that a `_target_` has now."""
    for moved in (_MOVED, _MOVED_FILES):
        before = next((prefix for prefix in moved if name.startswith(prefix)), "")
        name = moved.get(before, "") + name.removeprefix(before)
    return name
