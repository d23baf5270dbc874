"""What computes a model's outputs: a simple model, without torch, or the network.

Shapes: B samples in a batch, C channels, K outputs, *E the extent of dense inputs and outputs.
"""

import functools
from collections.abc import Callable, Generator, Iterable

import numpy as np

from orca_cli import signals
from orca_cli.baselines.features import table
from orca_cli.baselines.plain import PlainModel
from orca_cli.exceptions import ConfigError
from orca_cli.prediction.loading import Loaded

# x [B, C, *E] float32, and where it is not padding, [B, *E], or None.
Inputs = tuple[np.ndarray, np.ndarray | None]
# From such inputs to the features that a simple model takes.
Features = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
# From calls that read batches to the outputs of these, [B, K] or [B, K, *E].
Computer = Callable[[Iterable[Callable[[], Inputs]]], Generator[np.ndarray, None, None]]


def computer(loaded: Loaded, device: str, batch_size: int) -> Computer:
    """Return what computes the outputs of a model.

    Raises:
        ConfigError: the device does not exist, or a simple model does not compute on it.
        UnavailableError: the device is absent.
    """
    simple = loaded.simple
    if loaded.members:
        # Imported late: they import torch.
        from orca_cli.prediction.network_outputs import network_features, network_outputs

        if simple is None:
            return network_outputs(loaded, device, batch_size)
        features = network_features(loaded, simple.record["inputs"], device)
        return functools.partial(_outputs, simple, features)
    if device not in ("auto", "cpu"):
        message = f"'{loaded.record.candidate}' does not compute on '{device}'"
        raise ConfigError(message, where="device", hint="allowed: auto, cpu")
    assert simple is not None  # without a network
    if simple.record["inputs"] == "raw":
        return functools.partial(_outputs, simple, lambda x, valid: x)
    features = functools.partial(table, limit=simple.record["limit"])
    return functools.partial(_outputs, simple, features)


def _outputs(
    simple: PlainModel, features: Features, reads: Iterable[Callable[[], Inputs]]
) -> Generator[np.ndarray, None, None]:
    for read in reads:
        signals.check()
        yield simple.outputs(features(*read()))
