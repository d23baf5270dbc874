"""Broken and unrelated folders: each is listed with its reason, and the good runs are read anyway."""

import functools
import json
import os

import pytest

from orca_cli import storage
from orca_cli.report.collect import collect
from tests.report.trees import add_run

RUN = "2026-02-01_10-00-00.000000_minilm_otdd_full_s9_00000000"


def status(text):
    return lambda result: result.with_name("status.json").write_text(text)


DEEP = {"train.epochs": {"value": functools.reduce(lambda inner, _: [inner], range(900), 1)}}
DAMAGES = {  # fields of a record, the content of its file, or a function that replaces the file
    "empty folder": (
        lambda result: [file.unlink() for file in result.parent.iterdir()],
        "no status.json",
    ),
    "cut off": (b'{"schema": 2, "run_id"', "not valid JSON"),
    "deep nesting": (b"[" * 200_000, "not valid JSON"),
    "deep nesting of a value": ({"decided": DEEP}, "recursion"),
    "a list": (status("[1, 2]"), "must be a JSON object, got list"),
    "newer schema": ({"schema": 99}, "schema 99 of a newer program"),
    "NaN": ({"error": {"value": float("nan")}}, "value is not a finite number"),
    "huge integer": ({"error": {"value": 10**400}}, "value is not a finite number"),
    "seed is text": ({"seed": "0"}, "seed must be an integer"),
    "error is text": (b'{"schema": 2, "state": "completed", "error": "0.1"}', "error is missing"),
    "not completed": (b'{"schema": 2, "state": "failed"}', "state is 'failed'"),
    "completed without a result": (lambda result: None, "but there is no result.json"),
    "named pipe": (os.mkfifo, "not a regular file"),
    "symlink loop": (lambda result: result.symlink_to(result.name), "symbolic links"),
    "far too large": (b" " * 2**21, "too large for a record"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=list(DAMAGES))
def test_a_broken_run_is_listed_with_its_reason(tmp_path, damage, reason):
    add_run(tmp_path, value=0.25)
    fields = damage if isinstance(damage, dict) else {}
    folder = add_run(tmp_path, name=RUN, **{"seed": 9} | fields)
    result = folder / "result.json"
    if isinstance(damage, bytes):
        result.write_bytes(damage)
    elif not fields:
        result.unlink()
        damage(result)
    collection = collect([tmp_path])
    assert [run.score.value for run in collection.runs] == [0.25]
    (broken,) = collection.broken
    assert broken.path == folder
    assert reason in broken.reason


def test_broken_runs_are_listed_by_their_paths(tmp_path):
    names = [f"{RUN}{number}" for number in (2, 0, 1)]
    folders = [add_run(tmp_path, name=name, schema=99) for name in names]
    assert [broken.path for broken in collect([tmp_path]).broken] == sorted(folders)


def test_a_run_that_ends_meanwhile_is_not_called_dead(tmp_path, monkeypatch):
    path = add_run(tmp_path, state="finetune")
    finished = add_run(tmp_path / "finished", value=0.3) / "result.json"

    def finish(lock):
        (path / "result.json").write_text(finished.read_text())
        return False

    monkeypatch.setattr(storage, "is_locked", finish)
    (run,) = collect([tmp_path / "digits"]).runs
    assert run.state == "completed"


def test_a_result_of_an_older_program_is_broken(tmp_path):
    add_run(tmp_path, metric="otdd")
    path = add_run(tmp_path, metric="otdd", seed=1) / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 1}))
    collected = collect([tmp_path])
    assert [run.seed for run in collected.runs] == [0]
    assert len(collected.broken) == 1


def test_foreign_entries_and_loops_are_passed_over(tmp_path):
    add_run(tmp_path)
    add_run(tmp_path, seed=1, state="align")
    (tmp_path / ".sweeps" / RUN).mkdir(parents=True)
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "digits" / "again").symlink_to(tmp_path)
    collection = collect([tmp_path])
    assert (len(collection.runs), collection.broken) == (2, [])
    (tmp_path / "loop").symlink_to("loop")
    collection = collect([tmp_path])
    assert (len(collection.runs), len(collection.broken)) == (2, 1)


def test_a_run_counts_once_by_whatever_level_it_is_named(tmp_path):
    path = add_run(tmp_path)
    add_run(tmp_path, seed=1)
    add_run(tmp_path, task="ecg")
    assert [len(collect([folder]).runs) for folder in (tmp_path / "digits", path)] == [2, 1]
    collection = collect([path, tmp_path, tmp_path / "digits"])
    assert (len(collection.runs), collection.superseded) == (3, [])
