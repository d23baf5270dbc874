"""ECG and JSB Chorales: inputs of different lengths, cut or padded; JSB's original file, if any."""

import hashlib
import pickle

import numpy as np
import pytest
import scipy.io
from sklearn.model_selection import train_test_split

from orca_cli.benchmarks import ecg, jsb
from orca_cli.scoring.dense import NatsPerFrame
from tests import benchmark_files
from tests.checkpoints import SHARED
from tests.tasks.builders import every, splits

SPLITS = pytest.mark.parametrize("index", [0, 1, 2], ids=["train", "validation", "test"])


@pytest.fixture
def heart(tmp_path, reporter):
    """A function: write challenge2017.pkl and return a function that reads it.

    Record r has values about 1000 r.
    """

    def write(lengths, labels):
        times = [np.arange(length) for length in lengths]
        records = [
            (1000 * r + 200 * np.sin(t / 7) + t % 5).astype(np.int16) for r, t in enumerate(times)
        ]
        content = {"data": [record.tolist() for record in records], "label": labels}
        (tmp_path / "data" / "ecg").mkdir(parents=True)
        path = tmp_path / "data" / "ecg" / "challenge2017.pkl"
        path.write_bytes(pickle.dumps(content, protocol=2))
        return records, lambda **settings: ecg.load(
            tmp_path / "data", tmp_path / "cache", reporter, **settings
        )

    return write


def window(record, start, size=1000):
    """Return the window of a record, [W], and its mask."""
    values = record.astype(float)
    part = ((values - values.mean()) / values.std())[start : start + size]
    return np.pad(part, (0, size - len(part))), np.arange(size) < len(part)


# Traps: shorter than a window, exactly a window, a step more, exactly three half windows, and long.
LENGTHS = [999, 1000, 1001, 1500, 2700, 2000] * 5
LABELS = ["N", "A", "O", "~", "A", "N"] * 5
STRIDES = {"N": 500, "A": 83, "O": 250, "~": 25}  # of training windows


def expected_windows(rows, strides):
    """Return record and start of all windows, by the definition; the last window counts."""
    return [
        (row, start)
        for row in dict.fromkeys(rows)
        for start in range(0, max(LENGTHS[row] - 1000, 0) + 1, strides[LABELS[row]])
    ]


@SPLITS
def test_windows_are_z_scored_by_their_record(index, heart):
    records, load = heart(LENGTHS, LABELS)
    samples = splits(load())[index]
    strides = STRIDES if index == 0 else dict.fromkeys(STRIDES, 500)
    windows = expected_windows(samples.groups(), strides)
    x = every(samples).x[:, 0].numpy()
    assert samples.groups().tolist() == [row for row, _ in windows]
    for values, (row, start) in zip(x, windows, strict=True):
        np.testing.assert_allclose(values, window(records[row], start)[0], atol=1e-4)


@SPLITS
def test_only_short_records_are_padded(index, heart):
    records, load = heart(LENGTHS, LABELS)
    samples = splits(load())[index]
    valid = every(samples).valid
    lengths = np.array([min(LENGTHS[row], 1000) for row in samples.groups()])
    expected = np.arange(1000) < lengths[:, None]
    assert np.array_equal(np.ones_like(expected) if valid is None else valid, expected)


@SPLITS
def test_windows_have_the_class_of_their_record(index, heart):
    samples = splits(heart(LENGTHS, LABELS)[1]())[index]
    classes = [ecg.CLASSES.index(LABELS[row]) for row in samples.groups()]
    assert samples.targets().tolist() == classes


def test_every_record_is_in_one_split(heart):
    records, load = heart(LENGTHS, LABELS)
    rows = [set(samples.groups().tolist()) for samples in splits(load())]
    assert set.union(*rows) == set(range(30))
    assert sum(map(len, rows)) == 30


def test_the_published_cut_loses_last_windows_and_short_records(heart):
    task = heart(LENGTHS, LABELS)[1](inclusive=False, short="drop", evaluation_strides="class")
    groups = np.concatenate([samples.groups() for samples in splits(task)])
    expected = [
        len(range(0, length - 1000, STRIDES[label]))
        for length, label in zip(LENGTHS, LABELS, strict=True)
    ]
    assert np.bincount(groups, minlength=30).tolist() == expected


