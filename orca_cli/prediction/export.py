"""One folder with all that a finished run needs to predict: no checkpoint of the body, no network, no training data.

DIR/
  README.md                            the model card, which may be edited
  model.safetensors                    all weights; model-0.safetensors, ... of several members, whose outputs are averaged
  preprocessing.{json,safetensors}     how new data become inputs, and what outputs mean
  body/config.json                     the body's architecture
  export.json                          what joins them; config.yaml: the run's settings
  MANIFEST.json                        size and SHA-256 of all files
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from orca_cli import storage
from orca_cli.config import configuration
from orca_cli.config.compose import to_yaml
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.models.checkpoints import shareable_config
from orca_cli.prediction.loading import Loaded
from orca_cli.prediction.record import CARD, EXPORT, SCHEMA
from orca_cli.report.collect import baselines, interval_text, mapping, number
from orca_cli.report.credits import CHECKPOINT_LICENCES
from orca_cli.runs.directory import SETTINGS
from orca_cli.runs.preprocessing import BODY_CONFIG, write_preprocessing
from orca_cli.terminal import percent_or_number, visible

_ROOM = 2**22  # bytes that an export takes besides its weights
_SHOWN = 50  # classes named in a card
_CARD = """\
---
library_name: orca-transfer
tags: [cross-modal-transfer, orca]
---

# {task}: {kind} from {shape}

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

| on the test split | |
|---|---|
{errors}

Lower is better. The error is a mean over {n} items, such as samples or classes; skipped: {skipped}.{interval}{validated}
One run of one seed.{comparison}

## Model and training

* run: `{run}`, protocol {protocol}, seed {seed}
* {names_of_parts}; {parameters:,} parameters; all settings: config.yaml
* body's checkpoint: `{checkpoint}`, SHA-256 `{checkpoint_sha256}`; licence: {licence}
* weights: SHA-256 `{weights_sha256}`; made with {versions}

## Limits

* It was measured on data like its training data; on others (devices, sites, times) nothing is known.
* Probabilities are the model's own and were not calibrated.
* The test error was not used to choose this run, if it was chosen by validation (`--best` does).
"""
_CHOSEN = {
    "nothing": "Weights are those of the last step, trained on training and validation samples",
    "folds": "Validated by folds: each model on the samples that it was not trained on",
}


def export(loaded: Loaded, target: Path) -> None:
    """Write a model into a new folder, whole or not at all; folders above it are made.

    The settings of paths are left out; where the body's checkpoint is a folder of this machine, the record's `body` names it
    by its last part only.

    Raises:
        ConfigError: something is there already.
        DataError: the body has no config.json.
        StorageError: it cannot be written, or there is too little space.
    """
    if os.path.lexists(target):
        raise ConfigError(
            "exists already", where=str(target), hint="name a new folder; nothing is overwritten"
        )
    body = getattr(loaded.members[0].body, "folder", None)
    if body is None:
        what = "cannot be exported: its body was not made from a folder with a config.json"
        raise DataError(what, where=str(loaded.folder))
    sizes = [value.nbytes for member in loaded.members for value in member.state_dict().values()]
    storage.require_space(target.parent, sum(sizes) + _ROOM)
    record = loaded.record
    checkpoint = str(record.body.get("checkpoint", ""))
    if Path(checkpoint).expanduser().is_dir():  # of this machine
        record = replace(record, body={**record.body, "checkpoint": Path(checkpoint).name})
    settings = configuration.content(loaded.folder / SETTINGS) | {"body": record.body}
    settings.pop("paths", None)  # of this machine
    with storage.commit_folder(target, owner=str(record.result.get("identity", ""))) as folder:
        for name, member in zip(record.weight_files, loaded.members, strict=True):
            weights = {
                key: value.detach().cpu().contiguous() for key, value in member.state_dict().items()
            }
            save_file(weights, folder / name)
        write_preprocessing(folder, loaded.preprocessing)
        storage.write_json(folder / BODY_CONFIG, shareable_config(body))
        storage.write_checked_json(folder / EXPORT, {"schema": SCHEMA, **asdict(record)})
        storage.write_text(folder / SETTINGS, to_yaml(settings))
        storage.write_text(folder / CARD, model_card(replace(loaded, record=record)))


def model_card(loaded: Loaded) -> str:
    """Return a model card as Markdown, with the head that model hubs read; texts of the run, maybe a stranger's, are inert."""
    record, result = loaded.record, loaded.record.result
    targets, features = (
        loaded.preprocessing.targets,
        getattr(loaded.preprocessing, "feature_names", None),
    )
    splits, selected, error = (mapping(result.get(key)) for key in ("splits", "selected", "error"))
    comparison = mapping(result.get("comparison"))
    on, verb = selected.get("on"), "validated" if selected.get("by") == "last" else "chosen"
    chosen = _CHOSEN.get(str(on)) or f"Weights were {verb} on the {_md(on)} split"
    errors = {
        error.get("name"): error.get("value"),
        "best constant predictor": result.get("trivial_error"),
    }
    errors |= {f"baseline: {name}": value for name, value in baselines(result)}
    percent, validation = error.get("percent") is True, number(result.get("validation_error"))
    within = interval_text(error)
    checkpoint = str(record.body.get("checkpoint"))
    return _CARD.format(
        task=_md(result.get("task")),
        kind=record.kind,
        shape=" x ".join(map(str, record.input_shape)),
        columns=f"; columns: {_listed(features)}" if features else "",
        outputs=record.num_outputs,
        names=f": {_listed(targets.names)}" if targets.names else "",
        splits="\n".join(
            f"| {name} | {_md(splits[name].get('n'))} | `{_code(splits[name].get('sha256'))}` |"
            for name in ("train", "val", "test")
            if splits.get(name)
        ),
        chosen=chosen
        + (f"; the outputs of {record.members} models are averaged" if record.members > 1 else ""),
        reads=_md(result.get("test_reads")),
        errors="\n".join(
            f"| {_md(name)} | {percent_or_number(number(value), percent)} |"
            for name, value in errors.items()
        ),
        n=_md(error.get("n")),
        skipped=_md(error.get("skipped")),
        interval=f" Its 95 % interval over such test sets: {within}." if within else "",
        validated=f" On validation: {percent_or_number(validation, percent)}."
        if validation is not None
        else "",
        comparison=f" Beside simple models on the same split: {_md(comparison.get('text'))}."
        if comparison
        else "",
        run=_code(record.name),
        protocol=_md(result.get("protocol")),
        seed=record.seed,
        names_of_parts=", ".join(
            f"{key}={_md(result.get(key))}"
            for key in ("task", "body", "source", "metric", "finetune")
        ),
        parameters=sum(value.numel() for value in loaded.model.parameters()),
        checkpoint=_code(checkpoint),
        checkpoint_sha256=_code(record.checkpoint_sha256),
        licence=CHECKPOINT_LICENCES.get(checkpoint.partition("@")[0], "see where it comes from"),
        weights_sha256=_code(record.weights_sha256),
        versions=", ".join(
            f"{_md(key)} {_md(value)}" for key, value in record.environment.items() if value
        ),
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{_code(name)}`" for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _code(text: Any) -> str:
    return visible(str(text)).replace("`", "'").replace("|", "/")


def _md(text: Any) -> str:
    """Return text of unknown origin in which Markdown and HTML find nothing."""
    return "".join(f"\\{char}" if char in r"\`*_[]<>|#&~$" else char for char in visible(str(text)))
