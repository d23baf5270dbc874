"""How image files become inputs, and the folders that hold them classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from orca_cli.interfaces import PreprocessingRecord
from orca_cli.tasks.images.files import View
from orca_cli.tasks.shared.pixels import IMAGENET_MEAN, IMAGENET_STD
from orca_cli.tasks.shared.preprocessing import rebuilt, record_of
from orca_cli.tasks.shared.target_form import TargetForm
from orca_cli.tasks.shared.targets import Vocabulary

_LARGEST_SIDE = 224  # where no size is given: what most image bodies were trained on
_GREY_MEAN, _GREY_STD = (0.449,), (0.226,)  # the means of ImageNet's three


@dataclass(frozen=True)
class ImagePreprocessing:
    """What the training images say about the inputs and classes of all images.

    Args:
        view: size, channels and normalisation; without augmentation.
        targets: the classes, by their names.
    """

    view: View
    targets: TargetForm

    @classmethod
    def fit(
        cls,
        sizes: Sequence[tuple[int, int]],
        class_names: Sequence[str],
        *,
        size: int | None,
        channels: int,
        crop: bool,
        imagenet: bool,
    ) -> ImagePreprocessing:
        """Return what the training images say, from the width and height of each; settings as those of `load`."""
        side = size or min(_LARGEST_SIDE, max(map(max, sizes)))
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else (_GREY_MEAN, _GREY_STD)
        view = View(side, channels, crop, mean, std) if imagenet else View(side, channels, crop)
        return cls(view, TargetForm("classes", len(class_names), tuple(class_names), Vocabulary(tuple(class_names))))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, S, S)."""
        return self.view.channels, self.view.side, self.view.side

    def inputs(self, raw: Sequence[Path], where: str = "inputs") -> tuple[Tensor, None]:
        """Return the images of files as Batch.x; errors as those of `files.decode`."""
        return self.view.inputs(raw), None

    def record(self) -> PreprocessingRecord:
        """Return what `from_record` rebuilds this from."""
        return record_of(self)

    @classmethod
    def from_record(cls, record: PreprocessingRecord) -> ImagePreprocessing:
        """Return the preprocessing that a record was made of."""
        return rebuilt(cls, record)
