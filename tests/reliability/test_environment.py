"""Rows J1 to J5: what a machine lacks is told in one line with the right code, before data are read."""

import os
import resource
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.cli.conftest import ROOT
from tests.tiers import count

pytestmark = pytest.mark.slow

DRY = ["run", "--dry-run"]


@pytest.fixture
def process(environment, tmp_path):
    """Run the command line in a process of its own; returns (exit code, standard error, seconds)."""

    def call(*words, more=None, without=(), **settings):
        variables = {name: value for name, value in os.environ.items() if name not in without}
        variables |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | (more or {})
        start = time.monotonic()
        command = [sys.executable, "-m", "orca_cli", *map(str, words)]
        done = subprocess.run(
            command, env=variables, stderr=subprocess.PIPE, text=True, timeout=180, check=False, **settings
        )
        return done.returncode, done.stderr, time.monotonic() - start

    return call


def told(result, code, *words):
    """Return whether a call ended with one line of error that says all of `words`."""
    actual, err, _ = result
    lines = [line for line in err.splitlines() if line.startswith("orca: error:")]
    return actual == code and len(lines) == 1 and "Traceback" not in err and all(word in lines[0] for word in words)


# Package -> (files to make, words, extra that the message has to name)
OPTIONAL = {
    "PIL": (["own/a/1.png", "own/b/1.png"], ["task=images", "task.path=own"], "images"),
    "pyarrow": (["own.parquet"], ["task=table", "task.train=own.parquet", "task.target=y"], "tables"),
    "datasets": ([], ["task=hub", "task.dataset=own/set", "task.x=x", "task.y=y"], "datasets"),
}


@pytest.mark.parametrize("package", OPTIONAL)
def test_optional_package_is_missing(process, tmp_path, scorecard, package):
    """J1: code 14 with the extra that brings it."""
    files, words, extra = OPTIONAL[package]
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"PAR1" if name.endswith("parquet") else b"\x89PNG")
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    result = process(*DRY, *words, more={"PYTHONPATH": path})
    passed = told(result, 14, f"orca-transfer[{extra}]")
    scorecard.add("optional package missing", cases=1, passed=int(passed), target=len(OPTIONAL))
    assert passed, result


@pytest.fixture
def silent_server():
    """A server that takes connections and never answers; returns its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    held = []

    def accept():
        while True:
            try:
                held.append(listening.accept()[0])
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    yield listening.getsockname()[1]
    listening.close()
    for connection in held:
        connection.close()


@pytest.mark.parametrize("how", ["no such host", "refused", "proxy refuses", "hangs"][: count(pr=4, nightly=4)])
def test_no_network(process, tmp_path, silent_server, scorecard, how):
    """J2: code 15 within ten seconds beyond the start, and where to put what could not be fetched."""
    places = {
        "no such host": {"HF_ENDPOINT": "https://no-such-host.invalid"},
        "refused": {"HF_ENDPOINT": "http://127.0.0.1:9"},
        "proxy refuses": {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"},
        "hangs": {"HF_ENDPOINT": f"http://127.0.0.1:{silent_server}"},
    }
    more = places[how] | {"HF_HOME": str(tmp_path / "hub"), "NO_PROXY": ""}
    _, _, start_up = process("run", "--dry-run", "body.checkpoint=./nowhere", more=more)
    result = process(*DRY, "body.checkpoint=nobody/nothing", more=more, without=("HF_HUB_OFFLINE",))
    passed = told(result, 15, "body.checkpoint=FOLDER")
    scorecard.add("no network: told in time", cases=1, passed=int(passed), target=4, note=f"{how}: {result[2]:.1f} s")
    assert passed, result
    # Beyond what it takes to start, read the data and import: that is slower where others use the machine.
    assert result[2] < 10 + 6 * start_up


@pytest.mark.parametrize(("device", "code"), [("cuda", 14), ("cuda:7", 14), ("mps", 14), ("gpu", 10)])
def test_absent_device(process, environment, scorecard, device, code):
    """J3: told before the data are read: the file does not even exist."""
    import torch

    if device == "cuda" and torch.cuda.is_available() or device == "mps" and torch.backends.mps.is_available():
        scorecard.not_run("absent device", f"{device} is there")
        pytest.skip(f"{device} is there")
    words = ["task=arrays", "task.kind=classes", "task.train=nowhere.npz", f"device={device}"]
    result = process("run", *words)
    passed = told(result, code, "device", "cpu")
    scorecard.add("absent device", cases=1, passed=int(passed), target=4)
    assert passed, result


def closed(number):
    return lambda: os.close(number)


@pytest.mark.parametrize(
    "how", ["no HOME", "read-only HOME", "LANG=C", "20 columns", "dumb terminal", "no stdin", "no stdout", "no stderr"]
)
def test_odd_surroundings(process, tmp_path, small, scorecard, how):
    """J4: a dry run works, whatever terminal, language and home it has."""
    settings = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    more, without = {}, ()
    if how == "no HOME":
        without = ("HOME",)
    elif how == "read-only HOME":
        more = {"HOME": "/proc"}  # nobody can write there, root neither
    elif how == "LANG=C":
        more = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}
    elif how == "20 columns":
        more = {"COLUMNS": "20"}
    elif how == "dumb terminal":
        more = {"TERM": "dumb"}
    else:
        number = {"no stdin": 0, "no stdout": 1, "no stderr": 2}[how]
        settings |= {"preexec_fn": closed(number)}
    code, err, _ = process(*DRY, *small, more=more, without=without, **settings)
    passed = code == 0 and "Traceback" not in err
    scorecard.add("odd surroundings", cases=1, passed=int(passed), target=8)
    assert passed, f"{code} {err}"


@pytest.mark.parametrize("how", ["64 files", "1 processor", "3 GiB of memory"])
def test_little_of_everything(process, small, scorecard, how):
    """J5: it works, or it says that memory or files are short; it does not hang."""

    def limit():
        if how == "64 files":
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        elif how == "1 processor":
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        else:
            resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))

    result = process(*DRY, *small, stdout=subprocess.DEVNULL, preexec_fn=limit)
    passed = result[0] == 0 or told(result, 30) or told(result, 31)
    scorecard.add("little memory, files, processors", cases=1, passed=int(passed), target=3)
    assert passed, result
