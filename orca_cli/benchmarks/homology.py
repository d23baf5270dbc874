"""Remote homology: which of 1,195 folds a protein has, from its sequence (TAPE, Rao et al. 2019).

TAPE's files are LMDB databases (remote_homology_train.lmdb/data.mdb) of pickled dictionaries, with
folds of SCOP 1.75. 12,312 proteins are for training and 736 for validation. The three test splits
hold out whole superfamilies of a fold (fold_holdout, 718), whole families of a superfamily
(superfamily_holdout, 1,254), and proteins of a family (family_holdout, 1,272).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from orca_cli.data.one_hot import OverLength, Sequences, end_to_end, longer_note
from orca_cli.data.published import fault, find
from orca_cli.data.untrusted import tape
from orca_cli.exceptions import DataError
from orca_cli.interfaces import TaskData

# TAPE's IUPAC vocabulary: the channel of a symbol is its id in this vocabulary, which has no J.
VOCABULARY = ("pad", "mask", "cls", "sep", "unk", *"ABCDEFGHIKLMNOPQRSTUVWXYZ")
_CHANNELS = {symbol: channel for channel, symbol in enumerate(VOCABULARY)}


def load(
    data_folder: Path,
    path: Annotated[
        str | None,
        "folder with remote_homology_train.lmdb and the other databases; "
        "null: folder homology of the data folder (paths.data)",
    ] = None,
    test: Annotated[
        Literal["fold_holdout", "superfamily_holdout", "family_holdout"],
        "test split: fold_holdout (the one that publications report), superfamily_holdout or "
        "family_holdout",
    ] = "fold_holdout",
    train_on_validation: Annotated[
        bool, "true: train on the validation proteins as well; if so, also set train.select=last"
    ] = False,
    length: Annotated[
        int,
        Ge(3),
        "number of symbols of the input, including the start mark (cls) and the end mark (sep): "
        "3 or more",
    ] = 1419,
    over_length: Annotated[
        OverLength,
        "proteins with more than task.length symbols. truncate: they are cut, and stay in their "
        "splits; drop: they are left out of all splits",
    ] = "truncate",
    symbols: Annotated[
        Literal[29, 30], "number of channels: 30, or 29 to leave out the channel of residue Z"
    ] = 30,
    mask_padding: Annotated[
        bool,
        "true: the mean over tokens leaves out the padding after a protein; "
        "false: the mean includes the padding",
    ] = True,
) -> TaskData:
    """Return proteins as one-hot columns [n, symbols, length]: cls, residues, sep.

    Zero columns after the sep are padding; without `mask_padding`, the mean over tokens includes
    them. Validation and test may have folds without a training protein. Truncated proteins (see
    one_hot.OverLength) keep their first residues and their sep.
    """
    # Databases are in the folder itself or, as in TAPE's archive, below remote_homology/.
    in_folder, in_archive = tape.FORMS
    splits = ("train", "valid", f"test_{test}")
    train_file, validation_file, test_file = find(
        data_folder,
        "homology",
        [in_folder.format(split) for split in splits],
        path,
        others=[[in_archive.format(split) for split in splits]],
    )
    learned_files = [train_file]
    if train_on_validation:
        learned_files.append(validation_file)
    learned = _read(learned_files, length, symbols)
    validation = _read([validation_file], length, symbols)
    samples = partial(
        Sequences.samples,
        name="homology",
        num_symbols=symbols,
        length=length,
        mask=mask_padding,
        over_length=over_length,
    )
    return TaskData(
        kind="classes",
        input_shape=(symbols, length),
        num_outputs=tape.NUM_FOLDS,
        train=samples(learned),
        validation=samples(validation),
        open_test=lambda: samples(_read([test_file], length, symbols)),
        note=longer_note(
            {"train": learned, "validation": validation}, length, "symbols", over_length
        ),
    )


def _read(databases: Sequence[Path], length: int, symbols: int) -> Sequences:
    """Return the proteins of databases as channels of the input, cut to its length.

    Raises DataError if the databases have no proteins, or if a residue has no channel because
    `symbols` is too small.
    """
    texts = []
    folds = []
    longer = []
    for database in databases:
        for sequence, fold in tape.proteins(database):
            # Cut at once, so that a long protein does not take more memory than the input needs.
            text = encode(sequence, length)
            # With 29 symbols the last letter of the vocabulary, Z, has no channel.
            if max(text) >= symbols:
                raise DataError(
                    f"contains residue Z, which has no channel with task.symbols={symbols}",
                    where=str(database),
                    hint="use task.symbols=30",
                )
            texts.append(text)
            folds.append(fold)
            longer.append(len(sequence) + 2 > length)  # with cls and sep
    if not texts:
        raise fault("contains no proteins", databases[0])
    tokens, ends = end_to_end(texts)  # [sum of lengths], [n]
    return Sequences(
        tokens=tokens,
        ends=ends,
        classes=np.array(folds, np.int64),
        longer=np.array(longer, bool),
    )


def encode(sequence: str, length: int) -> bytes:
    """Return the channels in VOCABULARY of cls, the first length - 2 residues, and sep.

    Small letters count as capitals. J, and any character that is not a letter, has the channel of
    unk.
    """
    letters = sequence[: length - 2].upper()  # two positions are for cls and sep
    residues = [_CHANNELS.get(letter, _CHANNELS["unk"]) for letter in letters]
    return bytes([_CHANNELS["cls"], *residues, _CHANNELS["sep"]])
