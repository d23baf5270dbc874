"""A finished run as an estimator that predicts, with the names and forms that scikit-learn's users expect.

Shapes: n samples, K outputs, *E the extent of dense outputs.
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.metaestimators import available_if

from orca_cli import signals
from orca_cli.exceptions import ConfigError, DataError, governed_by
from orca_cli.interfaces import Batch, Error, NewData, Reporter, Score
from orca_cli.prediction.loading import Loaded
from orca_cli.prediction.output import Decoder
from orca_cli.progress import Silent
from orca_cli.scoring.reported import named_error
from orca_cli.training.engine import Engine, choose_device, choose_precision
from orca_cli.training.loop import read_ahead

_SILENT = Silent()
_TOGETHER, _WAITING_VALUES = 16, 2**24  # batches whose outputs wait, and numbers in them


class Predictor:
    """A trained model with its preprocessing; `orca_cli.load` makes it.

    New data are given as samples in memory, in the form of the task's files (an array; for tables a pandas table or columns
    by name; for images paths), or as the path of a file or folder that the task's reader reads.

    Args:
        loaded: the model and what belongs to it.
        device: auto, cpu, cuda, cuda:N or mps.
        batch_size: samples per forward pass; None takes that of the run, with which predictions keep its bits.

    Attributes:
        kind: of the task: classes, labels, values or dense.
        input_shape: (C, *E) of a sample as the model takes it.
        remarks: what was done to make samples fit, such as cutting long ones, with the number of samples so far.

    Raises:
        ConfigError: there is no such device, or the batch size is below 1.
        UnavailableError: the device is absent.
    """

    def __init__(self, loaded: Loaded, device: str = "auto", batch_size: int | None = None) -> None:
        if batch_size is not None and batch_size < 1:
            raise ConfigError(
                f"{batch_size} is out of range", where="batch_size", hint="allowed: 1 or more"
            )
        self.loaded = loaded
        self.record, self.preprocessing, self.model = (
            loaded.record,
            loaded.preprocessing,
            loaded.model,
        )
        self.kind, self.input_shape = self.record.kind, tuple(self.record.input_shape)
        self.device = choose_device(device)
        self.batch_size = batch_size or loaded.record.batch_size
        self.decoder = Decoder(self.preprocessing.targets, self.record.num_outputs)
        self.remarks: Counter[str] = Counter()

    @property
    def classes_(self) -> np.ndarray:
        """Return the K classes as the data name or number them, or the labels; numbers have no such attribute."""
        if (classes := self.decoder.classes) is None:
            raise AttributeError(f"outputs of kind '{self.kind}' have no classes")
        return classes

    def outputs(self, x: Any) -> np.ndarray:
        """Return the model's outputs [n, K] or [n, K, *E]: logits of classes and labels, numbers in the task's units."""
        return np.concatenate(list(self.stream(self.opened(x))))

    def predict(self, x: Any) -> np.ndarray:
        """Return predictions.

        Of classes [n] in the form of `classes_`, of labels [n, K] of 0 and 1, of numbers [n], or [n, K] where K > 1, of
        dense outputs [n, K, *E] numbers or [n, *E] classes.

        Raises:
            DataError: the samples do not have the form of the training data.
        """
        return np.concatenate(
            [self.decoder.predictions(part) for part in self.stream(self.opened(x))]
        )

    @available_if(lambda self: self.decoder.has_probabilities)
    def predict_proba(self, x: Any) -> np.ndarray:
        """Return probabilities: [n, K], or [n, K, *E] for a class at every position; models of numbers lack this method."""
        return np.concatenate(
            [self.decoder.probabilities(part) for part in self.stream(self.opened(x))]
        )

    def score(self, x: Any, y: Any = None) -> float:
        """Return scikit-learn's usual score, higher is better: accuracy for classes and labels, R2 for numbers.

        Targets `y` are as the data hold them; None takes those of the file that `x` names. See `Decoder.score`.

        Raises:
            DataError: there are no targets, or not as many as samples, or of another form than those of training.
        """
        new = self.opened(x)
        return self.decoder.score(self.outputs(new), self._targets(new, y))

    def error(self, x: Any, y: Any = None) -> Score:
        """Return the error that the run reports, lower is better; arguments as those of `score`."""
        new = self.opened(x)
        return self.measured_error(self.outputs(new), self._targets(new, y))

    def fit(self, x: Any, y: Any = None) -> Self:
        """Raise ConfigError: the model is trained already; `orca run` trains another."""
        raise ConfigError(
            "a finished run is not trained again",
            where="fit",
            hint="orca_cli.run(...) trains another",
        )

    def opened(self, x: Any, part: str = "") -> NewData:
        """Return samples in memory, or those of a file or folder, as new data; new data are returned as they are.

        Inputs of a file are not read yet. `part` is train, validation or test, of files that hold several splits.

        Raises:
            DataError: no samples, or such as do not have the form of the training data.
            ConfigError: a part of data that have none.
        """
        if isinstance(x, (str, Path)):
            path = Path(x).expanduser()
            if (
                str(x).startswith(("./", "../", "/", "~")) and not path.exists()
            ):  # a bare name may be a hub id
                raise DataError("no such file or folder", where=str(x))
            x = self.preprocessing.open(path, "INPUT", part)
        new = x if isinstance(x, NewData) else self.preprocessing.given(x)
        if not len(new):
            raise DataError("no samples", where=new.where, hint="give one or more")
        return new

    def stream(self, new: NewData, reporter: Reporter = _SILENT) -> Iterator[np.ndarray]:
        """Yield the outputs of new data batch by batch: [B, K] or [B, K, *E], float32, or float64 as the run's targets.

        They are computed in the run's precision, but in fp32 on a CPU where that is fp16; `reporter` shows progress.

        Raises:
            DataError: samples do not have the form of the training data, or their outputs are no numbers.
            MemoryExhaustedError: a batch does not fit.
        """
        size, device = self.batch_size, self.device
        setting = (
            "fp32"
            if self.record.precision == "fp16" and device.type == "cpu"
            else self.record.precision
        )
        engine = Engine(device, choose_precision(setting, device, self.model.body.width))
        self.model.to(device).eval()
        values = self.record.num_outputs * (
            math.prod(self.input_shape[1:]) if self.decoder.is_map else 1
        )
        together = max(1, min(_TOGETHER, _WAITING_VALUES // (size * values)))
        advice = f"use less than {size}" if size > 1 else "use a machine with more memory"
        reads = (
            functools.partial(self._read, engine, new, start) for start in range(0, len(new), size)
        )
        with (
            governed_by("--batch-size", advice),
            reporter.track("predicting", len(new)) as advance,
            closing(read_ahead(reads)) as feed,
        ):
            outputs, done = self._outputs(engine, feed, new.where), [np.empty(0)]
            while done:
                # Autocast makes bfloat16 of all weights, once while it is on: for several batches together, and never while
                # the caller works.
                with torch.no_grad(), engine.autocast():
                    done = list(itertools.islice(outputs, together))
                advance(sum(map(len, done)))
                yield from done

    def _outputs(
        self, engine: Engine, batches: Iterable[Batch], where: str
    ) -> Iterator[np.ndarray]:
        count = 0
        for batch in batches:
            signals.check()
            moved = engine.move(batch)
            output = self.model(moved.x, moved.valid).cpu().numpy()
            wrong = ~np.isfinite(output).reshape(len(output), -1).all(1)
            if wrong.any():  # NaN would pass for a class
                what = f"the outputs of sample {count + int(wrong.argmax())} are NaN or infinite"
                hint = "its inputs are too large for the model: correct them, or leave it out"
                raise DataError(what, where=where, hint=hint)
            count += len(output)
            yield output

    def _read(self, engine: Engine, new: NewData, start: int) -> Batch:
        where = new.where if start == 0 else f"{new.where}, counted from sample {start}"
        raw = new.inputs(start, min(start + self.batch_size, len(new)))
        x, valid = self.preprocessing.inputs(raw, where)
        if x.shape[1:] != self.input_shape:  # of a record that does not belong to its preprocessing
            what = (
                f"become inputs of shape {tuple(x.shape[1:])}, the model takes {self.input_shape}"
            )
            raise DataError(what, where=where)
        if (remarks := getattr(self.preprocessing, "remarks", None)) is not None:
            self.remarks.update(remarks(raw))
        return engine.pin(Batch(x, torch.zeros(len(x)), valid))

    @functools.cached_property
    def measured_error(self) -> Error:
        """Return what the run reports as its error, to be called with outputs and targets of a whole split."""
        record, integer = self.record, self.decoder.form in ("classes", "class_maps")
        return named_error(
            record.error, self.kind, integer, record.error_chunks, record.train_batch_size
        )

    def _targets(self, new: NewData, y: Any) -> np.ndarray:
        if (
            y is not None
            and self.decoder.is_map
            and getattr(self.preprocessing, "has_masks", False)
        ):
            what = "maps of padded samples say nothing of where the samples end"
            raise DataError(what, where="y", hint="give a file that holds both")
        if y is None:
            targets = new.targets()
        else:
            values = np.asarray(y)  # pandas keeps text as objects
            is_text = values.dtype.kind == "O" and all(
                isinstance(value, str) for value in values.flat
            )
            targets = self.preprocessing.targets.encode(
                values.astype(str) if is_text else values, "y"
            )
        if targets is None:
            raise DataError("has no targets", where=new.where, hint="give y")
        if len(targets) != len(new):
            raise DataError(f"holds {len(targets)} targets for {len(new)} samples", where="y")
        return targets

    # What scikit-learn asks of an estimator.

    def __sklearn_is_fitted__(self) -> bool:
        return True

    @property
    def _estimator_type(self) -> str | None:
        """Return classifier or regressor; None for maps, which scikit-learn does not know."""
        if self.decoder.is_map:
            return None
        return "classifier" if self.decoder.has_probabilities else "regressor"

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags

        kind, has_labels = self._estimator_type, self.kind == "labels"
        has_several = has_labels or (self.kind == "values" and self.record.num_outputs > 1)
        return Tags(
            estimator_type=kind,
            target_tags=TargetTags(required=True, multi_output=has_several),
            classifier_tags=ClassifierTags(multi_label=has_labels)
            if kind == "classifier"
            else None,
            regressor_tags=RegressorTags() if kind == "regressor" else None,
            input_tags=InputTags(),
            requires_fit=False,
        )
