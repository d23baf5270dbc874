"""Broken and foreign folders: every one is listed with its reason, and the good runs are read all the same."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orca_cli import storage
from orca_cli.exceptions import DataError
from orca_cli.report.records import collect as module
from orca_cli.report.records.collect import collect
from tests.report.trees import add_run

RUN = "2026-02-01_10-00-00.000000_minilm_otdd_full_s9_00000000"


def _edit(**changes: Any) -> Callable[[Path], None]:
    """Return a function that replaces keys of a result record; `error_value` and the like reach into `error`."""

    def edit(path: Path) -> None:
        record = json.loads((path / "result.json").read_text())
        for key, value in changes.items():
            if key.startswith("error_"):
                record["error"][key.removeprefix("error_")] = value
            else:
                record[key] = value
        (path / "result.json").write_text(json.dumps(record))

    return edit


def _cut(path: Path) -> None:
    file = path / "result.json"
    file.write_text(file.read_text()[:100])


def _only_status(text: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / "result.json").unlink()
        (path / "status.json").write_text(text)

    return change


def _pipe(path: Path) -> None:
    (path / "result.json").unlink()
    os.mkfifo(path / "result.json")


def _loop(path: Path) -> None:
    (path / "result.json").unlink()
    (path / "result.json").symlink_to("result.json")


def _empty(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty folder": (_empty, "no status.json"),
    "cut off": (_cut, "not valid JSON"),
    "binary": (lambda path: (path / "result.json").write_bytes(b"\xff\xfe\x00"), "not valid JSON"),
    "deep nesting": (lambda path: (path / "result.json").write_text("[" * 200_000), "not valid JSON"),
    "deep nesting of a value": (
        _edit(decided={"train.epochs": {"value": functools.reduce(lambda inner, _: [inner], range(900), 1)}}),
        "nested too deeply",
    ),
    "a list": (_only_status("[1, 2]"), "not a record but list"),
    "newer schema": (_edit(schema=99), "schema 99 is of a newer program"),
    "no schema": (_edit(schema=None), "schema is None"),
    "NaN": (_edit(error_value=float("nan")), "value is not finite"),
    "infinity": (_edit(trivial_error=float("inf")), "trivial_error is not finite"),
    "huge integer": (_edit(error_value=10**400), "value is not finite"),
    "seed is text": (_edit(seed="0"), "seed is not a whole number"),
    "no task": (_edit(task=None), "task is missing"),
    "error is text": (_edit(error="0.1"), "error is missing"),
    "value is text": (_edit(error_value="0.1"), "value is not a number"),
    "not completed": (_edit(state="failed"), "state is 'failed'"),
    "completed without a result": (lambda path: (path / "result.json").unlink(), "but there is no result.json"),
    "unknown state": (_only_status('{"schema": 1, "state": "dancing"}'), "unknown state 'dancing'"),
    "named pipe": (_pipe, "not a file"),
    "symlink loop": (_loop, "symbolic links"),
    "far too large": (lambda path: (path / "result.json").write_bytes(b" " * 2**21), "far too large"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_run_is_listed_with_its_reason(tmp_path: Path, damage: str) -> None:
    change, words = DAMAGES[damage]
    add_run(tmp_path, value=0.25)
    change(add_run(tmp_path, seed=9, name=RUN))
    collection = collect([tmp_path])
    assert [run.score.value for run in collection.runs if run.score] == [0.25]
    assert len(collection.runs) == 1
    (broken,) = collection.broken
    assert broken.path == tmp_path / "digits" / RUN
    assert words in broken.reason


def test_a_folder_without_permission_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_run(tmp_path)
    path = add_run(tmp_path, seed=9)
    scandir = os.scandir

    def refuse(folder: Path) -> Any:
        if Path(folder) == path:
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(module.os, "scandir", refuse)
    collection = collect([tmp_path])
    assert len(collection.runs) == 1
    assert [(entry.path, entry.reason) for entry in collection.broken] == [(path, "Permission denied")]


def test_foreign_entries_and_loops_are_passed_over(tmp_path: Path) -> None:
    add_run(tmp_path)
    (tmp_path / "digits" / ".locks").mkdir()
    (tmp_path / ".sweeps" / RUN).mkdir(parents=True)
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "figures").mkdir()
    (tmp_path / "digits" / "again").symlink_to(tmp_path)
    collection = collect([tmp_path])
    assert (len(collection.runs), collection.broken) == (1, [])
    (tmp_path / "loop").symlink_to("loop")
    collection = collect([tmp_path])
    assert (len(collection.runs), len(collection.broken)) == (1, 1)


def test_all_levels_can_be_named_and_a_run_counts_once(tmp_path: Path) -> None:
    path = add_run(tmp_path)
    add_run(tmp_path, task="ecg")
    assert [len(collect([folder]).runs) for folder in (tmp_path, tmp_path / "digits", path)] == [2, 1, 1]
    collection = collect([path, tmp_path, tmp_path / "digits"])
    assert (len(collection.runs), collection.superseded) == (2, [])


@pytest.mark.parametrize("exists", [False, True])
def test_nothing_there_says_what_to_type(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "runs"
    if exists:
        folder.mkdir()
    with pytest.raises(DataError, match="orca run"):
        collect([folder])


def test_a_living_run_is_running_and_a_killed_one_dead(tmp_path: Path) -> None:
    path = add_run(tmp_path, state="align")
    with storage.lock(path / "lock"):
        (run,) = collect([tmp_path]).runs
        assert (run.state, run.reason) == ("running", "in stage align")
    (run,) = collect([tmp_path]).runs
    assert run.state == "dead"


def test_a_run_on_another_machine_is_judged_by_its_heartbeat(tmp_path: Path) -> None:
    path = add_run(tmp_path, state="align")
    status = json.loads((path / "status.json").read_text())
    (path / "status.json").write_text(json.dumps(status | {"host": "elsewhere"}))
    (run,) = collect([tmp_path]).runs
    assert run.state == "running"
    long_ago = time.time() - 4 * storage.HEARTBEAT_S
    os.utime(path / "lock", (long_ago, long_ago))
    (run,) = collect([tmp_path]).runs
    assert run.state == "dead"


def test_a_run_that_ends_while_it_is_looked_at_is_not_called_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = add_run(tmp_path, state="finetune")
    finished = add_run(tmp_path / "finished", value=0.3) / "result.json"

    def finish(lock: Path) -> bool:
        (path / "result.json").write_text(finished.read_text())
        return False

    monkeypatch.setattr(storage, "is_locked", finish)
    (run,) = collect([tmp_path / "digits"]).runs
    assert run.state == "completed"


def test_runs_are_left_as_they_are(tmp_path: Path) -> None:
    add_run(tmp_path)
    for seed, state in enumerate(("failed", "align", "interrupted"), start=1):
        add_run(tmp_path, seed=seed, state=state)
    before = {str(path): path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    collect([tmp_path])
    assert {str(path): path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_was_called_otdd_is_otdd_by_class_in_records_of_the_first_schema(tmp_path):
    add_run(tmp_path, metric="otdd")
    earlier = add_run(tmp_path, metric="otdd", seed=1)
    for path in (earlier / "result.json", earlier / "status.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 1}))
    assert {run.seed: run.metric for run in collect([tmp_path]).runs} == {0: "otdd", 1: "otdd_by_class"}
