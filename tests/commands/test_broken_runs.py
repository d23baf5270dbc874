"""Broken, foreign, half-written and newer run folders among good ones: listed, passed over, never fatal, by all commands."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.commands.called import call
from tests.commands.test_score import _add
from tests.properties import examples

NAME = "2026-02-01_00-00-00.000000_minilm_otdd_full_s9_{:08x}"
ANSWERED = (0, 10, 11, 12, 13, 21)  # of commands about the broken run itself


Change = Callable[[Path], None]


def _write(name, content):
    def change(run):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(content)

    return change


def _instead(name, put):
    """Replace a record; `put` takes the path, which no longer exists, and the old content."""

    def change(run):
        content = (run / name).read_bytes()
        (run / name).unlink()
        put(run / name, content)

    return change


def _gone(put):
    """Replace a run's folder."""

    def change(run):
        shutil.rmtree(run)
        put(run)

    return change


def _notes(run):
    run.mkdir()
    (run / "notes.txt").write_text("mine")


def _unfinished(run):
    (run / "result.json").unlink()
    _write("status.json", b'{"schema": 2}')(run)


def _arrays(path, content):
    np.savez(path, outputs=np.zeros((3, 2)), targets=np.zeros((4, 5), dtype="U3"))


def _folder(path, content):
    path.mkdir()
    (path / "inner").write_text("x")


