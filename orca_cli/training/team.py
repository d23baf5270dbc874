"""The processes of one run: the first leads, the others follow.

The first process goes through the program as if it were alone: it alone claims the folder, reads checkpoints, writes, prints
and decides. Where there is work for all, it sends an order, which names the work and brings the weights, and every process does
its part. So the others need no record and take no decision, and whatever ends the first one ends them.

Orders, states and numbers go over gloo between CPUs; gradients and weights by the backend of their device.
"""

from __future__ import annotations

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
from orca_cli.data.fraction import Part
from orca_cli.exceptions import ConfigError, InterruptionError, NetworkError, OrcaError, UnavailableError
from orca_cli.interfaces import Samples
from orca_cli.training.memory import StepMemoryError, is_exhausted
from orca_cli.training.ranks import Rank

_MEETING = datetime.timedelta(minutes=10)
_WAITING = datetime.timedelta(days=30)  # for the next order, such as during stage 2
_FRAME = 2**12  # bytes of an order that are sent at once
_BUCKET = 2**26  # bytes of gradients that are added up at once
_FINE, _SHORT_OF_MEMORY, _FAILED = 0, 1, 2
_ENGINES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM")
END = "end"


class LostProcessError(OrcaError):
    """Another process of the run has ended, or cannot be reached."""


