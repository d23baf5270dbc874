"""Targets of own data: their form, learned from the training rows, and how those of every split are checked and encoded.

Targets of another form raise DataError with their number, and the first of them; `where` is the file and array.

Shapes: n samples, K outputs, *E the extent of the inputs.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from orca_cli.data.own_data import check_rules, listed
from orca_cli.data.samples import target_scale
from orca_cli.exceptions import DataError
from orca_cli.interfaces import IGNORED_CLASS, Scale
from orca_cli.terminal import counted

_SHOWN = 8  # values named in a message
_TWO_CLASSES = "provide data with two classes or more"
_ONE_CLASS = "for one class per sample use kind=classes"


@dataclass(frozen=True)
class TargetForm:
    """The form that the targets of every split have."""

    kind: Literal[
        "classes", "labels", "values", "maps", "class_maps"
    ]  # maps are real-valued, class_maps a class everywhere
    num_outputs: int  # K; 0 while it is not known
    names: tuple[str, ...] = ()  # of classes, labels or values; K or none
    # Class i as it stands in the files, ascending; all integers, or all strings. Empty where the data number them.
    classes: tuple[int | str, ...] = ()
    extent: tuple[int, ...] = ()  # *E of maps
    channels_last: bool = False  # whether maps are (n, *E, K)
    missing: bool = False  # whether labels and real-valued targets may be NaN
    scale: Scale | None = None  # of real-valued targets

    def encode(self, y: np.ndarray, where: str) -> np.ndarray:
        """Return targets of any split as Batch.y."""
        k = self.num_outputs
        if self.classes:
            labels, values = plain_labels(y, where), np.array(self.classes)
            if labels.dtype.kind != values.dtype.kind:
                hint = f"give them as in training, such as {self.classes[0]!r}"
                raise DataError("labels are strings in one split and numbers in another", where=where, hint=hint)
            place = np.searchsorted(values, labels).clip(max=len(values) - 1)
            hint = "add training samples of that class, or remove these samples"
            refuse(values[place] != labels, labels, "labels have no training sample", where, hint)
            return place.astype(np.int64)
        if self.kind in ("classes", "class_maps") and y.dtype.kind not in "iub":  # a missing number makes all floats
            raise DataError(f"targets have dtype {y.dtype}, those of the training set are integers", where=where)
        if self.kind == "classes":
            hint = "-1 marks hidden targets, such as those of a competition's test set: name another split"
            refuse((y < 0) | (y >= k), y, f"samples have no class in 0..{k - 1}", where, hint)
            return y.astype(np.int64)
        if self.kind == "class_maps":
            return _encode_class_maps(y, self.extent, where, k)
        encoded = self._numbers(y, where)
        if k and encoded.shape[1] != k:
            raise DataError(f"targets have {encoded.shape[1]} columns, those of the training set {k}", where=where)
        return encoded

    def _numbers(self, y: np.ndarray, where: str) -> np.ndarray:
        """Return labels or numbers as [n, K, *E] float32, and NaN where one is missing and that is allowed."""
        extent = self.extent
        if self.channels_last and y.ndim == len(extent) + 2:
            y = np.moveaxis(y, -1, 1)
        if y.shape[1:] == extent:
            y = y[:, None]
        if y.ndim != len(extent) + 2 or y.shape[2:] != extent or not y.shape[1]:
            sizes = "".join(f", {size}" for size in extent)
            what = f"{self.kind} have shape {y.shape}, expected (n{sizes or ','}) or (n, K{sizes})"
            hint = "dense targets have the extent of the inputs, values and labels one column per output"
            raise DataError(what, where=where, hint=hint)
        if y.dtype.kind not in "fiub":
            raise DataError(f"targets have dtype {y.dtype}", where=where, hint="allowed: real numbers")
        check_finite(y, where, allow_nan=self.missing)
        if self.kind == "labels":
            wrong = ~((y == 0) | (y == 1) | np.isnan(y.astype(np.float64)))
            refuse(wrong, y, "entries are neither 0 nor 1", where, _ONE_CLASS)
        return y.astype(np.float32)

    def note(self) -> str:
        """Return a description of the targets."""
        k, named = self.num_outputs, self.names and self.classes != tuple(range(self.num_outputs))
        notes = {
            "maps": f"real-valued targets of {k} x {' x '.join(map(str, self.extent))}",
            "class_maps": f"{k} classes at every position",
            "values": f"{counted(k, 'number')} a sample",
        }
        return notes.get(self.kind, f"{k} {self.kind}") + (f" ({listed(self.names)})" if named else "")

    def warnings(self, train_targets: np.ndarray) -> list[str]:
        """Return warnings about labels that are never or always set in training."""
        warnings = []
        for value, word in ((1, "positive"), (0, "negative")) if self.kind == "labels" else ():
            if len(empty := np.flatnonzero(~(train_targets == value).any(axis=0))):
                shown = listed([self.names[i] if self.names else i for i in empty])
                warnings.append(f"warning: label {shown} has no {word} training sample")
        return warnings


def fit_targets(
    kind: str,
    y: np.ndarray,
    rows: np.ndarray,
    where: str,
    extent: tuple[int, ...] = (),
    names: tuple[str, ...] = (),
    *,
    num_classes: int | None = None,
    channels_last: bool = False,
    missing: bool = False,
) -> TargetForm:
    """Return the form of targets [N, ...] of a kind, from the training rows.

    `names` are those of labels, of values, or of classes that the data number by themselves; `num_classes` is K, of classes.
    """
    is_dense, are_numbers = kind == "dense", kind != "classes" and (kind != "dense" or y.dtype.kind not in "iub")
    hint = f"{where} says how many outputs there are"
    check_rules(
        (kind == "classes" and missing, "missing_targets", "does not apply to task.kind=classes", "remove it"),
        (are_numbers and num_classes is not None, "num_classes", "applies only to classes", f"remove it: {hint}"),
    )
    if kind == "classes" and names:
        return TargetForm("classes", len(names), names)
    if kind == "classes":
        classes = _classes_of(plain_labels(y, where)[rows], where, num_classes)
        return TargetForm("classes", len(classes), tuple(map(str, classes)), classes)
    if not are_numbers:
        return _class_map_form(y, rows, extent, where, num_classes)
    if is_dense:
        form = TargetForm("maps", 0, extent=extent, channels_last=channels_last, missing=missing)
    else:
        form = TargetForm("labels" if kind == "labels" else "values", 0, names, missing=missing)
    encoded = form.encode(y, where)
    form, values = replace(form, num_outputs=encoded.shape[1]), encoded[rows]
    if kind == "labels":
        return form
    unknown = np.isnan(values).all(axis=(0, *range(2, values.ndim)))
    if unknown.any():
        what = f"output {'channel ' if is_dense else ''}{int(unknown.argmax())} has no training target"
        raise DataError(what, where=where, hint=f"remove the {'channel' if is_dense else 'column'}")
    if not is_dense and (np.nanmin(values, axis=0) == np.nanmax(values, axis=0)).all():
        what = f"all {len(values)} training targets are {values[0].tolist()}"
        hint = "provide targets that differ; float32 keeps seven digits, so subtract a large offset"
        raise DataError(what, where=where, hint=hint)
    return replace(form, scale=target_scale(values))


def _class_map_form(
    y: np.ndarray, rows: np.ndarray, extent: tuple[int, ...], where: str, num_classes: int | None
) -> TargetForm:
    train = _encode_class_maps(y, extent, where, num_classes)[rows]
    present = np.unique(train[train != IGNORED_CLASS])
    if len(present) < 2:
        what = f"all positions have class {present[0]}" if len(present) else "every position is ignored"
        raise DataError(what, where=where, hint=_TWO_CLASSES)
    k = num_classes or int(present[-1]) + 1
    if len(present) < k:
        what = f"{k - len(present)} of the classes 0..{k - 1} have no position in the training set"
        raise DataError(what, where=where, hint="number the classes without gaps; task.num_classes, if given, is K")
    return TargetForm("class_maps", k, extent=extent)


def _classes_of(labels: np.ndarray, where: str, num_classes: int | None) -> tuple[int | str, ...]:
    """Return the classes that plain training labels [n] name: the labels that occur, or 0..K-1 where K is given."""
    values, counts = np.unique(labels, return_counts=True)
    is_whole = values.dtype.kind == "U" or (values[0], values[-1]) == (0, len(values) - 1)
    if num_classes is not None and (len(values) != num_classes or not is_whole):
        what = f"{len(values)} different training labels, {values[0]} to {values[-1]}, are not {num_classes} classes from 0 on"
        hint = "correct the labels, or leave task.num_classes out: any labels are classes then"
        raise DataError(what, where=where, hint=hint)
    if len(values) < 2:
        raise DataError(f"all {len(labels)} training labels are {values[0]!s}", where=where, hint=_TWO_CLASSES)
    # Numbers that are nearly all different.
    if 2 * np.sum(counts == 1) > len(counts) and 2 * len(counts) > len(labels) > 20:
        what = f"{len(values)} different labels in {len(labels)} training samples do not look like classes"
        hint = "to predict numbers use kind=values, and check that this is the array of labels"
        raise DataError(what, where=where, hint=hint)
    return tuple(values.tolist())


def plain_labels(labels: np.ndarray, where: str) -> np.ndarray:
    """Return labels as [n] int64 or strings; whole numbers stored as floats become integers."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        hint = "of one-hot rows store the position of the 1, or use kind=labels, values or dense"
        raise DataError(f"class labels have shape {labels.shape}, expected (n,)", where=where, hint=hint)
    if labels.dtype.kind in "SU":
        return as_text(labels, where)
    if labels.dtype.kind not in "fiub":
        raise DataError(f"labels have dtype {labels.dtype}", where=where, hint="allowed: integers or strings")
    check_finite(labels, where)
    hint = "class labels are integers or strings; to predict numbers use kind=values"
    refuse(labels % 1 != 0, labels, "labels are not whole numbers", where, hint)
    integers = _as_int64(labels, where)
    what = f"labels are {IGNORED_CLASS}, which marks ignored positions"
    refuse(integers == IGNORED_CLASS, integers, what, where, "remove these samples")
    return integers


