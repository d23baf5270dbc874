"""Rows I1 to I5: whatever is wrong in a configuration is reported in one line, before anything is read or written."""

import statistics

import pytest

from tests.reliability.bad_configs import CONF, Case, all_typos, all_wrong_values, sample
from tests.tiers import count

pytestmark = pytest.mark.slow

LIMIT_S = 3.0  # of processor time: the clock on the wall also counts what others do
FIGURE = "bad configurations refused with a clear error"


HINTS = (
    "did you mean",
    "allowed",
    "give",
    "; set ",
    "; use ",
    "; remove ",
    "; correct ",
    "has kind=",
    "have kind=",
    "is a single",
    "swap them",
)


def is_wrong(case: Case, code: int, error: str) -> bool:
    """Return whether the answer to a wrong setting is not one line with exit code 10 that names the key and helps."""
    is_line = (
        code == 10 and "\n" not in error and error.startswith("orca: error: ") and case.key in error
    )
    # "must be" says what is allowed.
    has_hint = ": must be " in error or any(hint in error.partition(";")[2] for hint in HINTS)
    return not is_line or not has_hint


def walk(cases, called, scorecard):
    """Try cases; returns the errors, after a check that all are right and come in time."""
    answers = [called(*case.words) for case in cases]
    wrong = [pair for pair in zip(cases, answers, strict=True) if is_wrong(pair[0], *pair[1][:2])]
    seconds = [took for *_, took in answers]
    note = f"median {statistics.median(seconds):.2f} s, largest {max(seconds):.2f} s"
    scorecard.add(FIGURE, cases=len(cases), passed=len(cases) - len(wrong), target=2000, note=note)
    assert not wrong, "\n".join(map(str, wrong[:20]))
    assert max(seconds) < LIMIT_S
    return [error for _, error, _ in answers]


def test_mistyped_keys(called, environment, scorecard):
    """I1, I5: every key of every shipped file, one letter dropped, doubled or swapped."""
    cases = sample(all_typos(), count(pr=40, nightly=1500))
    suggested = [error.partition("did you mean")[2] for error in walk(cases, called, scorecard)]
    right = sum(f"'{case.suggestion}'" in text for case, text in zip(cases, suggested, strict=True))
    scorecard.add("closest setting suggested", cases=len(cases), passed=right, target=500)
    assert right >= 0.95 * len(cases)
    assert not environment.exists()


def test_wrong_types_and_values_out_of_range(called, environment, scorecard):
    """I2, I5: every key with each type that is not its own, and with values beyond its bounds."""
    walk(sample(all_wrong_values(), count(pr=110, nightly=2600)), called, scorecard)
    assert not environment.exists()


TASK = "# @package _global_\n# Mine.\ndefaults:\n  - override /body: minilm\n"
DIGITS = (CONF / "task" / "digits.yaml").read_text()
GOOD = TASK + "task:\n  _target_: orca_cli.data.arrays.load\n  kind: classes\n  train: own.npz\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefg", "bcdefgh", strict=True)
)

# name -> (content, words that the message has to say; `mine.yaml:N` is the place); code 12 for those of HARM, else 10
FILES = {
    "unclosed_bracket": (TASK + "task: {kind: [classes\n", ["mine.yaml:6"]),
    "no_colon": (TASK + "task\nkind: classes\n", ["mine.yaml:6"]),
    "duplicate_key": (GOOD + "  train: other.npz\n", ["mine.yaml:9", "duplicate key 'train'"]),
    "empty": ("", ["task"]),
    "list": ("- task\n", ["mine.yaml:1", "key: value"]),
    "byte_order_mark": (b"\xef\xbb\xbf" + GOOD.encode(), ["mine.yaml:1", "byte order mark"]),
    "latin_1": (TASK.encode() + b"task: {kind: \xfcml}\n", ["mine.yaml:5", "UTF-8"]),
    "null_bytes": (TASK + "task:\0\n", ["mine.yaml"]),
    "a_hundred_megabytes": (b"#" * 100_000_000, ["mine.yaml", "is larger than the limit of"]),
    "cycle": (GOOD + "  x: ${task.y}\n  y: ${task.x}\n", ["task."]),
    "refers_to_nothing": (GOOD + "  x: ${task.nothing}\n", ["task.x", "nothing"]),
    "value_missing": (GOOD.replace("own.npz", "'???'"), ["task.train"]),
    "unknown_default": (GOOD.replace("minilm", "minilmm"), ["minilmm"]),
    "unknown_tag": (TASK + "task: !mine {}\n", ["mine.yaml:5"]),
    "alias_bomb": (BOMB, ["mine.yaml", "values"]),
    "contains_itself": ("task: &a\n  x: *a\n", ["mine.yaml:", "itself"]),
    "ten_thousand_brackets": ("task: " + "[" * 10_000 + "]" * 10_000 + "\n", ["mine.yaml", "nested"]),
    "mistyped_key": (DIGITS.replace("  data:", "  validation_sze: 30\n  data:"), ["did you mean 'validation_size'"]),
    "directory": (None, ["mine.yaml"]),
}  # fmt: skip
HARM = ("unknown_tag", "alias_bomb", "contains_itself", "ten_thousand_brackets")


@pytest.mark.parametrize("name", [*FILES, "good"])
def test_files_that_hold_no_settings(called, environment, tmp_path, counted, name):
    """I3: what a file of one's own can be instead of settings; each with its place. A good one is accepted, which is code 1."""
    content, words = FILES.get(name, (GOOD, ["the configuration was accepted"]))
    path = tmp_path / "my_conf" / "task" / "mine.yaml"
    path.parent.mkdir(parents=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, error, took = called("--config-dir", tmp_path / "my_conf", "task=mine")
    assert all(word in error for word in words), error
    if name == "good":  # the premise: the others are not refused because of the folder
        return
    counted(
        "unreadable configuration files",
        code == (12 if name in HARM else 10) and "\n" not in error,
        code,
        error,
    )
    assert took < LIMIT_S
    assert not environment.exists()


# Each names two settings that cannot both be meant, and the message names both.
CONTRADICTIONS = [
    (["train.warmup_epochs=9", "train.decay_epochs=5"], ["train.decay_epochs", "train.warmup_epochs"]),
    (["device=cpu", "precision=fp16"], ["device=cpu", "precision"]),
    (["metric=transrate", "align.classes_per_problem=1"], ["for this metric", "align.classes_per_problem"]),
    (["task=darcy", "task.path=there"], ["task.path", "task.origin"]),
    (["task=spherical", "task.images=there"], ["task.images", "task.origin"]),
]  # fmt: skip


@pytest.mark.parametrize(("words", "keys"), CONTRADICTIONS, ids=lambda value: value[-1])
def test_settings_that_contradict_each_other(called, environment, counted, words, keys):
    """I4: the message names both keys, and nothing was read."""
    code, error, _ = called(*words)
    passed = code == 10 and "\n" not in error and all(key in error for key in keys)
    counted("contradictory settings", passed, code, error)
    assert not environment.exists()
