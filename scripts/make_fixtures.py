"""Write tiny SYNTHETIC files in the original format of every task of the paper, for tests.

The files have the names, keys, dtypes, orders and traps of the published ones and nothing of their content: random signals of
which the targets are simple functions, so that a model can learn something.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import tarfile
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

AMINO = "ACDEFGHIKLMNPQRSTVWY"
ECG_CLASSES = "NAO~"
# Records of the lengths that are traps: no full window, exactly one and a half, and one whose signal is constant.
ECG_LENGTHS = (900, 1500, 1000, 2600, 3100, 2000)


def make(task: str, folder: Path, seed: int = 0) -> None:
    """Write the files of one task below folder/task.

    Args:
        task: one of TASKS.
        folder: as `paths.data`.
        seed: of the content.
    """
    place = folder / task
    place.mkdir(parents=True, exist_ok=True)
    TASKS[task](place, np.random.default_rng(seed))


def _labels(n: int, classes: int) -> np.ndarray:
    return np.arange(n) % classes


def _stripes(rng: np.random.Generator, labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return bytes whose brightness tells the label."""
    brightness = 20 + 200 * labels / max(1, labels.max())
    noise = rng.integers(0, 30, (len(labels), *shape))
    return (brightness.reshape(-1, *(1,) * len(shape)) + noise).astype(np.uint8)


