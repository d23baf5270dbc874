"""A model of a finished run as an estimator that predicts, as scikit-learn's users expect it.

Nothing here imports torch: `computing` does, for models that need it.

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
        loaded: the model and what belongs to it.
        device: auto, cpu, cuda, cuda:N or mps.
        batch_size: samples per forward pass; None takes that of the run, with which predictions
            keep its bits.

    Attributes:
        kind: of the task: classes, labels, values or dense.
        input_shape: (C, *E) of a sample as the model takes it.
        remarks: what was done to make samples fit, such as cutting long ones, with the number of
            samples so far.

    Raises:
        ConfigError: the device does not exist, or the batch size is below 1.
        UnavailableError: the device is absent.
    """

    def __init__(self, loaded: Loaded, device: str = "auto", batch_size: int | None = None) -> None:
        if batch_size is not None and batch_size < 1:
            message = f"{batch_size} is out of range"
            raise ConfigError(message, where="batch_size", hint="allowed: 1 or more")
        self.loaded = loaded
        self.record = loaded.record
        self.preprocessing = loaded.preprocessing
        self.kind = self.record.kind
        self.input_shape = tuple(self.record.input_shape)
        self.batch_size = batch_size or loaded.record.batch_size
        # An absent device is refused here, not at the first prediction.
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

        They are logits of classes and labels, or numbers in the task's units.
        """
        batches = self.stream(self.opened(x))
        return np.concatenate(list(batches))

    def predict(self, x: Any) -> np.ndarray:
        """Return predictions.

        Of classes [n] in the form of `classes_`, of labels [n, K] of 0 and 1, of numbers [n], or
        [n, K] where K > 1, of dense outputs [n, K, *E] numbers or [n, *E] classes.

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

        It is the accuracy of classes and labels, R2 of numbers. Targets `y` are as the data hold
        them; None takes those of the file that `x` names. See `Decoder.score`.

        Raises:
            DataError: targets are missing, not as many as samples, or of another form than those
                of training.
        """
        # Opened once, for the outputs and for the targets.
        samples = self.opened(x)
        return self.decoder.score(self.outputs(samples), self._targets(samples, y))

    def error(self, x: Any, y: Any = None) -> Score:
        """Return the error that the run reports, lower is better; arguments as those of `score`."""
        samples = self.opened(x)
        return self.measured_error(self.outputs(samples), self._targets(samples, y))

    def fit(self, x: Any, y: Any = None) -> Self:
        """Raise ConfigError: the model is trained already; `orca run` trains another."""
        hint = "orca_cli.run(...) trains another"
        raise ConfigError("a finished run is not trained again", where="fit", hint=hint)

    def opened(self, x: Any, part: str = "") -> NewData:
        """Return new data as a record that is read part by part; inputs of files are not read yet.

        Args:
            x: samples in memory, the path of a file or folder, or such a record, which is returned
                as it is.
            part: train, validation or test, of files that hold several splits.

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
            raise DataError("no samples", where=samples.where, hint="give one or more")
        return samples

    def _in_files(self, path_or_id: str | Path, part: str) -> NewData:
        path = Path(path_or_id).expanduser()
        # A bare name may be a hub id.
        is_typed_as_path = str(path_or_id).startswith(("./", "../", "/", "~"))
        if is_typed_as_path and not path.exists():
            raise DataError("no such file or folder", where=str(path_or_id))
        return self.preprocessing.open(path, "INPUT", part)

    def stream(self, new: NewData, reporter: Reporter = _SILENT) -> Iterator[np.ndarray]:
        """Yield the outputs of new data batch by batch: [B, K] or [B, K, *E].

        They are float32, or float64 where the run's targets are. `reporter` shows progress.

        Raises:
            DataError: samples do not have the form of the training data, or their outputs are not
                finite.
            MemoryExhaustedError: a batch does not fit.
        """
        # The hint of an error for lack of memory.
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
        # In a stranger's export, record and preprocessing may not belong together.
        if input_shape != self.input_shape:
            message = f"become inputs of shape {input_shape}, the model takes {self.input_shape}"
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
        """Return targets as Batch.y; where `y` is None, those that the new data hold."""
        has_padded_maps = self.decoder.is_map and getattr(self.preprocessing, "has_masks", False)
        if y is not None and has_padded_maps:
            message = "maps of padded samples say nothing of where the samples end"
            raise DataError(message, where="y", hint="give a file that holds both")
        targets = new.targets() if y is None else self._encoded(y)
        if targets is None:
            raise DataError("has no targets", where=new.where, hint="give y")
        # Arrays of different lengths could otherwise broadcast inside an error.
        if len(targets) != len(new):
            raise DataError(f"holds {len(targets)} targets for {len(new)} samples", where="y")
        return targets

    def _encoded(self, y: Any) -> np.ndarray:
        targets = np.asarray(y)
        # Columns of pandas hold texts as objects.
        if targets.dtype.kind == "O" and all(isinstance(target, str) for target in targets.flat):
            targets = targets.astype(str)
        return self.preprocessing.targets.encode(targets, "y")

    # scikit-learn asks an estimator for these.

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
        # The scorers, displays and inspection of scikit-learn read them.
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
    """Raise DataError where an output is NaN or infinite; argmax would make a class of NaN."""
    is_number_finite = np.isfinite(outputs).reshape(len(outputs), -1)
    is_finite = is_number_finite.all(axis=1)  # [B]
    if not is_finite.all():
        sample = samples_before + int(is_finite.argmin())
        message = f"the outputs of sample {sample} are NaN or infinite"
        hint = "its inputs are too large for the model: correct them, or leave it out"
        raise DataError(message, where=where, hint=hint)
