"""PSICOV: distances between the residues of a protein from its sequence features; PDNET's files (Adhikari 2020).

Trained on DeepCov's proteins, tested on PSICOV's 150, as NAS-Bench-360 (Tu et al. 2022) does. Dense regression in Angstrom.

Shapes: L residues of a protein, W positions per side of the window that all proteins are placed in, n proteins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from orca_cli.interfaces import Reporter, TaskData
from orca_cli.ranges import Count, Seed
from orca_cli.tasks.psicov.files import CHANNELS, FARTHEST, PAD, find_proteins
from orca_cli.tasks.psicov.samples import Form, Proteins
from orca_cli.tasks.shared.published import note, overlap_warning
from orca_cli.tasks.shared.splits import split


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    kind: Literal["dense"] = "dense",
    path: str | None = None,
    window: Annotated[int, Ge(2 * PAD + 2)] = 512,
    crop: Literal["diagonal", "independent"] = "diagonal",
    clip_train: Annotated[float, Interval(gt=1, le=FARTHEST)] = 16.0,
    pad_in_loss: bool = False,
    scale_targets: bool = True,
    num_validation: Count = 100,
    split_seed: Seed = 0,
    train_on_validation: bool = False,
) -> TaskData:
    """Return x [n, 57, W, W] and y [n, 1, W, W], distances between C-beta atoms in Angstrom.

    A protein lies at the top left of its window, 5 positions from the border; the rest of x is 0. Where L + 10 > W,
    optimizer steps draw a window; everything else sees the first one. y is NaN outside the protein and where a distance is
    unknown. Distances are read once, into float32 maps in the cache: 4 W^2 bytes a protein, 3.6 GB for DeepCov at W = 512;
    half precision would be off by up to 0.004 Angstrom at 8 Angstrom, where the error of the task has its threshold.

    Args:
        data_folder: holds psicov/ with deepcov.lst, psicov.lst, and features/ and distance/ in deepcov/ and psicov/; or all
            that in psicov/protein/.
        window: W.
        crop: "diagonal" draws one offset for rows and columns, so that a window stays a map of one stretch of the chain
            against itself; "independent" draws two.
        clip_train: larger distances are set to it in training targets, Angstrom.
        pad_in_loss: whether training counts positions outside the protein, with target `clip_train`, and the model is not
            told which they are. Never in validation and test: no distance there is within the error's threshold.
        scale_targets: whether the model's outputs are scaled by mean and deviation of the training targets.
        num_validation: DeepCov proteins that are drawn for validation.
    """
    root, lists = find_proteins(data_folder, path)
    both = set(lists["deepcov"]) & set(lists["psicov"])
    proteins = [name for name in lists["deepcov"] if name not in both]
    parts = split(len(proteins), validation=num_validation, test=0, seed=split_seed, keys=("task.num_validation",) * 3)
    chosen = range(len(proteins)) if train_on_validation else parts.train
    whole = Form(window, crop, FARTHEST, None)
    clipped = Form(window, crop, clip_train, clip_train if pad_in_loss else None)
    train = Proteins(root, "deepcov", [proteins[i] for i in chosen], clipped, cache_folder, reporter)
    validation = Proteins(root, "deepcov", [proteins[i] for i in parts.validation], whole, cache_folder, reporter)

    def open_test() -> Proteins:
        test = Proteins(root, "psicov", lists["psicov"], whole, cache_folder, reporter)
        if test.num_cropped():
            reporter.say(
                f"{test.num_cropped()} of {len(test)} test proteins do not fit into {window} x {window}: "
                f"their first {window - PAD} residues are scored"
            )
        return test

    cropped = train.num_cropped(), validation.num_cropped()
    return TaskData(
        kind="dense",
        input_shape=(CHANNELS, window, window),
        num_outputs=1,
        train=train,
        validation=validation,
        open_test=open_test,
        target_scale=train.scale() if scale_targets else None,
        note=note(
            f"{len(train)} training and {len(validation)} validation proteins of DeepCov, {len(lists['psicov'])} of PSICOV "
            "for test",
            f"{cropped[0]} training and {cropped[1]} validation proteins do not fit into {window} x {window}: windows are "
            f"drawn in training, the first {window - PAD} residues count elsewhere, in the test too"
            if any(cropped)
            else "",
            f"{len(both)} proteins in both lists are left out of DeepCov" if both else "",
            overlap_warning(train_on_validation, "validation proteins"),
        ),
    )
