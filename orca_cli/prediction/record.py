"""What a run or an export says about its model; read from records of bounded size that may be a stranger's."""

import os
import stat
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.config import configuration, parts, schema
from orca_cli.config.ranges import Count, check_value, fits, shown
from orca_cli.exceptions import CheckpointError, ChecksumError, DataError, UnsafeError
from orca_cli.interfaces import Kind
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
CARD = "README.md"  # for people, who may edit it
WEIGHTS = "model.safetensors"
SCHEMA = 1  # of export.json
_LARGEST_RECORD = 2**26
_NEWER = "use a newer orca"
# Entry that names code -> its place in the configuration, which admits the same as in `orca run`.
_PLACES = {"embedder": "embedder", "body": "body", "finetune": "finetune", "error": "task.error"}
_SETTINGS_OF = {
    "seed": "seed",
    "pooling": "predictor.pooling",
    "precision": "precision",
    "batch_size": "train.eval_batch_size",
    "train_batch_size": "train.batch_size",
}


@dataclass(frozen=True)
class ModelRecord:
    """All that is needed besides weights and preprocessing to make a run's model again; `_SETTINGS_OF` has its settings.

    `read_run` and `read_export` make it. Values have been checked against the types here, nodes by `parts.check_admitted`.
    """

    kind: Kind
    input_shape: Sequence[Count]
    num_outputs: Count
    seed: int
    pooling: str
    precision: str
    batch_size: int  # of evaluation; another one can change last bits
    embedder: dict[str, Any]  # a node, as the next two
    body: dict[str, Any]
    finetune: dict[str, Any]
    error: (
        dict[str, Any] | str | None
    )  # node or short name of the task's error; None for the usual one of its kind
    error_chunks: Count | None  # samples after which it is averaged; None: over the whole split
    train_batch_size: int
    checkpoint_sha256: str  # of the body's checkpoint
    weights_sha256: str  # of the whole model
    result: Mapping[str, Any]  # the run's result.json
    environment: Mapping[str, Any] = field(default_factory=dict)  # versions that it ran with
    members: Count = 1  # models, whose outputs are averaged

    @property
    def name(self) -> str:
        """Return the name of the run."""
        return str(self.result.get("run_id", ""))

    @property
    def weight_files(self) -> Iterator[str]:
        """Yield the names of an export's files of weights: the outputs of these models are averaged."""
        # One by one: a stranger's record may speak of more members than memory could name.
        yield from (
            WEIGHTS if self.members == 1 else f"model-{i}.safetensors" for i in range(self.members)
        )


def own_file(folder: Path, name: str, most: int | None = None) -> Path:
    """Return a file of a folder that is really in it, and not larger than `most` bytes.

    Raises:
        UnsafeError: it is a link, below a link, not a file, or too large.
        ChecksumError: it is missing.
    """
    path = folder
    for step in Path(name).parts:
        path = path / step
        try:
            facts = os.lstat(path)
        except OSError as error:
            raise ChecksumError("is missing", where=str(folder / name)) from error
        if stat.S_ISLNK(facts.st_mode):
            raise UnsafeError(
                "is a link, which could lead anywhere",
                where=str(path),
                hint="copy what it leads to",
            )
    if not stat.S_ISREG(facts.st_mode):
        raise UnsafeError("is not a file", where=str(path))
    if most is not None and facts.st_size > most:
        raise UnsafeError(f"is far too large for a record ({facts.st_size} bytes)", where=str(path))
    return path


def is_export(folder: Path) -> bool:
    """Return whether a folder is an export: it has an export.json, which is not read."""
    return (folder / EXPORT).exists()


def read_export(folder: Path) -> ModelRecord:
    """Return the record of an export whose files are all as they were written, but for its model card.

    Raises:
        ChecksumError: a file is missing or has changed.
        CheckpointError: a newer program wrote it.
        UnsafeError: it holds links, or names what is no part of a model.
        DataError, ConfigError: its record is not one, or a setting in it is out of range.
    """
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            is_record = path.suffix in (".json", ".yaml", ".md")
            own_file(folder, str(path.relative_to(folder)), _LARGEST_RECORD if is_record else None)
    record = storage.read_checked_json(folder / EXPORT)
    if (number := record.pop("schema", None)) != SCHEMA:
        what = f"schema {number} is of a newer program; this one reads up to {SCHEMA}"
        raise CheckpointError(what, where=str(folder / EXPORT), hint=_NEWER)
    storage.verify_folder(folder, editable=(CARD,))
    return _record({"members": 1, **record}, str(folder / EXPORT))


