"""Where parts have moved to, and which settings they had, for finished runs and exported models."""

from __future__ import annotations

from typing import Any

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


def current_target(name: str) -> str:
    """Return the dotted name that a `_target_` has now."""
    moved = next((before for before in _MOVED if name.startswith(before)), "")
    return _MOVED.get(moved, "") + name.removeprefix(moved)


_ANNEALED = {"scaling": 0.25, "chunk": 1024}
_LISTOPS = {"max_depth": 10, "max_arity": 10, "min_length": None, "max_length": None, "input_length": None}
_PACKAGES = ["asyncio", "email", "http", "importlib", "logging", "multiprocessing", "unittest", "xml"]
# Part -> settings that it no longer has, as the files in conf/ had them. What they did then is what the part does now.
_SETTINGS: dict[str, dict[str, Any]] = {
    "benchmarks.cifar100.load": {"permute": False},
    "benchmarks.cosmic.load": {"keys": None, "field": None, "sky_low": -0.9, "sky_high": 3.0, "ignored": "missing"},
    "benchmarks.darcy.load": {"stride": None},
    "benchmarks.ecg.load": {"window": 1000, "stride": 500},
    "benchmarks.fsd50k.load": {"masking": 0.5, "mixing": 0.75, "most_noise": 0.5, "frozen_seed": 0},
    "benchmarks.listops.load": _LISTOPS,
    "benchmarks.psicov.load": {"clip_train": 16.0},
    "benchmarks.sources.conll.load": {"column": -1, "example": "sentence"},
    "benchmarks.sources.recordings.load": {"rate": 16000},
    "benchmarks.sources.stdlib_docs.load": {"packages": _PACKAGES, "min_words": 5, "max_words": 60},
    "benchmarks.sources.tones.load": {"seconds": 0.5},
    "benchmarks.spherical.load": {"rotate": True, "rescale": "channel", "normalize": "none"},
    "data.images.load": {"on_bad": "error"},
    "metrics.euclidean.Euclidean": {"chunk": 4096},
    "metrics.mmd.MMD": {"bandwidth": "union", "unbiased": False, "chunk": 1024},
    "metrics.moments.Moments": {"eps": 1e-12},
    "metrics.otdd_by_class.OTDDByClass": {**_ANNEALED, "labels": True},
    "metrics.otdd_gaussian.OTDDGaussian": _ANNEALED,
    "metrics.otdd_reference.OTDDReference": {"label_reg": 0.1, "scaling": 0.5},
    "metrics.transrate.TransRate": {"normalise": True},
}


def with_retired(node: dict[str, Any]) -> dict[str, Any]:
    """Return a part's settings with those that it no longer has, so that a run has the identity that it had with them."""
    return _SETTINGS.get(str(node.get("_target_")).removeprefix("orca_cli."), {}) | node
