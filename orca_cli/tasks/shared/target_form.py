"""The form of own data's targets, learned from the training rows: how those of every split become Batch.y.

Targets of another form raise DataError with their number, and the first of them.

Shapes: n samples, K outputs, *E the extent of the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Scale
from orca_cli.tasks.shared import targets as checks
from orca_cli.tasks.shared.own_data import listed
from orca_cli.tasks.shared.scales import target_scale
from orca_cli.tasks.shared.targets import Vocabulary


@dataclass(frozen=True)
class TargetForm:
    """The form that the targets of every split have.

    Args:
        kind: classes, labels, maps (real-valued) or class_maps (a class at every position).
        num_outputs: K.
        names: K names of classes or labels, or empty.
        vocabulary: the classes; None where the data number them by themselves, and for other kinds.
        extent: *E, for maps.
        channels_last: whether maps are (n, *E, K).
        missing: whether labels and real-valued targets may be NaN.
        scale: of real-valued targets; None for other kinds.
    """

    kind: Literal["classes", "labels", "maps", "class_maps"]
    num_outputs: int
    names: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = None
    extent: tuple[int, ...] = ()
    channels_last: bool = False
    missing: bool = False
    scale: Scale | None = None

    def encode(self, y: np.ndarray, where: str) -> np.ndarray:
        """Return targets of any split as Batch.y."""
        if self.kind == "classes":
            if self.vocabulary is None:
                return checks.encode_numbered_classes(y, self.num_outputs, where)
            return checks.encode_classes(y, self.vocabulary, where)
        if self.kind == "class_maps":
            if y.dtype.kind not in "iub":
                raise DataError(f"targets have dtype {y.dtype}, those of the training set are integers", where=where)
            return checks.encode_class_maps(y, self.extent, where, self.num_outputs)
        if self.kind == "labels":
            encoded = checks.encode_label_sets(y, where, allow_missing=self.missing)
        else:
            encoded = _encode_maps(y, self.extent, where, self.channels_last, self.missing)
        if encoded.shape[1] != self.num_outputs:
            raise DataError(
                f"targets have {encoded.shape[1]} columns, those of the training set {self.num_outputs}", where=where
            )
        return encoded

    def note(self) -> str:
        """Return a description of the targets."""
        k, extent = self.num_outputs, " x ".join(map(str, self.extent))
        if self.kind == "maps":
            return f"real-valued targets of {k} x {extent}"
        if self.kind == "class_maps":
            return f"{k} classes at every position"
        named = self.names and (self.vocabulary is None or self.vocabulary.renamed())
        return f"{k} {self.kind}" + (f" ({listed(self.names)})" if named else "")

    def warnings(self, train_targets: np.ndarray) -> list[str]:
        """Return warnings about labels that the encoded training targets never or always have."""
        if self.kind != "labels":
            return []
        found = []
        for value, word in ((1, "positive"), (0, "negative")):
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
        kind: classes, labels or dense.
        y: [N, ...] as in the data.
        rows: the training rows.
        where: origin of the targets, for messages.
        extent: of the inputs.
        num_classes: K, or None to infer it; for classes.
        channels_last: whether real-valued maps are (n, *E, K).
        missing: whether labels and real-valued targets may be NaN.
        names: of labels, or of classes that the data number by themselves.

    Raises:
        ConfigError: `num_classes` does not apply.
    """
    if kind == "classes" and names:
        return TargetForm("classes", len(names), names)
    if kind == "classes":
        vocabulary = checks.class_vocabulary(checks.plain_labels(y, where)[rows], where, num_classes)
        return TargetForm("classes", len(vocabulary.values), vocabulary.names(), vocabulary)
    if kind == "dense" and y.dtype.kind in "iub":
        train = checks.encode_class_maps(y, extent, where, num_classes)[rows]
        k = num_classes or int(train.max()) + 1
        checks.check_class_maps(train, where, k)
        return TargetForm("class_maps", k, extent=extent)
    if num_classes is not None:
        raise ConfigError("applies only to classes", where="task.num_classes", hint=f"remove it: {where} says it")
    if kind == "labels":
        k = checks.encode_label_sets(y[rows], where, allow_missing=missing).shape[1]
        return TargetForm("labels", k, names, missing=missing)
    maps = _encode_maps(y, extent, where, channels_last, missing)[rows]
    empty = np.flatnonzero(np.isnan(maps).all(axis=(0, *range(2, maps.ndim))))
    if len(empty):
        raise DataError(f"output channel {empty[0]} has no training target", where=where, hint="remove the channel")
    scale = target_scale(maps)
    return TargetForm("maps", maps.shape[1], (), None, extent, channels_last, missing, scale)


def _encode_maps(y: np.ndarray, extent: tuple[int, ...], where: str, channels_last: bool, missing: bool) -> np.ndarray:
    if channels_last and y.ndim == len(extent) + 2:
        y = np.moveaxis(y, -1, 1)
    return checks.encode_maps(y, extent, where, allow_missing=missing)
