"""Fitted simple models as plain values and arrays: their outputs, and their files.

A model that is kept predicts the bits that were measured, since `models.fitted` computes its
outputs here. A file may be a stranger's: `checked` refuses all that could crash, hang, or take more
memory than its arrays have. Imports neither torch nor scikit-learn.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from orca_cli import storage
from orca_cli.baselines.foreign_arrays import ForeignArrays
from orca_cli.baselines.rocket import Rocket
from orca_cli.baselines.trees import Boosting, Forest
from orca_cli.baselines.windows import MOST_FEATURES, Windows
from orca_cli.config.ranges import Count, CountOrZero, fits, in_words, shown
from orca_cli.exceptions import ChecksumError, DataError, UnsafeError

RECORD_FILE = "model.json"
ARRAYS_FILE = "model.safetensors"
SCHEMA = 1
# Probability of a class that a model has not been fitted to.
LEAST = 1e-7
# Of targets at every position of an input. Those of the first are numbers, those of others classes.
_DENSE = ("maps", "class_maps", "masks")
_OF_CLASSES = ("classes", "class_maps", "masks")
# Scores are numbers as they are; probabilities; logits; decisions of a ridge.
Link = Literal["identity", "probabilities", "logits", "decisions"]
_TYPES: dict[str, Any] = {
    "schema": Literal[1],
    "form": Literal["classes", "labels", "values", "maps", "class_maps", "masks"],
    "inputs": Literal["table", "raw", "embedder", "body"],
    "limit": Count | None,
    "shape": list[Count],
    "dtype": Literal["float32", "float64"],
    "sides": tuple[CountOrZero, CountOrZero] | None,
}
_PART_TYPES: dict[str, Any] = {"kind": Literal["linear", "forest", "boosting"], "link": Link}
_MOST_AXES = 8
# Values that are computed at once, and outputs of a sample.
_AT_ONCE = 2**22
_MOST_OUTPUTS = 2**27


@dataclass(frozen=True)
class Linear:
    """A linear model of standardised features."""

    # Which features are used, [F]; of these the mean and the standard deviation, [V].
    varies: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    # [C, V] and [C]
    coef: np.ndarray
    intercept: np.ndarray

    @classmethod
    def read(cls, arrays: ForeignArrays, width: int) -> "Linear":
        """Return a model of `width` features from arrays that may be forged; UnsafeError."""
        varies = arrays.take("varies", np.bool_, (width,))
        used = int(varies.sum())
        intercept = arrays.take("intercept", np.float64, (None,))
        std = arrays.take("std", np.float64, (used,))
        if (std <= 0).any():
            raise arrays.error("std", "is not above 0")
        return cls(
            varies=varies,
            mean=arrays.take("mean", np.float64, (used,)),
            std=std,
            coef=arrays.take("coef", np.float64, (len(intercept), used)),
            intercept=intercept,
        )

    @property
    def sizes(self) -> tuple[int, int]:
        """Return how many scores a sample gets, and how many values are made for it."""
        return self.coef.shape

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return the scores [m, C] of samples x [m, F]."""
        standardised = (x[:, self.varies] - self.mean) / self.std
        scores: np.ndarray = standardised @ self.coef.T + self.intercept
        return scores


_KINDS: dict[str, Any] = {"linear": Linear, "forest": Forest, "boosting": Boosting}


@dataclass(frozen=True)
class Part:
    """A model of some of the K outputs."""

    # Which of the outputs, [K].
    columns: np.ndarray
    link: Link
    model: Linear | Forest | Boosting

    @classmethod
    def read(cls, record: Any, arrays: ForeignArrays, width: int) -> "Part":
        """Return the part that a record and arrays, which may be forged, describe.

        Raises:
            DataError: its record has another form.
            UnsafeError: its arrays do not fit.
        """
        _check_types(record, _PART_TYPES, arrays.where)
        columns = arrays.take("columns", np.bool_, (None,))
        model = _KINDS[record["kind"]].read(arrays, width)
        num_scores, _ = model.sizes
        expected = num_scores
        if record["link"] in ("logits", "decisions") and num_scores == 1:
            # Of two classes there is the score of the second alone.
            expected = 2
        if columns.sum() != expected:
            raise arrays.error("columns", f"does not name {expected} outputs")
        return cls(columns=columns, link=record["link"], model=model)

    def class_scores(self, x: np.ndarray) -> np.ndarray:
        """Return scores [m, K] of all classes: log-probabilities, but for decisions.

        Classes that the model was not fitted to get the least score.
        """
        scores = self.model.scores(x)
        if self.link == "logits":
            scores = _probabilities(scores)
        if self.link == "decisions":
            if scores.shape[1] == 1:
                scores = np.concatenate([-scores, scores], axis=1)
            lowest = scores.min(axis=1, keepdims=True) - 1
        else:
            scores = np.log(np.maximum(scores, LEAST))
            lowest = np.full((len(x), 1), math.log(LEAST))
        outputs = np.repeat(lowest, len(self.columns), axis=1)
        outputs[:, self.columns] = scores
        return outputs


