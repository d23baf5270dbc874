"""Files made to run code or to read or write elsewhere (rows H1, H6, H9, H10, H14); premises are shown to hold first."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orca_cli.data.untrusted.pickle import unpickle
from orca_cli.exceptions import OrcaError, UnsafeError
from tests.cli.conftest import ROOT
from tests.forked import Server
from tests.reliability import payloads
from tests.tiers import count

pytestmark = pytest.mark.slow

FIGURE = "hostile files: executions, escapes, leaks"
NEEDED = {"LMDB": "lmdb", "MATLAB 5": "scipy", "joblib": "joblib"}
FORMS = [form for form in payloads.FORMS if importlib.util.find_spec(NEEDED.get(form, "numpy"))]
PAYLOADS = list(payloads.payloads(Path("canary")))
# Every payload in some formats; the formats take turns.
_EACH = count(pr=4, nightly=len(FORMS))


def write(form: str, folder: Path, content: bytes) -> Path:
    writer, ending, _ = payloads.FORMS[form]
    path = folder / f"data{ending}"
    writer(path, content)
    return path


@pytest.fixture(scope="module")
def trusted(tmp_path_factory):
    """Read a file as a program that trusts it, in a fork, which may end as it likes; returns the value or the error as text."""
    needed = (
        "torch", "pandas", "joblib", "scipy.io", "lmdb", "numpy.f2py.crackfortran",
        payloads.__name__,
    )  # fmt: skip
    installed = [name for name in needed if importlib.util.find_spec(name.partition(".")[0])]

    def read(form: str, path: Path) -> str:
        case = server.start([], hook=f"{payloads.__name__}:trust:{form}:{path}")
        case.wait()
        return f"{case.out}{case.err}"

    with Server(tmp_path_factory.mktemp("trusted"), imports=installed) as server:
        yield read


def appears(canary: Path) -> bool:
    """Wait a moment for a file that another process may be making."""
    end = time.monotonic() + 2
    while not os.path.lexists(canary) and time.monotonic() < end:
        time.sleep(0.002)
    return os.path.lexists(canary)


@pytest.mark.parametrize("title", PAYLOADS)
def test_pickles_run_nothing(title, tmp_path, counted, trusted):
    """H1."""
    canary = tmp_path / "canary"
    content = payloads.payloads(canary)[title]
    payloads.beside(canary)
    executions = 0
    for step in range(_EACH):
        form = FORMS[(PAYLOADS.index(title) + step) % len(FORMS)]
        path = write(form, tmp_path, content)
        shown = trusted(form, path)
        assert appears(canary), f"the premise does not hold: {title} in {form}: {shown}"
        canary.rmdir() if canary.is_dir() and not canary.is_symlink() else canary.unlink()
        before = sorted(tmp_path.iterdir())
        refusals: list[OrcaError] = []
        for read in payloads.readings(form, path):
            try:
                read()
            except OrcaError as error:
                refusals.append(error)
            else:
                # Numbers come back as numbers, and of torch's old format the first of its pickles, a number.
                assert form == "MATLAB 5" or form in ("torch legacy", "checkpoint")
            executions += canary.exists()
        for refusal in refusals:
            assert refusal.code in (11, 12), refusal
            assert path.name in str(refusal)
            assert "\n" not in str(refusal)
        if form in ("pickle", "gzip", "LMDB", "npy of objects", "joblib", "pickle named npy"):
            assert isinstance(refusals[0], UnsafeError)
        executions += os.path.lexists(canary)
        assert sorted(tmp_path.iterdir()) == before
        path.unlink()
    counted(FIGURE, executions == 0, cases=_EACH, target=len(FORMS))


@pytest.mark.parametrize("title", payloads.leaks(Path("secret")))
def test_pickles_read_nothing(title, tmp_path, counted, trusted):
    """H1: what a secret file holds comes back neither as a value nor in a message."""
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    content = payloads.leaks(secret)[title]
    for form in ("pickle", "npy of objects"):
        path = write(form, tmp_path, content)
        assert "hunter2" in trusted(form, path)
        for read in payloads.readings(form, path):
            with pytest.raises(UnsafeError) as caught:
                read()
            assert "hunter2" not in str(caught.value)
    counted(FIGURE, cases=2, target=2)


def test_the_requested_name_is_reported(tmp_path):
    path = tmp_path / "data.pkl"
    names = ["numpy.f2py.crackfortran.myeval", "os.system", "numpy.memmap"]
    contents = {name: payloads.whole(payloads.Call(*name.rsplit(".", 1), "x")) for name in names}
    dotted = payloads.stack_global("numpy", "lib._npyio_impl.os.system")
    contents["numpy.lib._npyio_impl.os.system"] = payloads.whole(dotted, 4)
    for name, content in contents.items():
        path.write_bytes(content)
        with pytest.raises(UnsafeError, match=f"asks for {name}"):
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


def test_the_kernel_sees_no_other_program_file_or_connection(tmp_path, counted, not_run):
    """H1: strace over payloads in every form: programs started, connections made, files opened that are none of ours."""
    if subprocess.run(["strace", "true"], capture_output=True, check=False).returncode:
        not_run("hostile files under strace", "strace is missing or not allowed here")
    lines = []
    contents = list(payloads.payloads(tmp_path / "canary").values())
    for number, content in enumerate(contents[:: count(pr=3, nightly=1)]):
        form, folder = FORMS[number % len(FORMS)], tmp_path / str(number)
        folder.mkdir()
        lines.append(f"{form}\t{write(form, folder, content)}")
    log = tmp_path / "log"
    command = [*_STRACE, str(log), sys.executable, "-c", _UNDER_STRACE]
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, input="\n".join(lines) + "\n", env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") >= len(lines)
    calls = log.read_text().splitlines()
    programs = [line for line in calls if "execve(" in line and "= 0" in line]
    assert len(programs) == 2, (
        programs
    )  # the program and the worker; one that crashed would have been started again
    assert all(sys.executable in line for line in programs)
    assert not [line for line in calls if "connect(" in line or "canary" in line]
    assert any(
        f'openat(AT_FDCWD, "{lines[0].split(chr(9))[1]}"' in line for line in calls
    )  # the trace does see files
    counted("hostile files under strace", cases=len(lines), target=60)
