"""`orca runs` and `orca report` as they are typed, on trees of records, with faults among them."""

import fcntl
import json
import os
import time
from pathlib import Path

import pytest

from orca_cli import storage
from tests.commands.called import call, read_json, read_text, refused
from tests.report.trees import add_run


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder of all runs; the caches are beside it."""
    monkeypatch.setenv("ORCA_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))
    return tmp_path / "runs"


def _with_settings(run, text, decided=None):
    (run / "config.yaml").write_text(text)
    if decided is not None:
        record = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps(record | {"decided": decided}))
    return run


def test_list_has_the_newest_first_and_broken_folders_too(root):
    done = add_run(root)
    failed = add_run(root, seed=1, state="failed")
    damaged = add_run(root, seed=2)
    future = add_run(root, seed=3)
    (damaged / "result.json").write_text('{"schema": 1, ')
    (future / "result.json").write_text('{"schema": 99}')
    half = root / "digits" / "2026-02-01_00-00-00.000000_minilm_otdd_full_s4_0123abcd"
    (half / "1_build").mkdir(parents=True)
    alive = add_run(root, seed=5, state="finetune")
    with storage.lock(alive / "lock"):
        entries = read_json("runs", "list")["runs"]
        assert "works on this run" in refused(20, "runs", "rm", "--yes", alive)
    names = [entry["run"] for entry in entries]
    assert names == sorted(names, reverse=True)
    assert {entry["run"]: entry["state"] for entry in entries} == {
        done.name: "completed", failed.name: "failed", alive.name: "running",
        damaged.name: "unreadable", future.name: "unreadable", half.name: "unreadable",
    }  # fmt: skip
    assert [entry["replaced"] for entry in entries] == [False] * 6
    reasons = {entry["run"]: entry["reason"] for entry in entries}
    assert "newer program" in reasons[future.name]
    assert "not valid JSON" in reasons[damaged.name]
    assert "NonFiniteError" in reasons[failed.name]


def test_a_repeated_run_replaces_the_older_one(root):
    older = add_run(root)
    add_run(root)
    entries = read_json("runs", "list")["runs"]
    assert [entry["run"] for entry in entries if entry["replaced"]] == [older.name]


def test_list_filters_by_typed_composed_and_decided_settings(root):
    typed = add_run(root, variant={"train.lr": "1e-4"})
    composed = _with_settings(add_run(root, seed=1), "train:\n  lr: 0.0001\n  clip: null\n")
    why = {"train.lr": {"value": 0.002, "why": "few samples"}}
    decided = _with_settings(
        add_run(root, seed=2, metric="none"), "train:\n  lr: null\n  clip: 1.0\n", why
    )

    def names(*words):
        return {entry["run"] for entry in read_json("runs", "list", *words)["runs"]}

    assert names("--where", "train.lr=0.0001") == {typed.name, composed.name}
    assert names("--where", "train.lr=2e-3") == {decided.name}
    assert names("--where", "train.clip=null") == {composed.name}
    assert names("--where", "metric=otdd", "--where", "seed=0,1") == {typed.name, composed.name}
    assert "no run has train.lr=3" in refused(11, "runs", "list", "--where", "train.lr=3")


def test_a_state_that_no_run_has_is_no_error(root):
    add_run(root)
    failed = add_run(root, seed=1, state="failed")

    def names(states):
        entries = read_json("runs", "list", "--where", f"state={states}")["runs"]
        return [entry["run"] for entry in entries]

    assert names("failed,dead") == [failed.name]
    assert names("dead") == []
    assert "did you mean 'dead'?" in refused(11, "runs", "list", "--where", "state=failed,ded")


def test_show_tells_result_decisions_baselines_and_files(root):
    facts = {
        "comparison": {"text": "better than linear"},
        "candidates": [
            {"name": "linear", "validation_error": 0.2, "error": 0.25, "seconds": 1.0},
            {"name": "transfer", "validation_error": 0.3, "error": 0.1, "interval": [0.075, 0.13]},
        ],
        "leader": "linear",
    }
    decided = {"train.lr": {"value": 2e-4, "why": "budget=normal"}}
    run = add_run(root, decided=decided, error={"interval": [0.075, 0.13]}, **facts)
    out = " ".join(read_text("runs", "show", run.name[-8:]).split())
    expected = (
        "zero_one 10.00 % on 497",
        "linear 20.00 % 25.00 % 1.0 transfer 30.00 % 10.00 % (7.50 % to 13.00 %) -",
        "leader a linear model, not the transfer; the transfer has no validation error on the "
        "samples of the baselines, so it cannot be the leader",
        "predict not possible: this run kept no model that can predict new data",
        "better than linear",
        "train.lr=0.0002 (budget=normal)",
    )
    assert [text for text in expected if text not in out] == []
    record = read_json("runs", "show", run)["run"]
    assert record["result"] == json.loads((run / "result.json").read_text())
    assert record["files"] == {file.name: file.stat().st_size for file in sorted(run.iterdir())}


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [('{"schema": 1', 11, "not valid JSON"), ('{"schema": 99}', 21, "newer program")],
    ids=["damaged", "newer"],
)
@pytest.mark.parametrize("verb", ["show", "diff"])
def test_a_run_that_cannot_be_read_is_one_line(root, verb, content, code, message):
    good = add_run(root)
    broken = add_run(root, seed=1)
    (broken / "result.json").write_text(content)
    runs = [broken, good] if verb == "diff" else [broken]
    assert message in refused(code, "runs", verb, *runs)


@pytest.mark.parametrize("words", [["show", "missing"], ["diff", "missing", "missing"]], ids=str)
def test_a_run_that_does_not_exist_is_one_line(root, words):
    add_run(root)
    assert "no such run" in refused(11, "runs", *words)


def test_diff_shows_settings_that_differ_and_results(root):
    decided = {"train.clip": {"value": 1.0, "why": "x"}}
    text = "train: {lr: 0.1, epochs: 3}\ntask: {data: {licence: CC0}}\nseed: 0\n"
    run_a = _with_settings(add_run(root, value=0.1), text, decided)
    run_b = _with_settings(
        add_run(root, value=0.2, seed=1), "train: {lr: 0.1, epochs: 5, clip: 2}\nseed: 1\n", {}
    )
    diff = read_json("runs", "diff", run_a, run_b)
    expected = {
        "train.epochs": {"a": 3, "b": 5},
        "seed": {"a": 0, "b": 1},
        "train.clip": {"a": 1.0, "b": 2},
    }
    assert (diff["settings"], diff["same_experiment"]) == (expected, False)
    assert diff["results"]["zero_one"] == {"a": 0.1, "b": 0.2}
    assert read_json("runs", "diff", run_a, run_a)["same_experiment"]


def test_diff_shows_data_and_program_that_differ(root):
    splits = {"train": {"n": 9, "sha256": "1" * 64}, "test": {"n": 9, "sha256": "a" * 64}}
    made_by = {"version": "0.1.0", "commit": "c" * 40, "sha256": "2" * 64}
    run_a = _with_settings(add_run(root, splits=splits, program=made_by), "seed: 0\n")
    other_splits = splits | {"train": {"n": 9, "sha256": "3" * 64}}
    run_b = _with_settings(add_run(root, seed=1, splits=other_splits), "seed: 1\n")
    expected = {
        "training data": {"a": "11111111", "b": "33333333"},
        "program": {"a": "22222222", "b": "unknown"},
        "program's version": {"a": "0.1.0"},
        "program's commit": {"a": "c" * 40},
    }
    assert read_json("runs", "diff", run_a, run_b)["conditions"] == expected
    assert "training data 11111111 33333333" in " ".join(
        read_text("runs", "diff", run_a, run_b).split()
    )
    assert "conditions: no difference" in read_text("runs", "diff", run_a, run_a)


def test_rm_is_dry_and_then_removes_the_run_alone(root, tmp_path):
    root.parent.joinpath("disk").mkdir()
    root.symlink_to(tmp_path / "disk")  # a folder of runs may be a link itself
    gone = add_run(root)
    kept = add_run(root, seed=1)
    half = root / "digits" / "2026-02-01_00-00-00.000000_minilm_otdd_full_s4_0123abcd"
    half.mkdir()
    assert "would remove" in read_text("runs", "rm", gone.name)
    assert gone.exists()
    record = read_json("runs", "rm", gone, half, gone.name, "--yes")
    assert [entry["run"] for entry in record["removed"]] == [gone.name, half.name]
    assert [path.name for path in (root / "digits").iterdir() if path.name[0] != "."] == [kept.name]
    assert not list(root.rglob(f"{storage.disk.TEMPORARY}*"))
    assert read_text("runs", "gc") == "nothing to remove\n"


# Where a path leads -> the path, and the exit code.
ELSEWHERE = {
    "a folder elsewhere": ("{outside}", 12),
    "through a link to a folder": ("{root}/away/{outside.name}", 12),
    "a link to a run elsewhere": ("{root}/digits/{outside.name}", 12),
    "a link to a run": ("{root}/digits/link", 12),
    "up and down again": ("{root}/digits/../../other/digits/{outside.name}", 12),
    "the folder of runs": ("{root}", 12),
    "above the folder of runs": ("{root.parent}", 12),
    "the folder of a task": ("{root}/digits", 11),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_rm_leads_nowhere_else(root, tmp_path, name):
    path, code = ELSEWHERE[name]
    inside = add_run(root)
    outside = add_run(tmp_path / "other")
    (root / "away").symlink_to(outside.parent)
    (root / "digits" / outside.name).symlink_to(outside)
    (root / "digits" / "link").symlink_to(inside)
    refused(code, "runs", "rm", "--yes", inside, path.format(root=root, outside=outside))
    assert (outside / "result.json").exists()
    # The good run that is named with it stays as well.
    assert (inside / "result.json").exists()


def test_rm_removes_a_link_and_not_its_target(root, tmp_path):
    inside = add_run(root)
    outside = add_run(tmp_path / "other")
    (inside / "3_finetune").symlink_to(outside)
    read_text("runs", "rm", "--yes", inside)
    assert not inside.exists()
    assert (outside / "result.json").exists()


def _aged(path, days):
    moment = time.time() - days * 86400
    for file in (*path.rglob("*"), path):
        os.utime(file, (moment, moment))
    return path


def _entry(cache, kind, name, days):
    with storage.commit_folder(cache / kind / name) as folder:
        (folder / "tensors.safetensors").write_bytes(b"x" * 1000)
    (cache / kind / f"{name}.lock").touch()
    return _aged(cache / kind / name, days)


def test_gc_is_dry_and_then_frees_what_it_said(root, tmp_path):
    cache = tmp_path / "home" / "cache"
    elsewhere = tmp_path / "elsewhere"
    done = add_run(root)
    half_removed = root / "digits" / ".tmp-del-7-run"
    foreign = cache / "datasets" / "mine"
    damaged = root / "digits.bad-2026-01-01"
    for path in (half_removed, foreign, elsewhere / ".tmp-old", damaged / ".tmp-1"):
        path.mkdir(parents=True)
        _aged(path, 100)
    (root / "linked").symlink_to(elsewhere)
    (root / "digits" / "a.bad-2026").symlink_to(elsewhere)
    being_written = root / "digits" / ".tmp-abc"
    aside = root / "digits" / "x.bad-2026-01-01"
    being_written.touch()
    aside.touch()
    old = _entry(cache, "alignments", "a" * 32, 40)
    used = _entry(cache, "alignments", "b" * 32, 3)
    locked = _entry(cache, "floors", "c" * 32, 40)
    leftovers = (damaged, aside, half_removed)
    expected = dict.fromkeys(leftovers, "interrupted write") | {old: "cache"}
    kept = [
        being_written, elsewhere / ".tmp-old", used, locked, foreign, done,
        root / "digits" / "a.bad-2026",
    ]  # fmt: skip
    with open(cache / "floors" / f"{'c' * 32}.lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for words in ([], ["--yes"]):
            record = read_json("runs", "gc", *words)
            kinds = {Path(entry["path"]): entry["kind"] for entry in record["items"]}
            assert kinds == expected
            assert record["dry"] is not bool(words)
            assert record["bytes"] >= 1000
            assert [path.exists() for path in expected] == [not words] * len(expected)
    assert all(path.exists() for path in kept)
    assert read_json("runs", "gc", "--days", "1000")["items"] == []


@pytest.mark.parametrize("form", ["table", "md", "csv", "json", "latex"])
def test_report_writes_a_file_as_it_prints(root, tmp_path, form):
    for task in ("task0", "task1"):
        add_run(root, task=task)
    out = tmp_path / "new" / form
    assert read_text("report", "--format", form, "--out", out) == ""
    assert "\x1b" not in out.read_text()
    if form != "table":  # a table is as wide as the console
        assert read_text("report", "--format", form) == out.read_text()


def test_report_leaves_out_other_runs(root):
    for task in ("task0", "task1"):
        add_run(root, task=task)
    columns = read_json("report", root, "--where", "task=task1")["columns"]
    assert [column["task"] for column in columns] == ["task1"]


def test_report_without_runs_says_how_to_make_some(tmp_path, monkeypatch):
    monkeypatch.delenv("ORCA_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    message = "orca: error: runs: does not exist; start a run first: `orca run`\n"
    assert refused(11, "report") == message


@pytest.mark.parametrize(
    ("state", "code"), [("failed", 3), ("align", 3), ("interrupted", 0), ("completed", 0)]
)
def test_a_strict_report_fails_for_a_run_that_failed(root, state, code):
    add_run(root, state=state)
    assert call("report", "--strict")[0] == code
    assert call("report")[0] == 0


def test_a_strict_report_fails_for_a_run_that_is_broken(root):
    path = add_run(root)
    (path / "result.json").write_text("{")
    assert call("report", "--strict")[0] == 3
    assert "1 broken" in read_text("report")
    assert "not valid JSON" in read_text("runs", "list")


def test_rm_removes_what_conditions_select(root):
    kept = add_run(root, data="my", seed=0)
    for seed in (1, 2):
        add_run(root, data="my", seed=seed, state="failed")
    elsewhere = add_run(root, data="other", state="failed", seed=3)
    words = ["runs", "rm", "--where", "state=failed", "--where", "data=my"]
    listed = read_json(*words)
    assert (listed["dry"], len(listed["removed"])) == (True, 2)
    assert len(read_json(*words, "--yes")["removed"]) == 2
    left = [path.name for path in sorted(root.glob("*/2026*"))]
    assert left == sorted([kept.name, elsewhere.name])


def test_rm_without_runs_or_conditions_removes_nothing(root):
    path = add_run(root)
    for words in ([], [path.name, "--where", "state=completed"]):
        assert "name runs, or use --where KEY=VALUE" in refused(2, "runs", "rm", "--yes", *words)
    assert path.exists()
    assert "no run meets the conditions" in read_text("runs", "rm", "--where", "state=dead")


def test_the_list_names_the_data_set(root):
    add_run(root, task="arrays", data="my")
    lines = read_text("runs", "list").splitlines()
    assert lines[0].split()[:2] == ["run", "data"]
    assert " my " in lines[1]


def test_rm_by_conditions_passes_over_runs_behind_a_link(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    outside = add_run(elsewhere, data="my", state="failed")
    inside = add_run(root, data="other", state="failed", seed=1)
    (root / "my").symlink_to(outside.parent)
    read_json("runs", "rm", "--where", "state=failed", "--yes")
    assert (outside.exists(), inside.exists()) == (True, False)
