"""Data as the parts of a run exchange them: tasks, sources, their samples and preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:  # takes seconds to import, and names types only
    from torch import Tensor

Kind = Literal["classes", "labels", "values", "dense"]
# Modality of a body, and of the sources that suit it.
Modality = Literal["text", "image"]
# All kinds, to check the kind in a record.
KINDS: tuple[Kind, ...] = ("classes", "labels", "values", "dense")
# The class that PyTorch's cross-entropy ignores by default.
IGNORED_CLASS = -100


@dataclass(frozen=True)
class Batch:
    """A batch of samples in the form that the model takes.

    Args:
        x: [B, C, *E] float32, finite.
        y: form by the task's kind. classes: [B] int64 in 0..K-1. labels: [B, K] float32, 0 or 1.
            values: [B, K], numbers. dense: [B, K, *E], numbers, or [B, *E] int64 in 0..K-1, a class
            at every position. Numbers are in the task's own units and float32, or float64 where
            float32 would lose relevant digits.
        valid: [B, *E] bool, False where the input is padding; None without padding.
    """

    x: Tensor
    y: Tensor
    valid: Tensor | None = None

    @classmethod
    def from_arrays(cls, x: np.ndarray, y: np.ndarray, valid: np.ndarray | None = None) -> Batch:
        """Return the batch of these arrays; its tensors have their shapes and use their memory."""
        # Imported late, since reading new data does not need torch.
        import torch

        mask = None if valid is None else torch.from_numpy(valid)
        return cls(torch.from_numpy(x), torch.from_numpy(y), mask)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return a batch of all tensors after `change`."""
        return Batch(
            change(self.x), change(self.y), None if self.valid is None else change(self.valid)
        )


class Samples(Protocol):
    """One split of a task.

    A batch is read by its samples' indices, so that a split need not fit into memory.
    """

    def __len__(self) -> int:
        """Return the number of samples."""

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return the samples with these indices, of 0..n-1, in this order.

        Random augmentation, in the optimizer steps of stage 3 only, draws from `augment`; with None
        samples are not augmented.
        """

    def targets(self) -> np.ndarray:
        """Return all targets, shaped as Batch.y, without reading the inputs.

        Large targets are a memory map.
        """

    def groups(self) -> np.ndarray | None:
        """Return the number of the record that each sample is cut from, [n] int64.

        Errors per record need it. None where samples are not cut from records.
        """

    def digest(self) -> str:
        """Return a SHA-256 over the inputs and targets, or over the facts that determine them."""


@dataclass(frozen=True)
class Scale:
    """The map from a model's raw outputs to the task's units: output = raw * std + mean.

    Raw outputs are float32; outputs have the dtype of the scale, which is the targets' dtype.
    """

    mean: np.ndarray  # float32 or float64, broadcasts against [K, *E]
    std: np.ndarray  # positive; dtype and shape as for the mean


@dataclass(frozen=True)
class NewData:
    """New samples for a trained model, read in parts and with bounded memory.

    `Preprocessing.open` and `Preprocessing.given` return them.

    Args:
        count: n, the number of samples.
        inputs: called with (start, stop), returns samples start..stop-1 as `Preprocessing.inputs`
            takes them. Parts are asked for in ascending order by one thread at a time; another
            order is allowed and may be slow.
        targets: returns all targets, shaped as Batch.y, or None if the data have no targets.
            Called at most once.
        where: the samples' origin, for messages.
        ids: n names; None where samples have only numbers, counted from 0.
    """

    count: int
    inputs: Callable[[int, int], Any]
    targets: Callable[[], np.ndarray | None]
    where: str
    ids: Sequence[str] | None = None

    def __len__(self) -> int:
        return self.count


class Targets(Protocol):
    """The form of a task's targets, as far as predictions need it."""

    @property
    def kind(self) -> str:
        """Return the kind: classes, labels, maps, class_maps or another.

        maps are real-valued; class_maps have a class at every position.
        """

    @property
    def scale(self) -> Scale | None:
        """Return the task's `target_scale`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return K names of classes, labels or numbers; empty if they have no names."""

    @property
    def classes(self) -> tuple[int | str, ...]:
        """Return the K classes as the data write them.

        Empty where the data number their classes, and for kinds without classes.
        """

    def encode(self, y: np.ndarray, where: str) -> np.ndarray:
        """Return targets, given as the data write them, in the form of Batch.y.

        DataError, with `where` as their origin, if they have another form.
        """


