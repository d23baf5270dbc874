"""NinaPro DB5 (Pizzolato et al. 2017), as windows of NAS-Bench-360: surface EMG, 18 movements.

The data set has six arrays. ninapro_{train,val,test}.npy (N, 52, 16) have windows of 52 steps at
200 Hz from 16 electrodes, and label_{train,val,test}.npy (N,) have classes in 0..17: rest and the
17 movements of exercise B. The validation split of the files stays separate from training and test.

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
    path: Annotated[
        str | None,
        "folder with the six .npy files; null: folder ninapro of the data folder (paths.data)",
    ] = None,
    normalize: Annotated[
        Literal["electrodes", "none"],
        "electrodes: each electrode is scaled by its mean and deviation in the training windows; "
        "none: raw values (published code)",
    ] = "electrodes",
    train_on_validation: Annotated[
        bool, "true: train on the validation windows as well; if so, also set train.select=last"
    ] = False,
) -> TaskData:
    """Return windows as one-channel images [n, 1, 16, 52], electrodes by steps, with 18 classes.

    Each electrode is scaled separately, because electrodes differ in gain and contact.
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
    """Return name -> file, for the windows and labels of the three splits."""
    names = []
    for split in _SPLITS:
        names += [f"ninapro_{split}.npy", f"label_{split}.npy"]
    paths = find(data_folder, "ninapro", names, path)
    return dict(zip(names, paths, strict=True))


def _read(files: dict[str, Path], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a split's windows [N, 16, 52], mapped in the file's type, and classes [N] int64."""
    windows_file = files[f"ninapro_{split}.npy"]
    labels_file = files[f"label_{split}.npy"]
    windows = _read_array(windows_file)  # [N, 52, 16]
    labels = _read_array(labels_file)
    check_array(windows, ("N", _STEPS, _ELECTRODES), str(windows_file), holds="finite")
    classes = class_numbers(labels, len(windows), _CLASSES, str(labels_file))
    # [N, 52, 16] to [N, 16, 52]: electrodes are the rows of an image.
    return windows.transpose(0, 2, 1), classes


def _read_array(file: Path) -> np.ndarray:
    """Return the array of an .npy file as a memory map."""
    # The only array of an .npy file has the name "".
    stored = arrays.open_arrays(file, str(file), AGAIN)[""]
    return stored.read()


def _electrode_scale(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and positive deviation, [16, 1] each, of windows [N, 16, 52]."""
    # In float64: the files may have float16, in which sums over windows would be inaccurate.
    values = windows.astype(np.float64)
    mean = np.mean(values, axis=(0, 2))[:, None]
    std = np.std(values, axis=(0, 2))[:, None]
    # By rounding, a constant electrode may have a deviation of 1e-16 times its value; a division by
    # it would amplify noise.
    is_constant = std <= 1e-12 * np.abs(mean)
    std[is_constant] = 1.0
    return mean, std
