"""Where torch cannot be imported, a run's preprocessing reads new data to the same bits, and its error is computed."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from orca_cli.progress import Silent
from orca_cli.runs.preprocessing import write_preprocessing
from orca_cli.scoring.reported import named_error
from tests.tasks.builders import build, every

N = 40
DRAW = np.random.default_rng(5)
CLASSES = np.arange(N) % 3
# It answers in answers.npz of each folder. Importing torch, or what needs it, raises ImportError.
READER = """
import json
import sys
from pathlib import Path

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import numpy as np
import orca_cli.prediction.record
from orca_cli import storage
from orca_cli.config import configuration, parts, schema
from orca_cli.runs.preprocessing import load_preprocessing
from orca_cli.scoring.reported import named_error

for folder in map(Path, sys.argv[1:]):
    case = json.loads((folder / "case.json").read_text())
    preprocessing = load_preprocessing(folder)
    new = preprocessing.open(folder / case["test"], "INPUT")
    pieces = [preprocessing.inputs(new.inputs(i, i + 1), new.where) for i in range(len(new))]
    raw = new.inputs(0, len(new))
    if hasattr(raw, "x"):  # of arrays
        raw = raw.x if raw.lengths is None else [row[:end] for row, end in zip(raw.x, raw.lengths)]
    given = preprocessing.given(raw)
    x, valid = preprocessing.inputs(given.inputs(0, len(given)), given.where)
    targets = new.targets()
    error = named_error(case["error"], case["kind"], targets.dtype.kind == "i", None, 1)
    score = error(np.load(folder / "outputs.npy"), targets).value
    answers = {"x": x, "pieces": np.concatenate([piece for piece, _ in pieces])}
    answers |= {"targets": targets, "score": np.array(score)}
    if valid is not None:
        answers |= {"valid": valid, "masks": np.concatenate([mask for _, mask in pieces])}
    np.savez(folder / "answers.npz", **answers)
assert "torch" not in sys.modules
"""


def sequences(lengths):
    """Return sequences [len(lengths), 2, 9] that end in NaN."""
    x = DRAW.normal(3, 2, (len(lengths), 2, 9))
    x[np.arange(9) >= np.array(lengths)[:, None, None].repeat(2, 1)] = np.nan
    return x


def arrays(folder, x, y, **more):
    for name, rows in (("train", slice(0, 30)), ("test", slice(30, N))):
        marked = {key: values[rows] for key, values in more.items()}
        np.savez(folder / f"{name}.npz", x=x[rows], y=y[rows], **marked)
    return {"train": "train.npz", "test": "test.npz"}


def table(folder, columns, sample_of=None):
    rows = pd.DataFrame(columns)
    sample_of = rows.index if sample_of is None else sample_of
    for name, is_chosen in (("train", sample_of < 30), ("test", sample_of >= 30)):
        rows[is_chosen].to_csv(folder / f"{name}.csv", index=False)
    return {"train": "train.csv", "test": "test.csv", "target": "y"}


def images(folder):
    for split, count in (("train", 12), ("val", 3), ("test", 6)):
        for i in range(count):
            path = folder / "images" / split / "abc"[i % 3] / f"{split}{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(DRAW.integers(0, 256, (7, 9, 3), np.uint8)).save(path)
    return {"path": "images"}


NEW = {"arrays": "test.npz", "table": "test.csv", "images": "images/test"}
SERIES = np.arange(4 * N) // 4
# Name -> task, kind, error, and a function that writes its files into a folder and returns settings.
CASES = {
    "arrays": (
        "arrays",
        "classes",
        "auroc",
        lambda to: arrays(to, DRAW.normal(size=(N, 2, 5)), CLASSES),
    ),
    "maps": (
        "arrays",
        "dense",
        None,
        lambda to: arrays(
            to, DRAW.normal(size=(N, 1, 4, 4)), 2**20 + DRAW.normal(size=(N, 1, 4, 4))
        ),
    ),
    "ragged arrays": (
        "arrays",
        "classes",
        None,
        lambda to: arrays(to, sequences(1 + np.arange(N) % 9), CLASSES),
    ),
    "lengths": (
        "arrays",
        "labels",
        None,
        lambda to: arrays(
            to, DRAW.normal(size=(N, 9)), DRAW.integers(0, 2, (N, 3)), lengths=1 + np.arange(N) % 9
        ),
    ),
    "table": (
        "table",
        "values",
        None,
        lambda to: table(
            to, {"a": DRAW.normal(size=N), "b": list("xyz?" * (N // 4)), "y": DRAW.normal(size=N)}
        ),
    ),
    "texts": (
        "table",
        "classes",
        "macro_f1",
        lambda to: (
            table(
                to, {"dna": ["ACGTA"[: 1 + i % 5] for i in range(N)], "y": list("pqrs" * (N // 4))}
            )
            | {"sequence": "dna"}
        ),
    ),
    "long series": (
        "table",
        "classes",
        "balanced",
        lambda to: (
            table(
                to,
                {
                    "s": SERIES,
                    "t": np.arange(4 * N) % 4,
                    "v": DRAW.normal(size=4 * N),
                    "y": SERIES % 2,
                },
                sample_of=SERIES,
            )
            | {"id": "s", "time": "t"}
        ),
    ),
    "images": ("images", "classes", None, images),
}


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """Return name -> test split, answers of a process without torch, and the error with torch."""
    home = tmp_path_factory.mktemp("without torch")
    expected = {}
    for name, (reader, kind, error, write) in CASES.items():
        folder = home / name
        folder.mkdir()
        task = build(reader, folder, Silent(), kind=kind, **write(folder))
        write_preprocessing(folder, task.preprocessing)
        test = every(task.open_test())
        targets = test.y.numpy()
        shape = (len(targets), task.num_outputs, *targets.shape[2:])
        outputs = DRAW.normal(size=shape).astype(np.float32)
        np.save(folder / "outputs.npy", outputs)
        case = {"kind": kind, "error": error, "test": NEW[reader]}
        (folder / "case.json").write_text(json.dumps(case))
        score = named_error(error, kind, targets.dtype.kind == "i", None, 1)(outputs, targets).value
        expected[name] = (test, score)
    folders = [str(home / name) for name in CASES]
    done = subprocess.run([sys.executable, "-c", READER, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {
        name: (test, score, dict(np.load(home / name / "answers.npz")))
        for name, (test, score) in expected.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_new_data_have_the_bits_of_the_test_split(name, answered):
    test, score, answers = answered[name]
    assert answers["x"].dtype == np.float32
    for key, expected in (
        ("x", test.x),
        ("pieces", test.x),
        ("targets", test.y),
        ("valid", test.valid),
        ("masks", test.valid),
    ):
        assert (key in answers) == (expected is not None)
        if expected is not None:
            np.testing.assert_array_equal(answers[key], expected.numpy(), strict=True)
    assert answers["score"] == score
