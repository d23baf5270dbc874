"""Rows I1 to I5: whatever is wrong in a configuration is told in one line, before anything is read or written."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orca_cli.cli import main
from tests.reliability.bad_configs import (
    CONF,
    REQUIRED_SETTINGS,
    SOURCE_BODIES,
    Case,
    all_typos,
    all_wrong_values,
    sample,
)
from tests.reliability.processes import process  # noqa: F401 - a fixture
from tests.tiers import count

pytestmark = pytest.mark.slow

LIMIT_S = 3.0  # of processor time: the clock on the wall also counts what others do
FIGURE = "bad configurations refused with a clear error"


@pytest.fixture
def called(environment, capfd, monkeypatch):
    """Call `orca run` in this process; returns (exit code, the error, seconds). A configuration that is accepted is code 1."""

    def accepted(*_, **__):
        raise AssertionError("the configuration was accepted")

    for name in ("run.run_job", "run._dry_run", "sweep.run"):
        monkeypatch.setattr(f"orca_cli.commands.{name}", accepted)

    def call(*words):
        start = time.process_time()
        code = main(["run", *map(str, words)])
        took = time.process_time() - start
        return code, capfd.readouterr().err.strip(), took

    return call


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


def walk(cases, call, find_fault, scorecard, note=""):
    """Try cases; returns (errors, seconds), after a check that all are right.

    Args:
        call: from a case to (exit code, error, seconds).
        find_fault: from a case, its exit code and error to what is wrong with them; empty where nothing is.
    """
    wrong, seconds, errors = [], [], []
    for case in cases:
        code, error, took = call(case)
        seconds.append(took)
        errors.append(error)
        what = find_fault(case, code, error)
        if what:
            wrong.append(f"{what}: {case} => {error}")
    times = f"median {statistics.median(seconds):.2f} s, largest {max(seconds):.2f} s"
    note = ", ".join(filter(None, (times, note)))
    scorecard.add(FIGURE, cases=len(cases), passed=len(cases) - len(wrong), target=2000, note=note)
    assert not wrong, "\n".join(wrong[:20])
    return errors, seconds


def test_mistyped_keys(called, environment, scorecard):
    """I1, I5: every key of every shipped file, one letter dropped, doubled or swapped."""
    cases = sample(all_typos(), count(pr=60, nightly=1500))
    errors, seconds = walk(cases, lambda case: called(*case.words), fault, scorecard)
    assert max(seconds) < LIMIT_S
    suggested = [error.partition("did you mean")[2] for error in errors]
    right = sum(f"'{case.suggestion}'" in text for case, text in zip(cases, suggested, strict=True))
    scorecard.add("closest setting suggested", cases=len(cases), passed=right, target=500)
    assert right >= 0.95 * len(cases)
    assert not environment.exists()


def test_wrong_types_and_values_out_of_range(called, environment, scorecard):
    """I2, I5: every key with each type that is not its own, and with values beyond its bounds."""
    cases = sample(all_wrong_values(), count(pr=150, nightly=2500))
    _, seconds = walk(cases, lambda case: called(*case.words), fault, scorecard)
    assert max(seconds) < LIMIT_S
    assert not environment.exists()


def test_the_walk_grows_with_the_product():
    """Premise of the rows above: the issue's numbers are there, and every shipped file takes part."""
    assert len(all_typos()) >= 500
    assert len(all_wrong_values()) >= 1500
    files = {case.words for case in all_wrong_values()}
    for path in (CONF / "task").glob("*.yaml"):
        assert any(f"task={path.stem}" in words for words in files), path


def test_a_separate_process_says_the_same(process, environment, scorecard):  # noqa: F811
    """I5: a sample of them in processes of their own; each is refused in less time than importing torch takes."""
    heavy = []

    def call(case):
        start = time.monotonic()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        heavy.append(time.monotonic() - start)
        code, err, seconds = process("run", *case.words)
        return code, err.strip(), seconds

    cases = sample([*all_typos(), *all_wrong_values()], count(pr=8, nightly=100))
    _, seconds = walk(cases, call, fault, scorecard, "processes, on the wall")
    assert statistics.median(seconds) < statistics.median(heavy)
    assert not environment.exists()


