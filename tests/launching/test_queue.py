"""The jobs of a sweep in a shared folder: who may do what, with workers that die, stall, fail and come back."""

import os
import time

import pytest

from orca_cli import storage
from orca_cli.exceptions import ChecksumError, DataError, UsageError
from orca_cli.launching import queue

RETRIES = 1


def jobs(count):
    return [queue.Job(f"seed={seed}", ["task=digits", f"seed={seed}"], f"{seed:064x}") for seed in range(count)]


@pytest.fixture
def put(tmp_path):
    return lambda count=3: queue.put(tmp_path, "digits", "", jobs(count))


def file_of(found):
    """Return the newest lease's file."""
    return max((found.folder / "jobs").glob("*.lease"), key=lambda path: path.stat().st_ctime_ns)


def age(found, seconds):
    """Make the file system say that the newest lease was renewed some time ago."""
    moment = file_of(found).stat().st_mtime - seconds
    os.utime(file_of(found), (moment, moment))


def kinds(found):
    return [state.kind for state in found.states()]


def test_eight_processes_share_forty_jobs_and_none_is_leased_twice(put, tmp_path):
    found = put(40)
    children = []
    for worker in range(8):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                while (lease := found.lease(RETRIES, 60.0)) is not None:
                    (tmp_path / f"{worker}.{lease.number}").touch(exist_ok=False)
                    lease.end("done", {})
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 8
    done = [int(path.name.split(".")[1]) for path in tmp_path.glob("[0-7].*")]
    assert sorted(done) == list(range(1, 41))
    assert kinds(found) == ["done"] * 40


def test_a_lease_that_is_renewed_stays_and_one_that_is_not_is_taken_over(put):
    found = put(1)
    first = found.lease(RETRIES, 60.0)
    age(found, 59.0)
    assert found.lease(RETRIES, 60.0) is None
    age(found, 3.0)
    assert first.renew()
    age(found, 61.0)
    second = found.lease(RETRIES, 60.0)
    assert (second.number, second.attempt) == (1, 2)
    # The first worker was stalled, and comes back.
    assert not first.renew()
    first.release()
    assert second.renew()
    assert kinds(found) == ["leased"]
    assert found.states()[0].losses == 1
    first.end("done", {})  # its run had ended meanwhile
    assert kinds(found) == ["done"]
    assert found.lease(RETRIES, 60.0) is None


def test_the_time_that_counts_is_the_lease_holders(put):
    found = put(1)
    found.lease(RETRIES, 1000.0)
    age(found, 500.0)
    assert found.lease(RETRIES, 5.0) is None
    file_of(found).write_bytes(b"\xff")  # unreadable: that of who looks
    age(found, 500.0)
    assert found.lease(RETRIES, 5.0) is not None


@pytest.mark.parametrize("off_by", [-1e6, 1e6])
def test_the_clock_of_a_machine_is_not_asked(put, monkeypatch, off_by):
    found, true = put(1), time.time
    lease = found.lease(RETRIES, 60.0)
    monkeypatch.setattr(time, "time", lambda: true() + off_by)
    assert found.lease(RETRIES, 60.0) is None
    assert found.renewed_s_ago()[1] == pytest.approx(0.0, abs=5.0)
    assert lease.renew()


def test_a_file_system_whose_clock_is_off_is_its_own_measure(put, monkeypatch):
    """As on a file server: `os.utime` without times sets the server's, here a day behind."""
    found, utime = put(1), os.utime

    def of_the_server(path, times=None):
        utime(path, times or (time.time() - 86400.0,) * 2)

    monkeypatch.setattr(os, "utime", of_the_server)
    lease = found.lease(RETRIES, 60.0)
    assert lease.renew()
    assert found.lease(RETRIES, 60.0) is None
    assert found.renewed_s_ago()[1] == pytest.approx(0.0, abs=5.0)
    age(found, 100.0)
    assert found.lease(RETRIES, 60.0) is not None


def test_failures_are_tried_again_after_the_others_and_not_for_ever(put):
    found = put(3)
    order = []
    while (lease := found.lease(RETRIES, 60.0)) is not None:
        order.append(lease.number)
        lease.end("failed" if lease.number == 1 else "done", {"error": "on purpose"})
    assert order == [1, 2, 3, 1]
    state = found.states()[0]
    assert (state.kind, state.failures, state.last["error"]) == ("failed", 2, "on purpose")
    assert found.lease(2, 60.0).number == 1  # who wants more may have it


def test_a_job_that_kills_its_workers_is_given_up(put):
    found = put(1)
    for attempt in range(1, queue.MOST_LOST + 1):
        lease = found.lease(RETRIES, 60.0)
        assert lease.attempt == attempt
        age(found, 61.0)
    assert found.lease(RETRIES, 60.0) is None
    assert kinds(found) == ["failed"]


def test_put_there_again_it_is_the_same_sweep_and_what_failed_is_open_again(put):
    found = put(3)
    found.lease(0, 60.0).end("done", {})
    found.lease(0, 60.0).end("failed", {"error": "disk"})
    stalled = found.lease(0, 60.0)
    age(found, 61.0)
    assert found.lease(0, 60.0).attempt == 2  # of job 3
    again = put(3)
    assert again.folder == found.folder
    assert again.again() == 2
    assert kinds(again) == ["done", "todo", "leased"]
    assert again.lease(0, 60.0).attempt == 2  # a number is not used again
    assert not stalled.renew()


def test_released_it_is_as_if_it_had_not_been_taken(put):
    found = put(1)
    found.lease(RETRIES, 60.0).release()
    assert kinds(found) == ["todo"]
    assert found.lease(RETRIES, 60.0).attempt == 1


def test_a_worker_killed_between_the_record_and_the_release_has_ended(put):
    found = put(1)
    lease = found.lease(RETRIES, 60.0)
    path = file_of(found)
    content = path.read_bytes()
    lease.end("done", {})
    path.write_bytes(content)
    assert kinds(found) == ["done"]
    assert found.lease(RETRIES, 60.0) is None


@pytest.mark.parametrize("text", ["--allow-module=mine", "-m", "seed", 7])
def test_a_file_in_a_shared_folder_adds_no_options(put, tmp_path, text):
    found = put(1)
    record = storage.read_checked_json(found.folder / "sweep.json")
    record["jobs"][0]["overrides"] = [text]
    storage.write_checked_json(found.folder / "sweep.json", record)
    with pytest.raises(DataError, match="is not a setting"):
        queue.find(tmp_path, found.name)


def test_a_sweep_is_found_by_name_and_by_folder(put, tmp_path):
    found = put(2)
    assert queue.find(tmp_path, found.name) == found
    assert queue.find(tmp_path / "elsewhere", str(found.folder)) == found
    with pytest.raises(
        UsageError, match=f"no such sweep: 'digit'; in .*: did you mean '{found.name}'|allowed: {found.name}"
    ):
        queue.find(tmp_path, "digit")
    with pytest.raises(UsageError, match="no such sweep"):
        queue.find(tmp_path, "../digits")
    (found.folder / "sweep.json").write_text("{}")
    with pytest.raises(ChecksumError, match=r"sweep\.json"):
        queue.find(tmp_path, found.name)
