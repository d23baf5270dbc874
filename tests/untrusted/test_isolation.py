"""Isolated functions: what they may do, what becomes of a crash or a limit, and that values come back as they were."""

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
from orca_cli.exceptions import DataError, InterruptionError, MemoryExhaustedError, WorkerError
from tests.tasks.builders import refused
from tests.untrusted.faults import fault

LITTLE = 2**29


@pytest.fixture
def ask(monkeypatch):
    """Let a function of tests.untrusted.faults be called in a confined process of this test's own."""
    isolation.close()
    usual = isolation.limits

    def call(kind, argument=None, size=0, limits=None):
        monkeypatch.setattr(isolation, "limits", usual if limits is None else lambda _: limits)
        return isolation.read(fault, "a.bin", size, kind=kind, argument=argument)

    yield call
    isolation.close()


def pid(ask) -> int:
    return ask("state")["pid"]


def test_crashes_are_reported_and_the_next_file_is_read_and_errors_of_ours_are_the_same(ask):
    for kind, message in (
        ("segfault", "ended by SIGSEGV"),
        ("error", "failed: ZeroDivisionError: deep inside"),
    ):
        with refused(rf"a\.bin: .*{message}", WorkerError) as caught:
            ask(kind)
        assert caught.value.code == 33
    held = pid(ask)
    with pytest.raises(DataError, match=r"^some\.file: is wrong; mend it$"):
        ask("ours")
    assert pid(ask) == held


def test_limits_end_the_reading(ask):
    for kind, argument, limits, message in (
        ("spin", None, (1, 60, LITTLE), "more than its limit of 1 s of computing time"),
        ("nibble", None, (60, 60, LITTLE), r"more than its limit of 0\.5 GiB of memory"),
        ("sleep", 60, (60, 1, LITTLE), "no answer in 1 s"),
    ):
        with refused(rf"a\.bin: .*{message}", WorkerError):
            ask(kind, argument, limits=limits)
    assert ask("echo", "on") == "on"


def test_large_files_get_more_of_both(ask):
    before, after = ask("state"), ask("state", size=2**29)
    assert [state["limits"]["RLIMIT_AS"] for state in (before, after)] == [2**32, 2**32 + 2**31]
    assert after["limits"]["RLIMIT_CPU"] > 2**11
    assert before["pid"] != after["pid"] == pid(ask)  # one that may do more serves small files too


def test_fits_and_reads_do_not_share_a_process(ask):
    """Functions of our own may do what this process may; those that read files may not."""
    ours = isolation.isolated(fault, "ours", 5, 60, kind="state")
    assert ours["pid"] != pid(ask)
    assert ours["limits"]["RLIMIT_AS"] == resource.getrlimit(resource.RLIMIT_AS)[0]
    assert ours["variables"]["OMP_NUM_THREADS"] == "1"


def test_it_may_do_little(ask, tmp_path, monkeypatch):
    monkeypatch.setenv("ORCA_SECRET_TOKEN", "hidden")
    monkeypatch.chdir(tmp_path)
    state = ask("state")
    assert state["folder"] == str(tmp_path)
    assert "ORCA_SECRET_TOKEN" not in state["variables"]
    known = "HOME LC_ALL LD_LIBRARY_PATH OMP_NUM_THREADS OPENBLAS_NUM_THREADS"
    assert set(state["variables"]) <= set(known.split())
    assert (
        state["limits"]["RLIMIT_CORE"]
        == state["limits"]["RLIMIT_FSIZE"]
        == state["limits"]["RLIMIT_NPROC"]
        == 0
    )
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


def test_a_worker_leaves_signals_of_the_terminal_to_its_parent_and_is_replaced_once_it_was_ended(
    ask,
):
    held = pid(ask)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(held, number)
    assert pid(ask) == held
    os.kill(held, signal.SIGKILL)
    until_it_has_ended(held)
    assert ask("echo", "on") == "on"
    held = pid(ask)
    os.kill(held, signal.SIGSTOP)  # it reads nothing
    with refused("no answer in 0.3 s", WorkerError):
        ask("echo", bytes(2**20), limits=(1, 0.3, LITTLE))
    until_it_has_ended(held, 0.0)


def test_threads_and_forks_do_not_share_answers(ask):
    answers = {}

    def work(number):
        answers[number] = [ask("echo", np.full(50_000, number + i)) for i in range(10)]

    threads = [threading.Thread(target=work, args=(1000 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(
        (array == number + i).all() for number in answers for i, array in enumerate(answers[number])
    )
    before = pid(ask)
    child = os.fork()
    if child == 0:
        os._exit(0 if pid(ask) != before and ask("echo", "child") == "child" else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert pid(ask) == before


def test_it_ends_with_its_parent(ask):
    code = (
        "import os, signal; from orca_cli.data.untrusted import isolation; from tests.untrusted.faults import fault\n"
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
    held = pid(ask)
    with signals.deferred():
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        start = time.monotonic()
        with pytest.raises(InterruptionError):
            ask("sleep", 60)
        assert time.monotonic() - start < 5
    with signals.deferred():  # forgets the signal
        pass
    until_it_has_ended(held, 0.0)
    assert ask("echo", 1) == 1


# What machine and pickles refuse is in tests/untrusted/test_unpickle.py.
LIES = [
    b"no pickle",
    b"\x80\x05\x96" + (2**50).to_bytes(8, "little") + b"x",
    b"cos\nsystem\n(S'true'\ntR.",
    b"\x80\x05" + b"]" * 10000 + b"a" * 9999 + b".",
    *(
        pickle.dumps(value)
        for value in (5, ("value",), ("error", ["os", "", "", ""]), ("value", bytearray(2)))
    ),
]


def test_answers_that_lie_are_refused(ask):
    """A parser that was taken over can answer what it likes."""
    for number, content in enumerate(LIES):
        with pytest.raises(WorkerError, match=r"^a\.bin: "):
            pytest.fail(f"lie {number}: {ask('rubbish', content)!r}")
    assert ask("echo", 1) == 1


def test_answers_beyond_the_memory_are_refused(ask, little_memory):
    with pytest.raises(MemoryExhaustedError, match=r"a\.bin"):
        ask("echo", np.zeros(2**24))
