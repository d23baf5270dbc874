"""Where PDNET's files of proteins lie, and which proteins its lists name."""

from __future__ import annotations

import re
from pathlib import Path

from orca_cli.exceptions import DataError, UnsafeError
from orca_cli.tasks.shared.files import find
from orca_cli.tasks.shared.published import find_first, read_text

_LISTS = {"deepcov": "deepcov.lst", "psicov": "psicov.lst"}
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MOST_BYTES = 16 * 2**20  # of a list


def find_proteins(data_folder: Path, path: str | None) -> tuple[Path, dict[str, list[str]]]:
    """Return the folder that holds the lists, and their ids, after checking that all files they name exist.

    Args:
        data_folder: holds psicov/, or psicov/protein/, with the lists.
        path: folder in place of data_folder/psicov.

    Returns:
        The folder, and the ids by collection: "deepcov" and "psicov".

    Raises:
        DataError: a list or a file is missing, or a list is not a list of ids.
        UnsafeError: an id leads out of the folder.
    """
    names = list(_LISTS.values())
    found = find_first(data_folder, "psicov", [names, [f"protein/{name}" for name in names]], path)  # as in protein.zip
    root = found[0].parent
    lists = {collection: _ids(file) for collection, file in zip(_LISTS, found, strict=True)}
    files = [
        f"{collection}/{file}"
        for collection, ids in lists.items()
        for name in ids
        for file in (f"features/{name}.pkl", f"distance/{name}-cb.npy")
    ]
    find(root, "psicov", files, str(root), hint="or take the protein out of its list")
    for file in files:
        if not (root / file).is_file():
            raise DataError("is not a file", where=str(root / file), hint="put the protein's file there, or unlist it")
    return root, lists


def _ids(path: Path) -> list[str]:
    """Return the first word of every line, without those that are repeated."""
    lines = read_text(path, _MOST_BYTES).splitlines()
    ids = list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))
    for name in ids:
        if not _ID.fullmatch(name):
            raise UnsafeError(
                f"'{name[:40]}' is not the id of a protein", where=str(path), hint="letters, digits, _ . -"
            )
    if not ids:
        raise DataError("lists no protein", where=str(path), hint="one id per line")
    return ids
