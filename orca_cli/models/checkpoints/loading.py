"""Checks of a checkpoint's config.json, and the transformers model of a checkpoint's folder.

The model is made with its weights, or as an architecture alone.
"""

import inspect
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from orca_cli.exceptions import ConfigError, DataError, UnsafeError, process_error
from orca_cli.models.checkpoints.resolution import CONFIG, KEY, PACKAGED, Packaged, resolve

# Many times the size of a real configuration; a larger file is an attack or a mistake.
_LARGEST_FILE = 2**24  # bytes
# A vocabulary, the largest number in a configuration, has a few hundred thousand words.
_LARGEST_NUMBER = 2**20  # if config.json alone decides the size of a model
_DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "depths")
# Settings of config.json that make transformers run code from the repository or, if they name a
# kernel as OWNER/NAME, code from the hub.
_CODE = ("auto_map", "quantization_config")
_KERNELS = ("attn_implementation", "_attn_implementation")
# A ContextVar, so that other threads still load weights.
_architecture_on: ContextVar[str | None] = ContextVar("architecture_on", default=None)


def read_config(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """Return the content of a JSON file of a checkpoint.

    Raises:
        DataError: the file is unreadable, too large, or not a JSON object.
    """
    path = folder / name
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError("too large")
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{name} is unreadable", where=str(folder)) from error


def shareable_config(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's config.json without the folder that its maker loaded it from."""
    content = read_config(folder)
    # It is a path on the maker's machine, and may name the person.
    content.pop("_name_or_path", None)
    return content


def check_family(folder: Path, families: tuple[str, ...]) -> str:
    """Return the family that a checkpoint's config.json names, unless the file asks for code.

    Raises:
        ConfigError, DataError: the body's code does not know the family, or the file is unreadable.
        UnsafeError: its model needs code from the repository, a quantiser, or a kernel on the hub.
    """
    content = read_config(folder)
    keys_of_code = [key for key in _CODE if content.get(key)]
    for key in _KERNELS:
        if "/" in str(content.get(key)):
            keys_of_code.append(key)
    if keys_of_code:
        raise UnsafeError(
            f"config.json asks for third-party code ('{keys_of_code[0]}'), which is never run",
            where=f"{KEY}={folder}",
            hint="use a checkpoint of a family that the library transformers implements",
        )
    # Compared with our own list: transformers would import whatever module the type names.
    model_type = content.get("model_type")
    if model_type not in families:
        raise ConfigError(
            f"'{folder}' belongs to the family '{model_type}', but this body needs "
            f"{' or '.join(families)}",
            where=KEY,
            hint="use a body of that family from `orca list bodies`",
        )
    return str(model_type)


def check_modest(folder: Path) -> int:
    """Check the numbers in a config.json, and return the number of layers that it asks for.

    An untrusted file of a few bytes could ask for days of work.

    Raises:
        DataError: the file is unreadable.
        UnsafeError: the file contains a number that is larger than in any model.
    """
    largest = 0
    layer_count = 0
    for setting_name, number in _numbers(read_config(folder)):
        # rope_theta is a wavelength, in the millions for long texts; no size depends on it.
        if setting_name != "rope_theta":
            largest = max(largest, abs(number))
        # The layers of all models in the file are counted, such as the layers of SigLIP's towers.
        if setting_name in _DEPTHS:
            layer_count += number
    if largest > _LARGEST_NUMBER:
        raise UnsafeError(
            f"contains the number {largest}, more than the limit of {_LARGEST_NUMBER:,}",
            where=str(folder / CONFIG),
            hint="get the checkpoint again, from a source that you trust: no model has that size",
        )
    return layer_count


def _numbers(json_object: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the integers in a JSON object, at any depth, each with its key."""
    # A list of nodes instead of recursion, whose depth limit an untrusted file could exceed.
    waiting: list[tuple[str, Any]] = [("", json_object)]
    while waiting:
        key, node = waiting.pop()
        if isinstance(node, dict):
            waiting += node.items()
        elif isinstance(node, list):
            waiting += [(key, element) for element in node]
        elif isinstance(node, int) and not isinstance(node, bool):
            yield key, node


@contextmanager
def architecture_only(device: str = "meta") -> Iterator[None]:
    """Inside the block, make bodies from a folder's config.json alone.

    The caller has all of their weights and loads them afterwards.

    Args:
        device: device of the bodies; on "meta" they have shapes, but neither memory nor values.
    """
    before = _architecture_on.set(device)
    try:
        yield
    finally:
        _architecture_on.reset(before)


def family(checkpoint: str, families: tuple[str, ...]) -> str:
    """Return the family that a checkpoint's config.json names; raises as `check_family`."""
    return check_family(_folder_of(checkpoint), families)


def _folder_of(checkpoint: str) -> Path:
    """Return the folder from `resolve`; inside `architecture_only` the checkpoint is the folder."""
    if _architecture_on.get() is None:
        return resolve(checkpoint)
    # No weights are needed here, but `resolve` would look for them.
    return Path(checkpoint)


def load_model(classes: Mapping[str, str], checkpoint: str, **settings: Any) -> tuple[Any, Path]:
    """Return a transformers model without pooler, and the folder that it was read from.

    The model is in float32 and on the CPU. Inside `architecture_only` only config.json is read.
    Silences transformers for the rest of the process.

    Args:
        classes: the model types that the body's code knows, each with the name of its class in
            transformers.
        checkpoint: as in `resolve`.
        settings: further arguments of `from_pretrained`.

    Raises:
        ConfigError, DataError, UnsafeError, ChecksumError, NetworkError: as in `resolve` and
            `check_family`; DataError also if weights are damaged or missing.
    """
    import torch
    import transformers

    device = _architecture_on.get()
    checkpoint_folder = _folder_of(checkpoint)
    packaged = PACKAGED.get(checkpoint)
    model_class = getattr(transformers, classes[check_family(checkpoint_folder, tuple(classes))])
    # float32, whatever type the checkpoint was saved in: the engine chooses the precision.
    settings |= {"dtype": torch.float32, **without_pooler(model_class)}
    # Its progress bars and warnings would mix with the program's own lines.
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if device is not None:
        return _from_config(model_class, checkpoint_folder, device, settings), checkpoint_folder
    if packaged is not None and packaged.weights.endswith(".bin"):
        model = _from_config(model_class, checkpoint_folder, "cpu", settings)
        _read_package(model, checkpoint_folder / packaged.weights, packaged)
        return model, checkpoint_folder
    return _from_safetensors(model_class, checkpoint_folder, settings), checkpoint_folder


def _from_config(
    model_class: Any, checkpoint_folder: Path, device: str, settings: Mapping[str, Any]
) -> Any:
    """Return a model with the architecture of config.json, without the checkpoint's weights."""
    import torch

    # An untrusted config.json alone decides the size of this model.
    check_modest(checkpoint_folder)
    with (
        _blamed_on(str(checkpoint_folder / CONFIG), "does not describe a model"),
        torch.device(device),
    ):
        # The class is known already: the configuration cannot choose another.
        config = model_class.config_class.from_pretrained(checkpoint_folder, local_files_only=True)
        # In evaluation mode, as `from_pretrained` returns a model.
        return model_class._from_config(config, **settings).eval()


def _read_package(model: Any, weights_file: Path, packaged: Packaged) -> None:
    """Give a model the weights of a package's torch file, whose SHA-256 is the recorded one.

    Torch's own reader of plain tensors (`weights_only=True`), which builds no other objects, is a
    second barrier. The file must contain every tensor of the model, and no other tensors except
    tensors in `left_out`.
    """
    import torch

    with _blamed_on(str(weights_file), "does not contain the model's weights"):
        stored = torch.load(weights_file, map_location="cpu", weights_only=True)
        weights = {}
        for stored_name, tensor in stored.items():
            if not stored_name.startswith(packaged.left_out):
                weights[stored_name.removeprefix(packaged.prefix)] = tensor
        # Strict: a missing or a further tensor is an error.
        model.load_state_dict(weights)


def _from_safetensors(
    model_class: Any, checkpoint_folder: Path, settings: Mapping[str, Any]
) -> Any:
    """Return the model of a saved checkpoint, which must contain all of the model's weights."""
    with _blamed_on(str(checkpoint_folder), "the checkpoint cannot be read"):
        model, report = model_class.from_pretrained(
            checkpoint_folder,
            output_loading_info=True,
            # A pickle in the folder is never opened.
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            **settings,
        )
    # transformers draws missing weights at random and only logs a warning.
    mismatched_names = [name for name, *_ in report["mismatched_keys"]]
    wrong_names = sorted([*report["missing_keys"], *mismatched_names])
    if wrong_names:
        raise DataError(
            f"{len(wrong_names)} of the model's weights are missing or have the wrong shape, such "
            f"as '{wrong_names[0]}'",
            where=str(checkpoint_folder),
            hint="give the folder of a complete saved checkpoint",
        )
    # transformers also ignores weights that the model does not have.
    _check_depth(model, report["unexpected_keys"], checkpoint_folder)
    return model


def _check_depth(model: Any, unexpected: Iterable[str], checkpoint_folder: Path) -> None:
    """Raise DataError for weights of layers after the model's last layer.

    Weights of heads and of other towers are allowed; the model leaves them out.
    """
    import torch

    # Name of a list of layers -> its length.
    depths = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList):
            depths[name] = len(module)
    prefix = f"{model.base_model_prefix}."
    # Sorted, so that the message does not change from run to run.
    for weight_name in sorted(unexpected):
        # Such as encoder.layer.12.output.dense.weight.
        match = re.match(r"(.+?)\.(\d+)\.", weight_name.removeprefix(prefix))
        if match and int(match[2]) >= depths.get(match[1], math.inf):
            raise DataError(
                f"the weight '{weight_name}' belongs to a layer that {CONFIG} does not have",
                where=str(checkpoint_folder),
                hint=f"put the {CONFIG} that belongs to the weights into the folder",
            )


@contextmanager
def _blamed_on(where: str, message: str) -> Iterator[None]:
    """Turn any exception of transformers, safetensors or torch about a file into a DataError.

    An error of the machine, such as exhausted memory, is not changed.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - each library raises its own types
        is_out_of_memory = isinstance(error, MemoryError) or "allocate memory" in str(error)
        if is_out_of_memory or process_error(error):
            raise
        # Messages of these libraries run over many lines.
        in_one_line = " ".join(str(error).split())
        hint = "get the checkpoint again, from a source that you trust"
        raise DataError(f"{message}: {in_one_line[:300]}", where=where, hint=hint) from error


def without_pooler(model_class: type) -> dict[str, bool]:
    """Return the argument that leaves out a model's pooling layer, for classes that take it."""
    takes_it = "add_pooling_layer" in inspect.signature(model_class).parameters
    return {"add_pooling_layer": False} if takes_it else {}
