"""Tiny SYNTHETIC files in the original format of every task of the paper: their names, keys, dtypes, orders and traps.

Their content is synthetic: random signals with targets that are simple functions of them, so that a model can learn.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path

import lmdb
import numpy as np
import pandas as pd
import scipy.io
import scipy.io.wavfile
from PIL import Image

from tests.untrusted.pickles import python2

AMINO = "ACDEFGHIKLMNPQRSTVWY"
TASKS = [
    "cifar100", "spherical", "darcy", "psicov", "cosmic", "ninapro", "fsd50k", "ecg", "satellite",
    "deepsea",
]  # fmt: skip
TASKS += ["jsb", "listops", "homology", "domainnet"]


def make(task: str, folder: Path, seed: int = 0) -> None:
    """Write the files of one of TASKS below folder/task; `folder` is what `paths.data` names."""
    place = folder / task
    place.mkdir(parents=True, exist_ok=True)
    globals()[f"_{task}"](place, np.random.default_rng(seed))


def _stripes(rng, labels, shape):
    """Bytes whose brightness determines the label."""
    brightness = 20 + 200 * labels / max(1, labels.max())
    noise = rng.integers(0, 30, (len(labels), *shape))
    return (brightness.reshape(-1, *(1,) * len(shape)) + noise).astype(np.uint8)


def _objects(values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _cifar100(place, rng):
    members = {}
    for name, n in (("train", 200), ("test", 100)):
        fine = np.arange(n) % 100
        members[name] = {
            "filenames": [f"{name}_{i}.png" for i in range(n)],
            "batch_label": "synthetic",
            "fine_labels": fine.tolist(),
            "coarse_labels": (fine // 5).tolist(),
            "data": _stripes(rng, fine, (3072,)),
        }
    members["meta"] = {
        f"{kind}_label_names": [f"{kind}_{i}" for i in range(100)] for kind in ("fine", "coarse")
    }
    with tarfile.open(place / "cifar-100-python.tar.gz", "w:gz") as archive:
        for name, record in members.items():
            content = python2(record)
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _spherical(place, rng):
    labels = {"train": np.arange(200) % 100, "test": np.arange(100) % 100}
    parts = {
        part: {"images": _stripes(rng, y, (3, 60, 60)), "labels": y} for part, y in labels.items()
    }
    with gzip.open(place / "s2_cifar100.gz", "wb", compresslevel=1) as file:
        pickle.dump(parts, file)


def _darcy(place, rng, size=41):
    """Squares of 5 x 5 nodes of either coefficient, so that no two samples are equal on every fifth node."""
    for n, part in ((24, 1), (6, 2)):
        squares = (
            rng.normal(size=(n, -(-size // 5), -(-size // 5)))
            .repeat(5, 1)
            .repeat(5, 2)[:, :size, :size]
        )
        coefficient = np.where(squares > 0, 12.0, 3.0)
        path = place / f"piececonst_r421_N1024_smooth{part}.mat"
        scipy.io.savemat(
            path,
            {"coeff": coefficient, "sol": 0.01 / coefficient + 1e-4 * rng.random((n, size, size))},
        )


def _psicov(place, rng):
    """Proteins below and above a window of 64, and a protein with two residues fewer than fit into it."""
    for part, sizes in {"deepcov": (30, 54, 80, 41, 33, 37), "psicov": (44, 70)}.items():
        root = place / "protein" / part
        (root / "features").mkdir(parents=True)
        (root / "distance").mkdir()
        names = [f"{part[:2]}{number}A" for number in range(len(sizes))]
        lines = [f"{name} {length}\n" for name, length in zip(names, sizes, strict=True)]
        (place / "protein" / f"{part}.lst").write_text("".join(lines))
        for name, length in zip(names, sizes, strict=True):
            steps = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
            hidden = rng.random((length, length))
            hidden = (hidden + hidden.T) / 2
            # A ring of 30 residues: neighbours in space far apart in sequence; the diagonal is below 1, as in the files.
            distances = (20 * np.abs(np.sin(np.pi * steps / 30)) + 2 * hidden).astype(np.float32)
            features = {
                "seq": "".join(rng.choice(list(AMINO), length)),
                "ccmpred": hidden,
                "freecon": hidden**2,
            }
            shapes = {
                "sa": length,
                "entropy": length,
                "ss": (3, length),
                "pssm": (length, 22),
                "potential": hidden.shape,
            }
            features |= {feature: rng.random(shape) for feature, shape in shapes.items()}
            (root / "features" / f"{name}.pkl").write_bytes(pickle.dumps(features))
            np.save(
                root / "distance" / f"{name}-cb.npy", _objects([length, features["seq"], distances])
            )


def _cosmic(place, rng):
    """Stamps of 256 x 256 with two and three planes, visits with and without the sky's level."""
    for split, visits in (("npy_train", 4), ("npy_test", 2)):
        for visit in range(visits):
            folder = place / split / "f435w" / f"1{visit:04}" / f"0{visit}"
            folder.mkdir(parents=True)
            if visit % 2 == 0:
                np.save(folder / "sky.npy", rng.uniform(10, 20, 3))
            for exposure in range(1, 4):
                mask = rng.random((256, 256)) < 0.05
                planes = [rng.normal(30, 3, (256, 256)) + 400 * mask, mask]
                if visit != 1:
                    planes.append(rng.random((256, 256)) < 0.1)
                np.save(folder / f"{exposure}_stamp.npy", np.stack(planes).astype(np.float32))


