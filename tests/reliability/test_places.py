"""C4 to C6: places that cannot hold runs, a run's folder that goes away, a log that cannot be written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, run_folders
from tests.reliability import places
from tests.reliability.conftest import count
from tests.reliability.processes import error_line
from tests.reliability.test_kills import SHORT, completed, killed, outcome

# The file of data does not exist: where the place of the runs is sound, that is what is told (11).
WORDS = ["run", "task=arrays", "task.kind=classes", "task.train=nowhere.npz"]
LOGGED = [word for word in SHORT if word != "--quiet"]
HERE = "read-only, missing or odd places for runs / told before any work, or used"
GONE = "run's folder deleted, renamed or replaced under it / told, nothing made anew"
LOGS = "log that cannot be written / run goes on, one warning"


@pytest.fixture
def mounted(scorecard):
    """Return a function that mounts something until the end of the test, or counts the figure as not run."""
    done = []

    def call(figure, place, *words):
        problem = places.mount(place, *words)
        if problem:
            scorecard.not_run(figure, problem)
            pytest.skip(problem)
        done.append(place)

    yield call
    for place in reversed(done):
        subprocess.run(["umount", "-l", str(place)], check=False)


def long_path(folder):
    place = folder
    while len(str(place)) < 4096:
        place = place / ("d" * 99)
    with pytest.raises(OSError, match="too long"):
        os.stat(place)
    return place


def below_a_file(folder):
    (folder / "place").touch()
    return folder / "place" / "runs"


def link(folder, target):
    (folder / "back").symlink_to(folder / "place")
    (folder / "place").symlink_to(target)
    return folder / "place"


FILE, LONG, LINK = "a file stands where a folder is needed", "the path is too long", "a link that leads to no folder"
# name -> (exit code, part of the line, what makes the place); 11: it is used, as one that is not there is made
PLACES = {
    "read-only disk": (30, "cannot be written", None),
    "folder of another": (30, "cannot be written", None),
    "missing": (11, "nowhere.npz", lambda folder: folder / "place" / "a" / "b"),
    "file": (30, FILE, lambda folder: below_a_file(folder).parent),
    "below a file": (30, FILE, below_a_file),
    "4096 characters": (30, LONG, long_path),
    "name of 300 characters": (30, LONG, lambda folder: folder / ("d" * 300)),
    "not UTF-8, typed": (10, "is not an override", lambda folder: folder / os.fsdecode(b"place\xff")),
    "not UTF-8, in ORCA_RUNS": (11, "nowhere.npz", lambda folder: folder / os.fsdecode(b"place\xff")),
    "loop of links": (30, LINK, lambda folder: link(folder, folder / "back")),
    "link to nothing": (30, LINK, lambda folder: link(folder, "/nowhere/at/all")),
    "below /proc": (30, "/proc/nowhere", lambda folder: Path("/proc/nowhere")),
}


def make(how, folder, mounted, scorecard):
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
        scorecard.not_run(HERE, "only root can make a folder of another user's")
        pytest.skip("not root")
    os.chown(place, 65534, 65534)
    return place, f"tests.reliability.places:without_privileges:{place}"


@pytest.mark.parametrize("how", PLACES)
def test_a_place_that_cannot_hold_runs(fork, tmp_path, mounted, scorecard, how):
    """C4: told before the data are looked for, and nothing is made anywhere."""
    code, words, _ = PLACES[how]
    place, hook = make(how, tmp_path, mounted, scorecard)
    before = places.tree(tmp_path)
    if how == "not UTF-8, in ORCA_RUNS":
        case = fork(*WORDS, more={"ORCA_RUNS": str(place)})
    else:
        case = fork(*WORDS, f"paths.runs={place}", hook=hook)
    start = time.monotonic()
    code_seen = case.wait(60)
    seconds = time.monotonic() - start
    if code_seen == places.DENIED:
        scorecard.not_run(HERE, f"{how}: it can be written all the same")
        pytest.skip("the premise does not hold")
    line = error_line(case, code)
    assert words in line
    assert ";" in line, "there is no hint"
    if code == 11:
        (run,) = run_folders(place)
        top = str(tmp_path / place.relative_to(tmp_path).parts[0])
        assert all(path.startswith(top) for path in places.tree(tmp_path) - before)
        assert json.loads((run / "env.json").read_text())["packages"]["torch"]
    else:
        assert places.tree(tmp_path) == before
    note = "" if code == 11 else f"{how}: {seconds:.1f} s"
    scorecard.add(HERE, cases=1, passed=1, target=1, note=note)


@pytest.mark.slow
def test_a_whole_run_in_a_folder_that_is_no_unicode(fork, small, tmp_path, monkeypatch):
    """C4: its records name the folder, and can be read again; the run is found again as completed."""
    folder = tmp_path / os.fsdecode(b"here\xff")
    folder.mkdir()
    monkeypatch.chdir(folder)
    for _ in range(2):
        case = fork("run", *small, *SHORT, "paths.runs=runs")
        assert case.wait(240) == 0, case.err
    (run,) = run_folders(folder / "runs")
    assert json.loads((run / "env.json").read_text())["folder"] == str(folder)
    checked = fork("doctor", str(run))
    assert checked.wait(60) == 0, checked.err


WHEN = ("align", "finetune", "build", "test")
WAYS = [(how, when) for when in WHEN for how in places.VANISH]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "when"), WAYS[:: count(pr=8, nightly=1)], ids=lambda word: word.replace(" ", "-"))
def test_the_folder_of_a_run_goes_away(fork, small, tmp_path, scorecard, how, when):
    """C5: code 30 at the next write; no part of the folder is made again, there or elsewhere."""
    runs, mark = tmp_path / "work" / "runs", tmp_path / "left.json"
    runs.mkdir(parents=True)
    words = ["run", *small, *SHORT, f"paths.cache={tmp_path / 'cache'}", f"paths.runs={runs}"]  # no finished alignment
    case = fork(*words, hook=f"tests.reliability.places:vanish:{when}:1:{how}:{runs}:{mark}")
    line = error_line(case, 30)
    assert mark.exists(), "the folder did not go away while the run was alive"
    assert "was deleted, renamed or replaced" in line
    new = places.tree(runs.parent) - set(json.loads(mark.read_text()))
    assert not new, f"made after the folder had gone: {new}"
    if how == "all runs renamed":
        (runs.parent / "elsewhere").rename(runs)
    elif how == "renamed":
        (renamed,) = runs.glob("*/renamed")
        name = json.loads((renamed / "status.json").read_text())["run_id"]
        renamed.rename(renamed.with_name(name))
    case = fork(*words)
    assert case.wait(240) == 0, case.err
    assert len(list(runs.glob("*/*/result.json"))) == 1
    scorecard.add(GONE, cases=1, passed=1, target=1)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with a run that was killed on its way, and what it would have ended with; filled by its first user."""
    return tmp_path_factory.mktemp("begun"), {}


