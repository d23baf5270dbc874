"""The executor of a Ray cluster: each job is a Ray task.

Ray decides on which machine a job runs; only the driver decides whether a job is retried.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from orca_cli import terminal
from orca_cli.exceptions import ConfigError, NetworkError, need
from orca_cli.launching.process import Command, Ended, attend, search_path

ADDRESS = "RAY_ADDRESS"
_LAST_WORDS = 400  # largest number of characters of an error


@dataclass
class Ray:
    """Runs jobs as tasks of a Ray cluster.

    The variable RAY_ADDRESS names the cluster. Without it, a cluster is started on this machine,
    which ends with the driver.
    """

    # Number of processors of each job.
    threads: int
    # Number of GPUs of each job, possibly a fraction; None: one if the cluster has any.
    gpus: float | None
    # Number of jobs that are submitted at a time; Ray runs as many of them as it has room for.
    at_once: float
    name: str = "ray"
    _ray: Any = None
    _task: Any = None

    @contextmanager
    def opened(self) -> Iterator[Ray]:
        """Connect to the cluster inside the block, or start a cluster on this machine.

        Raises:
            UnavailableError: Ray is not installed.
            NetworkError: the cluster does not answer.
            ConfigError: a job needs more processors or GPUs than any node has.
        """
        self._ray = need("ray", "--on ray")
        address = os.environ.get(ADDRESS)
        if not address:
            # Otherwise Ray would give the jobs the lowest priority on this machine.
            os.environ.setdefault("RAY_worker_niceness", "0")
        try:
            self._ray.init(
                address=address or "local",
                log_to_driver=False,
                include_dashboard=None if address else False,
                logging_level="error",
                runtime_env={"env_vars": {"PYTHONPATH": search_path()}},
            )
        except Exception as error:  # noqa: BLE001 - Ray has many types of exceptions
            message = " ".join(str(error).split())
            raise _gone(f"does not answer: {message[:200]}") from error
        try:
            resources = self._ray.cluster_resources()
            if self.gpus is None:
                self.gpus = float("GPU" in resources)
            living_nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self._check_room(living_nodes, self.gpus)
            # No retries by Ray, since only the driver decides which jobs are retried.
            task_options = {"max_retries": 0, "num_cpus": self.threads, "num_gpus": self.gpus}
            self._task = self._ray.remote(**task_options)(attend)
            n_processors = resources.get("CPU", 0)
            terminal.log.info(f"Ray: {len(living_nodes)} nodes, {n_processors:g} processors")
            yield self
        finally:
            self._ray.shutdown()

    def _check_room(self, nodes: Sequence[Mapping[str, float]], gpus: float) -> None:
        """Raise ConfigError if a job needs more processors or GPUs than any node has."""
        for node in nodes:
            if node.get("CPU", 0) >= self.threads and node.get("GPU", 0) >= gpus:
                return
        raise ConfigError(
            f"no node of the Ray cluster has {self.threads} processors and {gpus:g} GPUs for a job",
            where="--threads, --gpus",
            hint="use smaller numbers, or add a larger node with `ray start`",
        )

    def start(self, commands: Sequence[Command]) -> list[Any]:
        """Submit commands, and return the handles of their tasks."""
        handles = []
        for command in commands:
            task = self._task.options(name=f"orca {command.label}")
            handles.append(task.remote(asdict(command)))
        return handles

    def ended(self, handle: Any) -> Ended | None:
        """Return how a task ended; None while it waits or runs."""
        ended_tasks, _ = self._ray.wait([handle], timeout=0)
        if not ended_tasks:
            return None
        errors = self._ray.exceptions
        try:
            return Ended(**self._ray.get(handle))
        except errors.TaskCancelledError:
            return Ended(status=None)
        # A bug in the program, or another version of the program on that machine.
        except errors.RayTaskError as error:
            message = " ".join(str(error).split())
            return Ended(status=1, last_words=message[-_LAST_WORDS:])
        except errors.LocalRayletDiedError as error:
            raise _gone("has ended") from error
        except errors.RayError as error:
            reason = f"the run's Ray worker was lost ({type(error).__name__})"
            return Ended(status=None, lost=reason)

    def signal(self, handle: Any, number: int) -> None:
        """Cancel a task: a waiting task is withdrawn; the job of a running task gets SIGTERM."""
        self._ray.cancel(handle, force=False)


def _gone(fate: str) -> NetworkError:
    """Return the error for an unusable cluster; `fate` is a predicate such as "has ended"."""
    address = os.environ.get(ADDRESS)
    where = f"{ADDRESS}={address}" if address else "--on ray"
    hint = (
        "check `ray status`, start the cluster and rerun the command; if the variable "
        f"{ADDRESS} is not set, orca starts a cluster on this machine"
    )
    return NetworkError(f"the Ray cluster {fate}", where=where, hint=hint)
