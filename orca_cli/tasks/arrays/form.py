"""What the training arrays say about the inputs and targets of all splits.

Shapes: n samples, C channels, *E the extent (L, or H x W), K outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Kind
from orca_cli.tasks.arrays.layout import Pair
from orca_cli.tasks.shared import targets as checks
from orca_cli.tasks.shared.targets import Vocabulary
from orca_cli.untrusted.arrays import StoredArray

_SHOWN = 10  # classes named in a note


@dataclass(frozen=True)
class Form:
    """The form that every split of a task has.

    Args:
        input_shape: (C, L) or (C, H, W).
        stored_shape: shape of one sample in the files.
        channels_last: whether channels are the last axis in the files.
        targets: form of the targets: classes, labels, maps (real-valued) or class_maps.
        num_outputs: K.
        vocabulary: the classes; None for other targets.
        missing_targets: whether NaN is allowed in real-valued targets.
        notes: what was inferred, in words.
    """

    input_shape: tuple[int, ...]
    stored_shape: tuple[int, ...]
    channels_last: bool
    targets: Literal["classes", "labels", "maps", "class_maps"]
    num_outputs: int
    vocabulary: Vocabulary | None
    missing_targets: bool
    notes: tuple[str, ...]

    def check_inputs(self, x: StoredArray) -> None:
        """Check shape and dtype by the header alone.

        Raises:
            DataError: they are not those of the training inputs.
        """
        _check_dtype(x)
        if x.shape[1:] != self.stored_shape:
            raise DataError(
                f"samples have shape {x.shape[1:]}, those of the training set {self.stored_shape}", where=x.where
            )

    def orient(self, x: np.ndarray) -> np.ndarray:
        """Return inputs as [n, C, *E], without copying."""
        if x.ndim == 2:
            return x[:, None]
        return np.moveaxis(x, -1, 1) if self.channels_last else x

    def encode(self, y: np.ndarray, where: str) -> np.ndarray:
        """Return targets of any split as Batch.y.

        Raises:
            DataError: they do not have the form of the training targets.
        """
        if self.targets == "classes":
            assert self.vocabulary is not None
            return checks.encode_classes(y, self.vocabulary, where)
        if self.targets == "labels":
            encoded = checks.encode_label_sets(y, where, allow_missing=self.missing_targets)
        elif self.targets == "class_maps":
            if y.dtype.kind not in "iub":
                raise DataError(f"targets have dtype {y.dtype}, those of the training set are integers", where=where)
            return checks.encode_class_maps(y, self.input_shape[1:], where, self.num_outputs)
        else:
            encoded = checks.encode_maps(
                _channels_first(y, self), self.input_shape[1:], where, allow_missing=self.missing_targets
            )
        if encoded.shape[1] != self.num_outputs:
            raise DataError(
                f"targets have {encoded.shape[1]} columns, those of the training set {self.num_outputs}", where=where
            )
        return encoded

    def warnings(self, train_targets: np.ndarray) -> list[str]:
        """Return what is odd about the encoded training targets, in words."""
        if self.targets != "labels":
            return []
        found = []
        for value, word in ((1, "positive"), (0, "negative")):
            empty = np.flatnonzero(~(train_targets == value).any(axis=0))
            if len(empty):
                shown = ", ".join(map(str, empty[:_SHOWN])) + (", ..." if len(empty) > _SHOWN else "")
                found.append(f"warning: label {shown} has no {word} training sample")
        return found


def infer_form(
    base: Pair,
    train_rows: np.ndarray,
    kind: Kind,
    num_classes: int | None,
    channels_last: bool,
    missing_targets: bool,
) -> Form:
    """Return the form of a task from its training set.

    Args:
        base: arrays that hold the training set.
        train_rows: its rows.
        kind: form of the targets.
        num_classes: K, or None to infer it.
        channels_last: whether channels are the last axis.
        missing_targets: whether NaN is allowed in real-valued targets.

    Raises:
        ConfigError: `num_classes` has no meaning here.
        DataError: shapes, dtypes or targets that no task of this kind has.
    """
    _check_dtype(base.x)
    input_shape, reading = _input_shape(base.x, channels_last)
    raw = base.y.read()
    where = base.y.where
    common = (input_shape, base.x.shape[1:], channels_last)
    if kind == "classes":
        vocabulary = checks.class_vocabulary(checks.plain_labels(raw, where)[train_rows], where, num_classes)
        return Form(*common, "classes", len(vocabulary.values), vocabulary, False, (reading, _class_note(vocabulary)))
    if kind == "dense" and raw.dtype.kind in "iub":
        return _class_map_form(common, raw, train_rows, where, num_classes, reading)
    if num_classes is not None:
        raise ConfigError("is for classes", where="task.num_classes", hint=f"leave it out: {where} says it")
    if kind == "labels":
        k = checks.encode_label_sets(raw[train_rows], where, allow_missing=missing_targets).shape[1]
        return Form(*common, "labels", k, None, missing_targets, (reading, f"{k} labels"))
    form = Form(*common, "maps", 0, None, missing_targets, ())
    maps = checks.encode_maps(
        _channels_first(raw, form)[train_rows], input_shape[1:], where, allow_missing=missing_targets
    )
    k = maps.shape[1]
    empty = np.flatnonzero(np.isnan(maps).all(axis=(0, *range(2, maps.ndim))))
    if len(empty):
        raise DataError(f"output channel {empty[0]} has no training target", where=where, hint="leave the channel out")
    extent = " x ".join(map(str, input_shape[1:]))
    return Form(*common, "maps", k, None, missing_targets, (reading, f"real-valued targets of {k} x {extent}"))


def _class_map_form(
    common: tuple[tuple[int, ...], tuple[int, ...], bool],
    raw: np.ndarray,
    train_rows: np.ndarray,
    where: str,
    num_classes: int | None,
    reading: str,
) -> Form:
    train = checks.encode_class_maps(raw, common[0][1:], where, num_classes)[train_rows]
    k = num_classes or int(train.max()) + 1
    checks.check_class_maps(train, where, k)
    return Form(*common, "class_maps", k, None, False, (reading, f"{k} classes at every position"))


def _channels_first(y: np.ndarray, form: Form) -> np.ndarray:
    has_channels = y.ndim == len(form.input_shape) + 1
    return np.moveaxis(y, -1, 1) if form.channels_last and has_channels else y


def _class_note(vocabulary: Vocabulary) -> str:
    names = vocabulary.names()
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} classes" + (f" ({shown} become 0..{len(names) - 1})" if vocabulary.renamed() else "")


def _check_dtype(x: StoredArray) -> None:
    if x.dtype.kind not in "fiub":
        raise DataError(f"inputs have dtype {x.dtype}", where=x.where, hint="allowed: real numbers, such as float32")


def _input_shape(x: StoredArray, channels_last: bool) -> tuple[tuple[int, ...], str]:
    shape = x.shape
    if not 2 <= len(shape) <= 4 or 0 in shape:
        raise DataError(
            f"inputs have shape {shape}",
            where=x.where,
            hint="allowed: (n, L), (n, C, L) and (n, C, H, W); with task.channels_last=true (n, L, C) and (n, H, W, C)",
        )
    if len(shape) == 2:
        sample: tuple[int, ...] = (1, shape[1])
    elif channels_last:
        sample = (shape[-1], *shape[1:-1])
    else:
        sample = shape[1:]
    extent = " x ".join(map(str, sample[1:]))
    reading = f"inputs {shape} read as {sample[0]} channel{'s' if sample[0] > 1 else ''} of {extent}"
    if len(shape) == 3 and not channels_last and sample[0] > 4 and abs(sample[0] - sample[1]) <= sample[1] // 2:
        reading += " (images of one channel are n x 1 x H x W)"
    return sample, reading
