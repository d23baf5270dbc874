"""The processes of one run: the first leads, the others follow.

The first process goes through the program as if it were alone: only it claims the folder, reads
checkpoints, writes, prints and decides. If all processes share work, it sends an order, which names
the work and brings the weights, and every process does its piece. So the other processes need no
record and make no decision, and whatever ends the first process ends them.

Orders, errors and numbers travel between CPUs by gloo; gradients and weights by the backend of
their device.
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

# Time that a process waits for the others to start, and time that it waits for the next order:
# during stage 2 the first process works alone.
_MEETING = datetime.timedelta(minutes=10)
_WAITING = datetime.timedelta(days=30)
_BUCKET = 2**26  # bytes of gradients that are added up at once
# Variables by which accelerate splits a model over processes.
_ENGINES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM")
END = "end"


class Team:
    """The processes of a run, as seen by one of them.

    Every exchange raises OrcaError if another process has ended.

    Attributes:
        failure: the last exception of `gathered`, which all processes know of.

    Args:
        rank: place of this process among those of the run.

    Raises:
        ConfigError: accelerate is configured to split the model, which this program does not
            support.
        NetworkError: the other processes do not answer.
    """

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self.failure: Exception | None = None
        # First, since a wrong configuration must fail before any process waits for the others.
        _check_engines()
        _share_processors(rank)
        os.environ.setdefault("LOCAL_RANK", str(rank.local_number))  # accelerate asks for it
        has_nccl = torch.cuda.is_available() and distributed.is_nccl_available()
        # Tensors on the CPU travel by gloo, tensors on a GPU by nccl.
        backend = "cpu:gloo,cuda:nccl" if has_nccl else "gloo"
        try:
            # An exception of a signal would leave the others waiting.
            with signals.postponed():
                distributed.init_process_group(backend, timeout=_MEETING)
                # A separate group, since its time-out must be longer than stage 2, during which no
                # order comes.
                self._all = distributed.new_group(backend="gloo", timeout=_WAITING)
        except (RuntimeError, ValueError) as error:
            raise NetworkError(
                f"the other processes cannot be reached: {error}",
                where=f"process {rank.number} of {rank.size}",
                hint="check the environment variables MASTER_ADDR and MASTER_PORT",
            ) from error
        # At the exit of a process that is still in its group, torch prints a warning.
        atexit.register(_leave)

    @property
    def leads(self) -> bool:
        """Return whether this is the process that sends orders."""
        return self.rank.leads

    def device(self, chosen: torch.device) -> torch.device:
        """Return the device of this process.

        Raises:
            ConfigError: `chosen` is one device that several processes cannot share.
            UnavailableError: this machine has fewer GPUs than processes.
        """
        if chosen.type == "cpu":
            return chosen
        rank = self.rank
        if chosen.type != "cuda" or chosen.index is not None:
            raise ConfigError(
                f"'{chosen}' is a single device, but the run has {rank.size} processes",
                where="device",
                hint="use device=cuda, device=cpu or device=auto",
            )
        gpu_count = torch.cuda.device_count()
        if rank.local_size > gpu_count:
            raise UnavailableError(
                f"{rank.local_size} processes need a GPU each, but this machine has {gpu_count}",
                where="device",
                hint="start at most one process for each GPU",
            )
        # The default device of this process: nccl, and libraries that ask for "cuda", use it.
        torch.cuda.set_device(rank.local_number)
        return torch.device("cuda", rank.local_number)

    # Orders

    def order(self, name: str, **facts: Any) -> None:
        """Send an order to all other processes, which wait for it in `listen`."""
        self._broadcast({"name": name, **facts}, 0)

    def listen(self) -> dict[str, Any]:
        """Wait for the next order, and return its facts and its "name"."""
        return self._broadcast({}, 0)

    def end(self, code: int) -> None:
        """Send the others the exit code of the run, which has ended.

        They exit after this process, see `wait_for_the_end`.
        """
        # The run has ended already, so a process that cannot be reached changes nothing.
        with contextlib.suppress(OrcaError):
            self.order(END, code=code)

    def wait_for_the_end(self) -> None:
        """Return once the first process has exited.

        If another process exited earlier, the launcher would stop all.
        """
        # The first process breaks the connection by exiting; the error that follows is expected
        # here.
        with contextlib.suppress(OrcaError):
            while True:
                self.listen()

    # Tensors

    def share(self, tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Return the first process's tensors, on a device; other processes' tensors are ignored."""
        own_header = []
        for name, tensor in tensors.items():
            dtype_name = str(tensor.dtype).removeprefix("torch.")
            own_header.append((name, dtype_name, list(tensor.shape)))
        shared_tensors = {}
        # Types and shapes go first: other processes may hold no such tensors yet.
        for name, dtype_name, shape in self._broadcast({"header": own_header}, 0)["header"]:
            tensor = torch.empty(shape, dtype=getattr(torch, dtype_name), device=device)
            if self.leads:
                tensor.copy_(tensors[name])
            # As bytes, since a backend may not support the type.
            content_bytes = tensor.reshape(-1).view(torch.uint8)
            with _reaching_the_others():
                distributed.broadcast(content_bytes, 0)
            shared_tensors[name] = tensor
        return shared_tensors

    def share_weights(self, module: torch.nn.Module, device: torch.device) -> None:
        """Give the module of every process the weights and buffers of the first process's."""
        module.load_state_dict(self.share(module.state_dict(), device))

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        bucket: list[Tensor] = []
        bucket_bytes = 0
        for tensor in tensors:
            # A bucket holds tensors of one type, of 64 MiB or a little more.
            if bucket and (bucket_bytes >= _BUCKET or bucket[0].dtype != tensor.dtype):
                _add_up_bucket(bucket)
                bucket = []
                bucket_bytes = 0
            bucket.append(tensor)
            bucket_bytes += tensor.nbytes
        if bucket:
            _add_up_bucket(bucket)

    # Agreement

    def gathered(self, work: Callable[[], Mapping[int, float]], count: int) -> list[float]:
        """Return `count` numbers in every process, each computed by one of them.

        `work` returns index -> number, for the numbers that this process computes. The first
        process also learns of a signal that another one has received.

        Raises:
            OrcaError: the work failed in another process.
            Exception: the work raised it in this process.
        """
        error: Exception | None = None
        numbers: Mapping[int, float] = {}
        try:
            numbers = work()
        except Exception as failure:  # noqa: BLE001 - the others wait for this process
            error = failure
        # Whether the work failed, the signal, and the numbers, 0 for other processes' numbers.
        own_row = torch.zeros(2 + count, dtype=torch.float64)
        own_row[0] = error is not None
        own_row[1] = signals.pending() or 0
        for index, number in numbers.items():
            own_row[2 + index] = number
        # Not summed, which would hide who failed and which signal came.
        all_rows = [torch.empty_like(own_row) for _ in range(self.rank.size)]
        with _reaching_the_others():
            distributed.all_gather(all_rows, own_row, group=self._all)
        table = torch.stack(all_rows)  # [processes, 2 + count]
        # The first row is the first process's own, whose signals it knows already.
        self._note_signal(table[1:, 1])
        has_failed = table[:, 0]
        if has_failed.any():
            # Only one record is shared: the failure of the process with the lowest number.
            first_failed = int(has_failed.nonzero()[0])
            error_record = self._broadcast(_error_record(error, self.rank), first_failed)
            # It shows a caller whether all processes know of an error that the caller catches.
            self.failure = _rebuilt_error(error_record) if error is None else error
            raise self.failure
        # A number of one process and zeros of the others: the sum is the number itself, to the bit.
        return table[:, 2:].sum(0).tolist()

    def _note_signal(self, received: Tensor) -> None:
        """Note in the first process the signals of the others, [processes - 1]; 0 means none."""
        signal_numbers = [int(number) for number in received if number]
        if self.leads and signal_numbers:
            # If several came, the first in the order of the processes counts.
            signals.note(signal_numbers[0])

    def _broadcast(self, facts: dict[str, Any], sender: int) -> dict[str, Any]:
        """Return the facts of one process in all of them."""
        encoded = json.dumps(facts).encode()
        # A bytearray, since torch warns of memory that it must not write, such as the memory of
        # bytes.
        content_bytes = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
        content_length = torch.tensor([len(content_bytes)])
        with _reaching_the_others():
            # The length goes first, so that the receivers can make room.
            distributed.broadcast(content_length, sender, group=self._all)
            if self.rank.number != sender:
                content_bytes = torch.empty(int(content_length), dtype=torch.uint8)
            distributed.broadcast(content_bytes, sender, group=self._all)
        return json.loads(bytes(content_bytes.numpy()))


