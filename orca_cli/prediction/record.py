"""The record of a run's or an export's model.

It is read from files of bounded size that may be a stranger's.
"""

import os
import stat
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.baselines.names import TRANSFER
from orca_cli.config import configuration, parts, schema
from orca_cli.config.ranges import Count, check_value, fits, shown
from orca_cli.exceptions import CheckpointError, ChecksumError, DataError, UnsafeError
from orca_cli.interfaces import Kind
from orca_cli.prediction.candidates import CANDIDATE_NAMES
from orca_cli.report.collect import mapping
from orca_cli.runs.directory import (
    ENVIRONMENT,
    RESULT,
    SETTINGS,
    STAGE_FOLDERS,
    STATUS,
    SUMMARY,
    read_or_empty,
)
from orca_cli.runs.preprocessing import ARRAYS_FILE, FILE
from orca_cli.runs.records import NewerSchemaError, UnreadableError, read_record

EXPORT = "export.json"
# For people, who may edit it.
CARD = "README.md"
WEIGHTS = "model.safetensors"
# Of the network whose features a simple model takes.
NETWORK = "network.safetensors"
# The version of the form of export.json.
SCHEMA = 1
# In bytes.
_LARGEST_RECORD = 2**26
_USE_NEWER = "use a newer orca"
# Entry that names code -> its key in the configuration: a record may name the same code there as
# `orca run` may.
_KEYS_OF_CODE = {
    "embedder": "embedder",
    "body": "body",
    "finetune": "finetune",
    "error": "task.error",
}
# Entry -> the key of the setting that it holds.
_SETTINGS_OF = {
    "seed": "seed",
    "pooling": "predictor.pooling",
    "precision": "precision",
    "batch_size": "train.eval_batch_size",
    "train_batch_size": "train.batch_size",
}
# Entries that have to be dictionaries, which `fits` does not check.
_DICTIONARIES = ("embedder", "body", "finetune", "result", "environment")


@dataclass(frozen=True)
class ModelRecord:
    """All that is needed besides weights and preprocessing to make a run's model again.

    `read_run` and `read_export` make it. Its entries have been checked against the types here,
    settings (`_SETTINGS_OF`) against their declaration, nodes by `parts.check_admitted`.
    """

    kind: Kind
    input_shape: Sequence[Count]
    num_outputs: Count
    seed: int
    pooling: str
    precision: str
    # In evaluation. Outputs of another batch size can differ in their last bits.
    batch_size: int
    # Nodes of the configuration, of which `parts.build` makes the parts.
    embedder: dict[str, Any]
    body: dict[str, Any]
    finetune: dict[str, Any]
    # Node or short name of the task's error; None for the usual one of its kind.
    error: dict[str, Any] | str | None
    # Samples after which the error is averaged; None where it is one error over the whole split.
    error_chunks: Count | None
    train_batch_size: int
    # Of the checkpoint that the body came from.
    checkpoint_sha256: str
    # Of all weights of the model.
    weights_sha256: str
    # The run's result.json.
    result: Mapping[str, Any]
    # Package -> its version in the run.
    environment: Mapping[str, Any] = field(default_factory=dict)
    # Number of models, whose outputs are averaged.
    members: Count = 1
    # Which of the run's models it is; of a simple model, the entries above are its network's.
    candidate: str = TRANSFER

    @property
    def name(self) -> str:
        """Return the name of the run."""
        return str(self.result.get("run_id", ""))

    @property
    def weight_files(self) -> Iterator[str]:
        """Yield the names of an export's files of networks, one a member."""
        if self.members == 1:
            yield WEIGHTS if self.candidate == TRANSFER else NETWORK
            return
        # One by one: a stranger's record may speak of more members than memory could name.
        for member_number in range(self.members):
            yield f"model-{member_number}.safetensors"