def _record(values: Mapping[str, Any], where: str) -> ModelRecord:
    hints = typing.get_type_hints(ModelRecord, include_extras=True)
    for name in sorted(hints.keys() | values.keys()):
        value = values.get(name)
        is_node = name in ("embedder", "body", "finetune", "result", "environment")
        if not (name in hints and name in values and fits(value, hints[name])) or (
            is_node and type(value) is not dict
        ):
            raise DataError(f"is not a model's record: {name} is {shown(value)}", where=where)
    for name, key in _SETTINGS_OF.items():
        check_value(values[name], schema.declared()[key], key)
    for name, place in _PLACES.items():
        parts.check_admitted(values[name], place)
    return ModelRecord(**{**values, "input_shape": tuple(values["input_shape"])})


def completed(folder: Path) -> dict[str, Any]:
    """Return the result.json of a completed run.

    Raises:
        DataError: no run, or not completed.
        CheckpointError: a newer program made it.
        UnsafeError: its records are links.
    """
    where = str(folder)
    for name in (RESULT, STATUS):
        if os.path.lexists(folder / name):
            own_file(folder, name)
    try:
        result = read_record(folder / RESULT)
    except NewerSchemaError as error:
        raise CheckpointError(str(error), where=where, hint=_NEWER) from error
    except (UnreadableError, OSError) as error:
        raise DataError(str(error), where=where, hint="orca doctor RUN checks a run") from error
    if result is not None:
        return result
    if state := read_or_empty(folder / STATUS).get("state"):
        raise DataError(
            f"the run is not completed (state: {state})", where=where, hint="rerun its command"
        )
    hint = "give a run's folder, an exported one, or a folder of runs and --best"
    raise DataError("neither a run nor an export", where=where, hint=hint)


def read_run(folder: Path) -> ModelRecord:
    """Return the record of a completed run; of its files only those that are needed are read and verified.

    Raises:
        DataError: as `completed`, or of a task that keeps no preprocessing.
        ChecksumError, CheckpointError, ConfigError, UnsafeError: as `read_export`.
    """
    build, where, result = STAGE_FOLDERS["build"], str(folder), completed(folder)
    if not (folder / build / FILE).exists():
        what = f"the task '{result.get('task')}' keeps no preprocessing, so it has no predictions for new data"
        raise DataError(
            what, where=where, hint="those of its test split are in 3_finetune/predictions.npz"
        )
    records, arrays = (
        [RESULT, SETTINGS, ENVIRONMENT, f"{build}/{SUMMARY}", f"{build}/{FILE}"],
        f"{build}/{ARRAYS_FILE}",
    )
    for name in (storage.MANIFEST, *records):
        own_file(folder, name, _LARGEST_RECORD)
    own_file(folder, arrays)
    storage.verify_folder(folder, only=[*records, arrays])
    summary, settings = (
        read_or_empty(folder / build / SUMMARY),
        configuration.content(folder / SETTINGS),
    )
    values = {
        **{
            key: summary.get(key)
            for key in ("kind", "input_shape", "num_outputs", "checkpoint_sha256")
        },
        **{key: settings.get(key) for key in ("embedder", "body", "finetune")},
        **{name: setting(settings, key, summary) for name, key in _SETTINGS_OF.items()},
        "error": mapping(settings.get("task")).get("error"),
        "error_chunks": schema.ERROR_CHUNKS.get(str(settings.get("protocol"))),
        "weights_sha256": result.get("weights_sha256"),
        "result": result,
        "members": mapping(result.get("selected")).get("members", 1),
        "environment": read_or_empty(folder / ENVIRONMENT).get("packages") or {},
    }
    return _record(values, where)


def setting(settings: Mapping[str, Any], key: str, summary: Mapping[str, Any]) -> Any:
    """Return a setting of a run as it was used: as decided, or as set; its default where its records lack it.

    `settings` is the content of its config.yaml, `summary` that of its stage 1, which has what was decided.
    """
    if decided := mapping(mapping(summary.get("decided")).get(key)):
        return decided.get("value")
    value = schema.lookup(settings, key)
    return schema.lookup(schema.Config(), key) if value is None else value
