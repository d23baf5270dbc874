"""Which process of a run this is, if torchrun or accelerate launch has started several.

The environment variables of the launcher say so.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from orca_cli.exceptions import UsageError

_NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # torch's contract for every launcher
# Within this time a launcher ends the other processes when one has failed.
LAUNCHER_EXITS_S = 10.0


@dataclass(frozen=True)
class Rank:
    """The place of a process among those of its run.

    Args:
        number: number of the process, from 0; process 0 leads.
        size: number of processes of the run, at least 2.
        local_number: number of the process on this machine; also the number of its GPU.
        local_size: number of processes on this machine.
    """

    number: int
    size: int
    local_number: int
    local_size: int

    @property
    def leads(self) -> bool:
        """Return whether this process alone claims, writes, prints and decides for the run."""
        return self.number == 0


def from_environment() -> Rank | None:
    """Return the place of this process; None if it is the only process of its run.

    Raises:
        UsageError: the environment contradicts itself.
    """
    # A variable that only some other tool has set, such as RANK alone, does not make a team.
    if any(name not in os.environ for name in _NAMES):
        return None
    # torchrun also gives the numbers within the machine; other launchers may not.
    number = os.environ["RANK"]
    try:
        rank = Rank(
            number=int(number),
            size=int(os.environ["WORLD_SIZE"]),
            local_number=int(os.environ.get("LOCAL_RANK", number)),
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        )
    except ValueError as error:
        raise UsageError(
            f"must be integers: {error}", where="RANK, WORLD_SIZE", hint="let torchrun set them"
        ) from error
    # torchrun with one process: the run is like any other.
    if rank.size <= 1:
        return None
    if not 0 <= rank.number < rank.size:
        raise UsageError(
            f"must be between 0 and {rank.size - 1}, got {rank.number} (WORLD_SIZE={rank.size})",
            where="RANK",
            hint="let torchrun set it",
        )
    return rank


def silence() -> None:
    """Print nothing from now on: process 0 prints for the whole run."""
    # The descriptors, not sys.stdout: libraries write to them as well.
    null_device = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(null_device, stream.fileno())
    # The descriptors of the streams are duplicates, so this one is not needed any more.
    os.close(null_device)


def check_command(arguments: Sequence[str], rank: Rank) -> None:
    """Raise UsageError for a command line that several processes cannot share.

    They can share a single run, but not a sweep, a dry run or another command.
    """
    command = arguments[:1]
    if command == ["run"] and not {"--dry-run", "-m", "--multirun"} & set(arguments):
        return
    raise UsageError(
        f"these arguments need one process, but {rank.size} were started",
        where=" ".join(["orca", *command]),
        hint="start the command once, without torchrun or accelerate launch",
    )
