"""The jobs of a sweep in a shared folder, for workers on any machines: RUNS/.sweeps/NAME.

sweep.json            the jobs, and what the person who put them there typed
jobs/NNNNN.K.lease    a worker does the K-th attempt of job N; see `storage.leases`
jobs/NNNNN.K.done     it ended well
jobs/NNNNN.K.failed   it failed, with the reason
jobs/NNNNN.K.lost     its lease was taken away because it was not renewed: the worker is dead, or stalled
jobs/NNNNN.K.past     a failed or lost attempt that does not count any more, since the sweep was put there again

The number of an attempt is never used again for another one once it has ended, so a worker that comes back after its lease
was taken away finds no file to renew. Only the run itself decides whether its work is done; a job that two workers do is done
once, by the run's own lock.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orca_cli import storage
from orca_cli.exceptions import ChecksumError, DataError, UsageError, suggest

FOLDER = ".sweeps"
LEASE_S = 90.0  # without a renewal after which a lease is taken away
MOST_LOST = 20  # attempts whose worker died; more than by chance
_FILE = "sweep.json"
_SCHEMA = 1
_MOST_BYTES = 2**28  # 10,000 jobs have some 5 MB
_RENEWALS = 6  # in the time of a lease
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_ATTEMPT = re.compile(r"(\d{5,})\.(\d+)\.(lease|done|failed|lost|past)")
_ENDS = {"done", "failed", "lost", "past"}

Kind = Literal["todo", "leased", "done", "failed"]


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Args:
        settings: what distinguishes it from the others.
        overrides: KEY=VALUE, as for `orca run`.
        identity: of the run; see `runs.identity.Identity`.
    """

    settings: str
    overrides: list[str]
    identity: str


@dataclass(frozen=True)
class State:
    """What became of a job so far.

    Args:
        kind: failed also if it will be tried again.
        attempt: number of the last one; 0 if there was none.
        failures, losses: attempts that failed, and whose worker died.
        last: the record of the last attempt: of the lease, or of its end.
    """

    kind: Kind
    attempt: int
    failures: int
    losses: int
    last: dict[str, Any]

    def is_open(self, retries: int) -> bool:
        """Return whether a worker may take the job, if one that failed is tried again `retries` times."""
        return self.kind in ("todo", "failed") and self.failures <= retries and self.losses < MOST_LOST


@dataclass(frozen=True)
class Lease:
    """One attempt of one job, which this process alone may do until it is lost."""

    number: int
    attempt: int
    lease_s: float
    _path: Path

    @property
    def renew_every_s(self) -> float:
        """Return how often `renew` is to be called."""
        return min(storage.HEARTBEAT_S, self.lease_s / _RENEWALS)

    def renew(self) -> bool:
        """Renew it; False if it was taken away. StorageError if the file system does not answer."""
        return storage.leases.renew(self._path)

    def release(self) -> None:
        """Give the job back as if it had not been taken."""
        with storage.guarded(self._path):
            self._path.unlink(missing_ok=True)

    def end(self, kind: Literal["done", "failed"], record: dict[str, Any]) -> None:
        """Record how the attempt ended, and release the job; StorageError if that cannot be written."""
        storage.write_json(self._path.with_suffix(f".{kind}"), {"schema": _SCHEMA, **_worker(), **record})
        self.release()


