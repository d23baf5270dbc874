"""ListOps: values, grammar and statistics of the expressions; what the samples look like; the cache."""

import itertools
import signal
import statistics

import numpy as np
import pytest

from orca_cli import storage
from orca_cli.exceptions import ConfigError, Interrupted
from orca_cli.tasks.listops import VOCABULARY, expressions, load

SHORT = {"max_depth": 6, "max_arity": 5, "min_length": 5, "max_length": 40}
FEW = {"num_train": 30, "num_validation": 10, "num_test": 10}
FUNCTIONS = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(statistics.median(values)),
    "[SM": lambda values: sum(values) % 10,
}


def evaluate(words):
    """Value of an expression by recursion, its depth and its largest arity; consumes the words."""
    word = words.pop(0)
    if word not in FUNCTIONS:
        return int(word), 1, 0
    parts = []
    while words[0] != "]":
        parts.append(evaluate(words))
    words.pop(0)
    value = FUNCTIONS[word]([part[0] for part in parts])
    return value, 1 + max(part[1] for part in parts), max(len(parts), *(part[2] for part in parts))


def test_values_agree_with_a_recursive_evaluator():
    seen = set()
    for text, value in itertools.islice(expressions(3, **SHORT), 400):
        words = [VOCABULARY[token] for token in text]
        assert 5 <= len(words) <= 40
        found, depth, arity = evaluate(words)
        assert (found, words) == (value, [])
        assert depth <= 6
        assert 2 <= arity <= 5
        seen.add(text)
    assert len(seen) == 400


def test_the_long_range_arena_setting_has_its_statistics():
    drawn = list(itertools.islice(expressions(0, max_depth=10, max_arity=10, min_length=501, max_length=1999), 2000))
    lengths = np.array([len(text) for text, _ in drawn])
    frequencies = np.bincount([value for _, value in drawn], minlength=10) / len(drawn)
    # Measured on the published generator's grammar: 0..9 as below, mean length 1038, 54 % up to 1000 tokens.
    expected = [0.168, 0.091, 0.081, 0.080, 0.089, 0.085, 0.075, 0.076, 0.089, 0.167]
    assert np.abs(frequencies - expected).max() < 0.03  # 3.6 standard errors
    assert abs(lengths.mean() - 1038) < 35
    assert abs((lengths <= 1000).mean() - 0.54) < 0.04


def test_samples_are_one_hot_tokens_with_a_mask(tmp_path, reporter):
    task = load(tmp_path, reporter, **FEW, **SHORT)
    assert task.input_shape == (17, 40)
    assert task.synthetic
    batch = task.validation.batch(np.array([7, 0]))
    assert batch.x.shape == (2, 17, 40)
    assert (batch.x.sum(dim=1) == batch.valid).all()  # one token where valid, nothing where not
    assert (batch.x[:, :2] == 0).all()  # pad and unk
    for row, index in enumerate((7, 0)):
        words = [VOCABULARY[i] for i in batch.x[row].argmax(dim=0)[batch.valid[row]]]
        assert evaluate(words)[0] == batch.y[row] == task.validation.targets()[index]


def test_the_cache_is_used_verified_and_made_again(tmp_path, reporter):
    first = load(tmp_path, reporter, **FEW, **SHORT)
    said = len(reporter.lines)
    assert load(tmp_path, reporter, **FEW, **SHORT).train.digest() == first.train.digest()
    assert len(reporter.lines) == said  # nothing was generated

    (file,) = tmp_path.rglob("train_values.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    again = load(tmp_path, reporter, **FEW, **SHORT)
    assert again.train.digest() == first.train.digest()
    assert "warning" in reporter.lines[said]
    assert len(list(tmp_path.rglob("*.bad-*"))) == 1
    storage.verify_folder(file.parent)
    other = load(tmp_path, reporter, **FEW, **SHORT, data_seed=1)
    assert other.train.digest() != first.train.digest()


def test_more_training_samples_leave_the_other_splits_as_they_are(tmp_path, reporter):
    few, more = load(tmp_path, reporter, **FEW, **SHORT), load(tmp_path, reporter, **FEW | {"num_train": 40}, **SHORT)
    assert few.open_test().digest() == more.open_test().digest()
    assert few.validation.digest() == more.validation.digest()
    assert (few.train.targets() == more.train.targets()[:30]).all()


def test_a_signal_stops_the_generation_and_leaves_nothing(tmp_path, reporter, monkeypatch):
    monkeypatch.setattr("orca_cli.signals._pending", signal.SIGTERM)
    with pytest.raises(Interrupted):
        load(tmp_path, reporter, **FEW, **SHORT)
    assert [path.suffix for path in (tmp_path / "generated").iterdir()] == [".lock"]


def test_a_failed_generation_leaves_nothing(tmp_path, reporter, monkeypatch):
    monkeypatch.setattr("orca_cli.tasks.listops.np.cumsum", lambda *a, **k: 1 / 0)
    with pytest.raises(Exception, match="division"):
        load(tmp_path, reporter, **FEW, **SHORT)
    assert [path.name for path in (tmp_path / "generated").iterdir() if not path.name.endswith(".lock")] == []


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"max_arity": 1}, "task.max_arity"),
        ({"num_train": 0}, "task.num_train"),
        ({"min_length": 41, "max_length": 40}, "task.min_length"),
        ({"min_length": 1, "max_length": 1}, "no new expression"),  # there are only ten digits
        ({"kind": "dense"}, "task.kind"),
    ],
)
def test_impossible_settings_are_refused(settings, key, tmp_path, reporter):
    with pytest.raises(ConfigError, match=key):
        load(tmp_path, reporter, **settings)