def _check_engines() -> None:
    """Raise ConfigError if accelerate is configured to split a model."""
    for variable in _ENGINES:
        if os.environ.get(variable, "").lower() in ("true", "1"):
            raise ConfigError(
                "accelerate launch is configured to split the model over processes, but here each "
                "process needs the whole model",
                where=variable,
                hint="use `accelerate launch --multi_gpu`",
            )


def _share_processors(rank: Rank) -> None:
    """Give each process of a machine its share of the processors, unless OMP_NUM_THREADS is set."""
    if "OMP_NUM_THREADS" in os.environ:
        return
    threads = 1
    if hasattr(os, "sched_getaffinity"):
        processors = len(os.sched_getaffinity(0))
        threads = max(1, processors // rank.local_size)
    # Set in the environment as well, where `engine.limit_threads` and `cache.numerics` read it.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def _add_up_bucket(tensors: list[Tensor]) -> None:
    """Replace tensors of one type by their sums over the processes, in one exchange."""
    # One exchange for many small tensors: each exchange has its own latency.
    joined = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with _reaching_the_others():
        distributed.all_reduce(joined)
    lengths = [tensor.numel() for tensor in tensors]
    for tensor, summed in zip(tensors, joined.split(lengths), strict=True):
        tensor.copy_(summed.view_as(tensor))


@contextmanager
def _reaching_the_others() -> Iterator[None]:
    """Turn the RuntimeError that torch raises if another process has ended into an OrcaError."""
    try:
        yield
    except RuntimeError as error:
        # A lack of memory is not a failure of the others; callers name the setting to lower.
        if is_exhausted(error):
            raise
        raise OrcaError(
            "another process of this run has ended",
            where="torchrun",
            hint="rerun the same command to resume",
        ) from error


def _error_record(error: Exception | None, rank: Rank) -> dict[str, str]:
    """Return an error as plain values, from which other processes make it with `_rebuilt_error`."""
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
    error_name = type(error).__name__
    return {
        "kind": "OrcaError",
        "what": f"process {rank.number} of {rank.size}: unexpected {error_name}: {error}",
        "where": "",
        "hint": "",
    }


def _rebuilt_error(error_record: Mapping[str, str]) -> OrcaError:
    """Return the error that another process met."""
    error_class = getattr(exceptions, error_record["kind"], OrcaError)
    if issubclass(error_class, InterruptionError):
        # The first process has noted the signal, and ends as if it had received it.
        signals.check()
    return error_class(error_record["what"], where=error_record["where"], hint=error_record["hint"])


def _leave() -> None:
    # Whatever fails now: the others may have exited already.
    with contextlib.suppress(Exception):
        distributed.destroy_process_group()