def mistyped_file(group: str, path: Path) -> list[tuple[str, str]]:
    """Return pairs of (a shipped file's text with one key mistyped, the key) for every key of its own node."""
    pairs = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        indent, text = len(line) - len(line.lstrip()), line.strip()
        name = text.partition(":")[0]
        is_node_key = indent == (2 if group in ("task", "body") else 0)
        is_required = "???" in text  # required settings are typed on the command line, under their right names
        if (
            not is_node_key
            or is_required
            or text.startswith(("#", "-", "_target_"))
            or ":" not in text
            or len(name) < 4
        ):
            continue
        if name in ("data", "loss", "error", "kind", "target", "defaults"):
            continue
        changed = [*lines]
        changed[number] = line.replace(name, name[:-2] + name[-1], 1)
        pairs.append(("\n".join(changed) + "\n", name))
    return pairs


def test_mistyped_keys_in_files_of_ones_own(called, environment, tmp_path, scorecard):
    """I1: the same in a file that --config-dir names: a copy of a shipped one."""
    cases = []
    for group in ("task", "body", "source", "metric", "finetune"):
        for path in sorted((CONF / group).glob("*.yaml")):
            more = REQUIRED_SETTINGS.get(path.stem, []) if group == "task" else []
            if (group, path.stem) == ("body", "auto"):
                more = ["body.checkpoint=own"]
            if group == "source" and path.stem in SOURCE_BODIES:
                more = [f"body={SOURCE_BODIES[path.stem]}"]
            cases += [(group, text, name, more) for text, name in mistyped_file(group, path)]
    assert len(cases) >= 150

    def call(case):
        group, text, _, more = case
        path = tmp_path / "my_conf" / group / "mine.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        answer = called("--config-dir", tmp_path / "my_conf", f"{group}=mine", *more)
        path.unlink()
        return answer

    def find_fault(case, code, error):
        right = code == 10 and "\n" not in error and f"did you mean '{case[2]}'" in error
        return "" if right else f"exit code {code}, or not the closest"

    _, seconds = walk(sample(cases, count(pr=25, nightly=500)), call, find_fault, scorecard, "in files")
    assert max(seconds) < LIMIT_S
    assert not environment.exists()


TASK = "# @package _global_\n# Mine.\ndefaults:\n  - override /body: minilm\n"
GOOD = TASK + "task:\n  _target_: orca_cli.data.arrays.load\n  kind: classes\n  train: own.npz\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)