class Preprocessing(Protocol):
    """The conversion of raw inputs to inputs of the model.

    The readers of a user's own data convert all splits with it, and a run stores it with the
    weights. It is a dataclass of plain values, arrays, tuples, and dataclasses of these.
    """

    @property
    def targets(self) -> Targets:
        """Return the form of the targets."""

    def inputs(self, raw: Any, where: str = "inputs") -> tuple[np.ndarray, np.ndarray | None]:
        """Return the raw inputs of B samples as arrays of the form of Batch.x and Batch.valid.

        Each class documents the form of its raw inputs. DataError, with `where` as their origin, if
        they do not have the form of the training data.
        """

    def open(self, path: Path, where: str, part: str = "") -> NewData:
        """Return the new samples in a file or folder of the kind that the reader reads.

        Inputs are not read yet.

        Args:
            path: the file, the folder, or the name of a data set.
            where: the path's name in messages.
            part: train, validation or test, for files that contain several splits; empty for all
                splits.

        Raises:
            DataError: the file is missing, damaged, or does not have the form of the training data.
            ConfigError: `part` is set, but the data have no splits.
        """

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return new samples that a caller has in memory, such as an array or a table of columns.

        DataError, with `where` as their origin, if they do not have the form of the training data.
        """


@dataclass(frozen=True)
class TaskData:
    """A task's data, already split, as a reader in `data/` or `benchmarks/` returns them.

    Args:
        kind: the form of the targets.
        input_shape: (C, L), (C, H, W) or (C, D, H, W).
        num_outputs: K, the number of classes, of labels, of numbers per sample, or of channels of a
            dense output.
        train: training split, from which stages 2 and 3 learn.
        validation: validation split, on which models are chosen; disjoint from train and test.
        open_test: reads the test split; called once, at the end of a run.
        synthetic: True for generated data, which every table marks.
        size: name of the task's size if it has several, such as "small"; shown in every table.
        target_scale: mean and deviation of the training targets, where they are real-valued.
        causal: True where an output may see inputs at its own and earlier positions only, as in
            forecasting.
        class_names: K names, or empty.
        note: one line on the files or data that were read, and on data that were left out.
        preprocessing: conversion of raw inputs to inputs of the splits, with which new data can be
            converted in the same way; None if the reader does not keep it.
        validation_drawn: True if the reader drew validation from the training data, because no
            validation split was given. Stage 3 may then also train on it, unless it chooses a model
            on it. False if train contains validation anyway, or has a fixed size.
    """

    kind: Kind
    input_shape: tuple[int, ...]
    num_outputs: int
    train: Samples
    validation: Samples
    open_test: Callable[[], Samples]
    synthetic: bool = False
    size: str = ""
    target_scale: Scale | None = None
    causal: bool = False
    class_names: Sequence[str] = ()
    note: str = ""
    preprocessing: Preprocessing | None = None
    validation_drawn: bool = False


@dataclass(frozen=True)
class Examples:
    """Labelled examples."""

    inputs: Sequence[str] | np.ndarray  # n texts, or images [n, 3, H, W] float32 in 0..1
    labels: np.ndarray  # [n] int64 in 0..k-1; every class has two examples or more
    class_names: Sequence[str]  # k names


@dataclass(frozen=True)
class SourceData:
    """Labelled examples of the body's own modality, read on request.

    A reader in `benchmarks/sources/` returns them.
    """

    modality: Modality
    # SHA-256 of everything that determines the examples: runs with the same digest share features.
    digest: str
    read: Callable[[], Examples]

    # The cached value is stored in the instance's dictionary, which `frozen` does not protect.
    @cached_property
    def examples(self) -> Examples:
        """Return the examples, read once.

        DataError or UnsafeError where files do not have the expected form.
        """
        return self.read()
