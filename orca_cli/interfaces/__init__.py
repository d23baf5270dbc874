"""The protocols that the parts of a run follow, and the few records that they exchange.

Shapes: B samples in a batch, n samples in a split, C input channels, *E the extent (L, or H x W),
T tokens, D the body's width, F the width of its features, K outputs, d the width of a feature that
a metric compares.

Missing targets: NaN in real-valued targets and -100 in integer targets mark positions that neither
a loss nor an error counts.
"""

# ruff: noqa: F401 - all parts import from `orca_cli.interfaces`
from orca_cli.interfaces.data import (
    IGNORED_CLASS,
    KINDS,
    Batch,
    Examples,
    Kind,
    Modality,
    NewData,
    Preprocessing,
    Samples,
    Scale,
    SourceData,
    Targets,
    TaskData,
)
from orca_cli.interfaces.model import (
    Embedder,
    EmbedderInit,
    Finetune,
    InputLayer,
    Resolution,
    Role,
    TokenLayout,
    Tokens,
)
from orca_cli.interfaces.objectives import Distance, Error, Features, Loss, Metric, Recorder, Score
from orca_cli.progress import Reporter
