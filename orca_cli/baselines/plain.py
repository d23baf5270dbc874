"""Fitted baselines as plain values and arrays: their outputs, and their files.

A stored model predicts exactly the outputs whose error was measured, since `models.fitted` computes
them with the functions of this module. A file may be untrusted: `checked` refuses every model that
could crash, hang, or take more memory than its arrays. This module imports neither torch nor
scikit-learn.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from orca_cli import storage
from orca_cli.baselines.foreign_arrays import taken
from orca_cli.baselines.rocket import Rocket
from orca_cli.baselines.trees import Trees
from orca_cli.baselines.windows import MOST_FEATURES, Windows
from orca_cli.config.ranges import Count, CountOrZero, fits, in_words, shown
from orca_cli.exceptions import ChecksumError, DataError, OrcaError, UnsafeError

RECORD_FILE = "model.json"
ARRAYS_FILE = "model.safetensors"
SCHEMA = 1
# Probability of a class that a model has not been fitted to.
LEAST = 1e-7
# Forms of targets at every position of an input.
DENSE = ("maps", "class_maps", "masks")
# Entries of a record and of each of its parts, with their types. The link says whether scores are
# numbers (identity), probabilities, logits, or decisions of a ridge.
_TYPES: dict[str, Any] = {
    "schema": Literal[1],
    "form": Literal["classes", "labels", "values", "maps", "class_maps", "masks"],
    "inputs": Literal["table", "raw", "embedder", "body"],
    "limit": CountOrZero,
    "shape": list[Count],
    "sides": tuple[CountOrZero, CountOrZero],
    "dtype": Literal["float32", "float64"],
}
_PART_TYPES: dict[str, Any] = {
    "kind": Literal["linear", "forest", "boosting"],
    "link": Literal["identity", "probabilities", "logits", "decisions"],
}
# Array -> its type and axes: F features, of which V vary, and C scores.
_LINEAR_FORMS = {
    "varies": (np.bool_, "F"),
    "mean": (np.float64, "V"),
    "std": (np.float64, "V"),
    "coef": (np.float64, "CV"),
    "intercept": (np.float64, "C"),
}
# Letters for the axes of an input after its channels.
_AXES = "abcdefgh"
# Largest number of input values that are predicted at once, and of outputs of a sample.
_AT_ONCE = 2**22
_MOST_OUTPUTS = 2**27


@dataclass(frozen=True)
class Linear:
    """A linear model of standardised features."""

    # Mask of the features that are used, [F]; their means and standard deviations, [V].
    varies: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    # [C, V] and [C]
    coef: np.ndarray
    intercept: np.ndarray

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], prefix: str, width: int) -> "Linear":
        """Return a model of `width` features from untrusted arrays.

        Raises:
            UnsafeError: the arrays do not describe such a model.
        """
        linear = cls(**taken(arrays, _LINEAR_FORMS, prefix, {"F": width}))
        if linear.varies.sum() != len(linear.mean):
            raise UnsafeError(
                f"arrays '{prefix}varies' and '{prefix}mean' have different numbers of features"
            )
        if (linear.std <= 0).any():
            raise UnsafeError(f"array '{prefix}std' contains values that are not positive")
        return linear

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return the scores [m, C] of samples x [m, F]."""
        standardised = (x[:, self.varies] - self.mean) / self.std
        scores: np.ndarray = standardised @ self.coef.T + self.intercept
        return scores


@dataclass(frozen=True)
class Part:
    """A model of some of the K outputs."""

    link: str
    # Mask of these outputs, [K].
    columns: np.ndarray
    model: Linear | Trees

    @classmethod
    def read(
        cls, record: Any, arrays: Mapping[str, np.ndarray], prefix: str, *, width: int, k: int
    ) -> "Part":
        """Return the part that an untrusted record and untrusted arrays describe.

        Args:
            record: the part's record.
            arrays, prefix: the arrays of the whole model, and the prefix of the part's arrays.
            width, k: number of features and number of outputs of the model.

        Raises:
            DataError: the record has another form.
            UnsafeError: the arrays do not fit the record.
        """
        _check_types(record, _PART_TYPES)
        columns = taken(arrays, {"columns": (np.bool_, "K")}, prefix, {"K": k})["columns"]
        model: Linear | Trees
        if record["kind"] == "linear":
            model = Linear.read(arrays, prefix, width)
        else:
            model = Trees.read(arrays, prefix, width, is_mean=record["kind"] == "forest")
        num_scores = len(model.intercept)
        # For two classes, a model has only the logit of the second.
        if num_scores == 1 and record["link"] == "logits":
            num_scores = 2
        if not num_scores or columns.sum() != num_scores:
            raise UnsafeError(
                f"array '{prefix}columns' marks {columns.sum()} outputs, expected {num_scores}"
            )
        return cls(link=record["link"], columns=columns, model=model)

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """Return the outputs [m, K] for features [m, F].

        For classes they are scores: the decisions of a ridge, or log-probabilities. Classes that
        the part was not fitted to get the lowest score. For numbers, outputs that the part does not
        have are 0.
        """
        scores = self.model.scores(x)
        if self.link == "logits":
            scores = _probabilities(scores)
        lowest: Any = 0.0
        if self.link == "decisions":
            lowest = scores.min(axis=1, keepdims=True) - 1
        elif self.link != "identity":
            scores = np.log(np.maximum(scores, LEAST))
            lowest = math.log(LEAST)
        outputs = np.zeros((len(x), len(self.columns))) + lowest
        outputs[:, self.columns] = scores
        return outputs


