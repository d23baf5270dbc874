"""J2 to J5: what a machine lacks is told in one line with the right code, before data are read."""

import os
import resource
import shutil
import socket
import subprocess
import sys
import threading

import pytest
import torch

from tests.reliability.processes import process, reports_error, with_site  # noqa: F401 - a fixture
from tests.tiers import count

pytestmark = pytest.mark.slow

DRY = ["run", "--dry-run"]
NO_DATA = ["task=arrays", "task.kind=classes", "task.train=nowhere.npz"]
LITTLE = "little memory, files, processors, threads"


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
def test_no_network(process, tmp_path, silent_server, scorecard, how):  # noqa: F811
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
    passed = reports_error(result, 15, "body.checkpoint=FOLDER")
    scorecard.add("no network: told in time", cases=1, passed=int(passed), target=1, note=f"{how}: {result[2]:.1f} s")
    assert passed, result
    # Beyond what it takes to start, read the data and import: that is slower where others use the machine.
    assert result[2] < 10 + 6 * start_up


# (device, precision, exit code, words)
ABSENT = [(device, "fp32", 14, ["device", "cpu"]) for device in ("cuda", "cuda:7", "mps")]
ABSENT += [("gpu", "fp32", 10, ["device", "cpu"]), ("cpu", "fp16", 10, ["precision", "fp16 needs a GPU"])]


@pytest.mark.parametrize(("device", "precision", "code", "words"), ABSENT)
def test_absent_device_or_precision(process, environment, scorecard, counted, device, precision, code, words):  # noqa: F811
    """J3: told before the data are read, which do not even exist, and before a folder is made."""
    if device == "cuda" and torch.cuda.is_available() or device == "mps" and torch.backends.mps.is_available():
        scorecard.not_run("absent device", f"{device} is there")
        pytest.skip(f"{device} is there")
    result = process("run", *NO_DATA, f"device={device}", f"precision={precision}")
    passed = reports_error(result, code, *words) and not environment.exists()
    counted("absent device", passed, (result, "runs were made" if environment.exists() else ""))


def test_a_run_keeps_its_records_where_the_device_is_absent(orca, environment, small):
    """J3: a run that is not completed stays as it was; a completed one needs no device."""
    if torch.cuda.device_count() > 7:
        pytest.skip("cuda:7 is there")
    words = ["run", *small, "align.epochs=1", "train.epochs=1", "train.warmup_epochs=0"]
    assert orca(*words, "device=cpu")[0] == 0
    assert orca(*words, "device=cuda:7")[0] == 0
    (status,) = environment.glob("*/*/status.json")
    (status.parent / "result.json").unlink()
    before = status.read_bytes()
    assert orca(*words, "device=cuda:7")[0] == 14
    assert status.read_bytes() == before


# Where Python finds no folder for temporary files it raises; the premise is asked for before the program starts.
NO_TEMPORARY = """
import tempfile
tempfile._candidate_tempdir_list = lambda: ["/nowhere"]
try:
    tempfile.gettempdir()
except FileNotFoundError:
    open({mark!r}, "w").close()
"""
# name -> settings of the process
SURROUNDINGS = {
    "no HOME": {"without": ("HOME",)},
    "read-only HOME": {"more": {"HOME": "/proc"}},  # nobody can write there, root neither
    "LANG=C": {"more": {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}},
    "20 columns": {"more": {"COLUMNS": "20"}},
    "dumb terminal": {"more": {"TERM": "dumb"}},
    "no stdin": {"preexec_fn": lambda: os.close(0)},
    "no stdout": {"preexec_fn": lambda: os.close(1)},
    "no stderr": {"preexec_fn": lambda: os.close(2)},
    "no TMPDIR": {},
}


@pytest.mark.parametrize("how", SURROUNDINGS)
def test_odd_surroundings(process, tmp_path, small, counted, how):  # noqa: F811
    """J4: it works, whatever terminal, language and home it has, or says which folder it needs."""
    settings = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL} | SURROUNDINGS[how]
    if how == "no TMPDIR":
        settings["more"] = with_site(tmp_path / "site", NO_TEMPORARY.format(mark=str(tmp_path / "mark")))
    result = process(*DRY, *small, **settings)
    assert how != "no TMPDIR" or (tmp_path / "mark").exists(), "there is a folder for temporary files all the same"
    passed = (
        reports_error(result, 30, "TMPDIR") if how == "no TMPDIR" else result[0] == 0 and "Traceback" not in result[1]
    )
    counted("odd surroundings", passed, result)


@pytest.mark.parametrize("how", ["64 files", "1 processor", "3 GiB of memory"])
def test_little_of_everything(process, small, counted, how):  # noqa: F811
    """J5: it works, or it says that memory or files are short; it does not hang."""

    def limit():
        if how == "64 files":
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        elif how == "1 processor":
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        else:
            resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))

    result = process(*DRY, *small, stdout=subprocess.DEVNULL, preexec_fn=limit)
    passed = result[0] == 0 or reports_error(result, 30) or reports_error(result, 31)
    counted(LITTLE, passed, result)


# Another user than root, whose processes alone are counted; the right to read root's files is kept.
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
NOBODY += ["--inh-caps=+dac_override,+dac_read_search", "--ambient-caps=+dac_override,+dac_read_search"]
STARTS_A_THREAD = "import threading; threading.Thread(target=int).start()"


@pytest.mark.parametrize("words", [DRY, ["run"]], ids=["dry-run", "run"])
def test_no_more_threads(process, small, scorecard, counted, words):  # noqa: F811
    """J5: ulimit -u 1: it works, or says that threads are short; it does not hang."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        scorecard.not_run(LITTLE, "ulimit -u: needs root and setpriv")
        pytest.skip("needs root and setpriv")
    settings = {
        "preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NPROC, (1, 1)),
        "stdout": subprocess.DEVNULL,
    }
    command = [*NOBODY, sys.executable, "-c", STARTS_A_THREAD]
    premise = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **settings)
    if "can't start new thread" not in premise.stderr:
        scorecard.not_run(LITTLE, "ulimit -u: threads can be started all the same")
        pytest.skip(premise.stderr)
    result = process(*words, *small, before=NOBODY, **settings)
    passed = result[0] == 0 or reports_error(result, 31, "ulimit -u")
    counted(LITTLE, passed, result)