def test_the_default_split_is_the_benchmarks(heart):
    task = heart([1200] * 40, ["N", "A", "O", "~"] * 10)[1]()
    train, rest = train_test_split(np.arange(40), test_size=0.2, random_state=0)
    validation, test = train_test_split(rest, test_size=0.5, random_state=0)
    rows = [set(samples.groups()) for samples in splits(task)]
    assert rows == [set(train), set(validation), set(test)]


def test_the_other_split_has_the_published_test_records(heart):
    task = heart([1200] * 40, ["N", "A", "O", "~"] * 10)[1](split="sklearn_90_10")
    _, test = train_test_split(np.arange(40), test_size=0.1, random_state=0)
    assert set(task.open_test().groups()) == set(test)
    assert np.bincount(task.validation.targets()).tolist() == [1, 1, 1, 1]


@pytest.fixture
def chorales(tmp_path):
    """Write the synthetic chorales; return the pieces of each split."""
    benchmark_files.make("jsb", tmp_path)
    content = scipy.io.loadmat(tmp_path / "jsb" / "JSB_Chorales.mat")
    return [list(content[name][0]) for name in ("traindata", "validdata", "testdata")]


def test_chorales_are_a_causal_dense_task(tmp_path, chorales):
    task = jsb.load(tmp_path)
    assert (task.kind, task.num_outputs, task.causal) == ("dense", 88, True)
    assert task.input_shape == (88, 59)  # the longest piece has 60 frames


@SPLITS
def test_a_target_is_the_next_frame(index, tmp_path, chorales):
    batch = every(splits(jsb.load(tmp_path))[index])
    for x, y, piece in zip(batch.x, batch.y, chorales[index], strict=True):
        size = len(piece) - 1
        assert np.array_equal(x[:, :size], piece[:-1].T)
        assert np.array_equal(y[:, :size], piece[1:].T)


@SPLITS
def test_what_is_after_a_piece_is_marked_as_padding(index, tmp_path, chorales):
    batch = every(splits(jsb.load(tmp_path))[index])
    sizes = np.array([len(piece) - 1 for piece in chorales[index]])
    is_padding = np.arange(59) >= sizes[:, None]
    assert np.array_equal(batch.valid, ~is_padding)
    assert not batch.x.numpy().transpose(0, 2, 1)[is_padding].any()
    assert np.isnan(batch.y.numpy().transpose(0, 2, 1)[is_padding]).all()


def test_pieces_are_cut_to_the_length_that_is_asked_for(tmp_path, chorales):
    task = jsb.load(tmp_path, length=4)
    assert np.array_equal(every(task.open_test()).y[0], chorales[2][0][1:5].T)
    assert task.note == "pieces with more than task.length frames are cut"


def test_padding_of_pieces_is_unmarked_on_request(tmp_path, chorales):
    assert every(jsb.load(tmp_path, mask_padding=False).train).valid is None


def test_a_task_that_is_not_causal_is_warned_about(tmp_path, chorales):
    task = jsb.load(tmp_path, causal=False)
    assert not task.causal
    assert "warning: the task is not causal" in task.note


@pytest.fixture(scope="module")
def originals():
    """Return the folder of the original chorales."""
    folder = SHARED / "data"
    file = folder / "jsb" / "JSB_Chorales.mat"
    if not file.is_file():
        pytest.skip(f"no {file}; set ORCA_TEST_DATA to a folder that has data/jsb")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert digest.startswith("ac0e608527cc411c7e21ef7d38be47f0")
    return folder


def test_the_original_chorales_are_counted_right(originals):
    parts = splits(jsb.load(originals))
    assert list(map(len, parts)) == [229, 76, 77]
    frames = [int((~np.isnan(samples.targets()[:, 0])).sum()) for samples in parts]
    # The first frame of a piece is no target.
    assert frames == [13_807 - 229, 4_602 - 76, 4_725 - 77]


def test_the_rates_of_the_original_keys_give_their_error(originals):
    task = jsb.load(originals)
    error = NatsPerFrame()
    constant = error.constant(task.train.targets(), 88)
    score = error(np.broadcast_to(constant, (77, 88, 159)), task.open_test().targets())
    assert score.n == 4_648
    assert score.value == pytest.approx(11.09, abs=0.01)