# name -> (content, exit code, words that the message has to say; `mine.yaml:N` is the place)
FILES = {
    "unclosed_bracket": (TASK + "task: {kind: [classes\n", 10, ["mine.yaml:6"]),
    "tab": (TASK + "task:\n\tkind: classes\n", 10, ["mine.yaml:6"]),
    "no_colon": (TASK + "task\nkind: classes\n", 10, ["mine.yaml:6"]),
    "bad_indent": (TASK + "task:\n   kind: classes\n  train: x\n", 10, ["mine.yaml:7"]),
    "unclosed_quote": (TASK + 'task:\n  kind: "classes\n', 10, ["mine.yaml:"]),
    "duplicate_key": (GOOD + "  train: other.npz\n", 10, ["mine.yaml:9", "duplicate key train"]),
    "duplicate_section": (GOOD + "task: {}\n", 10, ["mine.yaml:9", "duplicate key task"]),
    "empty": ("", 10, ["task"]),
    "comment_alone": ("# nothing\n", 10, ["task"]),
    "list": ("- task\n", 10, ["mine.yaml:1", "key: value"]),
    "text": ("just text\n", 10, ["mine.yaml:1", "key: value"]),
    "byte_order_mark": (b"\xef\xbb\xbf" + GOOD.encode(), 10, ["mine.yaml:1", "byte order mark"]),
    "latin_1": (TASK.encode() + b"task: {kind: \xfcml}\n", 10, ["mine.yaml:5", "UTF-8"]),
    "utf_16": (GOOD.encode("utf-16"), 10, ["mine.yaml:1", "UTF-8"]),
    "null_bytes": (TASK + "task:\0\n", 10, ["mine.yaml"]),
    "control_character": (TASK + "task: '\x07'\n", 10, ["mine.yaml"]),
    "a_hundred_megabytes": (b"#" * 100_000_000, 10, ["mine.yaml", "larger than"]),
    "cycle": (GOOD + "  x: ${task.y}\n  y: ${task.x}\n", 10, ["task."]),
    "refers_to_nothing": (GOOD + "  x: ${task.nothing}\n", 10, ["task.x", "nothing"]),
    "value_missing": (
        TASK + "task:\n  _target_: orca_cli.data.arrays.load\n  kind: ???\n  train: x\n",
        10,
        ["task.kind"],
    ),
    "undefined_alias": (TASK + "task: *nothing\n", 10, ["mine.yaml:5"]),
    "unknown_default": (GOOD.replace("minilm", "minilmm"), 10, ["minilmm"]),
    "defaults_are_no_list": ("defaults: 5\n", 10, ["must be a list"]),
    "unknown_tag": (TASK + "task: !mine {}\n", 12, ["mine.yaml:5"]),
    "alias_bomb": (BOMB, 12, ["mine.yaml", "values"]),
    "contains_itself": ("task: &a\n  x: *a\n", 12, ["mine.yaml:", "itself"]),
    "ten_thousand_brackets": ("task: " + "[" * 10_000 + "]" * 10_000 + "\n", 12, ["mine.yaml", "nested"]),
    "directory": (None, 10, ["mine.yaml"]),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_hold_no_settings(called, environment, tmp_path, counted, name):
    """I3: what a file of one's own can be instead of settings; each with its place."""
    content, code, words = FILES[name]
    path = tmp_path / "my_conf" / "task" / "mine.yaml"
    path.parent.mkdir(parents=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    actual, error, took = called("--config-dir", tmp_path / "my_conf", "task=mine")
    passed = actual == code and "\n" not in error and all(word in error for word in words)
    counted("unreadable configuration files", passed, f"{actual} {error}")
    assert took < LIMIT_S
    assert not environment.exists()


def test_a_good_file_is_taken(called, tmp_path):
    """Premise of the rows above and below: what is refused there is not refused because of the folder."""
    path = tmp_path / "my_conf" / "task" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(GOOD)
    code, error, _ = called("--config-dir", tmp_path / "my_conf", "task=mine")
    assert code == 1
    assert "the configuration was accepted" in error


ARRAYS, TABLE = (["task=arrays", *REQUIRED_SETTINGS["arrays"]], ["task=table", *REQUIRED_SETTINGS["table"]])
# Each names two settings that cannot both be meant, and the message names both.
CONTRADICTIONS = [
    (["train.warmup_epochs=9", "train.decay_epochs=5"], ["train.decay_epochs", "train.warmup_epochs"]),
    (["device=cpu", "precision=fp16"], ["device=cpu", "precision"]),
    (["align.method=mona", "metric=none"], ["align.method=mona", "metric=none"]),
    (["align.method=pare", "task=darcy"], ["align.method=pare", "task.kind=dense"]),
    (["metric=transrate", "align.classes_per_problem=1"], ["TransRate", "align.classes_per_problem"]),
    (["source.min_words=9", "source.max_words=5"], ["source.max_words", "source.min_words"]),
    (["task=listops", "task.min_length=50", "task.max_length=20"], ["task.min_length", "task.max_length"]),
    (["task=listops", "task.path=there"], ["task.path", "task.origin"]),
    (["task=cosmic", "task.sky_low=2", "task.sky_high=1"], ["task.sky_high", "task.sky_low"]),
    (["task=cosmic", "task.field=GAL"], ["task.field", "task.keys"]),
    (["task=darcy", "task.nodes=85", "task.stride=5"], ["task.stride", "task.nodes"]),
    (["task=darcy", "task.path=there"], ["task.path", "task.origin"]),
    (["task=spherical", "task.images=there"], ["task.images", "task.origin"]),
    (["task=spherical", "task.origin=cifar10", "task.path=there"], ["task.path", "task.origin"]),
    (
        [*ARRAYS, "task.validation_fraction=0.6", "task.test_fraction=0.6"],
        ["task.validation_fraction", "task.test_fraction"],
    ),
    ([*ARRAYS, "task.kind=labels", "task.num_classes=3"], ["task.num_classes", "task.kind=labels"]),
    ([*ARRAYS, "task.missing_targets=true"], ["task.missing_targets", "task.kind=classes"]),
    ([*ARRAYS, "task.train=a.npy", "task.test_labels=y.npy"], ["task.test_labels", "task.test="]),
    ([*TABLE, "task.targets=[a,b]"], ["task.target: given beside task.targets"]),
    ([*TABLE, "task.features=[a,b]", "task.ignore=[b]"], ["task.features", "task.ignore"]),
    (["task=hub", *REQUIRED_SETTINGS["hub"], "task.length=5", "task.image_size=8"], ["task.length", "task.image_size"]),
]


@pytest.mark.parametrize(("words", "keys"), CONTRADICTIONS, ids=lambda value: value[-1])
def test_settings_that_contradict_each_other(called, environment, counted, words, keys):
    """I4: the message names both keys, and nothing was read."""
    code, error, took = called(*words)
    passed = code == 10 and "\n" not in error and all(key in error for key in keys)
    counted("contradictory settings", passed, f"{code} {error}")
    assert took < LIMIT_S
    assert not environment.exists()
