"""The executor of a Ray cluster: a task a run. Ray decides where a job runs, the driver alone whether it is tried again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from orca_cli import terminal
from orca_cli.exceptions import ConfigError, NetworkError, need
from orca_cli.launching.process import Command, Ended, attend, search_path

ADDRESS = "RAY_ADDRESS"


@dataclass
class Ray:
    """Runs jobs as tasks of a Ray cluster: that of RAY_ADDRESS, else one of this machine, which ends with the driver."""

    threads: int  # of each job, as its processors
    gpus: float | None  # of each job, possibly a fraction; None for one if the cluster has any
    at_once: float  # jobs that are submitted at a time; Ray runs as many of them as it has room for
    name: str = "ray"
    _ray: Any = None
    _task: Any = None

    @contextmanager
    def opened(self) -> Iterator[Ray]:
        """Connect to the cluster inside the block, or start one of this machine.

        Raises:
            UnavailableError: Ray is not installed.
            NetworkError: the cluster does not answer.
            ConfigError: a job would need more than any node has.
        """
        self._ray = need("ray", "--on ray")
        address = os.environ.get(ADDRESS)
        if not address:  # Ray would run the jobs after all other work of this machine
            os.environ.setdefault("RAY_worker_niceness", "0")
        try:
            self._ray.init(
                address=address or "local", log_to_driver=False, include_dashboard=None if address else False,
                logging_level="error", runtime_env={"env_vars": {"PYTHONPATH": search_path()}},
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - Ray has types of its own for each way to fail
            raise _gone(f"does not answer: {' '.join(str(error).split())[:200]}") from error
        try:
            resources = self._ray.cluster_resources()
            self.gpus = float("GPU" in resources) if self.gpus is None else self.gpus
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            if not any(
                node.get("CPU", 0) >= self.threads and node.get("GPU", 0) >= self.gpus
                for node in nodes
            ):
                what = f"no node has {self.threads} processors and {self.gpus:g} GPUs for a job"
                raise ConfigError(
                    what,
                    where="--threads, --gpus",
                    hint="ask for less, or add such a node: ray start",
                )
            # max_retries=0: the driver alone decides what is tried again.
            options = {"max_retries": 0, "num_cpus": self.threads, "num_gpus": self.gpus}
            self._task = self._ray.remote(**options)(attend)
            terminal.log.info(f"Ray: {len(nodes)} nodes, {resources.get('CPU', 0):g} processors")
            yield self
        finally:
            self._ray.shutdown()

    def start(self, commands: Sequence[Command]) -> list[Any]:
        """Submit commands."""
        return [
            self._task.options(name=f"orca {one.label}").remote(asdict(one)) for one in commands
        ]

    def ended(self, handle: Any) -> Ended | None:
        """Return how a task ended; None while it waits or runs."""
        if not self._ray.wait([handle], timeout=0)[0]:
            return None
        errors = self._ray.exceptions
        try:
            return Ended(**self._ray.get(handle))
        except errors.TaskCancelledError:
            return Ended(None)
        except errors.RayTaskError as error:  # a bug of ours, or the program is another one there
            return Ended(1, last_words=" ".join(str(error).split())[-400:])
        except errors.LocalRayletDiedError as error:
            raise _gone("has ended") from error
        except errors.RayError as error:
            return Ended(None, lost=f"its worker was lost ({type(error).__name__})")

    def signal(self, handle: Any, number: int) -> None:
        """Cancel a task: one that waits is withdrawn, and the job of one that runs gets SIGTERM."""
        self._ray.cancel(handle, force=False)


def _gone(what: str) -> NetworkError:
    hint = "see `ray status`, start it and rerun the command; without the variable a cluster of this machine is started"
    address = os.environ.get(ADDRESS)
    return NetworkError(
        f"the Ray cluster {what}",
        where=f"{ADDRESS}={address}" if address else "--on ray",
        hint=hint,
    )
