"""Rising and falling ramps."""

from typing import Annotated

import numpy as np

from orca_cli.config.ranges import Count
from orca_cli.data.samples import ArraySamples
from orca_cli.interfaces import TaskData


def load(num_samples: Annotated[Count, "a third in each split"] = 60) -> TaskData:
    """Return ramps."""
    y = np.arange(num_samples) % 2
    x = (
        np.linspace(0, 1, 12) * (2 * y - 1)[:, None, None]
        + np.arange(num_samples)[:, None, None] / 100
    )
    third = num_samples // 3
    train, validation, test = (
        ArraySamples(x[i : i + third], y[i : i + third]) for i in (0, third, 2 * third)
    )
    return TaskData("classes", (1, 12), 2, train, validation, lambda: test, synthetic=True)
