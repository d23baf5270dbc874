"""Squared distance between the means."""

from torch import Tensor

from orca_cli.interfaces import Distance, Features, Metric


class MeanShift(Metric):
    """Squared distance between means, times `weight`."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def prepare(self, source: Features) -> dict[str, Tensor]:
        """Return the source's mean."""
        return {"mean": source.x.mean(0)}

    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Distance:
        """Return the distance."""
        return Distance(self.weight * (target.x.mean(0) - prepared["mean"]).square().sum())
