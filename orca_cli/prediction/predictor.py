"""A finished run's model as an estimator in the style of scikit-learn.

This module does not import torch; `computing` does, for models that need it.

Shapes: n samples, K outputs, *E the extent of dense outputs.
"""

import functools
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.utils.metaestimators import available_if

from orca_cli.exceptions import ConfigError, DataError, governed_by
from orca_cli.interfaces import Error, NewData, Reporter, Score
from orca_cli.prediction.computing import Inputs, computer
from orca_cli.prediction.loading import Loaded
from orca_cli.prediction.output import Decoder
from orca_cli.progress import Silent
from orca_cli.scoring.reported import named_error

_SILENT = Silent()


class Predictor:
    """A fitted model with its preprocessing; `orca_cli.load` makes it.

    New data are given as samples in memory, in the form of the task's files (an array; for tables a
    pandas table or columns by name; for images paths), or as the path of a file or folder that the
    task's reader reads.

    Args:
        loaded: the model with its record and its preprocessing.
        device: auto, cpu, cuda, cuda:N or mps.
        batch_size: samples per forward pass; None takes the run's batch size, with which
            predictions have the same bits as in the run.

    Attributes:
        kind: kind of the task: classes, labels, values or dense.
        input_shape: shape (C, *E) of a sample as the model takes it.
        remarks: change that made samples fit, such as cutting long samples -> number of samples
            changed so far.

    Raises:
        ConfigError: the device does not exist, or the batch size is below 1.
        UnavailableError: the device is absent.
    """

    def __init__(self, loaded: Loaded, device: str = "auto", batch_size: int | None = None) -> None:
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"must be at least 1, got {batch_size}", where="batch_size")
        self.loaded = loaded
        self.record = loaded.record
        self.preprocessing = loaded.preprocessing
        self.kind = self.record.kind
        self.input_shape = tuple(self.record.input_shape)
        self.batch_size = batch_size or loaded.record.batch_size
        # An absent device raises an error now, not at the first prediction.
        self._computer = computer(loaded, device, self.batch_size)
        self.decoder = Decoder(self.preprocessing.targets, self.record.num_outputs)
        self.remarks: Counter[str] = Counter()

    @property
    def classes_(self) -> np.ndarray:
        """Return the K classes as the data name or number them, or the labels.

        Raises:
            AttributeError: outputs are numbers.
        """
        if self.decoder.classes is None:
            raise AttributeError(f"outputs of kind '{self.kind}' have no classes")
        return self.decoder.classes

    def outputs(self, x: Any) -> np.ndarray:
        """Return the model's outputs [n, K] or [n, K, *E].

        They are logits for classes and labels, or numbers in the task's units.
        """
        batches = self.stream(self.opened(x))
        return np.concatenate(list(batches))

    def predict(self, x: Any) -> np.ndarray:
        """Return predictions.

        For classes they are [n] in the form of `classes_`, for labels [n, K] of 0 and 1, for
        numbers [n], or [n, K] if K > 1, for dense outputs numbers [n, K, *E] or classes [n, *E].

        Raises:
            DataError: the samples do not have the form of the training data.
        """
        batches = self.stream(self.opened(x))
        predictions = [self.decoder.predictions(outputs) for outputs in batches]
        return np.concatenate(predictions)

    # scikit-learn asks by `hasattr` whether a model gives probabilities.
    @available_if(lambda self: self.decoder.has_probabilities)
    def predict_proba(self, x: Any) -> np.ndarray:
        """Return probabilities: [n, K], or [n, K, *E] for a class at every position.

        Models of numbers lack this method.
        """
        batches = self.stream(self.opened(x))
        probabilities = [self.decoder.probabilities(outputs) for outputs in batches]
        return np.concatenate(probabilities)

    def score(self, x: Any, y: Any = None) -> float:
        """Return scikit-learn's usual score, higher is better.

        It is the accuracy for classes and labels, and R2 for numbers. Targets `y` have the form
        that they have in the data; None takes the targets of the file that `x` names. See
        `Decoder.score`.

        Raises:
            DataError: targets are missing, differ in number from the samples, or have another form
                than the training targets.
        """
        # Opened once, for the outputs and for the targets.
        samples = self.opened(x)
        return self.decoder.score(self.outputs(samples), self._targets(samples, y))

    def error(self, x: Any, y: Any = None) -> Score:
        """Return the error that the run reports, lower is better; arguments are as in `score`."""
        samples = self.opened(x)
        return self.measured_error(self.outputs(samples), self._targets(samples, y))

    def fit(self, x: Any, y: Any = None) -> Self:
        """Raise ConfigError: the model is trained already; `orca run` trains another."""
        hint = "train another model with orca_cli.run(...)"
        raise ConfigError("a finished run cannot be trained again", where="fit", hint=hint)

    def opened(self, x: Any, part: str = "") -> NewData:
        """Return new data as a record that is read part by part; inputs in files are not read yet.

        Args:
            x: samples in memory, the path of a file or folder, or such a record, which is returned
                as it is.
            part: train, validation or test, for files that contain several splits.

        Raises:
            DataError: `x` has no samples, or samples of another form than the training data.
            ConfigError: `part` is given for data without splits.
        """
        if isinstance(x, NewData):
            samples = x
        elif isinstance(x, (str, Path)):
            samples = self._in_files(x, part)
        else:
            samples = self.preprocessing.given(x)
        if not len(samples):
            raise DataError("has no samples", where=samples.where, hint="give at least one sample")
        return samples

    def _in_files(self, path_or_id: str | Path, part: str) -> NewData:
        path = Path(path_or_id).expanduser()
        # A bare name may be a hub id.
        is_typed_as_path = str(path_or_id).startswith(("./", "../", "/", "~"))
        if is_typed_as_path and not path.exists():
            raise DataError("does not exist", where=str(path_or_id))
        return self.preprocessing.open(path, "INPUT", part)

    def stream(self, new: NewData, reporter: Reporter = _SILENT) -> Iterator[np.ndarray]:
        """Yield the outputs of new data batch by batch: [B, K] or [B, K, *E].

        They are float32, or float64 if the run's targets are float64. `reporter` shows progress.

        Raises:
            DataError: samples do not have the form of the training data, or their outputs are not
                finite.
            MemoryExhaustedError: a batch does not fit into memory.
        """
        # The hint of the error if memory runs out.
        advice = "use a machine with more memory"
        if self.batch_size > 1:
            advice = f"use less than {self.batch_size}"
        reads = (
            functools.partial(self._read, new, start)
            for start in range(0, len(new), self.batch_size)
        )
        samples_before = 0
        with (
            governed_by("--batch-size", advice),
            reporter.track("predicting", len(new)) as advance,
            closing(self._computer(reads)) as batches,
        ):
            for outputs in batches:
                _check_finite(outputs, samples_before, new.where)
                samples_before += len(outputs)
                advance(len(outputs))
                yield outputs

    def _read(self, new: NewData, start: int) -> Inputs:
        """Return the inputs of the batch of samples from `start`, and count its remarks."""
        where = new.where
        if start > 0:
            where += f", counted from sample {start}"
        stop = min(start + self.batch_size, len(new))
        raw_inputs = new.inputs(start, stop)
        x, valid = self.preprocessing.inputs(raw_inputs, where)
        # (C, *E)
        input_shape = tuple(x.shape[1:])
        # In an untrusted export, record and preprocessing may not belong together.
        if input_shape != self.input_shape:
            message = f"samples have shape {input_shape}, the model expects {self.input_shape}"
            raise DataError(message, where=where)
        # Images always fit, so their preprocessing has no remarks.
        remarks = getattr(self.preprocessing, "remarks", None)
        if remarks is not None:
            self.remarks.update(remarks(raw_inputs))
        return x, valid

    @functools.cached_property
    def measured_error(self) -> Error:
        """Return the run's error, a function of outputs and targets of a whole split."""
        return named_error(
            node=self.record.error,
            kind=self.kind,
            # As in the run: a class for each sample, or for each position.
            integer_targets=self.decoder.form in ("classes", "class_maps"),
            chunk=self.record.error_chunks,
            batch=self.record.train_batch_size,
        )

    def _targets(self, new: NewData, y: Any) -> np.ndarray:
        """Return targets as Batch.y; if `y` is None, the targets that the new data contain."""
        has_padded_maps = self.decoder.is_map and getattr(self.preprocessing, "has_masks", False)
        if y is not None and has_padded_maps:
            message = (
                "samples may differ in length, and an array of dense targets does not show where "
                "each sample ends"
            )
            raise DataError(message, where="y", hint="give a file of samples and targets")
        targets = new.targets() if y is None else self._encoded(y)
        if targets is None:
            raise DataError("has no targets", where=new.where, hint="give the targets as y")
        # Arrays of different lengths could otherwise broadcast inside an error.
        if len(targets) != len(new):
            raise DataError(f"has {len(targets)} targets for {len(new)} samples", where="y")
        return targets

    def _encoded(self, y: Any) -> np.ndarray:
        targets = np.asarray(y)
        # Columns of pandas store texts as objects.
        if targets.dtype.kind == "O" and all(isinstance(target, str) for target in targets.flat):
            targets = targets.astype(str)
        return self.preprocessing.targets.encode(targets, "y")

    # scikit-learn asks an estimator for the following attributes.

    def __sklearn_is_fitted__(self) -> bool:
        return True

    # Older releases ask for this attribute, newer ones for the tags.
    @property
    def _estimator_type(self) -> str | None:
        """Return classifier or regressor; None for maps, which scikit-learn does not know."""
        if self.decoder.is_map:
            return None
        return "classifier" if self.decoder.has_probabilities else "regressor"

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags

        estimator = self._estimator_type
        has_labels = self.kind == "labels"
        has_several_numbers = self.kind == "values" and self.record.num_outputs > 1
        target_tags = TargetTags(required=True, multi_output=has_labels or has_several_numbers)
        # The scorers, displays and inspection of scikit-learn read these tags.
        tags = Tags(
            estimator_type=estimator,
            target_tags=target_tags,
            input_tags=InputTags(),
            requires_fit=False,
        )
        if estimator == "classifier":
            tags.classifier_tags = ClassifierTags(multi_label=has_labels)
        elif estimator == "regressor":
            tags.regressor_tags = RegressorTags()
        return tags


def _check_finite(outputs: np.ndarray, samples_before: int, where: str) -> None:
    """Raise DataError if an output is NaN or infinite, since argmax would turn NaN into a class."""
    is_number_finite = np.isfinite(outputs).reshape(len(outputs), -1)
    is_finite = is_number_finite.all(axis=1)  # [B]
    if not is_finite.all():
        sample = samples_before + int(is_finite.argmin())
        message = f"the outputs of sample {sample} are NaN or infinite"
        hint = (
            "the sample's inputs are too large for the model; correct the inputs, or leave the "
            "sample out"
        )
        raise DataError(message, where=where, hint=hint)
