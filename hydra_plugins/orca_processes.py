"""The launcher of sweeps as Hydra sees it: `hydra/launcher=processes`, the default. Others take its place by their names.

Hydra takes plugins from the namespace `hydra_plugins` alone, so this module stands beside the package and has no `__init__.py`.
It is run before Python knows it by name, so its annotations have to be evaluated at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ProcessLauncher(Launcher):
    """Hands the jobs of a batch to the task function's `in_processes`, which runs each in a process of its own."""

    def __init__(self, at_once: int = 1, time_limit_s: float | None = None) -> None:
        """Take the launcher's own settings; `orca run --help` explains them."""
        self._at_once, self._time_limit_s = at_once, time_limit_s
        self._task: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the function of a job; it has an attribute `in_processes(jobs, at_once, time_limit_s)`."""
        self._task = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch; returns what `in_processes` says of each job."""
        jobs = [list(overrides) for overrides in job_overrides]
        outcomes = self._task.in_processes(jobs, self._at_once, self._time_limit_s)
        return [JobReturn(_return_value=outcome, status=JobStatus.COMPLETED) for outcome in outcomes]


@dataclass
class _Settings:
    _target_: str = "hydra_plugins.orca_processes.ProcessLauncher"
    at_once: int = 1
    time_limit_s: float | None = None


ConfigStore.instance().store(group="hydra/launcher", name="processes", node=_Settings, provider="orca")
