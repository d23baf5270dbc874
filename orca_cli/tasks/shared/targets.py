"""The form of the targets of own data: learned from the training rows, and the same for those of every split.

Shapes: n samples, K outputs, *E the extent of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Kind, Preprocessing, Reporter, Samples, Scale, TaskData
from orca_cli.tasks.shared import target_encoding as encoding
from orca_cli.tasks.shared.own_data import MISSING_WORDS, counted, listed
from orca_cli.tasks.shared.samples import target_scale

_SHOWN = 8  # values named in a message
_LIKE_MISSING = set(MISSING_WORDS) - {"", "null", "none"}  # none and null are names of classes more often


@dataclass(frozen=True)
class TargetForm:
    """The form that the targets of every split have.

    Args:
        kind: classes, labels, values, maps (real-valued) or class_maps (a class at every position).
        num_outputs: K.
        names: K names of classes, labels or values, or empty.
        classes: class i as it stands in the files, ascending; all integers, or all strings. Empty where the data number
            classes by themselves, and for other kinds.
        extent: *E, for maps.
        channels_last: whether maps are (n, *E, K).
        missing: whether labels and real-valued targets may be NaN.
        scale: of real-valued targets; None for other kinds.
    """

    kind: Literal["classes", "labels", "values", "maps", "class_maps"]
    num_outputs: int
    names: tuple[str, ...] = ()
    classes: tuple[int | str, ...] = ()
    extent: tuple[int, ...] = ()
    channels_last: bool = False
    missing: bool = False
    scale: Scale | None = None

    def encode(self, y: np.ndarray, where: str) -> np.ndarray:
        """Return targets of any split as Batch.y."""
        if self.kind == "classes":
            if self.classes:
                return encoding.encode_classes(y, self.classes, where)
            return encoding.encode_numbered_classes(y, self.num_outputs, where)
        if self.kind == "class_maps":
            if y.dtype.kind not in "iub":
                raise DataError(f"targets have dtype {y.dtype}, those of the training set are integers", where=where)
            return encoding.encode_class_maps(y, self.extent, where, self.num_outputs)
        if self.kind == "labels":
            encoded = encoding.encode_label_sets(y, where, self.missing)
        elif self.kind == "values":
            encoded = encoding.encode_values(y, where, self.missing)
        else:
            encoded = encoding.encode_maps(y, self.extent, where, self.channels_last, self.missing)
        if encoded.shape[1] != self.num_outputs:
            what = f"targets have {encoded.shape[1]} columns, those of the training set {self.num_outputs}"
            raise DataError(what, where=where)
        return encoded

    def note(self) -> str:
        """Return a description of the targets."""
        k, extent = self.num_outputs, " x ".join(map(str, self.extent))
        if self.kind == "maps":
            return f"real-valued targets of {k} x {extent}"
        if self.kind == "class_maps":
            return f"{k} classes at every position"
        if self.kind == "values":
            return self._values_note()
        named = self.names and self.classes != tuple(range(k))
        return f"{k} {self.kind}" + (f" ({listed(self.names)})" if named else "")

    def _values_note(self) -> str:
        """Return how many numbers a sample has, with their mean and deviation in training."""
        assert self.scale is not None
        names = self.names or (("",) if self.num_outputs == 1 else tuple(map(str, range(self.num_outputs))))
        shown = [
            f"{name} {mean:.4g} ± {std:.4g}".strip()
            for name, mean, std in zip(names, self.scale.mean.tolist(), self.scale.std.tolist(), strict=True)
        ]
        word = "number" if self.num_outputs == 1 else "numbers"
        return f"{self.num_outputs} {word} a sample ({listed(shown, _SHOWN)})"

    def warnings(self, train_targets: np.ndarray) -> list[str]:
        """Return warnings about labels that the encoded training targets never or always have, and classes that may be none."""
        found = []
        for k, name in enumerate(self.names if self.kind == "classes" else ()):
            if name.lower() in _LIKE_MISSING and (count := int((train_targets == k).sum())):
                what = f"warning: '{name}' is a class ({counted(count, 'training sample')})"
                found.append(f"{what}; if it stands for missing targets, remove these samples")
        for value, word in ((1, "positive"), (0, "negative")) if self.kind == "labels" else ():
            empty = np.flatnonzero(~(train_targets == value).any(axis=0))
            if len(empty):
                shown = listed([self.names[i] if self.names else i for i in empty])
                found.append(f"warning: label {shown} has no {word} training sample")
        return found


def fit_targets(
    kind: str,
    y: np.ndarray,
    rows: np.ndarray,
    where: str,
    extent: tuple[int, ...] = (),
    *,
    num_classes: int | None = None,
    channels_last: bool = False,
    missing: bool = False,
    names: tuple[str, ...] = (),
) -> TargetForm:
    """Return the form of targets, from the training rows.

    Args:
        kind: classes, labels, values or dense.
        y: [N, ...] as in the data.
        rows: the training rows.
        where: origin of the targets, for messages.
        extent: of the inputs.
        num_classes: K, or None to infer it; for classes.
        channels_last, missing: as those of `TargetForm`.
        names: of labels, of values, or of classes that the data number by themselves.

    Raises:
        ConfigError: `num_classes` does not apply.
    """
    if kind == "classes" and names:
        return TargetForm("classes", len(names), names)
    if kind == "classes":
        classes = encoding.classes_of(encoding.plain_labels(y, where)[rows], where, num_classes)
        return TargetForm("classes", len(classes), tuple(map(str, classes)), classes)
    if kind == "dense" and y.dtype.kind in "iub":
        train = encoding.encode_class_maps(y, extent, where, num_classes)[rows]
        k = num_classes or int(train.max()) + 1
        encoding.check_class_maps(train, where, k)
        return TargetForm("class_maps", k, extent=extent)
    if num_classes is not None:
        raise ConfigError("applies only to classes", where="task.num_classes", hint=f"remove it: {where} says it")
    if kind == "values":
        values = encoding.encode_values(y, where, missing)[rows]
        encoding.check_vary(values, where)
        return TargetForm("values", values.shape[1], names, missing=missing, scale=target_scale(values))
    if kind == "labels":
        k = encoding.encode_label_sets(y, where, missing).shape[1]
        return TargetForm("labels", k, names, missing=missing)
    maps = encoding.encode_maps(y, extent, where, channels_last, missing)[rows]
    empty = np.flatnonzero(np.isnan(maps).all(axis=(0, *range(2, maps.ndim))))
    if len(empty):
        raise DataError(f"output channel {empty[0]} has no training target", where=where, hint="remove the channel")
    return TargetForm("maps", maps.shape[1], (), (), extent, channels_last, missing, target_scale(maps))


def own_task(
    kind: Kind,
    input_shape: tuple[int, ...],
    form: TargetForm,
    preprocessing: Preprocessing,
    drawn: tuple[Samples, Samples],
    samples: Callable[[str], Samples],
    notes: Sequence[str],
    name: str,
    reporter: Reporter,
    *,
    validation_drawn: bool,
) -> TaskData:
    """Return a task over own data whose train and validation were drawn already; report the notes after the reader's name."""
    train, validation = drawn
    note = "; ".join([*notes, *form.warnings(train.targets())])
    reporter.say(f"{name}: {note}")
    return TaskData(
        kind=kind,
        input_shape=input_shape,
        num_outputs=form.num_outputs,
        train=train,
        validation=validation,
        open_test=lambda: samples("test"),
        target_scale=form.scale,
        class_names=form.names,
        note=note,
        preprocessing=preprocessing,
        validation_drawn=validation_drawn,
    )