PREDICTIONS = "3_finetune/predictions.npz"
RECORDS = ("result.json", "status.json", "config.yaml", "1_build/summary.json", PREDICTIONS)
KINDS: dict[str, Change] = {
    "an empty folder": _gone(Path.mkdir),
    "a link to nowhere": _gone(lambda run: run.symlink_to(run.parent / "nowhere")),
    "only unknown files": _gone(_notes),
    "odd arrays": _instead(PREDICTIONS, _arrays),
    "a file that is far too large": lambda run: os.truncate(run / "result.json", 2**26),
    "predictions that are not an archive": lambda run: os.truncate(run / PREDICTIONS, 2**20),
    "a result of a newer program": _write("result.json", b'{"schema": 99}'),
    "a status of a newer program": _unfinished,
}
for _name in RECORDS:
    KINDS |= {
        f"half of {_name}": _instead(_name, lambda path, content: path.write_bytes(content[: len(content) // 2])),
        f"a folder as {_name}": _instead(_name, _folder),
        f"{_name} as a loop of links": _instead(_name, lambda path, content: path.symlink_to(path)),
        f"{_name} with NaN": _write(_name, b'{"schema": 1, "state": NaN}'),
    }
for _name in RECORDS[:2]:
    KINDS[f"{_name} as a pipe"] = _instead(_name, lambda path, content: os.mkfifo(path))
    KINDS[f"{_name} nested deeply"] = _write(_name, b"[" * 100_000)
for _name in (*RECORDS, "env.json", "overrides.txt"):
    KINDS[f"{_name} that is not UTF-8"] = _write(_name, b"\xff\xfe{\x00}\x00")
for _name in (*RECORDS, "env.json"):
    KINDS |= {f"{_name} as a list": _write(_name, b"[1, 2]"), f"{_name} without content": _write(_name, b"")}


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr(os, "sync", lambda: None)


def _commands(root, good, bad):
    """Run all commands, and yield the outputs of those that go over all runs."""
    for words in (
        ["report", root, "--json"],
        ["runs", "list", root, "--json"],
        ["runs", "list", "--where", "seed=0"],
        ["runs", "gc"],
    ):
        code, text, _ = call(*words)
        assert code == 0, words
        yield text
    for words in (["runs", "show", bad], ["runs", "diff", good, bad], ["score", bad], ["score", bad, good]):
        assert call(*words)[0] in ANSWERED, words


def test_all_of_them_together(tmp_path, monkeypatch):
    root = tmp_path / "runs"
    monkeypatch.setenv("ORCA_RUNS", str(root))
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))
    good, other = _add(root, "classification.ZeroOne"), _add(root, "values.RMSE")
    means = [row["cells"] for row in json.loads(call("report", "--json")[1])["rows"]]
    runs = []
    for number, change in enumerate(KINDS.values()):
        made = _add(tmp_path / "elsewhere", "classification.MacroF1")
        result = json.loads((made / "result.json").read_text())
        result |= {"task": "strange", "identity": f"{number:064x}", "seed": number}
        (made / "result.json").write_text(json.dumps(result))
        run = root / "strange" / NAME.format(number)
        run.parent.mkdir(exist_ok=True)
        shutil.move(made, run)
        change(run)
        runs.append(run)
    (root / ".studies").mkdir()
    (root / ".studies" / "broken.json").write_bytes(b"\xff[")
    report, listing, chosen, _ = _commands(root, good, runs[0])
    strange = json.loads(report)
    cells = [cell for row in strange["rows"] for cell in row["cells"]]
    named = [*strange["broken"], *strange["unfinished"], *(one for cell in cells for one in cell["values"])]
    reported = {Path(one["run"]).name for one in named} | {Path(one).name for one in strange["superseded"]}
    assert {run.name for run in runs} - reported == {NAME.format(list(KINDS).index("a link to nowhere"))}
    same = [[cell for cell in row["cells"] if cell["task"] == "digits"] for row in strange["rows"]]
    assert [cells for cells in same if any(cell["values"] for cell in cells)] == means
    assert {one["run"] for one in json.loads(listing)["runs"]} == reported
    assert good.name in chosen
    assert {good.name, other.name} <= reported
    assert call("report", "--study", "broken")[0] == 11
    assert call("score", *runs)[0] in ANSWERED
    for run in runs:
        assert call("runs", "show", run, "--no-picture")[0] in ANSWERED, run


WRONG: tuple[Any, ...] = (
    *(None, True, "", "text", -1, 0.5, 10**400, 1e308, float("nan"), float("inf")),
    *([], [1], {}, {"a": 1}, {"a": {"b": [None]}}, [[[]]], "\u202e\x1b[2J", "\ud800"),
)


def _places(value, above=()):
    yield above
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _places(value[key], (*above, key))


def _with(value, place, wrong):
    """Return a copy of a record with a value in one place."""
    if not place:
        return wrong
    changed = copy.copy(value)
    changed[place[0]] = _with(value[place[0]], place[1:], wrong)
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
MORE: dict[str, dict[str, Any]] = {
    "result.json": RESULT,
    "status.json": {
        "attempts": [{"pid": 1, "host": "x", "boot": None}],
        "state": "interrupted",
        "step": 3,
        "error": {"kind": "a", "message": "b"},
    },
    "env.json": {"schema": 1, "python": "3", "packages": {"torch": "1"}, "command": ["a"], "files": {"/x": "y"}},
    "1_build/summary.json": {"decided": {"train.lr": {"value": 0.1, "why": "x"}}, "num_outputs": 3},
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Return the folder of runs, a good run, one to break, and the records of that one by name."""
    root = tmp_path_factory.mktemp("zoo") / "runs"
    good, _, bad = (
        _add(root, f"{error}") for error in ("classification.ZeroOne", "values.RMSE", "classification.MacroF1")
    )
    records = {}
    for name, more in MORE.items():
        record = json.loads((bad / name).read_text()) if (bad / name).exists() else {}
        records[name] = record | more
    return root, good, bad, records


@examples(8)
@example(number=0, where=("error", "n"), wrong=10**400)
@example(number=0, where=("validation_error",), wrong=10**400)
@example(number=0, where=("seconds", "build"), wrong=10**400)
@given(number=st.integers(0, len(MORE) - 1), where=st.integers(0, 200), wrong=st.sampled_from(WRONG))
def test_a_wrong_value_in_any_field(zoo, number, where, wrong):
    root, good, bad, records = zoo
    name = list(MORE)[number]
    places = list(_places(records[name]))
    place = where if isinstance(where, tuple) else places[where % len(places)]
    for other, record in records.items():
        (bad / other).write_text(json.dumps(record))
    (bad / name).write_text(json.dumps(_with(records[name], place, wrong)))
    if name == "status.json":
        (bad / "result.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCA_RUNS", str(root))
        patch.setenv("ORCA_HOME", str(root.parent / "home"))
        texts = list(_commands(root, good, bad))
    assert all(good.name in text for text in texts[:2])


UNREADABLE = """
import ctypes, os, sys
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
if os.geteuid() == 0 and ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) != 0:
    sys.exit(70)
from orca_cli.cli import main
print(*(main(words.split("|")) for words in sys.argv[1:]), file=sys.stderr)
"""


def test_what_may_not_be_read(tmp_path):
    root = tmp_path / "runs"
    good = _add(root, "classification.ZeroOne")
    paths = [_add(root, "classification.MacroF1") for _ in range(3)]
    closed = [paths[0], paths[1] / "result.json", paths[2] / "3_finetune" / "predictions.npz"]
    for path in closed:
        path.chmod(0)
    over_all = [f"report|{root}", f"runs|list|{root}", "runs|gc"]
    about_one = [f"{verb}|{path}" for path in paths for verb in ("runs|show", f"runs|diff|{good}", "score")]
    command = [sys.executable, "-c", UNREADABLE, *over_all, *about_one]
    environment = os.environ | {"ORCA_RUNS": str(root), "ORCA_HOME": str(tmp_path / "home")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    finally:
        for path in closed:
            path.chmod(0o700)
    assert done.returncode == 0, done.stderr
    codes = list(map(int, done.stderr.splitlines()[-1].split()))
    assert codes[:3] == [0, 0, 0], done.stderr
    assert set(codes) <= {*ANSWERED, 30}
    assert "unexpected" not in done.stderr
    assert done.stdout.count("Permission denied") >= 3