@dataclass(frozen=True)
class Queue:
    """The jobs of one sweep in a shared folder.

    Args:
        folder: RUNS/.sweeps/NAME.
        study: name of the study; empty for other sweeps.
        typed_in: the folder that the command was typed in, from which relative paths count.
        jobs: numbered from 1.
    """

    folder: Path
    study: str
    typed_in: str
    jobs: list[Job]

    @property
    def name(self) -> str:
        """Return the sweep's name."""
        return self.folder.name

    @property
    def root(self) -> Path:
        """Return the folder of runs."""
        return self.folder.parent.parent

    def states(self) -> list[State]:
        """Return what became of each job, by its number."""
        attempts = self._attempts()
        return [self._state(number, attempts.get(number, {})) for number in range(1, len(self.jobs) + 1)]

    def lease(self, retries: int, lease_s: float, passed_over: Collection[int] = ()) -> Lease | None:
        """Lease the next job: one that was tried least. None if there is none now.

        Leases of dead workers are taken away first.

        Args:
            retries: how often a job that failed is tried again.
            lease_s: without a renewal after which others may take the lease away.
            passed_over: numbers of jobs not to take.

        Raises:
            StorageError: the folder cannot be written.
        """
        for number, attempt, age, record in self._leases():
            given = record.get("lease_s")
            if age > (given if isinstance(given, (int, float)) else lease_s):
                storage.leases.take_away(self._path(number, attempt, "lease"), self._path(number, attempt, "lost"))
        numbered = list(enumerate(self.states(), start=1))
        for number, state in sorted(numbered, key=lambda pair: pair[1].failures + pair[1].losses):
            if number in passed_over or not state.is_open(retries):
                continue
            path = self._path(number, state.attempt + 1, "lease")
            if storage.leases.take(path, {"schema": _SCHEMA, **_worker(), "lease_s": lease_s}):
                # A listing may miss a lease that is renamed meanwhile, and its new name; looked up by name, that is there.
                ended = (self._path(number, state.attempt + 1, kind) for kind in ("done", "failed", "lost", "past"))
                if not any(other.exists() for other in ended):
                    return Lease(number, state.attempt + 1, lease_s, path)
                storage.remove(path)
        return None

    def renewed_s_ago(self) -> dict[int, float]:
        """Return, for each leased job, the seconds since its lease was renewed, by the file system's clock."""
        return {number: age for number, _, age, _ in self._leases()}

    def again(self) -> int:
        """Let failed and lost attempts count no more; returns how many jobs may be tried again by that."""
        numbers = set()
        for number, attempts in self._attempts().items():
            for attempt, kinds in attempts.items():
                for kind in kinds & {"failed", "lost"}:
                    if storage.leases.take_away(
                        self._path(number, attempt, kind), self._path(number, attempt, "past")
                    ) and not any("done" in others for others in attempts.values()):
                        numbers.add(number)
        return len(numbers)

    def _leases(self) -> Iterator[tuple[int, int, float, dict[str, Any]]]:
        """Yield number, attempt, age and record of each lease."""
        moment: float | None = None
        for number, attempts in self._attempts().items():
            last = max(attempts)
            if attempts[last] & _ENDS or "lease" not in attempts[last]:
                continue
            moment = storage.leases.clock(self.folder / "jobs") if moment is None else moment
            if (found := storage.leases.read(self._path(number, last, "lease"))) is not None:
                yield number, last, moment - found[1], found[0]

    def _attempts(self) -> dict[int, dict[int, set[str]]]:
        """Return number of a job -> attempt -> the kinds of files that it has."""
        found: dict[int, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        try:
            names = os.listdir(self.folder / "jobs")
        except FileNotFoundError:
            return {}
        for name in names:
            if (parts := _ATTEMPT.fullmatch(name)) is not None:
                found[int(parts[1])][int(parts[2])].add(parts[3])
        return found

    def _state(self, number: int, attempts: dict[int, set[str]]) -> State:
        if not attempts:
            return State("todo", 0, 0, 0, {})
        last = max(attempts)
        done = [attempt for attempt, kinds in attempts.items() if "done" in kinds]
        ends = [next(iter(sorted(kinds & _ENDS)), "lease") for _, kinds in sorted(attempts.items())]
        failures, losses = ends.count("failed"), ends.count("lost")
        kind: Kind = "leased" if ends[-1] == "lease" else "failed" if failures or losses >= MOST_LOST else "todo"
        of, shown = (done[0], "done") if done else (last, ends[-1])
        if kind == "failed" and not done and ends[-1] != "failed" and failures:
            of, shown = max(attempt for attempt, kinds in attempts.items() if "failed" in kinds), "failed"
        found = storage.leases.read(self._path(number, of, shown))
        return State("done" if done else kind, last, failures, losses, {} if found is None else found[0])

    def _path(self, number: int, attempt: int, kind: str) -> Path:
        return self.folder / "jobs" / f"{number:05d}.{attempt}.{kind}"


def put(root: Path, about: str, study: str, jobs: Sequence[Job]) -> Queue:
    """Put a sweep's jobs into a folder of runs. The same jobs are the same sweep, which is kept.

    Args:
        root: folder of runs.
        about: how the name begins: the study, or the task.
        study: name of the study; empty for other sweeps.
        jobs: of the sweep.

    Raises:
        StorageError: the folder cannot be written.
    """
    digest = hashlib.sha256("\n".join(job.identity for job in jobs).encode()).hexdigest()
    folder = root / FOLDER / f"{re.sub(r'[^A-Za-z0-9+-]', '-', about)}-{digest[:8]}"
    storage.make_folder(folder / "jobs")
    queue = Queue(folder, study, os.getcwd(), list(jobs))
    record = {"schema": _SCHEMA, "study": study, "typed_in": queue.typed_in, "jobs": [vars(job) for job in jobs]}
    storage.write_checked_json(folder / _FILE, record)
    return queue


def names(root: Path) -> list[str]:
    """Return the names of the sweeps in a folder of runs."""
    return sorted(path.parent.name for path in (root / FOLDER).glob(f"*/{_FILE}"))


def find(root: Path, word: str) -> Queue:
    """Return the sweep that a word means: a name in the folder of runs, or a folder RUNS/.sweeps/NAME.

    Raises:
        UsageError: there is none.
        DataError, ChecksumError: it cannot be read.
        StorageError: the disk refuses.
    """
    folder = root / FOLDER / word if _NAME.fullmatch(word) else Path(word).expanduser().absolute()
    if not (folder / _FILE).is_file():
        hint = f"in {root} (ORCA_RUNS): {suggest(word, names(root))}; orca run -m ... --enqueue makes one"
        raise UsageError(f"no such sweep: '{word}'", where="SWEEP", hint=hint)
    return _read(folder)


def _read(folder: Path) -> Queue:
    path = folder / _FILE
    hint = "type the command with --enqueue again"
    if path.stat().st_size > _MOST_BYTES:
        raise DataError("is far too large", where=str(path), hint=hint)
    record = storage.read_checked_json(path)
    if record.get("schema") != _SCHEMA:
        raise DataError(f"has schema {record.get('schema')}, this program reads {_SCHEMA}", where=str(path), hint=hint)
    try:
        jobs = [Job(str(one["settings"]), list(one["overrides"]), str(one["identity"])) for one in record["jobs"]]
        queue = Queue(folder, str(record["study"]), str(record["typed_in"]), jobs)
    except (KeyError, TypeError) as error:
        raise ChecksumError("is not a record of this program", where=str(path), hint=hint) from error
    for text in (text for job in jobs for text in job.overrides):
        # They become words of a command line, where a file may not add options.
        if not isinstance(text, str) or text.startswith("-") or not ("=" in text or text.startswith("~")):
            raise DataError(f"'{text}' is not a setting", where=str(path), hint=hint)
    return queue


def _worker() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "time": storage.now().isoformat()}
