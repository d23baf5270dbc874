"""Sources of amino acid sequences: which rows and proteins are taken, and what is said about others."""

import json

import numpy as np

from orca_cli.benchmarks.sources.proteins import load_homology, load_table
from orca_cli.exceptions import ConfigError, DataError
from tests.tasks.builders import refused


def table(folder, text, name="own.csv"):
    (folder / name).write_text(text)
    return str(folder / name)


ROWS = "sequence,label\nNA,1\nglw,1\nGLW,1\nNULL,0\nMKV,0\nAAA,0\nAAA,1\n"


def test_rows_are_sequences_and_classes_and_na_is_a_peptide(tmp_path):
    data = load_table(None, 0, tmp_path, table(tmp_path, ROWS))
    assert list(zip(data.examples.inputs, data.examples.labels.tolist(), strict=True)) == [
        ("NA", 1),
        ("GLW", 1),
        ("NULL", 0),
        ("MKV", 0),
    ]
    assert tuple(data.examples.class_names) == ("0", "1")


def test_malformed_tables_are_one_line(tmp_path):
    for text, message in (
        ("seqence,label\nAC,1\n", r"source\.sequence: .*did you mean 'seqence'"),
        ("sequence,label\nAC,1\nA-C,0\n", r"own\.csv, row 2: 'A-C' is not a sequence of letters"),
        ("sequence,label\nAC,1\nAD,\n", r"row 2: 'AD' .*or has no 'label'"),
    ):
        with refused(message, DataError):
            load_table(None, 0, tmp_path, table(tmp_path, text)).examples  # noqa: B018


def proteins(folder, folds):
    rng = np.random.default_rng(1)
    letters = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
    records = [{"primary": "".join(rng.choice(letters, 20)), "fold_label": fold} for fold in folds]
    folder.mkdir()
    (folder / "remote_homology_train.json").write_text(json.dumps(records))
    return records


def test_the_largest_folds_of_the_homology_file(tmp_path):
    records = proteins(tmp_path / "homology", [5] * 3 + [9] * 4 + [2] * 3 + [7] * 2 + [1])
    data = load_homology(None, 0, tmp_path, folds=2)
    assert tuple(data.examples.class_names) == ("fold 2", "fold 9")  # 2 and 5 are as large; the smaller number
    expected = {record["primary"]: record["fold_label"] for record in records if record["fold_label"] in (2, 9)}
    folds = [int(data.examples.class_names[label].split()[1]) for label in data.examples.labels]
    assert dict(zip(data.examples.inputs, folds, strict=True)) == expected
    with refused(r"source\.size", ConfigError):
        load_homology(4, 0, tmp_path, folds=3).examples  # noqa: B018