def as_text(values: np.ndarray, where: str) -> np.ndarray:
    """Return values as strings; bytes are read as UTF-8."""
    try:
        return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values.astype(str)
    except UnicodeDecodeError as error:
        raise DataError(f"holds bytes that are not text: {error}", where=where, hint="store UTF-8 strings") from error


def _as_int64(labels: np.ndarray, where: str) -> np.ndarray:
    # Whole numbers beyond 2**53 are not exact as floats, and no class number is as large.
    wrong = np.abs(labels.astype(np.float64)) > 2**53
    refuse(wrong, labels, "labels are beyond 2**53", where, "number the classes from 0")
    return labels.astype(np.int64)


def _encode_class_maps(labels: np.ndarray, extent: tuple[int, ...], where: str, num_classes: int | None) -> np.ndarray:
    """Return integers [n, *E] as int64, -100 where ignored; K None accepts every class from 0 on."""
    if labels.shape[1:] != extent:
        expected = f"(n, {', '.join(map(str, extent))})"
        what = f"integer targets have shape {labels.shape}, expected {expected}: a class at every position"
        raise DataError(what, where=where, hint="store real-valued targets as float32")
    integers, most = _as_int64(labels, where), 2**53 if num_classes is None else num_classes - 1
    wrong = ((integers < 0) | (integers > most)) & (integers != IGNORED_CLASS)
    hint = f"{IGNORED_CLASS} marks positions to ignore; check task.num_classes"
    refuse(wrong, integers, f"classes are not in 0..{most}", where, hint)
    return integers


def check_finite(values: np.ndarray, where: str, *, allow_nan: bool = False, offset: int = 0) -> None:
    """Check that numbers [n, ...] are finite in float32; `offset` is added to the first index in messages."""
    if values.dtype.kind in "iub":
        return
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    wrong = np.isinf(narrow) if allow_nan else ~np.isfinite(narrow)
    what = "values are infinite" if allow_nan else "values are NaN or infinite"
    refuse(wrong, values, what, where, "replace them or remove these samples", offset)


def refuse(wrong: np.ndarray, values: np.ndarray, what: str, where: str, hint: str, offset: int = 0) -> None:
    """Raise DataError with the number of wrong values, and the first of them with its index (from `offset` on)."""
    if wrong.any():
        first = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
        place = (first[0] + offset, *first[1:])
        index = f"({', '.join(map(str, place))})" if len(place) > 1 else str(place[0])
        raise DataError(f"{wrong.sum()} {what}, the first is {values[first]} at index {index}", where=where, hint=hint)
