"""Where parts have moved to, and which settings they had, for finished runs and exported models."""

from collections.abc import Mapping
from typing import Any

from orca_cli.config.schema import ERROR_CHUNKS

# Package of parts -> where they are now. The first that fits counts.
_MOVED = {
    "orca_cli.tasks.arrays.": "orca_cli.data.arrays.",
    "orca_cli.tasks.images.": "orca_cli.data.images.",
    "orca_cli.tasks.table.": "orca_cli.data.table.",
    "orca_cli.tasks.shared.": "orca_cli.data.",
    "orca_cli.tasks.": "orca_cli.benchmarks.",
    "orca_cli.sources.": "orca_cli.benchmarks.sources.",
    "orca_cli.finetuning.": "orca_cli.models.finetuning.",
    "orca_cli.models.finetuning.adapters.": "orca_cli.models.finetuning.modes.",
    "orca_cli.models.finetuning.prompts.": "orca_cli.models.finetuning.modes.",
    "orca_cli.models.finetuning.subsets.": "orca_cli.models.finetuning.modes.",
    "orca_cli.losses.masked.": "orca_cli.scoring.losses.",
    "orca_cli.scoring.values.": "orca_cli.scoring.regression.",
    "orca_cli.tracking.": "orca_cli.runs.tracking.",
}

# File of orca_cli/models -> the parts in it, by the files that they were in.
_MERGED = {
    "embedders.patches": "patch.Patch overlap.Overlap multiscale.Multiscale",
    "finetuning.modes": "full.Full scratch.Scratch layernorm.LayerNorm bitfit.BitFit frozen.Frozen head.Head lora.LoRA "
    "prompt.Prompt",
}
_NOW = {
    f"orca_cli.models.{file.partition('.')[0]}.{part}": f"orca_cli.models.{file}.{part.partition('.')[2]}"
    for file, listed in _MERGED.items()
    for part in listed.split()
}
for _error in ("masks.MaskError", "sequences.NatsPerFrame", "distances.LongRangeMAE"):
    _NOW[f"orca_cli.scoring.{_error}"] = f"orca_cli.scoring.dense.{_error.partition('.')[2]}"
_NOW["orca_cli.scoring.chunks.ChunkMean"] = "orca_cli.scoring.reported.ChunkMean"
_BEFORE = {now: before for before, now in _NOW.items()}

_LIMITS = {"tolerance": 0.01, "max_iterations": 500, "newton_points": 512, "newton_steps": 15}
_ANNEALED = {"scaling": 0.25, "chunk": 1024} | _LIMITS
_LISTOPS = {
    "max_depth": 10,
    "max_arity": 10,
    "min_length": None,
    "max_length": None,
    "input_length": None,
}
_PACKAGES = [
    "asyncio",
    "email",
    "http",
    "importlib",
    "logging",
    "multiprocessing",
    "unittest",
    "xml",
]
# Part -> settings that it no longer has, as the files in conf/ had them. What they did then is what the part does now.
_SETTINGS: dict[str, dict[str, Any]] = {
    "benchmarks.cifar100.load": {"permute": False},
    "benchmarks.cosmic.load": {
        "keys": None,
        "field": None,
        "sky_low": -0.9,
        "sky_high": 3.0,
        "ignored": "missing",
    },
    "benchmarks.darcy.load": {"stride": None, "nodes": None},
    "benchmarks.ecg.load": {"window": 1000, "stride": 500},
    "benchmarks.fsd50k.load": {"masking": 0.5, "mixing": 0.75, "most_noise": 0.5, "frozen_seed": 0},
    "benchmarks.listops.load": _LISTOPS,
    "benchmarks.psicov.load": {"clip_train": 16.0},
    "benchmarks.sources.conll.load": {"column": -1, "example": "sentence"},
    "benchmarks.sources.stdlib_docs.load": {"packages": _PACKAGES, "min_words": 5, "max_words": 60},
    "benchmarks.spherical.load": {"rotate": True, "rescale": "channel", "normalize": "none"},
    "data.images.load": {"on_bad": "error"},
    "metrics.euclidean.Euclidean": {"chunk": 4096},
    "metrics.mmd.MMD": {"bandwidth": "union", "unbiased": False, "chunk": 1024},
    "metrics.moments.Moments": {"eps": 1e-12},
    "metrics.otdd_by_class.OTDDByClass": {**_ANNEALED, "labels": True},
    "metrics.otdd_gaussian.OTDDGaussian": _ANNEALED,
    "metrics.otdd_reference.OTDDReference": {"label_reg": 0.1, "scaling": 0.5},
    "metrics.transrate.TransRate": {"normalise": True},
    "models.bodies.auto.load": {"causal_fix": None},
    "models.bodies.decoders.load": {"causal_fix": "none"},
}


def current_target(name: str) -> str:
    """Return the dotted name that a `_target_` has now."""
    moved = next((before for before in _MOVED if name.startswith(before)), "")
    name = _MOVED.get(moved, "") + name.removeprefix(moved)
    return _NOW.get(name, name)


def current_settings(node: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a part without those that it no longer has, where they are what it always does now."""
    lost = _SETTINGS.get(current_target(str(node.get("_target_"))).removeprefix("orca_cli."), {})
    return {name: value for name, value in node.items() if name not in lost or value != lost[name]}


def as_before(settings: Any) -> Any:
    """Return settings with the names and the settings that their parts had, so that a run keeps its identity."""
    if isinstance(settings, list):
        return [as_before(one) for one in settings]
    if not isinstance(settings, dict):
        return settings
    target = settings.get("_target_")
    lost = _SETTINGS.get(current_target(str(target)).removeprefix("orca_cli."), {})
    before = (
        {"_target_": _BEFORE.get(current_target(target), target)} if isinstance(target, str) else {}
    )
    return lost | {key: as_before(value) for key, value in settings.items()} | before


def recorded_chunks(settings: Mapping[str, Any]) -> Any:
    """Return after how many samples a run's errors are averaged, None for errors over the whole split.

    The content of its config.yaml may be a stranger's: the value is unchecked. Runs of schema 1 have it as a setting.
    """
    train = settings.get("train")
    if isinstance(train, Mapping) and "error_chunks" in train:
        return train["error_chunks"]
    return ERROR_CHUNKS.get(str(settings.get("protocol")))
