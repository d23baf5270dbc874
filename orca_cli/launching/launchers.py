"""Hydra launchers that come with an extra of this program."""

from __future__ import annotations

from importlib import util

from orca_cli.exceptions import UnavailableError

_EXTRAS = {
    "submitit_slurm": ("slurm", "hydra_submitit_launcher"),
    "submitit_local": ("slurm", "hydra_submitit_launcher"),
    "joblib": ("joblib", "hydra_joblib_launcher"),
    "ray": ("ray", "hydra_ray_launcher"),
}


def check_installed(name: str) -> None:
    """Check that a launcher of one of the extras is installed; others are left to Hydra.

    Raises:
        UnavailableError: it is not; the message names the extra.
    """
    extra, module = _EXTRAS.get(name, ("", ""))
    if not extra:
        return
    try:
        found = util.find_spec(f"hydra_plugins.{module}")
    except ModuleNotFoundError:  # no plugins at all
        found = None
    if found is None:
        hint = f"pip install 'orca-transfer[{extra}]'"
        raise UnavailableError(f"the launcher '{name}' is not installed", where="hydra/launcher", hint=hint)
