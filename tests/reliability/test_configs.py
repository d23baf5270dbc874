"""Rows I1 to I5: whatever is wrong in a configuration is reported in one line, before anything is read or written."""

import statistics

import pytest

from tests.reliability.bad_configs import CONF, Case, all_typos, all_wrong_values, sample
from tests.tiers import count

pytestmark = pytest.mark.slow

LIMIT_S = 3.0  # of processor time: the clock on the wall also counts what others do
FIGURE = "bad configurations refused with a clear error"


def fault(case: Case, code: int, error: str) -> str:
    """Return what is wrong with the answer to a wrong setting; empty where nothing is."""
    if code != 10:
        return f"exit code {code}"
    if "\n" in error or not error.startswith("orca: error: ") or "Traceback" in error:
        return "not one line"
    if case.key not in error:
        return "does not name the key"
    hints = ("did you mean", "allowed", "give", "has kind=", "have kind=", "is a single", "swap them")
    return "" if any(hint in error.partition(";")[2] for hint in hints) else "no hint"


def walk(cases, called, scorecard):
    """Try cases; returns the errors, after a check that all are right and come in time."""
    answers = [called(*case.words) for case in cases]
    faults = [(fault(case, *answer[:2]), case, answer) for case, answer in zip(cases, answers, strict=True)]
    wrong = [what for what in faults if what[0]]
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


# group -> (a shipped file, one of its keys)
FILES_OF_KEYS = {
    "task": ("digits", "validation_size"),
    "body": ("minilm", "max_source_tokens"),
    "source": ("stdlib_docs", "size"),
    "metric": ("otdd", "classes"),
    "finetune": ("lora", "dropout"),
}


@pytest.mark.parametrize("group", FILES_OF_KEYS)
def test_a_mistyped_key_in_a_file_of_ones_own(called, environment, tmp_path, counted, group):
    """I1: the same in a file that --config-dir names: a copy of a shipped one."""
    file, key = FILES_OF_KEYS[group]
    path = tmp_path / "my_conf" / group / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text((CONF / group / f"{file}.yaml").read_text().replace(f"{key}:", f"{key[:-2] + key[-1]}:"))
    code, error, _ = called("--config-dir", tmp_path / "my_conf", f"{group}=mine")
    counted(FIGURE, code == 10 and "\n" not in error and f"did you mean '{key}'" in error, error)
    assert not environment.exists()


TASK = "# @package _global_\n# Mine.\ndefaults:\n  - override /body: minilm\n"
GOOD = TASK + "task:\n  _target_: orca_cli.data.arrays.load\n  kind: classes\n  train: own.npz\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)

# name -> (content, words that the message has to say; `mine.yaml:N` is the place); code 12 for those of HARM, else 10
FILES = {
    "unclosed_bracket": (TASK + "task: {kind: [classes\n", ["mine.yaml:6"]),
    "tab": (TASK + "task:\n\tkind: classes\n", ["mine.yaml:6"]),
    "no_colon": (TASK + "task\nkind: classes\n", ["mine.yaml:6"]),
    "bad_indent": (TASK + "task:\n   kind: classes\n  train: x\n", ["mine.yaml:7"]),
    "unclosed_quote": (TASK + 'task:\n  kind: "classes\n', ["mine.yaml:"]),
    "duplicate_key": (GOOD + "  train: other.npz\n", ["mine.yaml:9", "duplicate key train"]),
    "duplicate_section": (GOOD + "task: {}\n", ["mine.yaml:9", "duplicate key task"]),
    "empty": ("", ["task"]),
    "comment_alone": ("# nothing\n", ["task"]),
    "list": ("- task\n", ["mine.yaml:1", "key: value"]),
    "text": ("just text\n", ["mine.yaml:1", "key: value"]),
    "byte_order_mark": (b"\xef\xbb\xbf" + GOOD.encode(), ["mine.yaml:1", "byte order mark"]),
    "latin_1": (TASK.encode() + b"task: {kind: \xfcml}\n", ["mine.yaml:5", "UTF-8"]),
    "utf_16": (GOOD.encode("utf-16"), ["mine.yaml:1", "UTF-8"]),
    "null_bytes": (TASK + "task:\0\n", ["mine.yaml"]),
    "control_character": (TASK + "task: '\x07'\n", ["mine.yaml"]),
    "a_hundred_megabytes": (b"#" * 100_000_000, ["mine.yaml", "larger than"]),
    "cycle": (GOOD + "  x: ${task.y}\n  y: ${task.x}\n", ["task."]),
    "refers_to_nothing": (GOOD + "  x: ${task.nothing}\n", ["task.x", "nothing"]),
    "value_missing": (GOOD.replace("classes", "???"), ["task.kind"]),
    "undefined_alias": (TASK + "task: *nothing\n", ["mine.yaml:5"]),
    "unknown_default": (GOOD.replace("minilm", "minilmm"), ["minilmm"]),
    "defaults_are_no_list": ("defaults: 5\n", ["must be a list"]),
    "unknown_tag": (TASK + "task: !mine {}\n", ["mine.yaml:5"]),
    "alias_bomb": (BOMB, ["mine.yaml", "values"]),
    "contains_itself": ("task: &a\n  x: *a\n", ["mine.yaml:", "itself"]),
    "ten_thousand_brackets": ("task: " + "[" * 10_000 + "]" * 10_000 + "\n", ["mine.yaml", "nested"]),
    "directory": (None, ["mine.yaml"]),
}
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
    counted("unreadable configuration files", code == (12 if name in HARM else 10) and "\n" not in error, code, error)
    assert took < LIMIT_S
    assert not environment.exists()


# Each names two settings that cannot both be meant, and the message names both.
CONTRADICTIONS = [
    (["train.warmup_epochs=9", "train.decay_epochs=5"], ["train.decay_epochs", "train.warmup_epochs"]),
    (["device=cpu", "precision=fp16"], ["device=cpu", "precision"]),
    (["align.method=mona", "metric=none"], ["align.method=mona", "metric=none"]),
    (["align.method=pare", "task=darcy"], ["align.method=pare", "task.kind=dense"]),
    (["metric=transrate", "align.classes_per_problem=1"], ["TransRate", "align.classes_per_problem"]),
    (["task=listops", "task.path=there"], ["task.path", "task.origin"]),
    (["task=darcy", "task.nodes=85", "task.origin=files"], ["task.nodes", "task.origin"]),
    (["task=darcy", "task.path=there"], ["task.path", "task.origin"]),
    (["task=spherical", "task.images=there"], ["task.images", "task.origin"]),
    (["task=spherical", "task.origin=cifar10", "task.path=there"], ["task.path", "task.origin"]),
]


@pytest.mark.parametrize(("words", "keys"), CONTRADICTIONS, ids=lambda value: value[-1])
def test_settings_that_contradict_each_other(called, environment, counted, words, keys):
    """I4: the message names both keys, and nothing was read."""
    code, error, _ = called(*words)
    passed = code == 10 and "\n" not in error and all(key in error for key in keys)
    counted("contradictory settings", passed, code, error)
    assert not environment.exists()
