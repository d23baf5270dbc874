"""NinaPro DB5 (Pizzolato et al. 2017) as NAS-Bench-360 cuts it: surface EMG of 16 electrodes x 52 steps, 18 movements.

Six arrays: ninapro_{train,val,test}.npy (N, 52, 16) with 52 steps at 200 Hz, label_{train,val,test}.npy (N,) in 0..17: rest
and the 17 movements of exercise B. The files' own validation split is kept apart from training and test.

Shapes: N windows of a file.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from orca_cli.data.published import AGAIN, check_array, class_numbers, find
from orca_cli.data.samples import ArraySamples
from orca_cli.data.untrusted import arrays
from orca_cli.interfaces import TaskData

_PARTS = ("train", "val", "test")
_STEPS, _ELECTRODES, _CLASSES = 52, 16, 18


def load(
    data_folder: Path,
    path: str | None = None,
    normalize: Literal["electrodes", "none"] = "electrodes",
    train_on_validation: bool = False,
) -> TaskData:
    """Return windows as one-channel images [n, 1, 16, 52], electrodes by steps, with 18 classes.

    Electrodes are scaled one by one, because they differ in gain and contact.
    """
    names = [f"{what}_{part}.npy" for part in _PARTS for what in ("ninapro", "label")]
    files = dict(zip(names, find(data_folder, "ninapro", names, path), strict=True))

    def read(part: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the windows of one split [N, 16, 52], mapped in the file's type, and their classes [N] int64."""
        inputs, labels = files[f"ninapro_{part}.npy"], files[f"label_{part}.npy"]
        x, y = (arrays.open_arrays(file, str(file), AGAIN)[""].read() for file in (inputs, labels))
        check_array(x, ("N", _STEPS, _ELECTRODES), str(inputs), holds="finite")
        return x.transpose(0, 2, 1), class_numbers(y, len(x), _CLASSES, str(labels))

    (x, y), validation = read("train"), read("val")
    if train_on_validation:
        x, y = map(np.concatenate, zip((x, y), validation, strict=True))
    mean, std = np.zeros((1, 1)), np.ones((1, 1))  # of every electrode over windows and steps
    if normalize == "electrodes":
        values = x.astype(np.float64)
        mean, std = (statistic(values, axis=(0, 2))[:, None] for statistic in (np.mean, np.std))
        # Rounding gives a constant electrode a deviation of 1e-16 times its value, which would blow up noise.
        std[std <= 1e-12 * np.abs(mean)] = 1.0

    def samples(x: np.ndarray, y: np.ndarray) -> ArraySamples:
        return ArraySamples(((x.astype(np.float64) - mean) / std).astype(np.float32)[:, None], y)

    return TaskData(
        kind="classes",
        input_shape=(1, _ELECTRODES, _STEPS),
        num_outputs=_CLASSES,
        train=samples(x, y),
        validation=samples(*validation),
        open_test=lambda: samples(*read("test")),
    )