def _ninapro(place, rng):
    for name, n in (("train", 90), ("val", 36), ("test", 36)):
        labels = np.arange(n) % 18
        data = rng.normal(size=(n, 52, 16)) * 0.1 + labels[:, None, None] / 18
        np.save(place / f"ninapro_{name}.npy", data.astype(np.float16))
        np.save(place / f"label_{name}.npy", labels)


def _fsd50k(place, rng):
    """Chunks of a second below chunks/, a manifest with a prefix that is not part of any path, and background noise."""
    names = [f"label_{i}" for i in range(200)]
    (place / "chunks").mkdir()
    (place / "noise_22050").mkdir()
    (place / "chunks" / "lbl_map.json").write_text(
        json.dumps({name: i for i, name in enumerate(names)})
    )
    for number in range(2):
        _save_wav(place / "noise_22050" / f"noise_{number}.wav", 0.1 * rng.normal(size=22050 * 2))
    for split, clips, shift in (("tr", 12, 0), ("val", 4, 100), ("eval", 4, 200)):
        (place / "chunks" / split).mkdir()
        rows = []
        for clip in range(clips):
            clip_id = str(1000 + shift + clip)
            for chunk in range(1 + clip % 3):
                path = Path("chunks") / split / f"{clip_id}_{chunk}.wav"
                tone = np.sin(2 * np.pi * 220 * (1 + clip % 4) * np.arange(22050) / 22050)
                _save_wav(place / path, 0.5 * tone + 0.05 * rng.normal(size=22050))
                rows.append(
                    (f"/mnt/{path.as_posix()}", f"{names[clip % 4]},{names[4 + clip % 3]}", clip_id)
                )
        table = pd.DataFrame(rows, columns=["files", "labels", "ext"])
        table.to_csv(place / "chunks" / f"{split}.csv", index=False, lineterminator="\r\n")


def _save_wav(path, signal):
    scipy.io.wavfile.write(path, 22050, (np.clip(signal, -1, 1) * 32767).astype(np.int16))


def _ecg(place, rng):
    """Records with lengths that are traps: under a window, exactly one and a half windows; the sixth has a constant signal."""
    records, labels = [], []
    for number in range(48):
        length = (900, 1500, 1000, 2600, 3100, 2000)[number % 6]
        label = number % 4
        beats = np.sin(2 * np.pi * np.arange(length) * (1 + label) / 100)
        record = (300 * beats + 30 * rng.normal(size=length)).astype(np.int16)
        records.append(np.full(length, 7) if number == 5 else record)
        labels.append("NAO~"[label])
    (place / "challenge2017.pkl").write_bytes(
        pickle.dumps({"data": _objects(records), "label": labels})
    )


