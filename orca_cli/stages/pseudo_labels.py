"""Labels for targets that are no classes: cluster numbers of the targets (paper A.3.4)."""

from __future__ import annotations

import warnings

import numpy as np

from orca_cli import seeding
from orca_cli.interfaces import Kind

_WHOLE_BELOW = 10_000  # samples; above, k-means sees the targets in batches
_RESTARTS = 10


def class_labels(kind: Kind, targets: np.ndarray, *, num_clusters: int, seed: int) -> np.ndarray:
    """Return a class for every training sample.

    Args:
        kind: for "classes" the targets themselves are returned.
        targets: [n, ...], as Samples.targets gives them.
        num_clusters: k; fewer where there are fewer samples.
        seed: of k-means.

    Returns:
        [n] int64 in 0..k-1.
    """
    if kind == "classes":
        return np.asarray(targets, dtype=np.int64)
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    flat = np.nan_to_num(np.asarray(targets, dtype=np.float32).reshape(len(targets), -1))
    settings = {
        "n_clusters": min(num_clusters, len(flat)),
        "n_init": _RESTARTS,
        "random_state": seeding.derive(seed, "align", "pseudo_labels") % 2**32,
    }
    means = KMeans(**settings) if len(flat) <= _WHOLE_BELOW else MiniBatchKMeans(batch_size=_WHOLE_BELOW, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct targets than clusters is no fault here
        return means.fit_predict(flat).astype(np.int64)
