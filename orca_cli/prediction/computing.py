"""What computes a model's outputs: a simple model, without torch, or the network.

Shapes: B samples in a batch, C channels, K outputs, *E the extent of dense inputs and outputs.
"""

import functools
from collections.abc import Callable, Generator, Iterable
from typing import Protocol

import numpy as np

from orca_cli import signals
from orca_cli.baselines.features import table
from orca_cli.baselines.plain import PlainModel
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.prediction.loading import Loaded

# x [B, C, *E] float32, and where it is not padding, [B, *E], or None.
Inputs = tuple[np.ndarray, np.ndarray | None]
# The features that a simple model takes, of such inputs.
Features = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


class Computer(Protocol):
    """Computes outputs of inputs, batch by batch."""

    def outputs(self, reads: Iterable[Callable[[], Inputs]]) -> Generator[np.ndarray, None, None]:
        """Yield the outputs [B, K] or [B, K, *E] of batches, each of which a call reads."""


def computer(loaded: Loaded, device: str, batch_size: int) -> Computer:
    """Return what computes the outputs of a model.

    Raises:
        ConfigError: the device does not exist, or a simple model does not compute on it.
        UnavailableError: the device is absent.
    """
    simple = loaded.simple
    if simple is not None and not loaded.members:
        if device not in ("auto", "cpu"):
            message = f"'{loaded.record.candidate}' does not compute on '{device}'"
            raise ConfigError(message, where="device", hint="allowed: auto, cpu")
        return _Simple(simple, _features(simple), loaded.record.num_outputs)
    # Imported late: it imports torch.
    from orca_cli.prediction.network_outputs import Network, network_features

    if simple is None:
        return Network(loaded, device, batch_size)
    features = network_features(loaded, simple.record["inputs"], device)
    return _Simple(simple, features, loaded.record.num_outputs)


def _features(model: PlainModel) -> Features:
    if model.record["inputs"] == "raw":
        return lambda x, valid: x
    return functools.partial(table, limit=model.record["limit"])


class _Simple:
    """A simple model on features; see `Computer`."""

    def __init__(self, model: PlainModel, features: Features, num_outputs: int) -> None:
        self._model = model
        self._features = features
        self._num_outputs = num_outputs

    def outputs(self, reads: Iterable[Callable[[], Inputs]]) -> Generator[np.ndarray, None, None]:
        for read in reads:
            signals.check()
            x, valid = read()
            outputs = self._model.outputs(self._features(x, valid))
            # In a stranger's export, the model and the record may not belong together.
            if outputs.shape[1:2] != (self._num_outputs,):
                message = f"the model has other outputs than the {self._num_outputs} of its record"
                raise DataError(message, where=str(self._model.record.get("model", "model")))
            yield outputs