def _satellite(place, rng):
    for name, n in (("train", 240), ("test", 48)):
        labels = 1 + np.arange(n) % 24
        phase = 2 * np.pi * labels[:, None] / 24
        data = 500 + 100 * np.sin(np.arange(46) / 5 + phase) + 10 * rng.normal(size=(n, 46))
        np.save(
            place / f"satellite_{name}.npy", np.array({"data": data, "label": labels}, dtype=object)
        )


def _deepsea(place, rng):
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


def _jsb(place, rng):
    cells = {}
    for name, lengths in (
        ("traindata", (25, 40, 60, 33)),
        ("validdata", (32, 30)),
        ("testdata", (32, 50, 28)),
    ):
        pieces = []
        for length in lengths:
            notes = 40 + np.cumsum(rng.integers(-1, 2, length))
            pieces.append(np.eye(88, dtype=np.uint8)[notes] + np.eye(88, dtype=np.uint8)[notes + 4])
        cells[name] = _objects(pieces)[None]
    scipy.io.savemat(place / "JSB_Chorales.mat", cells)


def _listops(place, rng):
    """Expressions with the parentheses of the published files; the last one of each file has more than 1,024 tokens."""
    operators = {
        "[MAX": max,
        "[MIN": min,
        "[MED": np.median,
        "[SM": lambda values: sum(values) % 10,
    }
    for name, n in (("train", 60), ("val", 20), ("test", 20)):
        lines = ["Source\tTarget"]
        for number in range(n):
            digits = rng.integers(0, 10, 1100 if number == n - 1 else 3 + number % 5)
            source, value = list(operators.items())[number % 4]
            for digit in digits:
                source = f"( {source} {digit} )"
            lines.append(f"( {source} ] )\t{int(value(digits))}")
        (place / f"basic_{name}.tsv").write_text("\n".join(lines) + "\n")


def _homology(place, rng):
    """LMDB as in TAPE; the first training protein is longer than the input."""
    parts = {
        "train": 40,
        "valid": 8,
        "test_fold_holdout": 10,
        "test_family_holdout": 4,
        "test_superfamily_holdout": 4,
    }
    for part, n in parts.items():
        proteins = []
        for number in range(n):
            fold = number % 4 * 300
            length = 1500 if part == "train" and number == 0 else 20 + number
            letters = AMINO[5 * (number % 4) : 5 * (number % 4) + 5] + "XBZUO"[number % 5]
            primary = "".join(rng.choice(list(letters), length))
            proteins.append(
                {
                    "primary": primary,
                    "protein_length": length,
                    "id": f"d{number}",
                    "fold_label": fold,
                }
            )
        folder = place / "remote_homology" / f"remote_homology_{part}.lmdb"
        folder.mkdir(parents=True)
        with (
            lmdb.open(str(folder), map_size=2**24) as environment,
            environment.begin(write=True) as transaction,
        ):
            transaction.put(b"num_examples", pickle.dumps(n))
            for number, protein in enumerate(proteins):
                transaction.put(
                    str(number).encode(), pickle.dumps(protein | {"id": protein["id"].encode()})
                )


def _domainnet(place, rng):
    for split, n in (("train", 80), ("test", 40)):
        labels = np.arange(n) % 40
        lines = []
        for number, (label, image) in enumerate(
            zip(labels, _stripes(rng, labels, (48, 64, 3)), strict=True)
        ):
            path = Path("sketch") / f"class_{label:02}" / f"sketch_{split}_{number:03}.jpg"
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / path, quality=95)
            lines.append(f"{path.as_posix()} {label}\n")
        (place / f"sketch_{split}_mini.txt").write_text("".join(lines))
