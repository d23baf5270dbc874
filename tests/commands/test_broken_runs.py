"""Records with wrong values among good ones: listed, passed over, never fatal, by all commands.

Damaged folders: tests/report/test_collect.py.
"""

import copy
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.commands.called import call
from tests.commands.test_score import add_scored_run
from tests.properties import examples

ANSWERED = (0, 10, 11, 12, 13, 21)  # of commands about the broken run itself


def _commands(root, good, bad):
    """Run all commands, and yield the outputs of those that go over all runs."""
    lists = (["runs", "list", root, "--json"], ["runs", "list", "--where", "seed=0"])
    for words in (["report", root, "--json"], *lists, ["runs", "gc"]):
        code, text, _ = call(*words)
        assert code == 0, words
        yield text
    for words in (["runs", "show", bad], ["runs", "diff", good, bad], ["score", bad]):
        assert call(*words)[0] in ANSWERED, words


WRONG: tuple[Any, ...] = (
    *(None, True, "", "text", -1, 0.5, 10**400, 1e308, float("nan"), float("inf")),
    *([], [1], {}, {"a": 1}, {"a": {"b": [None]}}, [[[]]], "\u202e\x1b[2J", "\ud800"),
)


def _key_paths(value, above=()):
    yield above
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _key_paths(value[key], (*above, key))


def _with(value, key_path, wrong):
    """Return a copy of a record with a wrong value at the end of a path of keys."""
    if not key_path:
        return wrong
    changed = copy.copy(value)
    changed[key_path[0]] = _with(value[key_path[0]], key_path[1:], wrong)
    return changed


RESULT: dict[str, Any] = {
    "decided": {"train.lr": {"value": 0.1, "why": "x"}},
    "selected": {"on": "validation", "epoch": 3, "learned": 1},
    "baselines": {"linear": {"error": 0.2}},
    "alignment": {"steps": 3},
    "comparison": {"text": "better"},
    "curves": {"align": [], "finetune": [{"epoch": 1, "step": 1, "validation_error": 0.2}]},
    "weights_sha256": "a" * 64,
    "size": "",
}
# Name of a record -> what a run of the zoo has in it besides.
ADDED: dict[str, dict[str, Any]] = {
    "result.json": RESULT,
    "status.json": {"state": "interrupted", "step": 3, "error": {"kind": "a", "message": "b"}},
    "env.json": {"schema": 1, "python": "3", "packages": {"torch": "1"}, "command": ["a"], "files": {"/x": "y"}},
    "1_build/summary.json": {"decided": {"train.lr": {"value": 0.1, "why": "x"}}, "num_outputs": 3},
}  # fmt: skip


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Return the folder of runs, a good run, one to break, and the records of that one by name."""
    root = tmp_path_factory.mktemp("zoo") / "runs"
    good, _, bad = (
        add_scored_run(root, f"{error}")
        for error in ("classification.ZeroOne", "regression.RMSE", "classification.MacroF1")
    )
    records = {}
    for name, added in ADDED.items():
        record = json.loads((bad / name).read_text()) if (bad / name).exists() else {}
        records[name] = record | added
    return root, good, bad, records


@examples(8)
@example(number=0, where=("error", "n"), wrong=10**400)
@example(number=0, where=("seconds", "build"), wrong=10**400)
@given(
    number=st.integers(0, len(ADDED) - 1), where=st.integers(0, 200), wrong=st.sampled_from(WRONG)
)
def test_a_wrong_value_in_any_field(zoo, number, where, wrong):
    root, good, bad, records = zoo
    name = list(ADDED)[number]
    key_paths = list(_key_paths(records[name]))
    key_path = where if isinstance(where, tuple) else key_paths[where % len(key_paths)]
    for record_name, record in records.items():
        (bad / record_name).write_text(json.dumps(record))
    (bad / name).write_text(json.dumps(_with(records[name], key_path, wrong)))
    if name == "status.json":
        (bad / "result.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCA_RUNS", str(root))
        patch.setenv("ORCA_HOME", str(root.parent / "home"))
        texts = list(_commands(root, good, bad))
    assert all(good.name in text for text in texts[:2])
