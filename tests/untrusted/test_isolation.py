"""Isolated functions: their confinement, crashes and limits, and values that come back."""

import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from orca_cli import signals
from orca_cli.data.untrusted import isolation
from orca_cli.data.untrusted.isolation import Limits
from orca_cli.exceptions import DataError, InterruptionError, MemoryExhaustedError, WorkerError
from tests.tasks.builders import refused
from tests.untrusted.faults import fault

LITTLE = 2**29


@pytest.fixture
def ask(monkeypatch):
    """Return a call of a function of tests.untrusted.faults, in a confined process of this test."""
    isolation.close()
    usual = isolation.limits

    def call(kind, argument=None, size=0, limits=None):
        monkeypatch.setattr(isolation, "limits", usual if limits is None else lambda _: limits)
        return isolation.read(fault, "a.bin", size, kind=kind, argument=argument)

    yield call
    isolation.close()


def process_id(ask) -> int:
    return ask("state")["pid"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("segfault", "ended by the signal SIGSEGV"),
        ("error", "failed: ZeroDivisionError: deep inside"),
    ],
)
def test_crashes_are_reported_and_the_next_file_is_read(kind, message, ask):
    with refused(rf"a\.bin: .*{message}", WorkerError) as caught:
        ask(kind)
    assert caught.value.code == 33
    assert ask("echo", "on") == "on"


def test_errors_of_ours_are_the_same_and_end_no_process(ask):
    before = process_id(ask)
    with pytest.raises(DataError, match=r"^some\.file: is wrong; repair it$"):
        ask("ours")
    assert process_id(ask) == before


@pytest.mark.parametrize(
    ("kind", "argument", "limits", "message"),
    [
        ("spin", None, {"seconds": 1}, "more computing time than the limit of 1 s"),
        ("nibble", None, {}, r"more memory than the limit of 0\.5 GiB"),
        ("sleep", 60, {"wait_s": 1}, "not answer within 1 s"),
    ],
)
def test_limits_end_the_reading(kind, argument, limits, message, ask):
    usual = Limits(seconds=60, wait_s=60, memory=LITTLE)
    with refused(rf"a\.bin: .*{message}", WorkerError):
        ask(kind, argument, limits=usual._replace(**limits))
    assert ask("echo", "on") == "on"


def test_large_files_get_more_of_both(ask):
    before = ask("state")
    after = ask("state", size=2**29)
    assert before["limits"]["RLIMIT_AS"] == 2**32
    assert after["limits"]["RLIMIT_AS"] == 2**32 + 2**31
    assert after["limits"]["RLIMIT_CPU"] > 2**11
    assert before["pid"] != after["pid"]
    # A process that may do more serves small files too.
    assert process_id(ask) == after["pid"]


def test_fits_and_reads_do_not_share_a_process(ask):
    """Functions of our own may do what this process may; those that read files may not."""
    ours = isolation.isolated(fault, "ours", 5, 60, kind="state")
    assert ours["pid"] != process_id(ask)
    assert ours["limits"]["RLIMIT_AS"] == resource.getrlimit(resource.RLIMIT_AS)[0]
    assert ours["variables"]["OMP_NUM_THREADS"] == "1"


def test_it_sees_the_folder_and_no_secrets(ask, tmp_path, monkeypatch):
    monkeypatch.setenv("ORCA_SECRET_TOKEN", "hidden")
    monkeypatch.chdir(tmp_path)
    state = ask("state")
    assert state["folder"] == str(tmp_path)
    assert "ORCA_SECRET_TOKEN" not in state["variables"]
    known = "HOME LC_ALL LD_LIBRARY_PATH OMP_NUM_THREADS OPENBLAS_NUM_THREADS"
    assert set(state["variables"]) <= set(known.split())


@pytest.mark.parametrize("limit", ["RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_NPROC"])
def test_it_writes_nothing_and_starts_no_process(limit, ask):
    assert ask("state")["limits"][limit] == 0


