"""Files made to run code or to read or write elsewhere (rows H1, H6, H7, H9, H10, H14); premises are shown to hold first."""

from __future__ import annotations

import copyreg
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orca_cli.data.untrusted.pickle import unpickle
from orca_cli.exceptions import OrcaError, UnsafeError
from tests.reliability import payloads
from tests.tiers import count

pytestmark = pytest.mark.slow

FIGURE = "hostile files: executions, escapes, leaks"
ROOT = Path(__file__).parent.parent.parent
NEEDED = {"LMDB": "lmdb", "MATLAB 5": "scipy", "MATLAB 7.3": "h5py", "joblib": "joblib"}
FORMS = [form for form in payloads.FORMS if importlib.util.find_spec(NEEDED.get(form, "numpy"))]
PAYLOADS = list(payloads.payloads(Path("canary")))
LEAKS = list(payloads.leaks(Path("secret")))
# Every payload in some formats: the formats take turns, so that each meets every kind of payload.
_EACH = count(pr=4, nightly=len(FORMS))


def write(form: str, folder: Path, content: bytes) -> Path:
    writer, ending, _ = payloads.FORMS[form]
    path = folder / f"data{ending}"
    writer(path, content)
    return path


def in_a_thrown_away_process(action: Callable[[], Any]) -> bytes:
    """Call a function in a fork and return what it returns as text; the fork may end as it likes."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            copyreg.add_extension(*payloads.EXTENSION)
            os.write(writable, str(action()).encode()[:4000])
        finally:
            os._exit(0)
    os.close(writable)
    end = time.monotonic() + 30
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
    with suppress(ProcessLookupError):
        os.killpg(pid, 0)  # whoever is left of its group finishes on its own
    os.set_blocking(readable, False)
    try:
        return os.read(readable, 4000)
    except BlockingIOError:
        return b""
    finally:
        os.close(readable)


def assert_reported(error: OrcaError, path: Path) -> None:
    assert error.code in (11, 12), error
    assert path.name in str(error)
    assert "\n" not in str(error)


def appears(canary: Path) -> bool:
    """Wait a moment for a file that another process may be making."""
    end = time.monotonic() + 2
    while not os.path.lexists(canary):
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """What the unsafe loaders import is imported once, and not in every fork."""
    for name in ("torch", "pandas", "joblib", "scipy.io", "h5py", "lmdb", "numpy.f2py.crackfortran"):
        with suppress(ImportError):
            importlib.import_module(name)


@pytest.mark.parametrize("title", PAYLOADS)
def test_pickles_run_nothing(title, tmp_path, scorecard):
    """H1."""
    canary = tmp_path / "canary"
    content = payloads.payloads(canary)[title]
    payloads.beside(canary)
    start = PAYLOADS.index(title)
    executions = 0
    for step in range(_EACH):
        form = FORMS[(start + step) % len(FORMS)]
        path = write(form, tmp_path, content)
        in_a_thrown_away_process(lambda form=form, path=path: payloads.FORMS[form][2](path))
        assert appears(canary), f"the premise does not hold: {title} in {form}"
        canary.rmdir() if canary.is_dir() and not canary.is_symlink() else canary.unlink()
        before = sorted(tmp_path.iterdir())
        for read in payloads.readings(form, path):
            try:
                read()
            except OrcaError as error:
                refusal = error
                assert_reported(refusal, path)
            else:
                # Numbers come back as numbers, and of torch's old format the first of its pickles, a number.
                assert form.startswith("MATLAB") or form in ("torch legacy", "checkpoint")
            executions += canary.exists()
        if form in ("pickle", "gzip", "LMDB", "npy of objects", "joblib", "pickle named npy"):
            with pytest.raises(UnsafeError):
                payloads.readings(form, path)[0]()
        executions += os.path.lexists(canary)
        assert sorted(tmp_path.iterdir()) == before
        path.unlink()
    assert executions == 0
    scorecard.add(FIGURE, cases=_EACH, passed=_EACH - executions, target=len(FORMS))


@pytest.mark.parametrize("title", LEAKS)
def test_pickles_read_nothing(title, tmp_path, scorecard):
    """H1: what a secret file holds comes back neither as a value nor in a message."""
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    content = payloads.leaks(secret)[title]
    for form in ("pickle", "npy of objects"):
        path = write(form, tmp_path, content)
        assert b"hunter2" in in_a_thrown_away_process(lambda form=form, path=path: payloads.FORMS[form][2](path))
        for read in payloads.readings(form, path):
            with pytest.raises(UnsafeError) as caught:
                read()
            assert "hunter2" not in str(caught.value)
    scorecard.add(FIGURE, cases=2, passed=2, target=2)


def test_the_requested_name_is_reported(tmp_path):
    path = tmp_path / "data.pkl"
    for module, name in (("numpy.f2py.crackfortran", "myeval"), ("os", "system"), ("numpy", "memmap")):
        path.write_bytes(payloads.whole(payloads.Call(module, name, "x")))
        with pytest.raises(UnsafeError, match=f"asks for {module}.{name}"):
            unpickle(path)
    path.write_bytes(b"\x80\x04" + payloads.stack_global("numpy", "lib._npyio_impl.os.system").content + b".")
    with pytest.raises(UnsafeError, match=r"asks for numpy\.lib\._npyio_impl\.os\.system"):
        unpickle(path)


_CALLS = "trace=execve,connect,openat,mkdir,symlink,mknod,mknodat"
_STRACE = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", _CALLS, "-o"]
_UNDER_STRACE = """
import sys
from pathlib import Path
from tests.reliability.payloads import readings
from orca_cli.exceptions import OrcaError
for line in sys.stdin:
    form, path = line.rstrip("\\n").split("\\t")
    for read in readings(form, Path(path)):
        try:
            read()
        except OrcaError as error:
            print(error)
"""


def test_the_kernel_sees_no_other_program_file_or_connection(tmp_path, scorecard):
    """H1: strace over all payloads: programs started, connections made, files opened that are none of ours."""
    if subprocess.run(["strace", "true"], capture_output=True, check=False).returncode:
        scorecard.not_run("hostile files under strace", "strace is missing or not allowed here")
        pytest.skip("strace is missing or not allowed here")
    canary = tmp_path / "canary"
    lines = []
    for number, content in enumerate(payloads.payloads(canary).values()):
        form = FORMS[number % len(FORMS)]
        folder = tmp_path / str(number)
        folder.mkdir()
        lines.append(f"{form}\t{write(form, folder, content)}")
    log = tmp_path / "log"
    done = subprocess.run(
        [*_STRACE, str(log), sys.executable, "-c", _UNDER_STRACE],
        input="\n".join(lines) + "\n",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") >= len(lines)
    calls = log.read_text().splitlines()
    programs = [line for line in calls if "execve(" in line and "= 0" in line]
    # The program itself and the worker; one that crashed would have been started again. h5py asks for the processor's
    # name when it is imported.
    programs = [line for line in programs if '"uname", "-p"' not in line]
    assert len(programs) == 2, programs
    assert all(sys.executable in line for line in programs)
    assert not [line for line in calls if "connect(" in line]
    assert not [line for line in calls if "canary" in line]
    assert any(f'openat(AT_FDCWD, "{lines[0].split(chr(9))[1]}"' in line for line in calls)  # the trace does see files
    scorecard.add("hostile files under strace", cases=len(lines), passed=len(lines), target=60)
