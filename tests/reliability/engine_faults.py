"""Real runs by each executor while jobs, workers, nodes and drivers are killed and disks are full.

python -m tests.reliability.engine_faults --on ray --jobs 40     prints what was done and whether all held

What has to hold: every run completed, in one folder, with one opening of the test split and the bits of an undisturbed run; a
job that kills its worker every time is given up, and takes no other with it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.checkpoints import save_tiny_bert
from tests.reliability import fake_slurm

ROOT = Path(__file__).parent.parent.parent
DEADLY = 999  # seed of the job that kills its worker every time
_SITE = f"""
import os, signal, sys
if "seed={DEADLY}" in sys.orig_argv and "--job" in sys.orig_argv:
    os.kill(os.getppid(), signal.SIGKILL)
"""
_SMALL = """
task=digits task.train_size=60 task.validation_size=40 task.test_size=50 source.size=160 metric=moments align.epochs=6
align.source_points=200 align.max_samples=16 train.epochs=12 train.warmup_epochs=1 train.batch_size=16 train.lr=1e-3
train.select=best train.select_by=error train.checkpoint_s=0 baselines=none
"""
STEPS = 48


class Bench:
    """A folder with a tiny body, and drivers that are started in it; `deadly` is the job that kills its worker every time."""

    def __init__(self, folder: Path, on: str, jobs: int, *, deadly: bool = True) -> None:
        self.folder, self.on, self.jobs = folder, on, jobs
        self.deadly = deadly and on != "local"  # whose jobs are forks of the driver; tests/launching has one
        self.runs = folder / "runs"
        self.hit: set[int] = set()  # processes that a fault has hit
        self.done: list[str] = []
        self.variables: dict[str, str] = {}
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(_SITE)
        self.body = save_tiny_bert(folder / "bert")

    def start(self, *words: str, runs: Path | None = None, on: str | None = None) -> subprocess.Popen[str]:
        """Start a driver of the sweep."""
        seeds = [*map(str, range(self.jobs)), *[str(DEADLY)] * (self.deadly and runs is None)]
        command = [sys.executable, "-m", "orca_cli", "run", "-m", *_SMALL.split(), f"body.checkpoint={self.body}"]
        command += [f"seed={','.join(seeds)}", "--on", on or self.on, "--threads", "1", *words]
        path = os.pathsep.join([str(self.folder / "site"), str(ROOT)])
        variables = os.environ | {"PYTHONPATH": path, "ORCA_RUNS": str(runs or self.runs), "OMP_NUM_THREADS": "1"}
        variables |= {"ORCA_HOME": str(self.folder / "home")} | self.variables
        log = open(self.folder / f"driver-{len(list(self.folder.glob('driver-*')))}.log", "w")  # noqa: SIM115
        return subprocess.Popen(command, env=variables, stdout=log, stderr=log, text=True, start_new_session=True)

    def wait_for_work(self, driver: subprocess.Popen[str]) -> int:
        """Return the process of a run in stage 2 or 3 that no fault has hit yet; 0 where the driver has ended."""
        while driver.poll() is None:
            for path in self.runs.glob("*/*/status.json"):
                with suppress(ValueError, OSError):
                    status = json.loads(path.read_text())
                    has_begun = list(path.parent.glob("*/checkpoints/step-*")) or status["stage"] == "align"
                    is_young = int(status.get("step") or 0) < STEPS - 10 and status["state"] in ("align", "finetune")
                    if has_begun and is_young and status["pid"] not in self.hit:
                        self.hit.add(status["pid"])
                        return int(status["pid"])
            time.sleep(0.05)
        return 0

    def hit_job(self, driver: subprocess.Popen[str], fault: str) -> None:
        """Inject a fault into a running job: kill it or its worker, preempt it, or fill its disk."""
        pid = self.wait_for_work(driver)
        if not pid:
            return
        with suppress(ProcessLookupError, FileNotFoundError):
            if fault == "disk":
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
            elif fault == "preempt":
                os.kill(pid, signal.SIGUSR1)
            else:
                stat = Path(f"/proc/{pid}/stat").read_text()
                parent = int(stat.rpartition(")")[2].split()[1])  # a worker of the engine
                os.kill(parent if fault == "worker" else pid, signal.SIGKILL)
            self.done.append(fault)

    def result(self, runs: Path) -> dict[int, dict[str, Any]]:
        """Return seed -> result record."""
        records = [json.loads(path.read_text()) for path in runs.glob("*/*/result.json")]
        return {record["seed"]: record for record in records}

    def check(self) -> list[str]:
        """Return what differs from undisturbed runs, which are made here."""
        plain = self.folder / "undisturbed"
        assert self.start(runs=plain, on="local").wait() == 0
        expected, got = self.result(plain), self.result(self.runs)
        problems = [f"seed {seed} is not completed" for seed in expected if seed not in got]
        folders = list(self.runs.glob("[!.]*/2*"))
        if len(folders) != len(expected):
            problems.append(f"{len(folders)} folders for {len(expected)} runs: {sorted(path.name for path in folders)}")
        for seed, record in ((seed, got[seed]) for seed in expected if seed in got):
            if record["test_reads"] != 1:
                problems.append(f"seed {seed} opened the test split {record['test_reads']} times")
            if record["weights_sha256"] != expected[seed]["weights_sha256"]:
                problems.append(f"seed {seed} has other bits")
        return problems


@contextmanager
def engine(bench: Bench, nodes: int = 1) -> Iterator[Any]:
    """Start what an executor needs: a Ray cluster of a head and some nodes on this machine, or a fake SLURM."""
    if bench.on == "slurm":
        bench.variables |= fake_slurm.install(bench.folder / "slurm")
        yield None
    elif bench.on == "ray":
        from ray.cluster_utils import Cluster

        path = os.pathsep.join([str(bench.folder / "site"), str(ROOT)])
        os.environ["PYTHONPATH"] = path
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        for _ in range(nodes):
            cluster.add_node(num_cpus=1)
        bench.variables["RAY_ADDRESS"] = cluster.address
        try:
            yield cluster
        finally:
            cluster.shutdown()
    else:
        yield None


def run(bench: Bench, faults: list[str]) -> list[str]:
    """Run the sweep and inject faults, one after the other; returns the problems."""
    at_once = ["--at-once", "2"] if bench.on == "local" else []
    with engine(bench, max(1, faults.count("raylet"))) as cluster:
        driver, others = bench.start(*at_once), []
        for fault in faults:
            if fault in ("job", "worker", "disk", "preempt"):
                bench.hit_job(driver, fault)
                continue
            if fault == "second driver":
                others.append(bench.start(*at_once))
            elif not bench.wait_for_work(driver):
                continue
            elif fault == "raylet":
                cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
            else:
                driver.kill()
                driver.wait()
                driver = bench.start(*at_once)
            bench.done.append(fault)
        codes = [one.wait() for one in (driver, *others)]
    expected_code = 3 if bench.deadly else 0
    problems = [f"a driver ended with {code}, not {expected_code}" for code in codes if code != expected_code]
    return problems + bench.check()


FAULTS = {
    "local": ["job", "second driver", "disk", "driver", "job", "driver"],
    "ray": ["job", "worker", "disk", "raylet", "driver", "second driver", "job", "worker", "raylet", "driver"],
    "slurm": ["job", "worker", "disk", "preempt", "driver", "second driver", "job", "worker", "driver"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=FAULTS, required=True)
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True, parents=True)
    bench, begun = Bench(folder, arguments.on, arguments.jobs), time.monotonic()
    problems = run(bench, FAULTS[arguments.on])
    counts = {fault: bench.done.count(fault) for fault in dict.fromkeys(bench.done)}
    line = {"on": arguments.on, "jobs": arguments.jobs, "faults": counts, "seconds": round(time.monotonic() - begun)}
    print(json.dumps(line | {"problems": problems}))  # noqa: T201
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
