"""Export a model of a finished run: a folder with everything that its predictions need.

They do not need the body's checkpoint, a network connection or the training data.

DIR/
  README.md                            the model card, which may be edited
  model.safetensors                    all weights; several members, whose outputs are averaged,
                                       have model-0.safetensors, ...; a baseline also has model.json
  preprocessing.{json,safetensors}     how new data become inputs, and the meaning of outputs
  body/config.json                     the body's architecture, if the model has a network
  network.safetensors                  the network whose features a baseline takes
  export.json                          the model's record
  config.yaml                          the run's settings
  MANIFEST.json                        size and SHA-256 of all files
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import __version__, storage
from orca_cli.baselines import plain
from orca_cli.baselines.names import TRANSFER
from orca_cli.config import configuration
from orca_cli.config.compose import to_yaml
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.models.checkpoints import shareable_config
from orca_cli.prediction.candidates import CANDIDATE_NAMES, candidates
from orca_cli.prediction.loading import Loaded
from orca_cli.prediction.record import CARD, EXPORT, SCHEMA, ModelRecord
from orca_cli.report.collect import baselines, interval_text, mapping, number
from orca_cli.report.credits import CHECKPOINT_LICENCES
from orca_cli.runs.directory import SETTINGS
from orca_cli.runs.preprocessing import BODY_CONFIG, write_preprocessing
from orca_cli.terminal import percent_or_number, visible
from orca_cli.training.cache import save_tensors

if TYPE_CHECKING:
    from torch import Tensor

# Bytes that an export needs on the disk in addition to its weights.
_OVERHEAD = 2**22
# Largest number of names of classes or columns that a card lists.
_MAX_NAMES = 50
# Marks with a meaning in Markdown or HTML; each gets a backslash.
_MARKUP = re.compile(r"[\\`*_\[\]<>|#&~$]")
# The head between lines of dashes is for model hubs, the text below it for people.
_CARD = """\
---
library_name: orca-transfer
tags: [cross-modal-transfer, orca]
---

# {task}: exported model ({kind})

## Use

The program, orca-transfer {program}, is not on a package index. Install it from a checkout of its
repository: replace CHECKOUT by the checkout's folder, and FOLDER by the folder of this file.

```
pip install CHECKOUT
orca predict FOLDER new_data --out predictions.csv
```

```python
import orca_cli
model = orca_cli.load("FOLDER")   # a scikit-learn-like estimator
model.predict(x)
```

New data must have the form of the training files. The shape of a sample, as the model sees it, is \
{shape} (channels first){columns}.
The outputs are {kind}; their number is {outputs}{names}.

## Data

| split | samples | SHA-256 |
|---|--:|---|
{splits}

{chosen}. Number of times that the run read the test split: {reads}.

## Result

| on the test split | |
|---|---|
{errors}

A lower error is better. The error is computed over {n} items, such as samples or classes; \
number of items that could not be scored: {skipped}.{interval}{validated}
All numbers are from one run with one seed.{comparison}

## Model and training

* run: `{run}`, protocol {protocol}, seed {seed}
* {model}
* packages: {versions}
* all settings: config.yaml

## Limits

