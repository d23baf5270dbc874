"""What tests of readers share: tasks, whole splits, new data against a split, refusals."""

from contextlib import contextmanager

import numpy as np
import pytest

from orca_cli.config import configuration, parts
from orca_cli.exceptions import OrcaError
from orca_cli.runs.preprocessing import load_preprocessing, write_preprocessing


def target(name):
    """Return the reader that a file of conf/task names."""
    return configuration.content(configuration.choices("task")[name])["task"]["_target_"]


def build(name, folder, reporter, **settings):
    """Build a task as a run does; its data and its cache lie in `folder`."""
    node = {"_target_": target(name), **settings}
    return parts.build(
        node, "task", data_folder=folder, cache_folder=folder / "cache", reporter=reporter
    )


def every(samples):
    """Return all samples of a split as one batch."""
    return samples.batch(np.arange(len(samples)))


def splits(task):
    return task.train, task.validation, task.open_test()


@contextmanager
def refused(message, error=OrcaError):
    """Expect an error of this program with a message of one line; yield its ExceptionInfo."""
    with pytest.raises(error, match=message) as caught:
        yield caught
    assert isinstance(caught.value, OrcaError)
    assert "\n" not in str(caught.value)


class Attack:
    """Pickled, it makes a file where it is loaded."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return open, (self.canary, "w")


def reloaded(task, folder):
    """Return a task's preprocessing, reloaded from the files of a run."""
    write_preprocessing(folder, task.preprocessing)
    return load_preprocessing(folder)


def in_parts(preprocessing, new, size=7):
    """Return all inputs and masks of new data, read in parts of `size`."""
    parts = [
        preprocessing.inputs(new.inputs(start, min(start + size, len(new))), new.where)
        for start in range(0, len(new), size)
    ]
    masks = [valid for _, valid in parts]
    x = np.concatenate([x for x, _ in parts])
    return x, None if masks[0] is None else np.concatenate(masks)


def check_inputs(inputs, samples):
    """Compare inputs and their mask with those of a split, to the bit."""
    x, valid = inputs
    whole = every(samples)
    assert x.dtype == whole.x.numpy().dtype == np.float32
    assert np.array_equal(x, whole.x.numpy())
    assert (valid is None) == (whole.valid is None)
    assert valid is None or np.array_equal(valid, whole.valid.numpy())


def check_same(preprocessing, new, samples):
    """Check that new data equal the split that they were taken from, to the bit."""
    check_inputs(in_parts(preprocessing, new), samples)
    targets = new.targets()
    assert targets.dtype == samples.targets().dtype
    np.testing.assert_array_equal(targets, samples.targets())
