"""ECG and JSB Chorales: inputs of different lengths, cut or padded. JSB against the original file, where it is at hand."""

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


@pytest.fixture
def heart(tmp_path, reporter):
    """Return a function that writes challenge2017.pkl, and returns one that reads it; record r has values about 1000 r."""

    def write(lengths, labels):
        times = [np.arange(length) for length in lengths]
        records = [
            (1000 * r + 200 * np.sin(t / 7) + t % 5).astype(np.int16) for r, t in enumerate(times)
        ]
        content = {"data": [record.tolist() for record in records], "label": labels}
        (tmp_path / "data" / "ecg").mkdir(parents=True)
        (tmp_path / "data" / "ecg" / "challenge2017.pkl").write_bytes(
            pickle.dumps(content, protocol=2)
        )
        return records, lambda **settings: ecg.load(
            tmp_path / "data", tmp_path / "cache", reporter, **settings
        )

    return write


def window(record, start, size=1000):
    """Return the window of a record, [W], and its mask."""
    values = record.astype(float)
    part = ((values - values.mean()) / values.std())[start : start + size]
    return np.pad(part, (0, size - len(part))), np.arange(size) < len(part)


# Traps: shorter than a window, exactly one, one step more, exactly three half windows, and long ones.
LENGTHS = [999, 1000, 1001, 1500, 2700, 2000] * 5
LABELS = ["N", "A", "O", "~", "A", "N"] * 5


def test_windows_are_z_scored_by_their_record_and_short_records_padded(heart):
    records, load = heart(LENGTHS, LABELS)
    task, seen = load(), []
    for samples in splits(task):
        batch, rows = every(samples), samples.groups()
        assert np.array_equal(samples.targets(), [ecg.CLASSES.index(LABELS[row]) for row in rows])
        strides = (500, 83, 250, 25) if samples is task.train else (500,) * 4
        starts = []
        for row in dict.fromkeys(rows):
            last = max(LENGTHS[row] - 1000, 0)
            starts += range(0, last + 1, strides[ecg.CLASSES.index(LABELS[row])])
        assert len(starts) == len(samples)
        for index, (row, start) in enumerate(zip(rows, starts, strict=True)):
            values, mask = window(records[row], start)
            assert np.allclose(batch.x[index, 0], values, atol=1e-4)
            assert np.array_equal(
                batch.valid[index] if batch.valid is not None else np.ones(1000), mask
            )
        seen.append(set(rows.tolist()))
    assert set.union(*seen) == set(range(30))
    assert sum(map(len, seen)) == 30  # no record in two splits


def test_the_published_cut_loses_last_windows_and_short_records(heart):
    published = heart(LENGTHS, LABELS)[1](
        inclusive=False, short="drop", evaluation_strides="class", split="sklearn_90_10"
    )
    learned, test = train_test_split(np.arange(30), test_size=0.1, random_state=0)
    counts = dict.fromkeys(range(30), 0)
    for samples in splits(published):
        for row in samples.groups():
            counts[row] += 1
    stride = {"N": 500, "A": 83, "O": 250, "~": 25}
    assert counts == {
        row: len(range(0, length - 1000, stride[label]))
        for row, (length, label) in enumerate(zip(LENGTHS, LABELS, strict=True))
    }
    assert set(published.open_test().groups()) <= set(test)


def test_the_default_split_is_the_benchmarks(heart):
    task = heart([1200] * 40, ["N", "A", "O", "~"] * 10)[1]()
    train, rest = train_test_split(np.arange(40), test_size=0.2, random_state=0)
    validation, test = train_test_split(rest, test_size=0.5, random_state=0)
    for samples, rows in (
        (task.train, train),
        (task.validation, validation),
        (task.open_test(), test),
    ):
        assert set(samples.groups()) == set(rows)


def test_a_target_is_the_next_frame_and_padding_is_marked(tmp_path):
    benchmark_files.make("jsb", tmp_path)
    content = scipy.io.loadmat(tmp_path / "jsb" / "JSB_Chorales.mat")
    pieces = {name: list(content[name][0]) for name in ("traindata", "validdata", "testdata")}
    task = jsb.load(tmp_path)
    assert (task.kind, task.input_shape, task.num_outputs, task.causal) == (
        "dense",
        (88, 59),
        88,
        True,
    )
    for name, samples in (
        ("traindata", task.train),
        ("validdata", task.validation),
        ("testdata", task.open_test()),
    ):
        batch = every(samples)
        for row, piece in enumerate(pieces[name]):
            size = len(piece) - 1
            assert np.array_equal(batch.x[row, :, :size], piece[:-1].T)
            assert np.array_equal(batch.y[row, :, :size], piece[1:].T)
            assert not batch.x[row, :, size:].any()
            assert batch.y[row, :, size:].isnan().all()
            assert batch.valid[row].tolist() == [True] * size + [False] * (59 - size)

    published = jsb.load(
        tmp_path, length=4, mask_padding=False, causal=False, train_on_validation=True
    )
    assert every(published.train).valid is None
    assert np.array_equal(every(published.open_test()).y[0], pieces["testdata"][0][1:5].T)


def test_jsb_chorales_are_the_originals():
    """Counts are of the file; 11.09 nats per frame are what the rates of the keys give."""
    file = SHARED / "data" / "jsb" / "JSB_Chorales.mat"
    if not file.is_file():
        pytest.skip(f"no {file}; set ORCA_TEST_DATA to a folder that has data/jsb")
    assert (
        hashlib.sha256(file.read_bytes()).hexdigest().startswith("ac0e608527cc411c7e21ef7d38be47f0")
    )
    task = jsb.load(SHARED / "data")
    train, _, test = splits(task)
    assert list(map(len, splits(task))) == [229, 76, 77]
    frames = [int((~np.isnan(samples.targets()[:, 0])).sum()) for samples in splits(task)]
    assert frames == [
        13_807 - 229,
        4_602 - 76,
        4_725 - 77,
    ]  # the first frame of a piece is no target

    error, targets = NatsPerFrame(), test.targets()
    constant = error.constant(train.targets(), 88)
    score = error(np.broadcast_to(constant, (77, 88, 159)), targets)
    assert score.n == 4_648
    assert score.value == pytest.approx(11.09, abs=0.01)