* The errors were measured on data like the training data. How the model performs on other data \
(other devices, sites, times) is not known.
* Probabilities are the model's own: they were not calibrated.
* `--best` chooses one of several runs by its validation error. If this run was chosen in that \
way, its test error did not influence the choice.
"""
# Split on which the weights were chosen -> the card's sentence; `_data_fields` has other splits.
_CHOSEN = {
    "nothing": "The weights are from the last step, after training on training and validation data",
    "folds": "Each fold's model was validated on the samples that it was not trained on",
}


def export(loaded: Loaded, target: Path) -> None:
    """Write a model into a new folder, completely or not at all; parent folders are made.

    The settings of paths are left out. If the body's checkpoint is a folder of this machine, the
    record has only the folder's name.

    Raises:
        ConfigError: the folder already exists.
        DataError: the body has no config.json.
        StorageError: it cannot be written, or the disk has too little space.
    """
    # `Path.exists` would be False for a broken link.
    if os.path.lexists(target):
        hint = "name a folder that does not exist yet, since nothing is overwritten"
        raise ConfigError("already exists", where=str(target), hint=hint)
    # Only a body that was made from a folder has the config.json by which an export is opened.
    body_folder = None
    if loaded.members:
        body_folder = getattr(loaded.members[0].body, "folder", None)
        if body_folder is None:
            message = "cannot be exported: its body has no config.json, which an export needs"
            raise DataError(message, where=str(loaded.folder))
    networks = _networks(loaded)
    tensors: list[Any] = [tensor for weights in networks.values() for tensor in weights.values()]
    if loaded.simple is not None:
        tensors += loaded.simple.arrays.values()
    # Free space is checked before the first file is written.
    bytes_needed = _OVERHEAD + sum(tensor.nbytes for tensor in tensors)
    storage.require_space(target.parent, bytes_needed)
    record = loaded.record
    # A hub id, or a folder of this machine, which is meaningless on other machines.
    checkpoint = Path(str(record.body.get("checkpoint", "")))
    if checkpoint.expanduser().is_dir():
        record = replace(record, body={**record.body, "checkpoint": checkpoint.name})
    # config.yaml names the body like the record, without a folder of this machine.
    settings = configuration.content(loaded.folder / SETTINGS) | {"body": record.body}
    settings.pop("paths", None)
    entries = {"schema": SCHEMA, **asdict(record)}
    # Left out, so that earlier versions of the program can read an export of the transfer.
    if record.candidate == TRANSFER:
        del entries["candidate"]
    owner = str(record.result.get("identity", ""))
    with storage.commit_folder(target, owner=owner) as new_folder:
        for file_name, weights in networks.items():
            save_tensors(new_folder / file_name, weights)
        if loaded.simple is not None:
            plain.write(new_folder, loaded.simple)
        if body_folder is not None:
            storage.write_json(new_folder / BODY_CONFIG, shareable_config(body_folder))
        write_preprocessing(new_folder, loaded.preprocessing)
        storage.write_checked_json(new_folder / EXPORT, entries)
        storage.write_text(new_folder / SETTINGS, to_yaml(settings))
        # The only file that may differ from the manifest when `read_export` reads it.
        storage.write_text(new_folder / CARD, model_card(replace(loaded, record=record)))


def _networks(loaded: Loaded) -> dict[str, dict[str, Tensor]]:
    """Return name of a file -> the weights to write into it."""
    networks = {}
    # Not strict: a baseline may have no network.
    for file_name, network in zip(loaded.record.weight_files, loaded.members, strict=False):
        state = network.state_dict()
        # If only the embedder is used, no other part has values.
        networks[file_name] = {name: state[name] for name in state if not state[name].is_meta}
    return networks


def model_card(loaded: Loaded) -> str:
    """Return a model card as Markdown, with the head that model hubs read.

    Texts of the run may be untrusted, so their markup is escaped.
    """
    return _CARD.format(
        **_use_fields(loaded),
        **_data_fields(loaded.record),
        **_result_fields(loaded.record),
        **_model_fields(loaded),
    )


def _use_fields(loaded: Loaded) -> dict[str, Any]:
    """Return a card's fields about inputs and outputs."""
    record = loaded.record
    # Only the columns of a table have names.
    column_names = getattr(loaded.preprocessing, "feature_names", None)
    columns = ""
    if column_names:
        columns = f"; columns: {_listed(column_names)}"
    output_names = ""
    target_names = loaded.preprocessing.targets.names
    if target_names:
        output_names = f" ({_listed(target_names)})"
    return {
        "task": _inert(record.result.get("task")),
        "kind": record.kind,
        "shape": " x ".join(map(str, record.input_shape)),
        "columns": columns,
        "outputs": record.num_outputs,
        "names": output_names,
    }


def _data_fields(record: ModelRecord) -> dict[str, str]:
    """Return a card's fields about the splits and the choice of the weights."""
    splits = mapping(record.result.get("splits"))
    table_lines = []
    for split_name in ("train", "val", "test"):
        split = splits.get(split_name)
        if split:
            samples = _inert(split.get("n"))
            digest = _in_code(split.get("sha256"))
            table_lines.append(f"| {split_name} | {samples} | `{digest}` |")
    selected = mapping(record.result.get("selected"))
    selected_on = selected.get("on")
    # If the weights of the last step were taken, the validation error did not choose them.
    verb = "validated" if selected.get("by") == "last" else "chosen"
    # The name of a split: val, or test if a protocol validates on it.
    on_split = f"The weights were {verb} on the {_inert(selected_on)} split"
    choice = _CHOSEN.get(str(selected_on), on_split)
    if record.members > 1:
        choice += f"; the outputs of {record.members} models are averaged"
    if record.candidate != TRANSFER:
        choice = f"This model is {CANDIDATE_NAMES[record.candidate]}, not the transfer"
    return {
        "splits": "\n".join(table_lines),
        "chosen": choice,
        "reads": _inert(record.result.get("test_reads")),
    }


