"""The one way from a reader's samples to a task: what is drawn, what `fit` may see, when splits are opened, what is noted."""

import numpy as np
import pytest

from orca_cli.data.assemble import Fitted, Pool, assemble
from orca_cli.data.samples import ArraySamples
from orca_cli.data.targets import TargetForm
from tests.tasks.builders import every

N = 40
CLASSES = np.arange(N) % 2
X = np.arange(N, dtype=np.float32).reshape(N, 1, 1)


@pytest.fixture
def made(reporter):
    """Return a function that assembles a task of N numbered samples, and the rows that `fit` saw and the splits opened."""

    def call(rows=None, supplied=(), num_test=None, **settings):
        seen, opened = [], []

        def fit(split_rows):
            seen.append(split_rows)
            form, notes = TargetForm("classes", 2, ("a", "b")), ["fitted"]

            def samples(part):
                opened.append(part)
                notes.append(f"opened {part}")
                return ArraySamples(X, CLASSES, rows=split_rows.get(part, np.arange(3)))

            return Fitted(object(), (1, 1), form, samples, notes, num_test)

        rows = {"train": np.arange(N)} if rows is None else rows
        learn = rows["train"]
        pool = Pool("rows", rows, supplied, CLASSES[learn], None, lambda: np.arange(len(learn)))
        return assemble("own", reporter, "classes", pool, (0.2, 0.1), 0, fit, **settings), seen, opened

    return call


def numbers(samples):
    return every(samples).x[:, 0, 0].int().tolist()


def test_what_is_not_given_is_drawn_and_fit_sees_each_sample_once(made, reporter):
    task, (seen,), opened = made(given=["given"], origin=["origin"])
    assert [len(seen[part]) for part in ("train", "validation", "test")] == [28, 8, 4]
    assert sorted(np.concatenate(list(seen.values()))) == list(range(N))
    assert opened == ["train", "validation"]
    assert numbers(task.open_test()) == seen["test"].tolist()
    assert opened == ["train", "validation", "test"]
    assert task.note.startswith("origin; 28 training and 8 validation rows; validation and test drawn")
    assert task.note.endswith("given; fitted; opened train; opened validation")
    assert reporter.lines == [f"own: {task.note}"]
    assert (task.class_names, task.num_outputs, task.validation_drawn) == (("a", "b"), 2, True)


def test_given_splits_are_kept_and_drawn_rows_are_those_of_the_training_samples(made):
    marked = {"train": np.arange(10, N), "test": np.arange(10)}
    task, (seen,), _ = made(marked, num_test=10)
    assert numbers(task.open_test()) == list(range(10))
    assert sorted([*seen["train"], *seen["validation"]]) == list(range(10, N))
    assert "24 training, 6 validation and 10 test rows; validation drawn" in task.note
    task, (seen,), _ = made(supplied=("validation", "test"))
    assert {part: rows.tolist() for part, rows in seen.items()} == {"train": list(range(N))}
    assert (numbers(task.validation), task.validation_drawn) == ([0, 1, 2], False)
    assert "drawn" not in task.note