def test_it_fails_to_write(ask, tmp_path):
    assert ask("write", str(tmp_path / "x")) == "OSError"
    assert not (tmp_path / "x").exists() or (tmp_path / "x").read_text() == ""


def test_it_has_no_network(ask):
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel gives no network of one's own to this user")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), 2).close()  # the premise
        assert ask("reach_out", port) == "OSError"


def until_it_has_ended(number: int, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    with suppress(OSError):  # there is no such process
        while Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_leaves_signals_to_its_parent(number, ask):
    before = process_id(ask)
    os.kill(before, number)
    assert process_id(ask) == before


def test_a_worker_that_was_ended_is_replaced(ask):
    before = process_id(ask)
    os.kill(before, signal.SIGKILL)
    until_it_has_ended(before)
    assert ask("echo", "on") == "on"


def test_a_worker_that_reads_nothing_ends_at_its_limit(ask):
    stopped = process_id(ask)
    os.kill(stopped, signal.SIGSTOP)
    with refused("not answer within 0.3 s", WorkerError):
        ask("echo", bytes(2**20), limits=Limits(seconds=1, wait_s=0.3, memory=LITTLE))
    until_it_has_ended(stopped, 0.0)


def test_threads_do_not_share_answers(ask):
    answers = {}

    def work(number):
        answers[number] = [ask("echo", np.full(50_000, number + i)) for i in range(10)]

    threads = [threading.Thread(target=work, args=(1000 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, arrays in answers.items():
        expected = number + np.arange(10)[:, None]
        np.testing.assert_array_equal(arrays, np.broadcast_to(expected, (10, 50_000)))
    assert len(answers) == 4


def test_forks_do_not_share_answers(ask):
    before = process_id(ask)
    child = os.fork()
    if child == 0:
        is_apart = process_id(ask) != before and ask("echo", "child") == "child"
        os._exit(0 if is_apart else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert process_id(ask) == before


def test_it_ends_with_its_parent(ask):
    code = (
        "import os, signal\n"
        "from orca_cli.data.untrusted import isolation\n"
        "from tests.untrusted.faults import fault\n"
        "print(isolation.read(fault, 'a', 0, kind='state')['pid'], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == -signal.SIGKILL
    until_it_has_ended(int(done.stdout))


def test_a_signal_ends_the_wait(ask):
    waiting = process_id(ask)
    with signals.deferred():
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        start = time.monotonic()
        with pytest.raises(InterruptionError):
            ask("sleep", 60)
        assert time.monotonic() - start < 5
    with signals.deferred():  # forgets the signal
        pass
    until_it_has_ended(waiting, 0.0)
    assert ask("echo", 1) == 1


# Pickles that the machine refuses: tests/untrusted/test_unpickle.py.
LIES = {
    "no pickle": b"no pickle",
    "a petabyte": b"\x80\x05\x96" + (2**50).to_bytes(8, "little") + b"x",
    "a call": b"cos\nsystem\n(S'true'\ntR.",
    "nested lists": b"\x80\x05" + b"]" * 10000 + b"a" * 9999 + b".",
    "a number": pickle.dumps(5),
    "no value": pickle.dumps(("value",)),
    "another error": pickle.dumps(("error", ["os", "", "", ""])),
    "a buffer": pickle.dumps(("value", bytearray(2))),
}


@pytest.mark.parametrize("name", LIES)
def test_answers_that_lie_are_refused(name, ask):
    """A parser that was taken over can answer anything."""
    with pytest.raises(WorkerError, match=r"^a\.bin: "):
        ask("rubbish", LIES[name])
    assert ask("echo", 1) == 1


def test_answers_beyond_the_memory_are_refused(ask, little_memory):
    with pytest.raises(MemoryExhaustedError, match=r"a\.bin"):
        ask("echo", np.zeros(2**24))
