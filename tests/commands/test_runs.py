"""`orca runs` as it is typed, on trees of records, with faults among them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orca_cli import storage, terminal
from orca_cli.cli import main
from tests.report.trees import add_run

HEAVY = ("torch", "transformers", "ot", "hydra", "omegaconf", "pandas", "scipy", "sklearn")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all runs; the caches are beside it."""
    monkeypatch.setenv("ORCA_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))
    return tmp_path / "runs"


@contextmanager
def _running(run: Path) -> Iterator[None]:
    """Hold a run's lock as the process of a run does."""
    with open(run / "lock", "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _json(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def _refused(capsys: pytest.CaptureFixture[str], code: int, *words: object) -> str:
    """Return the one line of a command that has to be refused."""
    capsys.readouterr()
    assert main([*map(str, words)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("orca: error: ")
    assert err.count("\n") == 1
    return err


def _with_settings(run: Path, text: str, decided: dict[str, Any] | None = None) -> Path:
    (run / "config.yaml").write_text(text)
    if decided is not None:
        record = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps(record | {"decided": decided}))
    return run


@pytest.mark.parametrize("verb", ["list", "show", "diff", "rm", "gc"])
def test_nothing_heavy_is_loaded(root: Path, verb: str) -> None:
    runs = [add_run(root, seed=seed).name for seed in (0, 1)]
    words = {"show": runs[:1], "diff": runs, "rm": ["--yes", runs[0]]}.get(verb, [])
    code = (
        "import sys; from orca_cli.cli import main\n"
        f"code = main({['runs', verb, *words]!r})\n"
        f"print('CODE', code, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "CODE 0 []", done.stdout + done.stderr


def test_list_has_the_newest_first_and_what_is_broken_among_them(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [add_run(root).name, add_run(root, seed=1, state="failed").name]
    damaged = add_run(root, seed=2)
    (damaged / "result.json").write_text('{"schema": 1, ')
    future = add_run(root, seed=3)
    (future / "result.json").write_text('{"schema": 99}')
    half = root / "digits" / "2026-02-01_00-00-00.000000_minilm_otdd_full_s4_0123abcd"
    (half / "1_build").mkdir(parents=True)
    (root / "digits" / "notes").mkdir()
    (root / "digits" / "notes" / "plan.txt").write_text("mine")
    with _running(add_run(root, seed=5, state="finetune")):
        found = _json(capsys, "runs", "list")["runs"]
    states = [(one["run"], one["state"]) for one in found]
    assert [name for name, _ in states] == sorted((name for name, _ in states), reverse=True)
    assert {states.index((half.name, "unreadable")), states.index((damaged.name, "unreadable"))} <= set(range(6))
    assert (names[0], "completed") in states
    assert (names[1], "failed") in states
    assert "running" in {state for _, state in states}
    assert len(states) == 6
    reasons = {one["run"]: one["reason"] for one in found}
    assert "newer program" in reasons[future.name]
    assert "not valid JSON" in reasons[damaged.name]
    assert "NonFiniteError" in reasons[names[1]]
    assert found[-1]["bytes"] == sum(file.stat().st_size for file in (root / "digits" / names[0]).iterdir())


def test_list_marks_attempts_that_a_newer_one_replaces(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = add_run(root, state="failed"), add_run(root)
    found = _json(capsys, "runs", "list")["runs"]
    assert [(one["run"], one["replaced"]) for one in found] == [(new.name, False), (old.name, True)]


def test_list_filters_by_typed_composed_and_decided_settings(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = add_run(root, variant={"train.lr": "1e-4"})
    composed = _with_settings(add_run(root, seed=1), "train:\n  lr: 0.0001\n  clip: null\n")
    why = {"train.lr": {"value": 0.002, "why": "few samples"}}
    decided = _with_settings(add_run(root, seed=2, metric="none"), "train:\n  lr: null\n  clip: 1.0\n", why)

    def names(*words: str) -> set[str]:
        return {one["run"] for one in _json(capsys, "runs", "list", *words)["runs"]}

    assert names("--where", "train.lr=0.0001") == {typed.name, composed.name}
    assert names("--where", "train.lr=2e-3") == {decided.name}
    assert names("--where", "train.clip=null") == {composed.name}
    assert names("--where", "metric=otdd", "--where", "seed=0,1") == {typed.name, composed.name}
    assert names("--where", "state=completed", "--latest", "1") == {decided.name}
    assert "no run has train.lr=3" in _refused(capsys, 11, "runs", "list", "--where", "train.lr=3")
    _refused(capsys, 2, "runs", "list", "--where", "train.lr")
    _refused(capsys, 2, "runs", "list", "--latest", "0")


def test_show_tells_result_decisions_baselines_and_files(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = add_run(
        root,
        baselines={"linear": {"error": 0.25, "seconds": 1.0}},
        comparison={"text": "better than linear by 15 points"},
        decided={"train.lr": {"value": 2e-4, "why": "budget=normal"}},
    )
    assert main(["runs", "show", run.name[-8:]]) == 0
    out = capsys.readouterr().out
    for text in ("zero_one 10.00 % on 497", "linear 25.00 %", "better than linear", "train.lr=0.0002 (budget=normal)"):
        assert text in out
    record = _json(capsys, "runs", "show", run)["run"]
    assert record["result"] == json.loads((run / "result.json").read_text())
    assert record["files"] == {file.name: file.stat().st_size for file in sorted(run.iterdir())}


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [('{"schema": 1', 11, "not valid JSON"), ("[]", 11, "not a record"), ('{"schema": 2}', 21, "newer program")],
)
@pytest.mark.parametrize("verb", ["show", "diff"])
def test_a_damaged_run_is_one_line(
    root: Path, capsys: pytest.CaptureFixture[str], content: str, code: int, told: str, verb: str
) -> None:
    good, bad = add_run(root), add_run(root, seed=1)
    (bad / "result.json").write_text(content)
    assert told in _refused(capsys, code, "runs", verb, bad, *([good] if verb == "diff" else []))
    assert "no such run" in _refused(capsys, 11, "runs", verb, "missing", *([good] if verb == "diff" else []))


def test_diff_shows_what_differs_and_nothing_else(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = _with_settings(
        add_run(root, value=0.1), "train: {lr: 0.1, epochs: 3}\nseed: 0\n", {"train.clip": {"value": 1.0, "why": "x"}}
    )
    second = _with_settings(add_run(root, value=0.2, seed=1), "train: {lr: 0.1, epochs: 5, clip: 2}\nseed: 1\n", {})
    for run, version in ((first, "2.1"), (second, "2.2")):
        (run / "env.json").write_text(json.dumps({"schema": 1, "python": "3.11", "packages": {"torch": version}}))
    found = _json(capsys, "runs", "diff", first, second)
    assert found["settings"] == {"train.epochs": {"a": 3, "b": 5}, "seed": {"a": 0, "b": 1}, "train.clip": {"b": 2}}
    assert found["decided"] == {"train.clip": {"a": 1.0}}
    assert found["environment"] == {"torch": {"a": "2.1", "b": "2.2"}}
    assert found["results"]["zero_one"] == {"a": 0.1, "b": 0.2}
    (second / "config.yaml").write_text("train: [")
    found = _json(capsys, "runs", "diff", first, second)
    assert found["settings"] == {}
    assert "cannot be compared" in found["notes"][0]


def test_diff_shows_data_that_were_changed_and_not_those_that_were_moved(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("first", "edited", "moved", "weights")
    runs = dict(zip(names, (_with_settings(add_run(root), "seed: 0\n") for _ in names), strict=True))
    for name, path in {"edited": "/d/my.npz", "moved": "/e/my.npz", "first": "/d/my.npz"}.items():
        digest = f"sha256:{(name == 'edited') * 'b' or 'a' * 64}"
        (runs[name] / "env.json").write_text(json.dumps({"schema": 1, "files": {path: digest}}))
    for name in ("edited", "weights"):
        record = json.loads((runs[name] / "result.json").read_text())
        (runs[name] / "result.json").write_text(json.dumps(record | {"identity": name}))
    found = _json(capsys, "runs", "diff", runs["first"], runs["edited"])
    assert found["files"] == {"/d/my.npz": {"a": f"sha256:{'a' * 12}", "b": "sha256:b"}}
    assert (found["settings"], found["same_experiment"], found["notes"]) == ({}, False, [])
    found = _json(capsys, "runs", "diff", runs["first"], runs["moved"])
    assert (found["files"], found["same_experiment"], found["notes"]) == ({}, True, [])
    assert main(["runs", "diff", str(runs["first"]), str(runs["weights"])]) == 0
    out = capsys.readouterr().out
    assert "two experiments" in out
    assert "the files cannot be compared" in out
    assert "files: the same" not in out
    (runs["weights"] / "env.json").write_bytes((runs["first"] / "env.json").read_bytes())
    found = _json(capsys, "runs", "diff", runs["first"], runs["weights"])
    assert "not in their records" in found["notes"][0]


def test_rm_removes_the_run_and_nothing_else(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone, kept = add_run(root), add_run(root, seed=1)
    half = root / "digits" / "2026-02-01_00-00-00.000000_minilm_otdd_full_s4_0123abcd"
    half.mkdir()
    found = _json(capsys, "runs", "rm", gone, half, gone, "--yes")
    assert [one["run"] for one in found["removed"]] == [gone.name, half.name]
    assert [path.name for path in (root / "digits").iterdir() if path.name[0] != "."] == [kept.name]
    assert not list(root.rglob(f"{storage.disk.TEMPORARY}*"))


def test_rm_asks(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run = add_run(root)
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115 - closed with the test
    assert main(["runs", "rm", run.name]) == 2
    assert "--yes" in capsys.readouterr().err
    _refused(capsys, 2, "runs", "rm", run.name, "--json")
    monkeypatch.setattr(terminal, "confirmed", lambda question: False)
    assert main(["runs", "rm", run.name]) == 0
    assert run.exists()
    monkeypatch.setattr(terminal, "confirmed", lambda question: True)
    assert main(["runs", "rm", run.name]) == 0
    assert not run.exists()


def test_rm_leads_nowhere_else(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inside, outside = add_run(root), add_run(tmp_path / "other")
    (root / "away").symlink_to(outside.parent)
    (root / "digits" / outside.name).symlink_to(outside)
    places = {
        outside: 12,
        root / "away" / outside.name: 12,
        root / "digits" / outside.name: 12,
        root / "digits" / ".." / ".." / "other" / "digits" / outside.name: 12,
        root: 12,
        root / "digits": 11,
        tmp_path: 12,
    }
    for place, code in places.items():
        # The good run that is named with it stays as well.
        _refused(capsys, code, "runs", "rm", "--yes", inside, place)
    assert (outside / "result.json").exists()
    assert (inside / "result.json").exists()
    (inside / "3_finetune").symlink_to(outside)
    assert main(["runs", "rm", "--yes", str(inside)]) == 0
    assert not inside.exists()
    assert (outside / "result.json").exists()


def test_a_folder_of_runs_may_be_a_link_itself(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = add_run(tmp_path / "disk")
    root.symlink_to(tmp_path / "disk")
    assert main(["runs", "rm", "--yes", run.name]) == 0
    assert not run.exists()


def test_neither_rm_nor_gc_touches_a_run_that_is_running(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = add_run(root, state="finetune")
    (run / ".tmp-1-status.json").write_text("{")
    with _running(run):
        assert "works on this run" in _refused(capsys, 20, "runs", "rm", "--yes", run)
        assert _json(capsys, "runs", "gc", "--yes")["items"] == []
    assert (run / ".tmp-1-status.json").exists()
    assert [one["kind"] for one in _json(capsys, "runs", "gc", "--yes")["items"]] == ["interrupted write"]
    assert not (run / ".tmp-1-status.json").exists()
    assert (run / "status.json").exists()


def _aged(path: Path, days: float) -> Path:
    moment = time.time() - days * 86400
    for file in (*path.rglob("*"), path):
        os.utime(file, (moment, moment))
    return path


def _entry(cache: Path, kind: str, name: str, days: float) -> Path:
    with storage.commit_folder(cache / kind / name) as folder:
        (folder / "tensors.safetensors").write_bytes(b"x" * 1000)
    (cache / kind / f"{name}.lock").touch()
    return _aged(cache / kind / name, days)


def test_gc_is_dry_and_then_frees_what_it_said(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = tmp_path / "home" / "cache"
    done, unfinished, future = add_run(root), add_run(root, seed=1, state="interrupted"), add_run(root, seed=2)
    for run in (done, unfinished, future):
        (run / "3_finetune" / "checkpoints" / "step-00000010").mkdir(parents=True)
        (run / "3_finetune" / "checkpoints" / "step-00000010" / "model.safetensors").write_bytes(b"x" * 500)
    (future / "result.json").write_text('{"schema": 2}')
    (unfinished / "2_align").mkdir()
    (unfinished / "2_align" / "MANIFEST.json.bad-2026-01-01").write_text("{")
    half_removed = root / "digits" / ".tmp-del-7-run"
    half_removed.mkdir()
    _aged(half_removed, 1)
    lease = root / ".sweeps" / "digits-0" / "jobs" / ".tmp-lease"
    lease.parent.mkdir(parents=True)
    lease.touch()
    _aged(lease, 1)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (elsewhere / ".tmp-old").touch()
    _aged(elsewhere / ".tmp-old", 1)
    (root / ".searches").symlink_to(elsewhere)
    being_written = root / "digits" / ".tmp-abc"
    being_written.touch()
    (done / "a.bad-2026").symlink_to(elsewhere)
    old, used = _entry(cache, "alignments", "a" * 32, 40), _entry(cache, "alignments", "b" * 32, 3)
    locked = _entry(cache, "floors", "c" * 32, 40)
    foreign = cache / "datasets" / "mine"
    foreign.mkdir(parents=True)
    _aged(foreign, 100)
    expected = {
        done / "3_finetune" / "checkpoints": "checkpoints",
        unfinished / "2_align" / "MANIFEST.json.bad-2026-01-01": "moved aside",
        half_removed: "interrupted write",
        lease: "interrupted write",
        old: "cache",
    }
    kept = [unfinished / "3_finetune" / "checkpoints", future / "3_finetune" / "checkpoints", being_written]
    kept += [elsewhere / ".tmp-old"]
    kept += [used, locked, foreign, done / "result.json", done / "a.bad-2026"]
    with open(cache / "floors" / f"{'c' * 32}.lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for words in ([], ["--yes"]):
            found = _json(capsys, "runs", "gc", *words)
            assert {Path(one["path"]): one["kind"] for one in found["items"]} == expected
            assert found["dry"] is not bool(words)
            assert found["bytes"] >= 1500
            assert [path.exists() for path in expected] == [not words] * len(expected)
    assert all(path.exists() for path in kept)
    assert _json(capsys, "runs", "gc", "--days", "1000")["items"] == []


def test_gc_without_folders_finds_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "gc"]) == 0
    assert capsys.readouterr().out == "nothing to collect\n"
    shutil.rmtree(root, ignore_errors=True)
    _refused(capsys, 2, "runs", "gc", "--days", "-1")