LOG_FAULTS = ["full disk", "standard error on a full disk", "folder", "disk that fills"]
LOG_FAULTS += ["standard error without reader"]


@pytest.mark.slow
@pytest.mark.parametrize("how", LOG_FAULTS[: count(pr=2, nightly=5)])
def test_a_log_that_cannot_be_written(environment, fork, small, tmp_path, mounted, begun, scorecard, how):
    """C6: the run ends as it would have, and says once that its log is not whole."""
    folder, expected = begun
    words = [*small, *LOGGED]
    if not expected:
        expected |= completed(fork, words, folder / "whole")
        assert killed(fork, [*words, f"paths.cache={folder / 'cache'}"], folder / "killed", "align", 2, 0.0)
    runs = tmp_path / "runs"
    shutil.copytree(folder / "killed", runs)
    (run,) = run_folders(runs)
    spoil(how, run / "run.log", tmp_path, mounted)
    before = (run / "run.log").read_text() if how.startswith("standard error") else ""
    err = without_log(["run", *words, f"paths.runs={runs}"], how)
    assert outcome(run) == expected
    assert "Traceback" not in err
    assert "--- Logging error ---" not in err
    lost = err if not before else (run / "run.log").read_text().removeprefix(before)
    warnings = [line for line in lost.splitlines() if "the work goes on" in line or "standard error only" in line]
    assert len(warnings) == 1, lost
    scorecard.add(LOGS, cases=1, passed=1, target=1)


def spoil(how, log, folder, mounted):
    """Make a log unwritable, and see that it is."""
    if how == "folder":
        log.unlink()
        log.mkdir()
    elif how == "full disk":
        mounted(LOGS, log, "--bind", "/dev/full")
        with pytest.raises(OSError, match="No space"), open(log, "a") as file:
            file.write("premise")
    elif how == "disk that fills":
        disk = folder / "disk"
        disk.mkdir()
        mounted(LOGS, disk, "-t", "tmpfs", "-o", "size=4k", "tmpfs")
        (disk / "log").write_bytes(b"\n" * (os.sysconf("SC_PAGE_SIZE") - 100))
        assert os.statvfs(disk).f_bavail == 0
        mounted(LOGS, log, "--bind", str(disk / "log"))


def without_log(words, how) -> str:
    """Run to the end in a process of its own; returns standard error, where it can be read."""
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    reader, writer = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    err = {"standard error on a full disk": full, "standard error without reader": writer}.get(how, subprocess.PIPE)
    settings = {"env": variables, "stdout": subprocess.DEVNULL, "stderr": err, "text": True, "timeout": 300}
    done = subprocess.run([sys.executable, "-m", "orca_cli", *words], check=False, **settings)
    os.close(writer)
    os.close(full)
    assert done.returncode == 0, done.stderr
    return done.stderr or ""


@pytest.mark.slow
def test_a_bug_whose_traceback_has_no_place(fork, small, tmp_path):
    """C6: error.log cannot be written: the failure is told and recorded all the same."""
    runs = tmp_path / "runs"
    words = ["run", *small, *SHORT, f"paths.cache={tmp_path / 'cache'}", f"paths.runs={runs}"]
    assert killed(fork, words[1:-1], runs, "align", 1, 0.0)
    (run,) = run_folders(runs)
    (run / "error.log").mkdir()
    (run / "error.log" / "full").touch()
    case = fork(*words, hook="tests.reliability.places:broken_metric:")
    assert "--traceback shows where" in error_line(case, 1)
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