def own_file(folder: Path, name: str, max_bytes: int | None = None) -> Path:
    """Return a file of a folder that is really in it, and not larger than `max_bytes`.

    Raises:
        UnsafeError: it is a link, below a link, not a file, or too large.
        ChecksumError: it is missing.
    """
    path = folder
    # A folder on the way may be a link as well.
    for component in Path(name).parts:
        path = path / component
        try:
            # `lstat` describes a link itself, `stat` would follow it.
            file_state = os.lstat(path)
        except OSError as error:
            raise ChecksumError("is missing", where=str(folder / name)) from error
        if stat.S_ISLNK(file_state.st_mode):
            message = "is a link, which could lead anywhere"
            raise UnsafeError(message, where=str(path), hint="copy what it leads to")
    if not stat.S_ISREG(file_state.st_mode):
        raise UnsafeError("is not a file", where=str(path))
    if max_bytes is not None and file_state.st_size > max_bytes:
        message = f"is far too large for a record ({file_state.st_size} bytes)"
        raise UnsafeError(message, where=str(path))
    return path


def check_own_files(folder: Path) -> None:
    """Check all files below a folder by `own_file`, with a limit for the size of records."""
    for path in folder.rglob("*"):
        # A link to a folder is checked like a file, and so refused.
        if path.is_dir() and not path.is_symlink():
            continue
        is_record = path.suffix in (".json", ".yaml", ".md")
        max_bytes = _LARGEST_RECORD if is_record else None
        own_file(folder, str(path.relative_to(folder)), max_bytes)


def is_export(folder: Path) -> bool:
    """Return whether a folder is an export, which has an export.json; the file is not read."""
    return (folder / EXPORT).exists()


def read_export(folder: Path) -> ModelRecord:
    """Return the record of an export, whose files except the model card are as `export` wrote them.

    Raises:
        ChecksumError: a file is missing or has changed.
        CheckpointError: a newer program wrote it.
        UnsafeError: it holds links, or names code that a model does not consist of.
        DataError, ConfigError: its record is malformed, or a setting in it is out of range.
    """
    # All files, before the first is read.
    check_own_files(folder)
    entries = storage.read_checked_json(folder / EXPORT)
    version = entries.pop("schema", None)
    if version != SCHEMA:
        message = f"schema {version} is of a newer program; this one reads up to {SCHEMA}"
        raise CheckpointError(message, where=str(folder / EXPORT), hint=_USE_NEWER)
    # After the schema, so that an export of a newer program is not called damaged.
    storage.verify_folder(folder, editable=(CARD,))
    # An export of one model may lack the first entry, one of the transfer the second.
    return _checked_record(
        {"members": 1, "candidate": TRANSFER, **entries}, where=str(folder / EXPORT)
    )


def _checked_record(entries: Mapping[str, Any], where: str) -> ModelRecord:
    """Return the record with these entries, all of which are checked first."""
    # Entry -> its type, with the range of a number.
    declared_types = typing.get_type_hints(ModelRecord, include_extras=True)
    # The names of both: a missing entry is refused, and so is an unknown one.
    for entry_name in sorted(declared_types.keys() | entries.keys()):
        entry = entries.get(entry_name)
        is_expected = entry_name in declared_types and entry_name in entries
        is_valid = is_expected and fits(entry, declared_types[entry_name])
        if entry_name in _DICTIONARIES:
            is_valid = is_valid and type(entry) is dict
        if entry_name == "candidate":
            is_valid = is_valid and entry in CANDIDATE_NAMES
        if not is_valid:
            message = f"is not a model's record: {entry_name} is {shown(entry)}"
            raise DataError(message, where=where)
    for entry_name, setting_name in _SETTINGS_OF.items():
        check_value(entries[entry_name], schema.declared()[setting_name], setting_name)
    # A stranger's record may name any code, and `parts.build` imports it later.
    for entry_name, configuration_key in _KEYS_OF_CODE.items():
        parts.check_admitted(entries[entry_name], configuration_key)
    # JSON has lists, an input shape is a tuple.
    return ModelRecord(**{**entries, "input_shape": tuple(entries["input_shape"])})