def _probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits [m, C]; a single logit belongs to the second class."""
    if logits.shape[1] == 1:
        # Imported late, since it takes time; it gives the same bits as scikit-learn.
        from scipy.special import expit

        second = expit(logits)
        return np.concatenate([1 - second, second], axis=1)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


@dataclass(frozen=True, eq=False)
class PlainModel:
    """A fitted baseline; `checked` makes it.

    Its record describes its inputs. `inputs` is table (features by `features.table`, with its
    argument `limit`), raw, embedder or body (features of these), and `shape` is a sample's shape.
    """

    record: dict[str, Any]
    arrays: dict[str, np.ndarray]
    parts: tuple[Part, ...]
    # Numbers added to the outputs, [K], and a map added to them, [K, *E] or [].
    centre: np.ndarray
    mean_map: np.ndarray
    # Computes the features of raw inputs.
    source: Windows | Rocket | None

    @property
    def num_outputs(self) -> int:
        """Return K."""
        return 1 if self.record["form"] == "masks" else len(self.centre)

    def outputs(self, new: np.ndarray) -> np.ndarray:
        """Return the outputs for features [m, F] or raw inputs [m, C, *E].

        They are [m, K] or [m, K, *E], float32, or float64 if the targets were. They are scores of
        classes, or numbers; for labels and masks, numbers that are above 0 where these are present.

        Raises:
            DataError: the inputs have another shape.
            UnavailableError: the model is MiniRocket, and aeon is not installed.
        """
        shape = self.record["shape"]
        if list(new.shape[1:]) != shape:
            raise DataError(f"a sample has shape {list(new.shape[1:])}, expected {shape}")
        step = max(1, _AT_ONCE // math.prod(shape))
        batches = []
        # The numbers of an untrusted model may overflow.
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(new), step):
                batches.append(self._batch_outputs(new[start : start + step]))
            return np.concatenate(batches).astype(self.record["dtype"])

    def _batch_outputs(self, new: np.ndarray) -> np.ndarray:
        if isinstance(self.source, Windows):
            maps = []
            for sample in new:
                at_positions = self._predicted(self.source.features(sample))  # [positions, K]
                maps.append(at_positions.T.reshape(-1, *self.source.extent))
            outputs = np.stack(maps) + self.mean_map
        elif self.source is not None:
            outputs = self._predicted(self.source.features(new))
        else:
            outputs = self._predicted(new)
        # Outputs for labels and masks are above 0 where these are present.
        if self.record["form"] == "labels":
            outputs = outputs - 0.5
        elif self.record["form"] == "masks":
            outputs = outputs[:, 1:] - outputs[:, :1]
        return outputs

    def _predicted(self, x: np.ndarray) -> np.ndarray:
        """Return the outputs [m, K] for features [m, F]."""
        outputs = np.tile(self.centre, (len(x), 1))
        for part in self.parts:
            outputs += part.outputs(x)
        return outputs


def checked(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> PlainModel:
    """Return the model that an untrusted record and untrusted arrays describe.

    Args:
        record: record of the form that `models.fitted` makes.
        arrays: dotted name -> array.

    Raises:
        DataError: the record has another form than this program writes.
        UnsafeError: an array is missing or has another form, or its values would index outside
            another array, cause endless work, or take more memory than the arrays.
    """
    _check_types(record, _TYPES)
    form = record["form"]
    shape = record["shape"]
    is_series = record["inputs"] == "raw" and form not in DENSE
    axes = _AXES[: len(shape) - 1] if form in DENSE else _AXES[:is_series]
    if len(shape) != 1 + len(axes) or (form in DENSE and not axes):
        raise DataError(
            f"the model's 'shape' {shown(shape)} has the wrong number of entries for targets of "
            f"the form '{form}'"
        )
    if not isinstance(record.get("parts"), list):
        raise DataError("the entry 'parts' of the model's record must be a list")
    centre = taken(arrays, {"centre": (np.float64, "K")}, "", {})["centre"]
    if form == "masks" and len(centre) != 2:
        raise UnsafeError(f"array 'centre' has {len(centre)} entries, expected 2")
    sizes = dict(zip("C" + axes, shape, strict=True)) | {"K": len(centre)}
    maps: dict[str, Any] = {"mean_map": np.zeros(()), "input_centre": None}
    if form == "maps":
        map_forms = {"mean_map": (np.float64, "K" + axes), "input_centre": (np.float64, "C" + axes)}
        maps = taken(arrays, map_forms, "", sizes)
    source: Windows | Rocket | None = None
    width = shape[0]
    if form in DENSE:
        source = Windows(tuple(shape[1:]), tuple(record["sides"]), maps["input_centre"])
        width = source.width(shape[0])
        # Windows of a single position take no more memory than the input.
        is_wide = sum(source.sides) > 0 and width > MOST_FEATURES + 2 * len(axes)
        if is_wide or len(centre) * math.prod(shape[1:]) > _MOST_OUTPUTS:
            raise UnsafeError(
                f"the model's 'shape' {shown(shape)} and its 'sides' lead to too many features or "
                "outputs"
            )
    elif is_series:
        source = Rocket.read(arrays, "rocket.", shape)
        width = len(source.arrays["biases"])
    parts = []
    for number, part_record in enumerate(record["parts"]):
        prefix = f"parts.{number}."
        parts.append(Part.read(part_record, arrays, prefix, width=width, k=len(centre)))
    return PlainModel(
        record=dict(record),
        arrays=dict(arrays),
        parts=tuple(parts),
        centre=centre,
        mean_map=maps["mean_map"],
        source=source,
    )


def _check_types(record: Any, types: Mapping[str, Any]) -> None:
    """Raise DataError unless a record has these entries of these types."""
    if not isinstance(record, Mapping):
        raise DataError(f"the record of a model or part is {shown(record)}, expected a JSON object")
    for name, hint in types.items():
        if not fits(record.get(name), hint):
            raise DataError(
                f"the model's '{name}' is {shown(record.get(name))}",
                hint=f"allowed: {in_words(hint)}; use the version of orca that wrote the model",
            )


def write(folder: Path, model: PlainModel) -> None:
    """Write a model as model.json and model.safetensors; StorageError if the disk fails."""
    from safetensors.numpy import save

    contiguous = {name: np.ascontiguousarray(array) for name, array in model.arrays.items()}
    # In memory, since the record has the checksum of these bytes.
    content = save(contiguous)
    digest = hashlib.sha256(content).hexdigest()
    # The record is written last: if it exists, both files exist.
    storage.write_bytes(folder / ARRAYS_FILE, content)
    storage.write_checked_json(folder / RECORD_FILE, model.record | {"arrays_sha256": digest})


def read(folder: Path) -> PlainModel:
    """Return the model in a folder of untrusted files.

    Raises:
        ChecksumError: a file is missing, or has changed since it was written.
        DataError, UnsafeError: see `checked`.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = folder / ARRAYS_FILE
    record = storage.read_checked_json(folder / RECORD_FILE)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ChecksumError(
            "is missing or cannot be read; get the run or export again", where=str(path)
        ) from error
    # The record, which has its own checksum, contains the checksum of the arrays.
    if hashlib.sha256(content).hexdigest() != record.pop("arrays_sha256", None):
        raise ChecksumError(
            f"is damaged: its checksum differs from the checksum in {RECORD_FILE}; get the run or "
            "export again",
            where=str(path),
        )
    try:
        arrays = load(content)
    # The format has types that NumPy lacks, and reading these raises KeyError.
    except (SafetensorError, KeyError, ValueError) as error:
        raise UnsafeError(
            "is not a valid .safetensors file; get the run or export again, from a source that you "
            "trust",
            where=str(path),
        ) from error
    try:
        return checked(record, arrays)
    except OrcaError as error:
        error.where = str(folder)
        error.hint = error.hint or "get the run or export again, from a source that you trust"
        raise
