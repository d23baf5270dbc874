"""NinaPro DB5 (Pizzolato et al. 2017) as NAS-Bench-360 cuts it: surface EMG, 18 movements.

Six arrays: ninapro_{train,val,test}.npy (N, 52, 16), windows of 52 steps at 200 Hz of 16
electrodes, and label_{train,val,test}.npy (N,) in 0..17: rest and the 17 movements of exercise B.
The files' own validation split is kept apart from training and test.

Shapes: N windows of a file.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from orca_cli.data.published import AGAIN, check_array, class_numbers, find
from orca_cli.data.samples import ArraySamples
from orca_cli.data.untrusted import arrays
from orca_cli.interfaces import TaskData

_SPLITS = ("train", "val", "test")
_STEPS = 52
_ELECTRODES = 16
_CLASSES = 18


def load(
    data_folder: Path,
    path: Annotated[str | None, "folder with the six .npy files; null: paths.data/ninapro"] = None,
    normalize: Annotated[
        Literal["electrodes", "none"],
        "electrodes: each is scaled by its training mean and deviation; "
        "none: raw values (published code)",
    ] = "electrodes",
    train_on_validation: Annotated[
        bool, "true: train on the validation windows as well; then use train.select=last"
    ] = False,
) -> TaskData:
    """Return windows as one-channel images [n, 1, 16, 52], electrodes by steps, with 18 classes.

    Electrodes are scaled one by one, because they differ in gain and contact.
    """
    files = _find_files(data_folder, path)
    x, y = _read(files, "train")  # [N, 16, 52], [N]
    validation_x, validation_y = _read(files, "val")
    if train_on_validation:
        x = np.concatenate([x, validation_x])
        y = np.concatenate([y, validation_y])
    mean, std = _electrode_scale(x)  # [16, 1] each, over the windows and steps of training

    def samples(windows: np.ndarray, classes: np.ndarray) -> ArraySamples:
        values = windows.astype(np.float64)  # [n, 16, 52]
        if normalize == "electrodes":
            values = (values - mean) / std
        images = values[:, None]  # [n, 1, 16, 52]
        return ArraySamples(images.astype(np.float32), classes)

    return TaskData(
        kind="classes",
        input_shape=(1, _ELECTRODES, _STEPS),
        num_outputs=_CLASSES,
        train=samples(x, y),
        validation=samples(validation_x, validation_y),
        open_test=lambda: samples(*_read(files, "test")),
    )


def _find_files(data_folder: Path, path: str | None) -> dict[str, Path]:
    """Return the file of each name: windows and labels of the three splits."""
    names = []
    for split in _SPLITS:
        names += [f"ninapro_{split}.npy", f"label_{split}.npy"]
    paths = find(data_folder, "ninapro", names, path)
    return dict(zip(names, paths, strict=True))


def _read(files: dict[str, Path], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return windows of one split [N, 16, 52], mapped in the file's type, and classes [N] int64."""
    windows_file = files[f"ninapro_{split}.npy"]
    labels_file = files[f"label_{split}.npy"]
    windows = _read_array(windows_file)  # [N, 52, 16]
    labels = _read_array(labels_file)
    check_array(windows, ("N", _STEPS, _ELECTRODES), str(windows_file), holds="finite")
    classes = class_numbers(labels, len(windows), _CLASSES, str(labels_file))
    # [N, 52, 16] to [N, 16, 52]: electrodes are the rows of an image.
    return windows.transpose(0, 2, 1), classes


def _read_array(file: Path) -> np.ndarray:
    """Return the array of a .npy file, mapped."""
    # The only array of an .npy has no name.
    stored = arrays.open_arrays(file, str(file), AGAIN)[""]
    return stored.read()


def _electrode_scale(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and positive deviation, [16, 1] each, of windows [N, 16, 52]."""
    # In float64: the files may have float16, in which sums over windows would be off.
    values = windows.astype(np.float64)
    mean = np.mean(values, axis=(0, 2))[:, None]
    std = np.std(values, axis=(0, 2))[:, None]
    # Rounding gives a constant electrode a deviation of 1e-16 times its value, which would blow up
    # noise.
    is_constant = std <= 1e-12 * np.abs(mean)
    std[is_constant] = 1.0
    return mean, std
