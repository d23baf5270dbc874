"""The record of a run's or an export's model.

It is read from files of bounded size that may be untrusted.
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
# The model card, which people may edit.
CARD = "README.md"
WEIGHTS = "model.safetensors"
# Weights of the network whose features a baseline takes.
NETWORK = "network.safetensors"
# Version of the form of export.json.
SCHEMA = 1
# Largest size of a record, in bytes.
_LARGEST_RECORD = 2**26
_USE_NEWER = "use a newer version of orca"
_GET_AGAIN = "get the folder again, from a source that you trust"
# Entry that names code -> its key in the configuration. A record may name only code that `orca run`
# accepts for that key.
_KEYS_OF_CODE = {
    "embedder": "embedder",
    "body": "body",
    "finetune": "finetune",
    "error": "task.error",
}
# Entry -> the key of the setting whose value it contains.
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
    """Everything except weights and preprocessing that is needed to rebuild a run's model.

    `read_run` and `read_export` make it. Its entries have been checked against the types below,
    settings (`_SETTINGS_OF`) against their declaration, nodes by `parts.check_admitted`.
    """

    kind: Kind
    input_shape: Sequence[Count]
    num_outputs: Count
    seed: int
    pooling: str
    precision: str
    # Batch size of evaluation. Another batch size can change the last bits of the outputs.
    batch_size: int
    # Nodes of the configuration, from which `parts.build` makes the parts.
    embedder: dict[str, Any]
    body: dict[str, Any]
    finetune: dict[str, Any]
    # Node or short name of the task's error; None for the usual one of its kind.
    error: dict[str, Any] | str | None
    # Number of samples in a chunk, over which errors are averaged; None for one error over the
    # whole split.
    error_chunks: Count | None
    train_batch_size: int
    # SHA-256 of the checkpoint from which the body was loaded.
    checkpoint_sha256: str
    # SHA-256 of all weights of the model.
    weights_sha256: str
    # The run's result.json.
    result: Mapping[str, Any]
    # Package -> its version in the run.
    environment: Mapping[str, Any] = field(default_factory=dict)
    # Number of models, whose outputs are averaged.
    members: Count = 1
    # Name of the model among the run's candidates. For a baseline, the entries above describe the
    # network whose features it takes.
    candidate: str = TRANSFER

    @property
    def name(self) -> str:
        """Return the name of the run."""
        return str(self.result.get("run_id", ""))

    @property
    def weight_files(self) -> Iterator[str]:
        """Yield the names of an export's files of networks, one for each member."""
        if self.members == 1:
            yield WEIGHTS if self.candidate == TRANSFER else NETWORK
            return
        # A generator: an untrusted record may claim more members than names fit into memory.
        for member_number in range(self.members):
            yield f"model-{member_number}.safetensors"


def own_file(folder: Path, name: str, max_bytes: int | None = None) -> Path:
    """Return the path of a file that is inside a folder and not larger than `max_bytes`.

    Raises:
        UnsafeError: the file is a link, is below a link, is not a regular file, or is too large.
        ChecksumError: the file is missing.
    """
    path = folder
    # A folder between the two may be a link as well.
    for component in Path(name).parts:
        path = path / component
        try:
            # `lstat` describes a link itself, `stat` would follow it.
            file_state = os.lstat(path)
        except OSError as error:
            raise ChecksumError("is missing", where=str(folder / name)) from error
        if stat.S_ISLNK(file_state.st_mode):
            message = "is a link, which is not followed, since it could lead anywhere"
            hint = "replace the link by a copy of the file that it leads to"
            raise UnsafeError(message, where=str(path), hint=hint)
    if not stat.S_ISREG(file_state.st_mode):
        raise UnsafeError("is not a regular file", where=str(path), hint=_GET_AGAIN)
    if max_bytes is not None and file_state.st_size > max_bytes:
        message = f"has {file_state.st_size:,} bytes, more than the limit of {max_bytes:,}"
        raise UnsafeError(message, where=str(path), hint=_GET_AGAIN)
    return path


def check_own_files(folder: Path) -> None:
    """Check all files below a folder by `own_file`, with a limit for the size of records."""
    for path in folder.rglob("*"):
        # A link to a folder is checked like a file, and so raises an error.
        if path.is_dir() and not path.is_symlink():
            continue
        is_record = path.suffix in (".json", ".yaml", ".md")
        max_bytes = _LARGEST_RECORD if is_record else None
        own_file(folder, str(path.relative_to(folder)), max_bytes)


def is_export(folder: Path) -> bool:
    """Return whether a folder is an export, which has an export.json; the file is not read."""
    return (folder / EXPORT).exists()