def _objects(values: list[Any]) -> np.ndarray:
    """Return an array of objects, [n]."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _cifar100(place: Path, rng: np.random.Generator) -> None:
    members: dict[str, dict[str, Any]] = {}
    for name, n in (("train", 200), ("test", 100)):
        fine = _labels(n, 100)
        members[name] = {
            "filenames": [f"{name}_{i}.png" for i in range(n)],
            "batch_label": "synthetic",
            "fine_labels": fine.tolist(),
            "coarse_labels": (fine // 5).tolist(),
            "data": _stripes(rng, fine, (3072,)),
        }
    members["meta"] = {
        "fine_label_names": [f"class_{i}" for i in range(100)],
        "coarse_label_names": [f"group_{i}" for i in range(20)],
    }
    with tarfile.open(place / "cifar-100-python.tar.gz", "w:gz") as archive:
        for name, record in members.items():
            content = _python_2_pickle(record)
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


class _Python2Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes texts and bytes as the byte strings of Python 2, which made the published files."""

    dispatch = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def _save_string(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = _save_string


def _python_2_pickle(value: Any) -> bytes:
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def _spherical(place: Path, rng: np.random.Generator) -> None:
    labels = {"train": _labels(200, 100), "test": _labels(100, 100)}
    parts = {part: {"images": _stripes(rng, y, (3, 60, 60)), "labels": y} for part, y in labels.items()}
    with gzip.open(place / "s2_cifar100.gz", "wb", compresslevel=1) as file:
        pickle.dump(parts, file)


def _darcy(place: Path, rng: np.random.Generator, size: int = 41) -> None:
    """Squares of 5 x 5 nodes of either coefficient, so that no two samples are alike on every fifth node."""
    for n, name, save in (
        (24, "piececonst_r421_N1024_smooth1.mat", scipy.io.savemat),
        (6, "piececonst_r421_N1024_smooth2.mat", _save_hdf5),
    ):
        squares = rng.normal(size=(n, -(-size // 5), -(-size // 5))).repeat(5, 1).repeat(5, 2)[:, :size, :size]
        coefficient = np.where(squares > 0, 12.0, 3.0)
        save(place / name, {"coeff": coefficient, "sol": 0.01 / coefficient + 1e-4 * rng.random((n, size, size))})


def _save_hdf5(path: Path, content: dict[str, np.ndarray]) -> None:
    """Write arrays as MATLAB 7.3 does: a userblock of 512 bytes, and axes in reverse order."""
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in content.items():
            file.create_dataset(name, data=array.T).attrs["MATLAB_class"] = np.bytes_("double")
    with open(path, "r+b") as raw:
        header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, HDF5 schema 1.00 ."
        raw.write(header.ljust(116) + b" " * 8 + bytes([0, 2]) + b"IM")


def _psicov(place: Path, rng: np.random.Generator) -> None:
    """Proteins below and above a window of 64, one with two residues less than fits."""
    for part, sizes in {"deepcov": (30, 54, 80, 41, 33, 37), "psicov": (44, 70)}.items():
        root = place / "protein" / part
        (root / "features").mkdir(parents=True)
        (root / "distance").mkdir()
        lines = []
        for number, length in enumerate(sizes):
            name = f"{part[:2]}{number}A"
            lines.append(f"{name} {length}\n")
            steps = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
            hidden = rng.random((length, length))
            hidden = (hidden + hidden.T) / 2
            # A ring of 30 residues: neighbours in space far apart in sequence; the diagonal is below 1, as in the files.
            distances = (20 * np.abs(np.sin(np.pi * steps / 30)) + 2 * hidden).astype(np.float32)
            features = {
                "seq": "".join(rng.choice(list(AMINO), length)),
                "sa": rng.random(length),
                "entropy": rng.random(length),
                "ss": rng.random((3, length)),
                "pssm": rng.random((length, 22)),
                "ccmpred": hidden,
                "freecon": hidden**2,
                "potential": rng.random((length, length)),
            }
            (root / "features" / f"{name}.pkl").write_bytes(pickle.dumps(features))
            content = _objects([length, features["seq"], distances])
            np.save(root / "distance" / f"{name}-cb.npy", content, allow_pickle=True)
        (place / "protein" / f"{part}.lst").write_text("".join(lines))


def _cosmic(place: Path, rng: np.random.Generator) -> None:
    """Stamps of 256 x 256 with two and three planes, visits with and without the sky's level."""
    for split, visits in (("npy_train", 4), ("npy_test", 2)):
        for visit in range(visits):
            folder = place / split / "f435w" / f"1{visit:04}" / f"0{visit}"
            folder.mkdir(parents=True)
            exposures = 3
            if visit % 2 == 0:
                np.save(folder / "sky.npy", rng.uniform(10, 20, exposures))
            for exposure in range(1, exposures + 1):
                mask = rng.random((256, 256)) < 0.05
                planes = [rng.normal(30, 3, (256, 256)) + 400 * mask, mask]
                if visit != 1:
                    planes.append(rng.random((256, 256)) < 0.1)
                np.save(folder / f"{exposure}_stamp.npy", np.stack(planes).astype(np.float32))


def _ninapro(place: Path, rng: np.random.Generator) -> None:
    for name, n in (("train", 90), ("val", 36), ("test", 36)):
        labels = _labels(n, 18)
        data = rng.normal(size=(n, 52, 16)) * 0.1 + labels[:, None, None] / 18
        np.save(place / f"ninapro_{name}.npy", data.astype(np.float16))
        np.save(place / f"label_{name}.npy", labels)


def _fsd50k(place: Path, rng: np.random.Generator) -> None:
    """Chunks of a second below chunks/, a manifest with a prefix that is not part of any path, and background noise."""
    names = [f"label_{i}" for i in range(200)]
    (place / "chunks").mkdir()
    (place / "noise_22050").mkdir()
    (place / "chunks" / "lbl_map.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    for number in range(2):
        _save_wav(place / "noise_22050" / f"noise_{number}.wav", 0.1 * rng.normal(size=22050 * 2))
    for split, clips, shift in (("tr", 12, 0), ("val", 4, 100), ("eval", 4, 200)):
        rows = []
        for clip in range(clips):
            clip_id = str(1000 + shift + clip)
            for chunk in range(1 + clip % 3):
                path = Path("chunks") / split / f"{clip_id}_{chunk}.wav"
                (place / path).parent.mkdir(exist_ok=True)
                tone = np.sin(2 * np.pi * 220 * (1 + clip % 4) * np.arange(22050) / 22050)
                _save_wav(place / path, 0.5 * tone + 0.05 * rng.normal(size=22050))
                rows.append((f"/mnt/{path.as_posix()}", f"{names[clip % 4]},{names[4 + clip % 3]}", clip_id))
        with open(place / "chunks" / f"{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows([("files", "labels", "ext"), *rows])


def _save_wav(path: Path, signal: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(22050)
        file.writeframes((np.clip(signal, -1, 1) * 32767).astype("<i2").tobytes())


def _ecg(place: Path, rng: np.random.Generator) -> None:
    records, labels = [], []
    for number in range(48):
        length = ECG_LENGTHS[number % len(ECG_LENGTHS)]
        label = number % 4
        beats = np.sin(2 * np.pi * np.arange(length) * (1 + label) / 100)
        records.append(
            np.full(length, 7) if number == 5 else (300 * beats + 30 * rng.normal(size=length)).astype(np.int16)
        )
        labels.append(ECG_CLASSES[label])
    (place / "challenge2017.pkl").write_bytes(pickle.dumps({"data": _objects(records), "label": labels}))


def _satellite(place: Path, rng: np.random.Generator) -> None:
    for name, n in (("train", 240), ("test", 48)):
        labels = 1 + _labels(n, 24)
        phase = 2 * np.pi * labels[:, None] / 24
        data = 500 + 100 * np.sin(np.arange(46) / 5 + phase) + 10 * rng.normal(size=(n, 46))
        record = np.array({"data": data, "label": labels}, dtype=object)
        np.save(place / f"satellite_{name}.npy", record, allow_pickle=True)


def _deepsea(place: Path, rng: np.random.Generator) -> None:
    """Sequences with unknown bases; the last label is never present."""
    arrays = {}
    for name, n in (("train", 60), ("val", 20), ("test", 20)):
        bases = rng.integers(0, 4, (n, 1000))
        x = np.eye(4, dtype=np.uint8)[bases]
        x[:, :3] = 0
        y = (bases[:, 10:46] == 1).astype(np.uint8)
        y[:, -1] = 0
        arrays |= {f"x_{name}": x, f"y_{name}": y}
    np.savez_compressed(place / "deepsea_filtered.npz", **arrays)


def _jsb(place: Path, rng: np.random.Generator) -> None:
    cells = {}
    for name, lengths in (("traindata", (25, 40, 60, 33)), ("validdata", (32, 30)), ("testdata", (32, 50, 28))):
        pieces = []
        for length in lengths:
            notes = 40 + np.cumsum(rng.integers(-1, 2, length))
            piece = np.zeros((length, 88), np.uint8)
            piece[np.arange(length), notes] = 1
            piece[np.arange(length), notes + 4] = 1
            pieces.append(piece)
        cells[name] = _objects(pieces)[None]
    scipy.io.savemat(place / "JSB_Chorales.mat", cells)


def _listops(place: Path, rng: np.random.Generator) -> None:
    """Expressions with the parentheses of the published files; the last one of each file has more than 1,024 tokens."""
    operators = {"[MAX": max, "[MIN": min, "[MED": np.median, "[SM": lambda values: sum(values) % 10}
    for name, n in (("train", 60), ("val", 20), ("test", 20)):
        lines = ["Source\tTarget"]
        for number in range(n):
            digits = rng.integers(0, 10, 1100 if number == n - 1 else 3 + number % 5)
            source, value = list(operators.items())[number % 4]
            for digit in digits:
                source = f"( {source} {digit} )"
            lines.append(f"( {source} ] )\t{int(value(digits))}")
        (place / f"basic_{name}.tsv").write_text("\n".join(lines) + "\n")


def _homology(place: Path, rng: np.random.Generator) -> None:
    """LMDB as in TAPE and its JSON twin in json/; the first training protein is longer than the input."""
    import lmdb

    parts = {"train": 40, "valid": 8, "test_fold_holdout": 10, "test_family_holdout": 4, "test_superfamily_holdout": 4}
    for part, n in parts.items():
        proteins = []
        for number in range(n):
            fold = number % 4 * 300
            length = 1500 if part == "train" and number == 0 else 20 + number
            letters = AMINO[5 * (number % 4) : 5 * (number % 4) + 5] + "XBZUO"[number % 5]
            primary = "".join(rng.choice(list(letters), length))
            proteins.append({"primary": primary, "protein_length": length, "id": f"d{number}", "fold_label": fold})
        folder = place / "remote_homology" / f"remote_homology_{part}.lmdb"
        folder.mkdir(parents=True)
        with lmdb.open(str(folder), map_size=2**24) as environment, environment.begin(write=True) as transaction:
            transaction.put(b"num_examples", pickle.dumps(n))
            for number, protein in enumerate(proteins):
                transaction.put(str(number).encode(), pickle.dumps(protein | {"id": protein["id"].encode()}))
        twin = place / "json" / f"remote_homology_{part}.json"
        twin.parent.mkdir(exist_ok=True)
        twin.write_text(json.dumps(proteins))


def _domainnet(place: Path, rng: np.random.Generator) -> None:
    from PIL import Image

    for split, n in (("train", 80), ("test", 40)):
        labels = _labels(n, 40)
        lines = []
        for number, (label, image) in enumerate(zip(labels, _stripes(rng, labels, (48, 64, 3)), strict=True)):
            path = Path("sketch") / f"class_{label:02}" / f"sketch_{split}_{number:03}.jpg"
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / path, quality=95)
            lines.append(f"{path.as_posix()} {label}\n")
        (place / f"sketch_{split}_mini.txt").write_text("".join(lines))


TASKS: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "cifar100": _cifar100,
    "spherical": _spherical,
    "darcy": _darcy,
    "psicov": _psicov,
    "cosmic": _cosmic,
    "ninapro": _ninapro,
    "fsd50k": _fsd50k,
    "ecg": _ecg,
    "satellite": _satellite,
    "deepsea": _deepsea,
    "jsb": _jsb,
    "listops": _listops,
    "homology": _homology,
    "domainnet": _domainnet,
}
