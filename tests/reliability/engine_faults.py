"""Real runs by each executor while jobs, workers, nodes and drivers are killed and disks are full.

python -m tests.reliability.engine_faults --on ray --jobs 40     prints what was done and whether all held

Every job waits in its second step until a fault has hit it or none is to come any more: no fault comes too late.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.checkpoints import save_tiny_bert
from tests.cli.conftest import results
from tests.forked import Case, Server
from tests.reliability import fake_slurm
from tests.reliability.job_faults import HELD, held_jobs

ROOT = Path(__file__).parent.parent.parent
DEADLY = 999  # seed of the job that kills its worker every time
_DEADLINE_S = 600.0  # of whatever is waited for; far longer than it takes
# Of every interpreter that is started, before all else.
_SITE = """
import os, signal, sys
if "--job" in sys.orig_argv:
    if "seed={deadly}" in sys.orig_argv:
        os.kill(os.getppid(), signal.SIGKILL)
    from tests.reliability import job_faults
    job_faults.hold({held!r})
"""
_SMALL = """
task=digits task.train_size=60 task.validation_size=40 task.test_size=50 source.size=160 metric=moments align.epochs=2
align.source_points=200 align.max_samples=16 train.epochs=3 train.warmup_epochs=1 train.batch_size=16 train.lr=1e-3
train.select=best train.select_by=error train.checkpoint_s=0 baselines=none
"""


class Bench:
    """A folder with a tiny body, and drivers that are forked in it; `deadly` is the job that kills its worker every time."""

    def __init__(self, server: Server, folder: Path, on: str, jobs: int) -> None:
        self._server, self.folder, self.on, self.jobs = server, folder, on, jobs
        self.deadly = on != "local"  # whose jobs are forks of the driver; tests/launching has one
        self.runs = folder / "runs"
        self.done: list[str] = []
        self.drivers: list[Case] = []
        self.variables: dict[str, str] = {}
        self._hit: set[int] = set()  # processes that a fault has hit
        self._held, site = folder / "held", folder / "site"
        self._held.mkdir()
        (self._held / HELD).touch()
        site.mkdir()
        (site / "sitecustomize.py").write_text(_SITE.format(deadly=DEADLY, held=str(self._held)))
        self.path = os.pathsep.join([str(site), str(ROOT)])
        self.body = save_tiny_bert(folder / "bert")

    def start(self, *words: str, undisturbed: bool = False) -> Case:
        """Start a driver of the sweep; an undisturbed one is of this machine, and has its own folder of runs."""
        on, runs = ("local", self.folder / "undisturbed") if undisturbed else (self.on, self.runs)
        seeds = [*map(str, range(self.jobs)), *[str(DEADLY)] * (self.deadly and not undisturbed)]
        command = [
            "run", "-m", *_SMALL.split(), f"body.checkpoint={self.body}", f"seed={','.join(seeds)}",
        ]  # fmt: skip
        command += ["--on", on, "--threads", "1", *(["--at-once", "2"] if on == "local" else [])]
        variables = {"PYTHONPATH": self.path, "ORCA_RUNS": str(runs), "OMP_NUM_THREADS": "1"}
        variables |= {"ORCA_HOME": str(self.folder / "home")} | self.variables
        hook = f"hold:{self._held}" if on == "local" else f"driver:{self.folder / 'site'}"
        hook = "" if undisturbed else f"tests.reliability.job_faults:{hook}"
        self.drivers.append(
            self._server.start([*command, *words], more=variables, hook=hook, folder=self.folder)
        )
        return self.drivers[-1]

    def logs(self) -> str:
        return "\n".join(
            f"driver {number}:\n{one.out}{one.err}" for number, one in enumerate(self.drivers)
        )

    def wait(self, what: Any) -> Any:
        """Return what a function returns once that is true."""
        end = time.monotonic() + _DEADLINE_S
        while not (value := what()):
            assert time.monotonic() < end, f"waited {_DEADLINE_S:g} s in vain\n{self.logs()}"
            time.sleep(0.02)
        return value

    def held(self, number: int = 1) -> list[int]:
        """Wait until at least so many jobs that no fault has hit wait in stage 3; returns their processes."""

        def jobs():
            assert any(one.poll() is None for one in self.drivers), (
                f"all drivers have ended\n{self.logs()}"
            )
            found = [pid for pid in held_jobs(self._held) if pid not in self._hit]
            return found if len(found) >= number else []

        return self.wait(jobs)

    def hit_job(self, fault: str) -> None:
        """Inject a fault into a running job: kill it or its worker, preempt it, or fill its disk."""
        pid = self.held()[0]
        self._hit.add(pid)
        if fault == "disk":
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
            (self._held / str(pid)).unlink()
        elif fault == "preempt":
            os.kill(pid, signal.SIGUSR1)
        else:
            stat = Path(f"/proc/{pid}/stat").read_text()
            parent = int(stat.rpartition(")")[2].split()[1])  # a worker of the engine
            os.kill(parent if fault == "worker" else pid, signal.SIGKILL)

    def finish(self) -> list[str]:
        """Let all jobs go on; returns the problems of the drivers that were not killed."""
        (self._held / HELD).unlink()
        codes = [one.wait(_DEADLINE_S) for one in self.drivers]
        expected = (3 if self.deadly else 0, -signal.SIGKILL)
        return [
            f"driver {number} ended with {code}"
            for number, code in enumerate(codes)
            if code not in expected
        ]

    def problems(self) -> list[str]:
        """Return what differs from undisturbed runs, which are made here."""
        assert self.start(undisturbed=True).wait(_DEADLINE_S) == 0, self.logs()
        places = (self.folder / "undisturbed", self.runs)
        expected, got = ({one["seed"]: one for one in results(place)} for place in places)
        problems = [f"seed {seed} is not completed" for seed in range(self.jobs) if seed not in got]
        folders = list(self.runs.glob("[!.]*/2*"))
        if len(folders) != self.jobs:
            problems.append(f"{len(folders)} folders for {self.jobs} runs")
        for seed, record in got.items():
            if record["test_reads"] != 1:
                problems.append(f"seed {seed} opened the test split {record['test_reads']} times")
            if record["weights_sha256"] != expected[seed]["weights_sha256"]:
                problems.append(f"seed {seed} has other bits")
        return problems


@contextmanager
def engine(bench: Bench, nodes: int = 1) -> Iterator[Any]:
    """Start what an executor needs: a Ray cluster of a head and some nodes on this machine, or a fake SLURM."""
    try:
        if bench.on == "slurm":
            bench.variables |= fake_slurm.install(bench.folder / "slurm")
            yield bench.folder / "slurm"
        elif bench.on == "ray":
            from ray.cluster_utils import Cluster

            with patch.dict(os.environ, PYTHONPATH=bench.path):
                cluster = Cluster(
                    initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
                )
                try:
                    for _ in range(nodes):
                        cluster.add_node(num_cpus=1)
                    bench.variables["RAY_ADDRESS"] = cluster.address
                    yield cluster
                finally:
                    cluster.shutdown()
        else:
            yield None
    finally:
        for one in bench.drivers:
            one.kill()
        if bench.on == "slurm":
            fake_slurm.close(bench.folder / "slurm")


def run(bench: Bench, faults: list[str]) -> list[str]:
    """Run the sweep and inject faults, one after the other; returns the problems."""
    with engine(bench, max(1, faults.count("raylet"))) as cluster:
        driver = bench.start()
        for fault in faults:
            if fault == "second driver":
                bench.held()
                bench.start()
            elif fault == "raylet":
                bench.held(1 + len(cluster.worker_nodes))  # one on every node
                cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
            elif fault == "driver":
                bench.held()
                driver.send(signal.SIGKILL)
                driver.wait()
                driver = bench.start()
            else:
                bench.hit_job(fault)
            bench.done.append(fault)
        return bench.finish() + bench.problems()


FAULTS = {
    "local": ["job", "second driver", "disk", "driver", "job", "driver"],
    "ray": ["job", "worker", "disk", "raylet", "driver", "second driver", "job", "worker", "raylet", "driver"],
    "slurm": ["job", "worker", "disk", "preempt", "driver", "second driver", "job", "worker", "driver"],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=FAULTS, required=True)
    parser.add_argument("--jobs", type=int, default=40)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    os.environ["OMP_NUM_THREADS"] = (
        "1"  # before the server loads torch: the number of threads decides the last bits
    )
    with Server(folder) as server:
        bench, begun = Bench(server, folder, arguments.on, arguments.jobs), time.monotonic()
        problems = run(bench, FAULTS[arguments.on])
    seconds = round(time.monotonic() - begun)
    print(  # noqa: T201
        json.dumps(
            vars(arguments) | {"faults": bench.done, "seconds": seconds, "problems": problems}
        )
    )
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