def read_export(folder: Path) -> ModelRecord:
    """Return the record of an export, after checking that its files are as `export` wrote them.

    Only the model card may have changed.

    Raises:
        ChecksumError: a file is missing or has changed.
        CheckpointError: a newer version of the program wrote the export.
        UnsafeError: the export contains links, or names code that a model does not consist of.
        DataError, ConfigError: its record is malformed, or a setting in it is out of range.
    """
    # All files are checked before the first is read.
    check_own_files(folder)
    entries = storage.read_checked_json(folder / EXPORT)
    version = entries.pop("schema", None)
    if version != SCHEMA:
        message = (
            f"has schema {version} of a newer program; this program reads schemas up to {SCHEMA}"
        )
        raise CheckpointError(message, where=str(folder / EXPORT), hint=_USE_NEWER)
    # Checked after the schema, so that an export of a newer program is not called damaged.
    storage.verify_folder(folder, editable=(CARD,))
    # An export of a single model may lack `members`, an export of the transfer `candidate`.
    return _checked_record(
        {"members": 1, "candidate": TRANSFER, **entries}, where=str(folder / EXPORT)
    )


def _checked_record(entries: Mapping[str, Any], where: str) -> ModelRecord:
    """Return the record with these entries, all of which are checked first."""
    # Entry -> its type, with the range of a number.
    declared_types = typing.get_type_hints(ModelRecord, include_extras=True)
    # Names of both, since missing and unknown entries are errors.
    for entry_name in sorted(declared_types.keys() | entries.keys()):
        entry = entries.get(entry_name)
        is_expected = entry_name in declared_types and entry_name in entries
        is_valid = is_expected and fits(entry, declared_types[entry_name])
        if entry_name in _DICTIONARIES:
            is_valid = is_valid and type(entry) is dict
        if entry_name == "candidate":
            is_valid = is_valid and entry in CANDIDATE_NAMES
        if not is_valid:
            message = f"is not a valid record of a model: {entry_name} is {shown(entry)}"
            raise DataError(message, where=where, hint=_GET_AGAIN)
    for entry_name, setting_name in _SETTINGS_OF.items():
        check_value(entries[entry_name], schema.declared()[setting_name], setting_name)
    # An untrusted record may name any code, and `parts.build` imports it later.
    for entry_name, configuration_key in _KEYS_OF_CODE.items():
        parts.check_admitted(entries[entry_name], configuration_key)
    # JSON has lists, an input shape is a tuple.
    return ModelRecord(**{**entries, "input_shape": tuple(entries["input_shape"])})


def completed(folder: Path) -> dict[str, Any]:
    """Return the result.json of a completed run.

    Raises:
        DataError: the folder is not a run, or the run is not completed.
        CheckpointError: a newer version of the program made the run.
        UnsafeError: its records are links.
    """
    where = str(folder)
    # A missing file is not an error yet: the errors below name the state of the run.
    for name in (RESULT, STATUS):
        if os.path.lexists(folder / name):
            own_file(folder, name)
    try:
        result = read_record(folder / RESULT)
    except NewerSchemaError as error:
        raise CheckpointError(str(error), where=where, hint=_USE_NEWER) from error
    except (UnreadableError, OSError) as error:
        raise DataError(str(error), where=where, hint="check the run: `orca doctor RUN`") from error
    if result is not None:
        return result
    # A run without a result is unfinished; a folder without a state is not a run.
    run_state = read_or_empty(folder / STATUS).get("state")
    if run_state:
        message = f"the run is not completed (state: {run_state})"
        raise DataError(message, where=where, hint="rerun the run's command to complete it")
    hint = "name the folder of a run or of an export; with --best, name a folder of runs"
    raise DataError("is neither a run nor an export", where=where, hint=hint)


def read_run(folder: Path) -> ModelRecord:
    """Return the record of a completed run; only the files that it needs are read and verified.

    Raises:
        DataError: as in `completed`, or the run's task keeps no preprocessing.
        ChecksumError, CheckpointError, ConfigError, UnsafeError: as in `read_export`.
    """
    build = STAGE_FOLDERS["build"]
    preprocessing_file = f"{build}/{FILE}"
    result = completed(folder)
    if not (folder / preprocessing_file).exists():
        message = (
            f"runs of the task '{result.get('task')}' do not save their preprocessing, so this run "
            "cannot predict new data"
        )
        hint = "the run's predictions for the test split are in 3_finetune/predictions.npz"
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
    """Return a run's value of a setting: the decided value, else the set value, else the default.

    Args:
        settings: the content of the run's config.yaml.
        key: the setting's name, such as train.lr.
        summary: summary of the run's build stage, which contains the decided settings.
    """
    decisions = mapping(summary.get("decided"))
    decision = mapping(decisions.get(key))
    if decision:
        return decision.get("value")
    value = schema.lookup(settings, key)
    if value is None:
        return schema.lookup(schema.Config(), key)
    return value
