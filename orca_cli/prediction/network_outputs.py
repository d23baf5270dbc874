"""The outputs of a run's networks, and the features that simple models take from one.

Shapes: B samples in a batch, K outputs, *E the extent of dense outputs.
"""

import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch

from orca_cli import signals
from orca_cli.baselines.network_features import embedded, probed
from orca_cli.interfaces import Batch
from orca_cli.prediction.computing import Features, Inputs
from orca_cli.prediction.loading import Loaded
from orca_cli.training.engine import Engine, choose_device, choose_precision
from orca_cli.training.loop import read_ahead

# Batches that are computed before the first of them is yielded, and numbers in their outputs.
_MAX_WAITING_BATCHES = 16
_MAX_WAITING_NUMBERS = 2**24


class Network:
    """The transfer's network as a `computing.Computer`.

    Outputs are float32, or float64 where the run's targets are. They are computed in the run's
    precision, but on a CPU in fp32 where that is fp16.

    Args:
        loaded: the model.
        device: auto, cpu, cuda, cuda:N or mps.
        batch_size: samples in a batch.

    Raises:
        ConfigError: the device does not exist.
        UnavailableError: it is absent.
    """

    def __init__(self, loaded: Loaded, device: str, batch_size: int) -> None:
        record = loaded.record
        self._model = loaded.model
        self._device = choose_device(device)
        precision = record.precision
        if precision == "fp16" and self._device.type == "cpu":
            precision = "fp32"
        # As in the run's own evaluation, so that predictions keep its bits.
        precision = choose_precision(precision, self._device, self._model.body.width)
        self._engine = Engine(self._device, precision)
        numbers_per_batch = batch_size * record.num_outputs
        # A map has K numbers at every position.
        if loaded.preprocessing.targets.kind in ("maps", "class_maps"):
            numbers_per_batch *= math.prod(record.input_shape[1:])
        affordable_batches = _MAX_WAITING_NUMBERS // numbers_per_batch
        self._waiting_batches = max(1, min(_MAX_WAITING_BATCHES, affordable_batches))

    def outputs(self, reads: Iterable[Callable[[], Inputs]]) -> Generator[np.ndarray, None, None]:
        """Yield the outputs of batches, [B, K] or [B, K, *E]; the calls are made in a thread."""
        self._model.to(self._device)
        self._model.eval()
        # A generator: batches are pinned where they are read, while the model computes.
        pinned_reads = (lambda read=read: self._batch(read()) for read in reads)
        with closing(read_ahead(pinned_reads)) as batches:
            outputs = self._outputs(batches)
            while True:
                # While it is on, autocast converts each weight to bfloat16 only once. So it is on
                # for several batches together, but never while the caller works.
                with torch.no_grad(), self._engine.autocast():
                    computed_outputs = list(itertools.islice(outputs, self._waiting_batches))
                # An empty list is the end of the batches.
                if not computed_outputs:
                    return
                yield from computed_outputs

    def _batch(self, inputs: Inputs) -> Batch:
        return self._engine.pin(_batch_of(*inputs))

    def _outputs(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        for batch in batches:
            signals.check()
            batch_on_device = self._engine.move(batch)
            on_cpu = self._model(batch_on_device.x, batch_on_device.valid).cpu()
            yield on_cpu.numpy()


def network_features(loaded: Loaded, inputs: str, device: str) -> Features:
    """Return the function that makes the features of a simple model by its network.

    `inputs` is "embedder" or "body".

    Raises as `Network`.
    """
    chosen_device = choose_device(device)
    network: Any = loaded.members[0]
    take: Any = probed
    if inputs == "embedder":
        # The body has no weights then, and does not move.
        network = network.embedder
        take = embedded
    network.to(chosen_device).eval()

    def features(x: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
        batch = _batch_of(x, valid).mapped(lambda tensor: tensor.to(chosen_device))
        return take(network, batch.x, batch.valid)

    return features


def _batch_of(x: np.ndarray, valid: np.ndarray | None) -> Batch:
    # Zeros [B] in place of targets, which no output depends on.
    return Batch.from_arrays(x, np.zeros(len(x), np.float32), valid)
