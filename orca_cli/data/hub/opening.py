"""Opens a data set of the Hugging Face `datasets` library: from a local folder, or from the hub and its cache.

Code of a data set is never executed: since version 4 the library cannot, and older versions are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from orca_cli.data.own_data import optional_module
from orca_cli.data.untrusted.downloads import hub_answers
from orca_cli.exceptions import ConfigError, DataError, NetworkError, UnavailableError, UnsafeError

if TYPE_CHECKING:
    from datasets import Dataset

KEY = "task.dataset"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_OLDEST = 4
_TIMEOUT_S = 10.0


def open_dataset(
    dataset: str, config: str | None, revision: str | None, data_folder: Path, cache_folder: Path
) -> tuple[dict[str, Dataset], str]:
    """Return a data set's splits, mapped from disk, and its origin: the folder, or hub id and commit.

    Offline, a revision of None is the one in the library's cache, which lies in `cache_folder`.

    Raises:
        ConfigError: neither a folder nor a hub id, a revision of a folder, or not on the hub.
        DataError, UnsafeError: the library cannot read the files, or the data set comes with a script.
        NetworkError: the hub cannot be reached, and the cache does not have it.
        UnavailableError: the library is not installed, or too old.
    """
    library = _library()
    load = partial(library.load_dataset, name=config, cache_dir=str(cache_folder / "datasets"))
    requested = Path(dataset).expanduser()
    folder = next((place for place in (requested, data_folder / requested) if dataset and place.is_dir()), None)
    if folder is not None:
        if revision is not None:
            raise ConfigError("a folder has no revisions", where="task.revision", hint="remove it")
        is_saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
        with _offline(library):
            load = library.load_from_disk if is_saved else load
            return _read(partial(load, str(folder.resolve())), str(folder)), str(folder)
    if dataset.startswith((".", "~", "/")) or not _HUB_ID.fullmatch(dataset):
        raise ConfigError(f"no folder '{dataset}'", where=KEY, hint="give a folder, or a hub id such as owner/name")
    if hub_answers():
        commit = _commit(dataset, revision)
        return _read(partial(load, dataset, revision=commit), dataset), f"{dataset}@{commit}"
    what = f"'{dataset}' is not on this machine and the hub cannot be reached"
    missing = NetworkError(what, where=KEY, hint=f"give {KEY}=FOLDER with .parquet files")
    try:
        with _offline(library):
            splits = _read(partial(load, dataset), dataset)
    except (DataError, NetworkError) as error:
        raise missing from error
    # The folder of the prepared files is named by the commit that they were prepared from.
    files = next(iter(splits.values())).cache_files
    commit = Path(files[0]["filename"]).parent.name if files else "unknown"
    if revision is not None and not commit.startswith(revision):
        raise missing
    return splits, f"{dataset}@{commit}"


def _commit(dataset: str, revision: str | None) -> str:
    """Return the commit of a revision, so that all files are of one, and the record names it."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().dataset_info(dataset, revision=revision, timeout=_TIMEOUT_S).sha)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = f"the hub has no data set '{dataset}'{f' with the revision {revision}' if revision else ''}"
        raise ConfigError(what, where=KEY, hint="check its name and task.revision, or log in") from error
    except Exception as error:
        raise NetworkError(f"'{dataset}' could not be looked up: {error}", where=KEY, hint="try again") from error


def _read(load: Callable[[], Any], where: str) -> dict[str, Dataset]:
    try:
        loaded = load()
    except MemoryError:
        raise
    except Exception as error:
        # The library wraps errors; the innermost names the cause.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        said = f"{type(cause).__name__}: {' '.join(str(cause).split())}"[:300]
        if isinstance(error, (ConnectionError, TimeoutError)):
            raise NetworkError(f"could not be fetched: {said}", where=where, hint="try again") from error
        if "scripts are no longer supported" in said:
            what = "comes with a script, which is not executed"
            raise UnsafeError(what, where=where, hint="give a folder with .parquet files only") from error
        hint = "task.config= names one of several configurations; files are .parquet, or what save_to_disk writes"
        raise DataError(f"cannot be read: {said}", where=where, hint=hint) from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _library() -> ModuleType:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the library is first imported
    datasets = optional_module("datasets", "datasets", "data sets of the hub")
    if int(datasets.__version__.split(".")[0]) < _OLDEST:
        what = f"datasets {datasets.__version__} may execute code of a data set"
        raise UnavailableError(what, where=KEY, hint=f"pip install 'datasets>={_OLDEST}'")
    datasets.disable_progress_bars()
    return datasets


@contextmanager
def _offline(library: ModuleType) -> Iterator[None]:
    """Keep the library off the hub inside the block; it would retry for minutes, or fetch what a folder names."""
    from huggingface_hub import constants

    places: tuple[Any, ...] = (library.config, constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value
