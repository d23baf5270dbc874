"""The outputs of a run's networks, and the features that baselines take from a network.

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
from orca_cli.prediction.computing import Computer, Features, Inputs
from orca_cli.prediction.loading import Loaded
from orca_cli.training.engine import Engine, choose_device, choose_precision
from orca_cli.training.loop import read_ahead

# Upper bounds: batches that are computed before the first is yielded, and numbers in their outputs.
_MAX_WAITING_BATCHES = 16
_MAX_WAITING_NUMBERS = 2**24


def network_outputs(loaded: Loaded, device: str, batch_size: int) -> Computer:
    """Return the function that computes the outputs of the transfer.

    They are float32, or float64 if the run's targets are float64. They are computed in the run's
    precision; a CPU computes in fp32 if that precision is fp16.

    Args:
        loaded: the model.
        device: auto, cpu, cuda, cuda:N or mps.
        batch_size: samples in a batch.

    Raises:
        ConfigError: the device does not exist.
        UnavailableError: the device is absent.
    """
    model = loaded.model
    chosen_device = choose_device(device)
    precision = loaded.record.precision
    if precision == "fp16" and chosen_device.type == "cpu":
        precision = "fp32"
    # As in the run's own evaluation, so that predictions keep its bits.
    precision = choose_precision(precision, chosen_device, model.body.width)
    engine = Engine(chosen_device, precision)
    numbers_per_batch = batch_size * loaded.record.num_outputs
    # A map has K numbers at every position.
    if loaded.record.kind == "dense":
        numbers_per_batch *= math.prod(loaded.record.input_shape[1:])
    affordable_batches = _MAX_WAITING_NUMBERS // numbers_per_batch
    waiting_batches = max(1, min(_MAX_WAITING_BATCHES, affordable_batches))

    def outputs(reads: Iterable[Callable[[], Inputs]]) -> Generator[np.ndarray, None, None]:
        model.to(chosen_device)
        model.eval()
        # `read_ahead` calls these reads in a thread, while the model computes earlier batches.
        pinned_reads = (lambda read=read: engine.pin(_batch(*read())) for read in reads)
        with closing(read_ahead(pinned_reads)) as batches:
            outputs_of_batches = _outputs(model, engine, batches)
            while True:
                # While autocast is on, it converts each weight to bfloat16 only once. So it stays
                # on for several batches, but never while the caller works.
                with torch.no_grad(), engine.autocast():
                    computed_outputs = [*itertools.islice(outputs_of_batches, waiting_batches)]
                # An empty list is the end of the batches.
                if not computed_outputs:
                    return
                yield from computed_outputs

    return outputs


def _outputs(model: Any, engine: Engine, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
    for batch in batches:
        signals.check()
        batch_on_device = engine.move(batch)
        yield model(batch_on_device.x, batch_on_device.valid).cpu().numpy()


def network_features(loaded: Loaded, inputs: str, device: str) -> Features:
    """Return the function that makes the features of a baseline by its network.

    `inputs` is "embedder" or "body". Raises as `network_outputs`.
    """
    network: Any = loaded.members[0]
    take: Any = probed
    if inputs == "embedder":
        # The body has no weights in this case and is not moved to the device.
        network = network.embedder
        take = embedded
    chosen_device = choose_device(device)
    network.to(chosen_device).eval()

    def features(x: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
        batch = _batch(x, valid).mapped(lambda tensor: tensor.to(chosen_device))
        taken: np.ndarray = take(network, batch.x, batch.valid)
        return taken

    return features


def _batch(x: np.ndarray, valid: np.ndarray | None) -> Batch:
    # Zeros [B] in place of targets, which no output depends on.
    return Batch.from_arrays(x, np.zeros(len(x), np.float32), valid)