def _result_fields(record: ModelRecord) -> dict[str, str]:
    """Return a card's fields about the errors of the model and of the run's other candidates."""
    result = record.result
    error = mapping(result.get("error"))
    is_percent = error.get("percent") is True
    by_name = candidates(result)
    model = by_name.get(record.candidate, {})
    # Rows of the card's table, name -> error, as in result.json. That file may be untrusted, so an
    # entry may be missing or have any type, which `number` and `_inert` accept.
    errors: dict[Any, Any] = {error.get("name"): model.get("error")}
    # The run's sentence compares the transfer with baselines, so only the transfer's card has it.
    comparison = mapping(result.get("comparison")).get("text", "")
    if record.candidate != TRANSFER:
        errors["the run's transfer"] = error.get("value")
        comparison = ""
    errors["best constant predictor"] = result.get("trivial_error")
    for baseline in baselines(result):
        if baseline.name != record.candidate:
            description = CANDIDATE_NAMES.get(baseline.name, baseline.name)
            errors[f"baseline {baseline.name}: {description}"] = baseline.error
    table_lines = []
    for error_name, recorded_error in errors.items():
        error_text = percent_or_number(number(recorded_error), is_percent)
        table_lines.append(f"| {_inert(error_name)} | {error_text} |")
    interval_ends = interval_text({**model, "percent": is_percent})
    interval = ""
    if interval_ends:
        interval = f" The error's 95 % interval over test sets like this one: {interval_ends}."
    validated = ""
    for name in dict.fromkeys((record.candidate, TRANSFER)):
        validation_error = number(by_name.get(name, {}).get("validation_error"))
        if validation_error is not None:
            error_text = percent_or_number(validation_error, is_percent)
            validated += f" Validation error of the {name}: {error_text}."
    if comparison:
        comparison = f" Compared with baselines on the same split: {_inert(comparison)}."
    return {
        "errors": "\n".join(table_lines),
        "n": _inert(error.get("n")),
        "skipped": _inert(error.get("skipped")),
        "interval": interval,
        "validated": validated,
        "comparison": comparison,
    }


def _model_fields(loaded: Loaded) -> dict[str, Any]:
    """Return a card's fields about the run and the model."""
    record = loaded.record
    # Packages that were not installed in the run are left out.
    versions = [
        f"{_inert(package)} {_inert(version)}"
        for package, version in record.environment.items()
        if version
    ]
    model_lines = [f"model: {CANDIDATE_NAMES[record.candidate]} (`{record.candidate}`)"]
    if loaded.members:
        model_lines += _network_lines(loaded)
    return {
        "run": _in_code(record.name),
        "protocol": _inert(record.result.get("protocol")),
        "seed": record.seed,
        "model": "\n* ".join(model_lines),
        "versions": ", ".join(versions),
        "program": _program(record),
    }


def _network_lines(loaded: Loaded) -> list[str]:
    """Return the lines of a card about a network: its parts, its checkpoint, its weights."""
    record = loaded.record
    result = record.result
    checkpoint = str(record.body.get("checkpoint"))
    # A hub id may end with @REVISION.
    hub_id = checkpoint.partition("@")[0]
    # The run's choice in each group of the configuration.
    names_of_parts = []
    for group in ("task", "body", "source", "metric", "finetune"):
        part_name = _inert(result.get(group))
        names_of_parts.append(f"{group}={part_name}")
    # If only the embedder of a network is used, the other parameters have no values.
    parameters = sum(
        parameter.numel() for parameter in loaded.model.parameters() if not parameter.is_meta
    )
    licence = CHECKPOINT_LICENCES.get(hub_id, "unknown, see the checkpoint's source")
    digest = _in_code(record.checkpoint_sha256)
    lines = [
        f"{', '.join(names_of_parts)}; {parameters:,} parameters",
        f"body's checkpoint: `{_in_code(checkpoint)}`, SHA-256 `{digest}`; licence: {licence}",
    ]
    if loaded.simple is None:
        lines.append(f"weights: SHA-256 `{_in_code(record.weights_sha256)}`")
    return lines


def _listed(names: Sequence[str]) -> str:
    """Return up to fifty names as code spans, and the number of further names."""
    spans = [f"`{_in_code(name)}`" for name in names[:_MAX_NAMES]]
    listed = ", ".join(spans)
    if len(names) > _MAX_NAMES:
        listed += f" and {len(names) - _MAX_NAMES} more"
    return listed


def _in_code(untrusted_text: Any) -> str:
    """Return untrusted text that cannot end the code span or the table cell that contains it."""
    # Backslashes do not escape inside a code span, so the marks are replaced.
    return visible(str(untrusted_text)).replace("`", "'").replace("|", "/")


def _program(record: ModelRecord) -> str:
    """Return version and commit of the program that trained the model, as far as recorded."""
    program = mapping(record.result.get("program"))
    version = _inert(program.get("version") or __version__)
    commit = program.get("commit")
    return f"{version} (commit {_inert(commit)[:8]})" if commit else version


def _inert(untrusted_text: Any) -> str:
    """Return untrusted text, escaped so that nothing in it is read as Markdown or HTML."""
    return _MARKUP.sub(r"\\\g<0>", visible(str(untrusted_text)))
