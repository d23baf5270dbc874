"""Remote homology: which of 1,195 folds a protein has, from its sequence (TAPE, Rao et al. 2019; SCOP 1.75).

TAPE's files are LMDB databases (remote_homology_train.lmdb/data.mdb) of pickled dictionaries. The sizes are
12,312 for training, 736 for validation, and 718, 1,254 and 1,272 for the test splits that hold out whole superfamilies
of a fold (fold_holdout), whole families of a superfamily, and proteins of a family.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from orca_cli.data.one_hot import OverLength, Sequences, end_to_end, longer_note
from orca_cli.data.published import find, refuse
from orca_cli.data.untrusted import tape
from orca_cli.exceptions import DataError
from orca_cli.interfaces import TaskData

# TAPE's IUPAC vocabulary: the channel of a symbol is its id there. There is no J.
VOCABULARY = ("pad", "mask", "cls", "sep", "unk", *"ABCDEFGHIKLMNOPQRSTUVWXYZ")
_CLS, _SEP, _UNKNOWN = 2, 3, 4
# Letter -> channel, as a table over bytes.
_TABLE = bytes(
    VOCABULARY.index(chr(byte)) if 65 <= byte <= 90 and byte != 74 else _UNKNOWN
    for byte in range(256)
)


def load(
    data_folder: Path,
    path: str | None = None,
    test: Literal["fold_holdout", "superfamily_holdout", "family_holdout"] = "fold_holdout",
    train_on_validation: bool = False,
    length: Annotated[int, Ge(3)] = 1419,
    over_length: OverLength = "truncate",
    symbols: Literal[29, 30] = 30,
    mask_padding: bool = True,
) -> TaskData:
    """Return proteins as one-hot columns [n, symbols, length]: cls, residues, sep; zero columns after it are padding.

    Folds without a training protein are allowed in the other splits. Truncated proteins (see one_hot.OverLength) keep their
    first residues and their sep. Unmarked zero columns are averaged over in the pooling.
    """
    first, second = (
        [form.format(split) for split in ("train", "valid", f"test_{test}")] for form in tape.FORMS
    )
    places = find(data_folder, "homology", first, path, others=[second])

    def read(*places: Path) -> Sequences:
        texts, folds, over = [], [], []
        for place in places:
            for sequence, fold in tape.proteins(place):
                texts.append(encode(sequence, length))
                folds.append(fold)
                over.append(len(sequence) + 2 > length)
                if max(texts[-1]) >= symbols:
                    what = f"residue Z has channel {symbols} and the input has {symbols} channels"
                    raise DataError(what, where=str(place), hint="use task.symbols=30")
        refuse(not texts, "holds no proteins", places[0])
        return Sequences(*end_to_end(texts), np.array(folds, np.int64), np.array(over, bool))

    form = ("homology", symbols, length, mask_padding, over_length)
    learned, valid = read(*places[: 2 if train_on_validation else 1]), read(places[1])
    return TaskData(
        kind="classes",
        input_shape=(symbols, length),
        num_outputs=tape.NUM_FOLDS,
        train=learned.samples(*form),
        validation=valid.samples(*form),
        open_test=lambda: read(places[2]).samples(*form),
        note=longer_note({"train": learned, "validation": valid}, length, "symbols", over_length),
    )


def encode(sequence: str, length: int) -> bytes:
    """Return cls, the first length - 2 residues as channels of VOCABULARY, sep; small letters count as capitals.

    J, and what is no letter, has the channel of unk.
    """
    residues = sequence[: length - 2].upper().encode("ascii", "replace").translate(_TABLE)
    return bytes((_CLS,)) + residues + bytes((_SEP,))