def completed(folder: Path) -> dict[str, Any]:
    """Return the result.json of a completed run.

    Raises:
        DataError: the folder is not a run's, or the run is not completed.
        CheckpointError: a newer program made it.
        UnsafeError: its records are links.
    """
    where = str(folder)
    # A missing file is not refused here: the steps below say which state the run is in.
    for name in (RESULT, STATUS):
        if os.path.lexists(folder / name):
            own_file(folder, name)
    try:
        result = read_record(folder / RESULT)
    except NewerSchemaError as error:
        raise CheckpointError(str(error), where=where, hint=_USE_NEWER) from error
    except (UnreadableError, OSError) as error:
        raise DataError(str(error), where=where, hint="orca doctor RUN checks a run") from error
    if result is not None:
        return result
    # A run without a result is unfinished; a folder without a state is no run.
    run_state = read_or_empty(folder / STATUS).get("state")
    if run_state:
        message = f"the run is not completed (state: {run_state})"
        raise DataError(message, where=where, hint="rerun its command")
    hint = "give a run's folder, an exported one, or a folder of runs and --best"
    raise DataError("neither a run nor an export", where=where, hint=hint)


def read_run(folder: Path) -> ModelRecord:
    """Return the record of a completed run; only the files that it needs are read and verified.

    Raises:
        DataError: as `completed`, or the run's task keeps no preprocessing.
        ChecksumError, CheckpointError, ConfigError, UnsafeError: as `read_export`.
    """
    build = STAGE_FOLDERS["build"]
    preprocessing_file = f"{build}/{FILE}"
    result = completed(folder)
    if not (folder / preprocessing_file).exists():
        message = (
            f"the task '{result.get('task')}' keeps no preprocessing, so it has no predictions for "
            "new data"
        )
        hint = "those of its test split are in 3_finetune/predictions.npz"
        raise DataError(message, where=str(folder), hint=hint)
    summary_file = f"{build}/{SUMMARY}"
    record_files = [RESULT, SETTINGS, ENVIRONMENT, summary_file, preprocessing_file]
    for name in (storage.MANIFEST, *record_files):
        own_file(folder, name, _LARGEST_RECORD)
    # Records are small, arrays may have any size.
    arrays_file = f"{build}/{ARRAYS_FILE}"
    own_file(folder, arrays_file)
    storage.verify_folder(folder, only=[*record_files, arrays_file])
    summary = read_or_empty(folder / summary_file)
    settings = configuration.content(folder / SETTINGS)
    built_parts = mapping(summary.get("parts"))
    task_settings = mapping(settings.get("task"))
    selected = mapping(result.get("selected"))
    entries = {
        "kind": summary.get("kind"),
        "input_shape": summary.get("input_shape"),
        "num_outputs": summary.get("num_outputs"),
        "checkpoint_sha256": summary.get("checkpoint_sha256"),
        # As decided, where the settings left them open.
        "embedder": built_parts.get("embedder", settings.get("embedder")),
        "finetune": built_parts.get("finetune", settings.get("finetune")),
        "body": settings.get("body"),
        "error": task_settings.get("error"),
        "error_chunks": schema.ERROR_CHUNKS.get(str(settings.get("protocol"))),
        "weights_sha256": result.get("weights_sha256"),
        "result": result,
        "members": selected.get("members", 1),
        "candidate": TRANSFER,
        "environment": read_or_empty(folder / ENVIRONMENT).get("packages") or {},
    }
    for name, setting_name in _SETTINGS_OF.items():
        entries[name] = setting(settings, setting_name, summary)
    return _checked_record(entries, str(folder))


def setting(settings: Mapping[str, Any], key: str, summary: Mapping[str, Any]) -> Any:
    """Return a setting of a run as the run used it: as decided, else as set, else the default.

    Args:
        settings: the content of the run's config.yaml.
        key: the setting's name, such as train.lr.
        summary: of the run's stage 1, which has the settings that were decided.
    """
    decisions = mapping(summary.get("decided"))
    decision = mapping(decisions.get(key))
    if decision:
        return decision.get("value")
    value = schema.lookup(settings, key)
    if value is None:
        return schema.lookup(schema.Config(), key)
    return value
