"""The processes of one run: the first leads, the others follow.

The first process goes through the program as if it were alone: it alone claims the folder, reads checkpoints, writes, prints
and decides. Where there is work for all, it sends an order, which names the work and brings the weights, and every process does
its part. So the others need no record and take no decision, and whatever ends the first one ends them.

Orders, states and numbers go over gloo between CPUs; gradients and weights by the backend of their device.
"""

import atexit
import contextlib
import datetime
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

from orca_cli import exceptions, signals
from orca_cli.exceptions import (
    ConfigError,
    InterruptionError,
    NetworkError,
    OrcaError,
    UnavailableError,
    is_exhausted,
)
from orca_cli.training.ranks import Rank

_MEETING = datetime.timedelta(minutes=10)
_WAITING = datetime.timedelta(days=30)  # for the next order, such as during stage 2
_BUCKET = 2**26  # bytes of gradients that are added up at once
_ENGINES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM")
END = "end"


class Team:
    """The processes of a run, as one of them sees them. Every exchange raises OrcaError where another process has ended.

    Attributes:
        failure: the last one that all processes know of.

    Args:
        rank: of this process.

    Raises:
        ConfigError: accelerate is configured to split the model, which this program does not support.
        NetworkError: the other processes do not answer.
    """

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self.failure: Exception | None = None
        for name in _ENGINES:
            if os.environ.get(name, "").lower() in ("true", "1"):
                what = "accelerate launch is configured to split the model over processes; here each process holds all of it"
                raise ConfigError(what, where=name, hint="use accelerate launch --multi_gpu")
        # Each process of a machine gets its part of the processors, unless the environment says how many threads there are.
        if "OMP_NUM_THREADS" not in os.environ:
            count = (
                max(1, len(os.sched_getaffinity(0)) // rank.here)
                if hasattr(os, "sched_getaffinity")
                else 1
            )
            os.environ["OMP_NUM_THREADS"] = str(count)
            torch.set_num_threads(count)
        os.environ.setdefault("LOCAL_RANK", str(rank.local))  # accelerate asks for it
        both = torch.cuda.is_available() and distributed.is_nccl_available()
        try:
            with (
                signals.postponed()
            ):  # no signal's exception may leave a meeting of the processes half done
                distributed.init_process_group(
                    "cpu:gloo,cuda:nccl" if both else "gloo", timeout=_MEETING
                )
                self._all = distributed.new_group(backend="gloo", timeout=_WAITING)
        except (RuntimeError, ValueError) as error:
            where = f"process {rank.number} of {rank.size}"
            raise NetworkError(
                f"the others cannot be reached: {error}", where=where, hint="see MASTER_ADDR"
            ) from error
        atexit.register(_leave)

    @property
    def leads(self) -> bool:
        """Return whether this is the process that sends orders."""
        return self.rank.leads

    def device(self, chosen: torch.device) -> torch.device:
        """Return the device of this process.

        Raises:
            ConfigError: the device can serve one process only.
            UnavailableError: this machine has fewer GPUs than processes.
        """
        if chosen.type == "cpu":
            return chosen
        if chosen.type != "cuda" or chosen.index is not None:
            what = f"'{chosen}' is one device, and there are {self.rank.size} processes"
            raise ConfigError(
                what, where="device", hint="use device=cuda, device=cpu or device=auto"
            )
        if self.rank.here > torch.cuda.device_count():
            what = (
                f"{self.rank.here} processes and {torch.cuda.device_count()} GPUs on this machine"
            )
            raise UnavailableError(
                what, where="device", hint="start as many processes as there are GPUs"
            )
        torch.cuda.set_device(self.rank.local)
        return torch.device("cuda", self.rank.local)

    # Orders

    def order(self, name: str, **facts: Any) -> None:
        """Send an order to all others; they are listening."""
        self._said({"name": name, **facts}, 0)

    def listen(self) -> dict[str, Any]:
        """Wait for the next order; returns its facts with its "name"."""
        return self._said({}, 0)

    def end(self, code: int) -> None:
        """Tell the others that the run is over, and the exit code; they leave when this process has."""
        with contextlib.suppress(OrcaError):
            self.order(END, code=code)

    def wait_for_the_end(self) -> None:
        """Return once the first process has exited: if another exits earlier, the launcher stops all."""
        with contextlib.suppress(OrcaError):
            while True:
                self.listen()

    # Tensors

    def share(self, tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Return the first process's tensors, on a device; those that other processes pass are ignored."""
        mine = [
            (name, str(one.dtype).removeprefix("torch."), list(one.shape))
            for name, one in tensors.items()
        ]
        received = {}
        for name, dtype, shape in self._said({"header": mine}, 0)["header"]:
            value = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
            if self.leads:
                value.copy_(tensors[name])
            with _reaching_the_others():
                distributed.broadcast(value.reshape(-1).view(torch.uint8), 0)
            received[name] = value
        return received

    def share_weights(self, module: torch.nn.Module, device: torch.device) -> None:
        """Give every process's module the weights and buffers that the first one's has."""
        module.load_state_dict(self.share(module.state_dict(), device))

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        bucket: list[Tensor] = []
        for place, tensor in enumerate(tensors):
            bucket.append(tensor)
            is_last = place == len(tensors) - 1 or tensors[place + 1].dtype != tensor.dtype
            if is_last or sum(one.nbytes for one in bucket) >= _BUCKET:
                flat = torch.cat([one.reshape(-1) for one in bucket])
                with _reaching_the_others():
                    distributed.all_reduce(flat)
                for one, summed in zip(
                    bucket, flat.split([one.numel() for one in bucket]), strict=True
                ):
                    one.copy_(summed.view_as(one))
                bucket = []

    # Agreement

    def gathered(self, work: Callable[[], Mapping[int, float]], count: int) -> list[float]:
        """Return `count` numbers in every process; each computes some of them, as place -> number.

        A signal that another process got reaches the first one.

        Raises:
            OrcaError: the work failed in one of them; in this one it may be any exception.
        """
        error: Exception | None = None
        values: Mapping[int, float] = {}
        try:
            values = work()
        except Exception as failure:  # noqa: BLE001 - the others wait for this process
            error = failure
        row = torch.zeros(2 + count, dtype=torch.float64)
        row[0], row[1] = error is not None, signals.pending() or 0
        for place, value in values.items():
            row[2 + place] = value
        everyones = [torch.empty_like(row) for _ in range(self.rank.size)]
        with _reaching_the_others():
            distributed.all_gather(everyones, row, group=self._all)
        table = torch.stack(everyones)
        if self.leads and (numbers := [int(number) for number in table[1:, 1] if number]):
            signals.note(numbers[0])
        if (failed := table[:, 0]).any():
            record = self._said(_record(error, self.rank), int(failed.nonzero()[0]))
            self.failure = _rebuilt(record) if error is None else error
            raise self.failure
        return table[:, 2:].sum(0).tolist()

    def _said(self, facts: dict[str, Any], sender: int) -> dict[str, Any]:
        """Return the facts of one process in all of them."""
        content = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
        length = torch.tensor([len(content)])
        with _reaching_the_others():
            distributed.broadcast(length, sender, group=self._all)
            received = (
                content
                if self.rank.number == sender
                else torch.empty(int(length), dtype=torch.uint8)
            )
            distributed.broadcast(received, sender, group=self._all)
        return json.loads(bytes(received.numpy()))


@contextmanager
def _reaching_the_others() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if is_exhausted(error):
            raise
        what, hint = "another process of this run has ended", "rerun the same command to resume"
        raise OrcaError(what, where="torchrun", hint=hint) from error


def _record(error: Exception | None, rank: Rank) -> dict[str, str]:
    if isinstance(error, OrcaError):
        return {
            "kind": type(error).__name__,
            "what": error.what,
            "where": error.where,
            "hint": error.hint,
        }
    if error is not None and is_exhausted(error):
        return {
            "kind": "MemoryExhaustedError",
            "what": "not enough memory",
            "where": "train.batch_size",
            "hint": "",
        }
    what = f"process {rank.number} of {rank.size}: unexpected {type(error).__name__}: {error}"
    return {"kind": "OrcaError", "what": what, "where": "", "hint": ""}


def _rebuilt(record: Mapping[str, str]) -> OrcaError:
    kind = getattr(exceptions, record["kind"], OrcaError)
    if issubclass(kind, InterruptionError):
        signals.check()  # it has been noted
    return kind(record["what"], where=record["where"], hint=record["hint"])


def _leave() -> None:
    with contextlib.suppress(Exception):
        distributed.destroy_process_group()