def _probabilities(logits: np.ndarray) -> np.ndarray:
    """Return probabilities [m, C] of logits [m, C]; a single logit is that of a second class."""
    if logits.shape[1] == 1:
        # Its bits are those that scikit-learn has.
        from scipy.special import expit

        second = expit(logits)
        return np.concatenate([1 - second, second], axis=1)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


@dataclass(frozen=True, eq=False)
class PlainModel:
    """A fitted simple model; `checked` makes it.

    Its record has `inputs`: what it takes, table features (`features.table` with the limit
    `limit`), raw inputs, or features of the embedder or of the body; and their `shape`.
    """

    record: dict[str, Any]
    arrays: dict[str, np.ndarray]
    parts: tuple[Part, ...]
    # Added to the outputs, [K] numbers; None for classes.
    centre: np.ndarray | None
    # For series; None for other inputs.
    rocket: Rocket | None
    # For targets at every position, with the map that is added to them, [K, *E] or [].
    windows: Windows | None
    mean_map: np.ndarray

    @property
    def num_outputs(self) -> int:
        """Return K."""
        if self.record["form"] == "masks":
            return 1
        return len(self.parts[0].columns if self.centre is None else self.centre)

    def outputs(self, new: np.ndarray) -> np.ndarray:
        """Return the outputs for features [m, F] or raw inputs [m, C, *E].

        They are [m, K] or [m, K, *E], float32, or float64 where the targets were: scores of
        classes; numbers; of labels and masks numbers that are above 0 where these are present.

        Raises:
            DataError: the inputs have another shape.
            UnavailableError: it is MiniRocket, and aeon is not installed.
        """
        shape = self.record["shape"]
        if list(new.shape[1:]) != shape:
            raise DataError(f"inputs have shape {list(new.shape[1:])}, the model takes {shape}")
        sample_cells = max(1, math.prod(shape))
        for part in self.parts:
            sample_cells = max(sample_cells, *part.model.sizes)
        step = max(1, _AT_ONCE // sample_cells)
        # The numbers of a forged model may overflow.
        with np.errstate(over="ignore", invalid="ignore"):
            batches = [
                self._batch_outputs(new[start : start + step])
                for start in range(0, max(1, len(new)), step)
            ]
            return np.concatenate(batches).astype(self.record["dtype"])

    def _batch_outputs(self, new: np.ndarray) -> np.ndarray:
        form = self.record["form"]
        if self.windows is not None:
            outputs = np.stack([self._map(self.windows, sample) for sample in new])
        elif self.rocket is not None:
            outputs = self._predicted(self.rocket.features(new))
        else:
            outputs = self._predicted(new)
        # Outputs of labels and masks are above 0 where these are present.
        if form == "labels":
            outputs = outputs - 0.5
        elif form == "masks":
            outputs = outputs[:, 1:] - outputs[:, :1]
        return outputs

    def _map(self, windows: Windows, sample: np.ndarray) -> np.ndarray:
        """Return the outputs [K, *E] for an input [C, *E]."""
        at_positions = self._predicted(windows.features(sample))  # [positions, K]
        outputs: np.ndarray = at_positions.T.reshape(-1, *windows.extent) + self.mean_map
        return outputs

    def _predicted(self, x: np.ndarray) -> np.ndarray:
        """Return the outputs [m, K] for features [m, F]."""
        if self.centre is None:
            return self.parts[0].class_scores(x)
        outputs = np.tile(self.centre, (len(x), 1))
        for part in self.parts:
            outputs[:, part.columns] += part.model.scores(x)
        return outputs


def checked(
    record: Mapping[str, Any], arrays: Mapping[str, np.ndarray], where: str = ""
) -> PlainModel:
    """Return the model of a record and arrays that may be a stranger's.

    Args:
        record: as `models.fitted` makes it.
        arrays: by dotted name.
        where: their folder, for messages.

    Raises:
        DataError: the record has another form than this program writes.
        UnsafeError: an array is missing or not of this model, or its values would lead out of
            another one, to work without end, or to more memory than the arrays take.
    """
    _check_types(record, _TYPES, where)
    form = record["form"]
    shape = tuple(record["shape"])
    part_records = record.get("parts")
    is_dense = form in _DENSE
    is_series = record["inputs"] == "raw" and not is_dense
    axes = len(shape) - 1
    # Series have one axis beyond channels, features none.
    fits_shape = 1 <= axes <= _MOST_AXES if is_dense else axes == int(is_series)
    fits_dense = is_dense == (record["sides"] is not None) and (
        not is_dense or record["inputs"] == "raw"
    )
    if not fits_shape or not fits_dense or not isinstance(part_records, list):
        raise DataError(f"the entries of a model of {form} contradict each other", where=where)
    source = ForeignArrays(arrays, where)
    windows = None
    rocket = None
    width = shape[0] if shape else 0
    if is_dense:
        windows = _windows(record, shape, source)
        width = shape[0] * math.prod(windows.window)
        if sum(windows.sides) and width > MOST_FEATURES:
            raise UnsafeError("the windows have too many positions", where=where)
        if windows.centre is None:
            width += 2 * axes
    elif is_series:
        rocket = Rocket.read(source.part("rocket"), shape)
        width = rocket.width
    parts = []
    for number, part_record in enumerate(part_records):
        parts.append(Part.read(part_record, source.part(f"parts.{number}"), width))
    centre = None
    mean_map = np.zeros(())
    if form not in _OF_CLASSES:
        centre = source.take("centre", np.float64, (None,))
    if form == "maps":
        mean_map = source.take("mean_map", np.float64, (len(centre), *shape[1:]))
    _check_parts(form, parts, centre, where)
    source.refuse_others()
    model = PlainModel(
        record=dict(record),
        arrays=dict(arrays),
        parts=tuple(parts),
        centre=centre,
        rocket=rocket,
        windows=windows,
        mean_map=mean_map,
    )
    if is_dense and model.num_outputs * math.prod(shape[1:]) > _MOST_OUTPUTS:
        raise UnsafeError("a sample has too many outputs", where=where)
    return model


def _windows(record: Mapping[str, Any], shape: tuple[int, ...], source: ForeignArrays) -> Windows:
    centre = None
    if record["form"] == "maps":
        centre = source.take("input_centre", np.float64, shape)
    return Windows(extent=shape[1:], sides=tuple(record["sides"]), centre=centre)


def _check_parts(form: str, parts: list[Part], centre: np.ndarray | None, where: str) -> None:
    """Raise DataError where parts have the links of another form, UnsafeError for other sizes."""
    if centre is None and len(parts) != 1:
        raise DataError("a model of classes has one part", where=where)
    for part in parts:
        is_linear = isinstance(part.model, Linear)
        if (part.link == "identity") != (centre is not None) or (form in _DENSE and not is_linear):
            raise DataError(f"a part of a model of {form} has another form", where=where)
        if centre is not None and len(part.columns) != len(centre):
            raise UnsafeError("a part does not have the model's outputs", where=where)
        if form == "masks" and len(part.columns) != 2:
            raise UnsafeError("a model of masks does not have two classes", where=where)


def _check_types(record: Any, types: Mapping[str, Any], where: str) -> None:
    """Raise DataError unless a record has these entries of these types."""
    if not isinstance(record, Mapping):
        raise DataError(f"{shown(record)} is not a record of a model", where=where)
    for name, hint in types.items():
        if name not in record or not fits(record[name], hint):
            raise DataError(
                f"'{name}' of a model is {shown(record.get(name))}",
                where=where,
                hint=f"allowed: {in_words(hint)}; use the version of orca that wrote it",
            )


def write(folder: Path, model: PlainModel) -> None:
    """Write a model as model.json and model.safetensors.

    Raises:
        DataError: it takes table features, and its record has no `limit`.
        StorageError: the disk fails.
    """
    from safetensors.numpy import save

    _check_limit(model.record, str(folder))
    contiguous = {name: np.ascontiguousarray(array) for name, array in model.arrays.items()}
    # In memory: the record has the checksum of these bytes.
    content = save(contiguous)
    digest = hashlib.sha256(content).hexdigest()
    # The record comes last, so that its existence means that both files do.
    storage.write_bytes(folder / ARRAYS_FILE, content)
    storage.write_checked_json(folder / RECORD_FILE, model.record | {"arrays_sha256": digest})


def read(folder: Path) -> PlainModel:
    """Return the model of a folder, whose files may be a stranger's.

    Raises:
        ChecksumError: a file is missing, or has changed since it was written.
        DataError, UnsafeError: see `checked`.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = folder / ARRAYS_FILE
    record = storage.read_checked_json(folder / RECORD_FILE)
    digest = record.pop("arrays_sha256", None)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ChecksumError("is missing or cannot be read", where=str(path)) from error
    # The record, with a checksum of its own, vouches for the arrays' bytes.
    if hashlib.sha256(content).hexdigest() != digest:
        raise ChecksumError(f"is damaged: {RECORD_FILE} has another checksum", where=str(path))
    try:
        arrays = load(content)
    # NumPy has no type for some that the format knows, which raises KeyError.
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UnsafeError("is not a file of arrays", where=str(path)) from error
    _check_limit(record, str(folder))
    return checked(record, arrays, str(folder))


def _check_limit(record: Mapping[str, Any], where: str) -> None:
    if record.get("inputs") == "table" and record.get("limit") is None:
        raise DataError("'limit' of a model of table features is missing", where=where)
