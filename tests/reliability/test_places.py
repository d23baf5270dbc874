"""C4 to C6: places that cannot hold runs, a run's folder that goes away, a log that cannot be written."""

from __future__ import annotations

import json
import os
import re

import pytest

from tests.cli.conftest import run_folders
from tests.reliability import places
from tests.reliability.conftest import SHORT, error_line, killed, outcome
from tests.tiers import count

# The file of data does not exist: where the place of the runs is sound, that is what is told (11).
WORDS = ["run", "task=arrays", "task.kind=classes", "task.train=nowhere.npz"]
LOGGED = [word for word in SHORT if word != "--quiet"]
HERE = "read-only, missing or odd places for runs / told before any work, or used"
LOGS = "log that cannot be written / run goes on, one warning"


def file(folder):
    (folder / "place").touch()
    return folder / "place"


def loop(folder):
    (folder / "back").symlink_to(folder / "place")
    (folder / "place").symlink_to(folder / "back")
    return folder / "place"


# name -> (exit code, part of the line, what makes the place); 11: it is used, as one that is not there is made
PLACES = {
    "read-only disk": (30, "cannot be written", None),
    "folder of another": (30, "cannot be written", None),
    "missing": (11, "nowhere.npz", lambda folder: folder / "place" / "a" / "b"),
    "file": (30, "blocks the path", lambda folder: file(folder) / "runs"),
    "4096 characters": (30, "File name too long", lambda folder: folder / "/".join(["d" * 99] * 41)),
    "not UTF-8, typed": (10, "is not a valid setting", lambda folder: folder / os.fsdecode(b"place\xff")),
    "not UTF-8, in ORCA_RUNS": (11, "nowhere.npz", lambda folder: folder / os.fsdecode(b"place\xff")),
    "loop of links": (30, "a link that does not lead to a folder", loop),
}  # fmt: skip


def make(how, folder, mounted, not_run):
    """Make a place; returns its path and the hook that the fault needs."""
    if PLACES[how][2] is not None:
        return PLACES[how][2](folder), ""
    place = folder / "place"
    place.mkdir()
    if how == "read-only disk":
        mounted(HERE, place, "-t", "tmpfs", "-o", "ro", "tmpfs")
        with pytest.raises(OSError, match="Read-only"):
            (place / "premise").touch()
        return place, ""
    if os.geteuid() != 0:
        not_run(HERE, "only root can make a folder of another user's")
    os.chown(place, 65534, 65534)
    return place, f"tests.reliability.places:without_privileges:{place}"


@pytest.mark.parametrize("how", PLACES)
def test_a_place_that_cannot_hold_runs(fork, tmp_path, mounted, not_run, counted, how):
    """C4: told before the data are looked for, and nothing is made anywhere."""
    code, words, _ = PLACES[how]
    place, hook = make(how, tmp_path, mounted, not_run)
    before = places.tree(tmp_path)
    if how == "not UTF-8, in ORCA_RUNS":
        case = fork(*WORDS, more={"ORCA_RUNS": str(place)})
    else:
        case = fork(*WORDS, f"paths.runs={place}", hook=hook)
    if case.wait(600) == places.DENIED:
        not_run(HERE, f"{how}: it can be written all the same")
    line = error_line(case, code)
    assert words in line
    assert ";" in line, "there is no hint"
    new = places.tree(tmp_path) - before
    if code == 11:
        (run,) = run_folders(place)
        assert json.loads((run / "env.json").read_text())["packages"]["torch"]
    counted(HERE, code == 11 or not new, new)


WAYS = [(how, when) for when in ("align", "finetune", "build", "test") for how in places.VANISH]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "when"), WAYS[:: count(pr=5, nightly=1)])  # 5: each way once
def test_the_folder_of_a_run_goes_away(fork, small, tmp_path, counted, how, when):
    """C5: code 30 at the next write; no part of the folder is made again, there or elsewhere."""
    runs, mark = tmp_path / "work" / "runs", tmp_path / "left.json"
    runs.mkdir(parents=True)
    words = [
        "run",
        *small,
        *SHORT,
        f"paths.cache={tmp_path / 'cache'}",
        f"paths.runs={runs}",
    ]  # no finished alignment
    case = fork(*words, hook=f"tests.reliability.places:vanish:{when}:1:{how}:{runs}:{mark}")
    line = error_line(case, 30)
    assert mark.exists(), "the folder did not go away while the run was alive"
    assert "was deleted, renamed or replaced" in line
    new = places.tree(runs.parent) - set(json.loads(mark.read_text()))
    assert not new, f"made after the folder had gone: {new}"
    case = fork(*words)
    assert case.wait(600) == 0, case.err
    assert len(list(runs.glob("*/*/result.json"))) == 1
    counted("run's folder deleted, renamed or replaced under it / told, nothing made anew")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["", "full disk", "no reader"][: count(pr=2, nightly=3)])
def test_a_log_that_cannot_be_written(
    environment, fork, small, expected, tmp_path, mounted, counted, place
):
    """C6: the run ends as it would have, and says once that its log is not whole; a place is that of standard error."""
    words = [*small, *LOGGED, f"paths.cache={tmp_path / 'cache'}"]
    assert killed(fork, words, environment, "align", 2)
    (run,) = run_folders(environment)
    log = run / "run.log"
    if not place:
        mounted(LOGS, log, "--bind", "/dev/full")
        with pytest.raises(OSError, match="No space"), open(log, "a") as file:
            file.write("premise")
    before = log.read_text() if place else ""
    case = fork("run", *words, hook=f"tests.reliability.places:errors_to:{place}" if place else "")
    assert case.wait(600) == 0, case.err
    assert outcome(run) == expected
    assert not re.search("Traceback|--- Logging error ---", case.err)
    lost = log.read_text().removeprefix(before) if place else case.err
    warnings = [
        line
        for line in lost.splitlines()
        if "the work continues" in line or "standard error only" in line
    ]
    counted(LOGS, len(warnings) == 1, lost)
