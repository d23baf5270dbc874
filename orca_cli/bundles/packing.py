"""Write a bundle: the same runs give the same bytes, whatever the machine, the folder and the time."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orca_cli import __version__, storage
from orca_cli.bundles import layout, selection
from orca_cli.bundles.cleaning import Cleaner
from orca_cli.bundles.layout import Entry, Index, Options
from orca_cli.bundles.recomputed import PREDICTIONS
from orca_cli.bundles.records import UnfitError, copy_record, json_bytes, plain_file, put
from orca_cli.exceptions import DataError
from orca_cli.report.records.collect import Collection, Run
from orca_cli.runs import studies
from orca_cli.runs.directory import ENVIRONMENT, FINGERPRINT, RESULT, STAGE_FOLDERS, STATUS, SUMMARY, read_or_empty
from orca_cli.runs.settings import FILE as SETTINGS

_BUILD, _ALIGN, _FINETUNE = (STAGE_FOLDERS[stage] for stage in ("build", "align", "finetune"))
_RECORDS = (
    *(RESULT, SETTINGS, "overrides.txt", ENVIRONMENT),
    *(f"{_BUILD}/{SUMMARY}", f"{_BUILD}/{FINGERPRINT}"),
    *(f"{_ALIGN}/{SUMMARY}", f"{_ALIGN}/{FINGERPRINT}", f"{_ALIGN}/metrics.jsonl"),
    *(f"{_FINETUNE}/metrics.jsonl", f"{_FINETUNE}/test_reads.jsonl"),
)
_WEIGHTS = (
    "**/*.safetensors",
    f"{_BUILD}/preprocessing.json",
    f"{_BUILD}/body/config.json",
    "*/**/" + storage.MANIFEST,
)
# These files hardly compress. The others are text, whose compression ratio stays below what a reader takes for a zip bomb.
_STORED = (".npz", ".safetensors")
_TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold
_FILE_MODE = 0o100644 << 16


@dataclass(frozen=True)
class Packed:
    """A bundle that was written.

    Args:
        index: its content.
        bytes: its size.
        without_predictions: completed runs whose error cannot be computed again.
    """

    index: Index
    bytes: int
    without_predictions: Sequence[str]


def pack(folders: Sequence[Path], options: Options, out: Path, *, weights: bool) -> Packed:
    """Write a bundle of the runs that the options mean, whole or not at all.

    Runs that a process works on, that cannot be read, or that a newer attempt replaces are left out, and named in it.

    Args:
        folders: of runs.
        options: which of them.
        out: the new file.
        weights: whether the weights of the runs are added.

    Raises:
        DataError, UsageError: no run is meant; see `selection.selected`.
        StorageError: the file cannot be written.
    """
    found = selection.selected(folders, options)
    cleaner = Cleaner(folders)
    left_out = {cleaner.text(one.path.name): cleaner.text(one.reason) for one in found.broken}
    left_out |= {run.path.name: "a newer attempt at the same run replaces it" for run in found.superseded}
    left_out |= {run.path.name: "a process works on it" for run in found.runs if run.state == "running"}
    found = replace(found, runs=[run for run in found.runs if run.state != "running"], superseded=[])
    if not found.runs:
        raise DataError("no run is left to pack", where=str(out), hint="orca runs list shows the runs and their states")
    parent = storage.make_folder(out.parent)
    with storage.guarded(out), tempfile.TemporaryDirectory(prefix=f"{storage.TEMPORARY}pack-", dir=parent) as name:
        stage = _Stage(Path(name), cleaner, left_out)
        entries = stage.add_runs(found, weights=weights)
        if options.study is not None:
            stage.add_study(folders, options.study, {entry.identity for entry in entries})
        options = replace(
            options,
            where=tuple(map(cleaner.setting, options.where)),
            against=options.against and cleaner.setting(options.against),
        )
        stage.add_report(options)
        index = Index(__version__, options, weights, entries, dict(sorted(left_out.items())), stage.digests())
        digest = layout.write_index(stage.root, index)
        storage.write_with(out, stage.write)
    return Packed(replace(index, digest=digest), out.stat().st_size, stage.without_predictions)


class _Stage:
    """The content of a bundle in a temporary folder; large files are links to where they are."""

    def __init__(self, root: Path, cleaner: Cleaner, left_out: dict[str, str]) -> None:
        self.root = root
        self.without_predictions: list[str] = []
        self._cleaner, self._left_out = cleaner, left_out

    def add_runs(self, found: Collection, *, weights: bool) -> list[Entry]:
        """Add every run once, and return them in the order of their folders."""
        runs: dict[str, Run] = {}
        for path, run in {run.path: run for run in found.runs}.items():
            own = read_or_empty(path / RESULT) or read_or_empty(path / STATUS)
            folder = layout.folder_of(run, str(own.get("task") or run.task))
            if folder in runs:
                raise DataError("two runs have this name", where=folder, hint="leave one of them out")
            runs[folder] = run
        return [self._add_run(runs[folder], folder, weights=weights) for folder in sorted(runs)]

    def _add_run(self, run: Run, folder: str, *, weights: bool) -> Entry:
        target = self.root / layout.RUNS / folder
        cleaned, names = [], list(_RECORDS)
        names += [] if run.state == "completed" else [STATUS]
        for name in names:
            source = self._source(run, name)
            try:
                if source is not None and copy_record(source, target / name, self._cleaner):
                    cleaned.append(name)
            except (UnfitError, OSError) as error:
                self._leave_out(run, name, error)
        predictions = f"{_FINETUNE}/{PREDICTIONS}"
        large = [predictions, *(_of_weights(run.path) if weights else ())]
        for name in large:
            if (source := self._source(run, name)) is not None:
                _link(source, target / name)
        if run.state == "completed" and not (target / predictions).exists():
            self.without_predictions.append(run.path.name)
        manifest = self._source(run, storage.MANIFEST)
        if manifest is not None:
            _link(manifest, self.root / layout.SEALED / f"{folder}.json")
        if weights:  # a run predicts only if its files are as a manifest of its folder says
            storage.seal(target, [path for path in target.rglob("*") if path.is_file()], owner=run.identity)
        return Entry(folder, run.identity, tuple(sorted(cleaned)))

    def _source(self, run: Run, name: str) -> Path | None:
        try:
            source = plain_file(run.path, name)
            if source is not None:
                with open(
                    source, "rb"
                ):  # what may not be read is left out now, and not found when the bundle is written
                    return source
            return None
        except (UnfitError, OSError) as error:
            self._leave_out(run, name, error)
            return None

    def _leave_out(self, run: Run, name: str, error: Exception) -> None:
        reason = (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
        self._left_out[f"{run.path.name}/{name}"] = self._cleaner.text(reason)

    def add_study(self, folders: Sequence[Path], name: str, identities: set[str]) -> None:
        """Add the record of a study, of the runs that are in the bundle."""
        members = [
            member
            for folder in folders
            if name in studies.names(folder)
            for member in studies.read(folder, name)
            if member.identity in identities
        ]
        path = studies.path_of(self.root / layout.RUNS, name)
        records = [self._cleaner.value(vars(member)) for member in members]
        put(path, json_bytes({"schema": studies.SCHEMA, "study": name, "runs": records}))

    def add_report(self, options: Options) -> None:
        """Add what the report shows of the runs as they are in the bundle."""
        for name, page in selection.pages(self.root / layout.RUNS, options).items():
            put(self.root / layout.REPORT / f"{name}.json", json_bytes(selection.record_of(page)))
            put(self.root / layout.REPORT / f"{name}.md", page.text("md").encode())

    def digests(self) -> dict[str, tuple[int, str]]:
        """Return name -> size and SHA-256 of all files."""
        return {name: (path.stat().st_size, storage.sha256_file(path)) for name, path in self._files()}

    def _files(self) -> Iterator[tuple[str, Path]]:
        for path in sorted(self.root.rglob("*")):
            if path.is_file():
                yield path.relative_to(self.root).as_posix(), path

    def write(self, path: Path) -> None:
        """Write all files into a zip archive that has neither times nor owners."""
        with zipfile.ZipFile(path, "w") as archive:
            for name, source in self._files():
                member = zipfile.ZipInfo(name, _TIME)
                member.create_system, member.external_attr = 3, _FILE_MODE
                is_stored = source.suffix in _STORED
                member.compress_type = zipfile.ZIP_STORED if is_stored else zipfile.ZIP_DEFLATED
                with open(source, "rb") as content, archive.open(member, "w", force_zip64=is_stored) as inner:
                    shutil.copyfileobj(content, inner, 2**20)


def _of_weights(run: Path) -> list[str]:
    """Return what a run needs to predict, besides what is in every bundle."""
    found = {path.relative_to(run).as_posix() for pattern in _WEIGHTS for path in run.glob(pattern) if path.is_file()}
    passing = (".tmp-", ".bad-", "/checkpoints/")
    return sorted(name for name in found if not any(word in f"/{name}" for word in passing))


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source.absolute())