class Team:
    """The processes of a run, as one of them sees them.

    Attributes:
        sets: splits that orders can name; the same in all processes.
        failure: the last one that all processes know of.

    Args:
        rank: of this process.

    Raises:
        ConfigError: accelerate was told to split the model, which this program does not do.
        NetworkError: the other processes do not answer.
    """

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self.sets: dict[str, Samples] = {}
        self.failure: Exception | None = None
        for name in _ENGINES:
            if os.environ.get(name, "").lower() in ("true", "1"):
                what = "accelerate launch was told to split the model over processes, and here each has all of it"
                raise ConfigError(what, where=name, hint="use accelerate launch --multi_gpu")
        _share_processors(rank)
        both = torch.cuda.is_available() and distributed.is_nccl_available()
        try:
            with signals.postponed():  # no signal's exception may leave a meeting of the processes half done
                distributed.init_process_group("cpu:gloo,cuda:nccl" if both else "gloo", timeout=_MEETING)
                self._all = distributed.new_group(backend="gloo", timeout=_WAITING)
        except (RuntimeError, ValueError) as error:
            where = f"process {rank.number} of {rank.size}"
            raise NetworkError(f"the others cannot be reached: {error}", where=where, hint="see MASTER_ADDR") from error
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
            raise ConfigError(what, where="device", hint="use device=cuda, device=cpu or device=auto")
        if self.rank.here > torch.cuda.device_count():
            what = f"{self.rank.here} processes and {torch.cuda.device_count()} GPUs on this machine"
            raise UnavailableError(what, where="device", hint="start as many processes as there are GPUs")
        torch.cuda.set_device(self.rank.local)
        return torch.device("cuda", self.rank.local)

    # Orders

    def order(self, name: str, **facts: Any) -> None:
        """Send an order to all others; they are listening."""
        content = json.dumps({"name": name, **facts}).encode()
        frame = torch.zeros(_FRAME, dtype=torch.uint8)
        frame[:8] = torch.tensor([len(content)]).view(torch.uint8)
        first = content[: _FRAME - 8]
        frame[8 : 8 + len(first)] = torch.frombuffer(bytearray(first), dtype=torch.uint8)
        self._broadcast(frame)
        if len(content) > len(first):
            self._broadcast(torch.frombuffer(bytearray(content[len(first) :]), dtype=torch.uint8))

    def listen(self) -> dict[str, Any]:
        """Wait for the next order; returns its facts with its "name"."""
        frame = torch.empty(_FRAME, dtype=torch.uint8)
        self._broadcast(frame)
        length = int(frame[:8].view(torch.int64))
        content = bytes(frame[8 : 8 + length].numpy())
        if length > len(content):
            rest = torch.empty(length - len(content), dtype=torch.uint8)
            self._broadcast(rest)
            content += bytes(rest.numpy())
        return json.loads(content)

    def end(self, code: int) -> None:
        """Tell the others that the run is over, and the exit code; they leave when this process has."""
        with contextlib.suppress(OrcaError):
            self.order(END, code=code)

    def wait_for_the_end(self) -> None:
        """Return once the first process has exited: if another exits earlier, the launcher stops all."""
        with contextlib.suppress(OrcaError):
            while True:
                self.listen()

    def locate(self, samples: Samples) -> tuple[str, Tensor] | None:
        """Return the name of the split that contains some samples, and their rows in it; None if the others do not have it."""
        for name, split in self.sets.items():
            if samples is split:
                return name, torch.arange(len(samples))
            if isinstance(samples, Part) and samples.whole is split:
                return name, torch.from_numpy(samples.rows.astype("int64"))
        return None

    def located(self, name: str, rows: Tensor) -> Samples:
        """Return the samples that `locate` found."""
        split = self.sets[name]
        return split if len(rows) == len(split) else Part(split, rows.numpy())

    # Tensors

    def share(self, tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Return the first process's tensors, on a device; those that other processes pass are ignored."""
        header: list[Any] = [
            [name, str(value.dtype).removeprefix("torch."), list(value.shape)] for name, value in tensors.items()
        ]
        if self.leads:
            self.order("tensors", header=header)
        else:
            header = self.listen()["header"]
        received = {}
        for name, dtype, shape in header:
            value = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
            if self.leads:
                value.copy_(tensors[name])
            with _reaching_the_others():
                distributed.broadcast(value.reshape(-1).view(torch.uint8), 0)
            received[name] = value
        return received

    def share_weights(self, module: torch.nn.Module, device: torch.device) -> None:
        """Give every process's module the weights and buffers that the first one's has."""
        state = module.state_dict()
        shared = self.share(state if self.leads else {}, device)
        if not self.leads:
            module.load_state_dict(shared)

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
                for one, summed in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
                    one.copy_(summed.view_as(one))
                bucket = []

    def collect(self, work: Callable[[], tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
        """Return the non-empty results of all processes, in order, in the first process; an empty list in the others.

        Raises:
            OrcaError: it failed in one of them; in this one it may be any exception.
        """
        pair: tuple[Tensor, ...] = ()
        error: Exception | None = None
        try:
            pair = tuple(value.contiguous() for value in work())
        except Exception as failure:  # noqa: BLE001 - the others wait for this process
            error = failure
        forms = [[str(value.dtype).removeprefix("torch."), list(value.shape)] for value in pair]
        everyones = self._texts(json.dumps(forms))
        self.gathered(lambda: _raised(error), 0)
        if not self.leads:
            for value in pair:
                with _reaching_the_others():
                    distributed.send(value.reshape(-1).view(torch.uint8), 0, group=self._all)
            return []
        parts = [pair]
        for number in range(1, self.rank.size):
            received = [torch.empty(shape, dtype=getattr(torch, name)) for name, shape in json.loads(everyones[number])]
            for value in received:
                with _reaching_the_others():
                    distributed.recv(value.reshape(-1).view(torch.uint8), number, group=self._all)
            parts.append(tuple(received))
        return [part for part in parts if part]

    # Agreement

    def gathered(self, work: Callable[[], Mapping[int, float]], count: int) -> list[float]:
        """Return `count` numbers in every process; each computes some of them, as place -> number.

        A signal that another process got reaches the first one.

        Raises:
            StepMemoryError: in one of them the step did not fit.
            OrcaError: the work failed in one of them; in this one it may be any exception.
        """
        error: Exception | None = None
        values: Mapping[int, float] = {}
        try:
            values = work()
        except Exception as failure:  # noqa: BLE001 - the others wait for this process
            error = failure
        state = _FINE if error is None else _SHORT_OF_MEMORY if isinstance(error, StepMemoryError) else _FAILED
        row = torch.zeros(2 + count, dtype=torch.float64)
        row[0], row[1] = state, signals.pending() or 0
        for place, value in values.items():
            row[2 + place] = value
        everyones = [torch.empty_like(row) for _ in range(self.rank.size)]
        with _reaching_the_others():
            distributed.all_gather(everyones, row, group=self._all)
        table = torch.stack(everyones)
        if self.leads and (numbers := [int(number) for number in table[1:, 1] if number]):
            signals.note(numbers[0])
        if table[:, 0].any():
            self._fail(table[:, 0].tolist(), error)
        return table[:, 2:].sum(0).tolist()

    def _fail(self, states: list[float], error: Exception | None) -> None:
        texts = self._texts(json.dumps(_record(error, self.rank)))
        if _FAILED not in states:
            self.failure = error or StepMemoryError("not enough memory", where="train.batch_size")
        elif error is not None and states[self.rank.number] == _FAILED:
            self.failure = error
        else:
            self.failure = _rebuilt(json.loads(texts[states.index(_FAILED)]))
        raise self.failure

    def _texts(self, message: str) -> list[str]:
        """Return the text of every process."""
        content = torch.frombuffer(bytearray(message.encode() or b" "), dtype=torch.uint8)
        lengths = [torch.empty(1, dtype=torch.int64) for _ in range(self.rank.size)]
        with _reaching_the_others():
            distributed.all_gather(lengths, torch.tensor([len(content)]), group=self._all)
        padded = torch.zeros(max(int(one) for one in lengths), dtype=torch.uint8)
        padded[: len(content)] = content
        everyones = [torch.empty_like(padded) for _ in range(self.rank.size)]
        with _reaching_the_others():
            distributed.all_gather(everyones, padded, group=self._all)
        return [bytes(text[: int(size)].numpy()).decode() for text, size in zip(everyones, lengths, strict=True)]

    def _broadcast(self, tensor: Tensor) -> None:
        with _reaching_the_others():
            distributed.broadcast(tensor, 0, group=self._all)


@contextmanager
def _reaching_the_others() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if is_exhausted(error):
            raise
        what = "another process of this run has ended"
        raise LostProcessError(what, where="torchrun", hint="rerun the same command to resume") from error


def _raised(error: Exception | None) -> dict[int, float]:
    if error is not None:
        raise error
    return {}


def _record(error: Exception | None, rank: Rank) -> dict[str, str]:
    if isinstance(error, OrcaError):
        return {"kind": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint}
    what = f"process {rank.number} of {rank.size}: unexpected {type(error).__name__}: {error}"
    return {"kind": "OrcaError", "what": what, "where": "", "hint": ""}


def _rebuilt(record: Mapping[str, str]) -> OrcaError:
    kind = getattr(exceptions, record["kind"], OrcaError)
    if issubclass(kind, InterruptionError):
        signals.check()  # it has been noted
    return kind(record["what"], where=record["where"], hint=record["hint"])


def _share_processors(rank: Rank) -> None:
    """Give each process of a machine its part of the processors, unless the environment says how many threads there are."""
    if "OMP_NUM_THREADS" not in os.environ:
        count = max(1, len(os.sched_getaffinity(0)) // rank.here) if hasattr(os, "sched_getaffinity") else 1
        os.environ["OMP_NUM_THREADS"] = str(count)
        torch.set_num_threads(count)
    os.environ.setdefault("LOCAL_RANK", str(rank.local))  # accelerate asks for it


def _leave() -> None:
    with contextlib.suppress(Exception):
        distributed.destroy_process_group()
