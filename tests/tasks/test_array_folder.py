"""A folder of .npy files, a sequence each, with a table of their targets: the same task as one .npz with lengths."""

import numpy as np
import pandas as pd
import pytest
import torch

from orca_cli.exceptions import ConfigError, DataError, UnsafeError
from tests.tasks.builders import every, refused, splits

N, C, W = 30, 2, 9
X = np.random.default_rng(0).normal(3, 2, (N, C, W))
ENDS = 1 + np.arange(N) % W
Y = np.array(["b", "a", "c"])[np.arange(N) % 3]
NAMES = [f"s{i:02}" for i in range(N)]


def write(folder, rows=range(N), form=lambda x: x):
    folder.mkdir(parents=True, exist_ok=True)
    for i in rows:
        np.save(folder / f"{NAMES[i]}.npy", form(X[i, :, : ENDS[i]]))
    return folder


@pytest.fixture
def read(tmp_path, build):
    def call(table, **settings):
        table.to_csv(tmp_path / "labels.csv", index=False)
        return build("arrays", **{"kind": "classes", "train": "series", "labels": "labels.csv"} | settings)

    return call


def check_same(first, second):
    for one, other in zip(splits(first), splits(second), strict=True):
        assert torch.equal(every(one).valid, every(other).valid)
        assert one.digest() == other.digest()


def test_a_folder_equals_one_file_with_lengths(read, tmp_path, build):
    np.savez(tmp_path / "all.npz", x=X, y=Y, lengths=ENDS)
    single = build("arrays", kind="classes", train="all.npz")
    write(tmp_path / "series")
    table = pd.DataFrame({"state": Y, "file": NAMES})
    task = read(table)
    check_same(task, single)
    for part in range(2):  # the only table in the folder is taken, and subfolders count
        write(tmp_path / "parts" / f"part{part}", range(part, N, 2))
    files = [f"part{i % 2}/{name}.npy" for i, name in enumerate(NAMES)]
    pd.DataFrame({"x": files, "y": Y}).to_csv(tmp_path / "parts" / "targets.csv", index=False)
    check_same(build("arrays", kind="classes", train="parts"), single)


TABLE = pd.DataFrame({"file": NAMES, "state": Y})


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        (TABLE.replace("s03", "../series/s03"), {}, r"\[file\]: '../series/s03' in row 4 is not an .npy file"),
        (TABLE.assign(file="?"), {}, r"no column names files of .*task\.x=COLUMN"),
        (TABLE, {"kind": "dense"}, r"one \.npz file with an array of lengths"),
        (TABLE, {"labels": None}, r"task\.labels: a value is needed.*a row for each file"),
    ],
)
def test_bad_tables_are_named_in_one_line(read, tmp_path, table, settings, message):
    write(tmp_path / "series")
    with refused(message, (ConfigError, DataError)):
        read(table, **settings)


def test_bad_files_are_named(read, tmp_path):
    for array, error, message in (
        (np.zeros((3, 4)), DataError, r"has shape \(3, 4\), where 29 of 30 files have 2 channels on axis 0"),
        (np.array([{}]), UnsafeError, ""),
    ):
        np.save(write(tmp_path / "series") / "s03.npy", array, allow_pickle=True)
        with refused(rf"s03\.npy.*{message}", error):
            read(TABLE)
