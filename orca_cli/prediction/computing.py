"""Compute a model's outputs: those of a baseline, without torch, or those of the network.

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

# x [B, C, *E] float32, and the mask of positions that are not padding, [B, *E] or None.
Inputs = tuple[np.ndarray, np.ndarray | None]
# A function from such inputs to the features that a baseline takes.
Features = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
# A function from calls that read batches to the outputs of these batches, [B, K] or [B, K, *E].
Computer = Callable[[Iterable[Callable[[], Inputs]]], Generator[np.ndarray, None, None]]


def computer(loaded: Loaded, device: str, batch_size: int) -> Computer:
    """Return the function that computes the outputs of a model.

    Raises:
        ConfigError: the device does not exist, or the model is a baseline without a network, which
            needs the CPU.
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
        message = f"'{loaded.record.candidate}' cannot compute on '{device}'"
        raise ConfigError(message, where="device", hint="set the device to auto or cpu")
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
