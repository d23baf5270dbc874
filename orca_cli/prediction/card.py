"""The model card of an export: what it was trained on, how well it did, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orca_cli.prediction.loading import Loaded
from orca_cli.report.credits import CHECKPOINT_LICENCES, CITATION
from orca_cli.terminal import visible

_SHOWN = 50  # classes named in a card
_CARD = """\
---
library_name: orca-transfer
tags: [cross-modal-transfer, orca]
---

# {title}

## Use

```
pip install orca-transfer
orca predict FOLDER new_data --out predictions.csv
```

```python
import orca_cli
model = orca_cli.load("FOLDER")   # a scikit-learn-like estimator
model.predict(x)
```

New data have the form of the training files; the model sees {shape} a sample (channels first){columns}.
Outputs: {kind}, {outputs}{names}.

## Data

| split | samples | SHA-256 |
|---|--:|---|
{splits}

{chosen}. The test split was read {reads} time(s).

## Result

| | on the test split |
|---|---|
{errors}

Lower is better; on {n} samples (skipped: {skipped}). One run of one seed.{comparison}

## Model and training

{training}

## Limits

* It was measured on data like its training data; on others (devices, sites, times) nothing is known.
* Probabilities are the model's own and were not calibrated.
* The test error was not used to choose this run, if it was chosen by validation (`--best` does).

## Citation

The method:

```bibtex
{citation}
```
"""


def model_card(loaded: Loaded) -> str:
    """Return a model card as Markdown; texts of the run, which may be a stranger's, are made inert."""
    record, result = loaded.record, loaded.record.result
    targets = loaded.preprocessing.targets
    features = getattr(loaded.preprocessing, "feature_names", None)
    splits, selected, error, comparison = (
        result.get(key) or {} for key in ("splits", "selected", "error", "comparison")
    )
    rows = [
        f"| {text} | {_md(split.get('n'))} | `{_code(split.get('sha256'))}` |"
        for name, text in (("train", "training"), ("val", "validation"), ("test", "test"))
        if (split := splits.get(name) or {})
    ]
    shape = " x ".join(map(str, record.input_shape))
    return _CARD.format(
        title=f"{_md(result.get('task'))}: {record.kind} from {shape}",
        shape=shape,
        columns=f"; columns: {_listed(features)}" if features else "",
        kind=record.kind,
        outputs=record.num_outputs,
        names=f": {_listed(targets.names)}" if targets.names else "",
        splits="\n".join(rows),
        chosen=_chosen(selected),
        reads=_md(result.get("test_reads")),
        errors="\n".join(_errors(result)),
        n=_md(error.get("n")),
        skipped=_md(error.get("skipped")),
        comparison=f" Beside simple models on the same split: {_md(comparison['text'])}."
        if "text" in comparison
        else "",
        training="\n".join(f"* {line}" for line in _training(loaded)),
        citation=CITATION,
    )


def _chosen(selected: Mapping[str, Any]) -> str:
    """Return what the weights were chosen on."""
    on, members = selected.get("on"), selected.get("members", 1)
    if on == "nothing":
        text = "Weights are those of the last step, trained on training and validation samples"
    elif on == "folds":
        text = f"Validated by {_md(members)} folds: each model on the samples that it was not trained on"
    elif selected.get("by") == "last":
        text = f"Weights are those of the last step, validated on the {_md(on)} split"
    else:
        text = f"Weights were chosen on the {_md(on)} split"
    return f"{text}; the outputs of {members} models are averaged" if isinstance(members, int) and members > 1 else text


def _errors(result: Mapping[str, Any]) -> list[str]:
    """Return the rows of the table of errors."""
    error, baselines = result.get("error") or {}, result.get("baselines")
    errors = {error.get("name"): error.get("value"), "best constant predictor": result.get("trivial_error")}
    for name, other in baselines.items() if isinstance(baselines, Mapping) else ():
        if name != "constant" and isinstance(other, Mapping) and other.get("error") is not None:
            errors[f"baseline: {name}"] = other["error"]
    errors["validation error"] = result.get("validation_error")
    percent = error.get("percent") is True
    return [f"| {_md(name)} | {_number(value, percent)} |" for name, value in errors.items()]


def _training(loaded: Loaded) -> list[str]:
    record, result = loaded.record, loaded.record.result
    checkpoint = str(record.body.get("checkpoint"))
    licence = CHECKPOINT_LICENCES.get(checkpoint.partition("@")[0], "see where it comes from")
    names = ", ".join(f"{key}={_md(result.get(key))}" for key in ("task", "body", "source", "metric", "finetune"))
    versions = ", ".join(f"{_md(key)} {_md(value)}" for key, value in record.environment.items() if value)
    parameters = sum(value.numel() for value in loaded.model.parameters())
    return [
        f"run: `{_code(record.name)}`, protocol {_md(result.get('protocol'))}, seed {record.seed}",
        f"{names}; {parameters:,} parameters; all settings: config.yaml",
        f"body's checkpoint: `{_code(checkpoint)}`, SHA-256 `{_code(record.checkpoint_sha256)}`; licence: {licence}",
        f"weights: SHA-256 `{_code(record.weights_sha256)}`; made with {versions}",
    ]


def _number(value: Any, percent: bool) -> str:
    if not isinstance(value, (int, float)):
        return "undefined"
    return f"{100 * value:.2f} %" if percent else f"{value:.4g}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{_code(name)}`" for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _code(text: Any) -> str:
    return visible(str(text)).replace("`", "'").replace("|", "/")


def _md(text: Any) -> str:
    """Return text of unknown origin in which Markdown and HTML find nothing."""
    return "".join(f"\\{char}" if char in r"\`*_[]<>|#&~$" else char for char in visible(str(text)))
