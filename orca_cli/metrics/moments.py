"""Distance between the means and deviations of each dimension: the control for all metrics."""

import torch
from torch import Tensor

from orca_cli.interfaces import Distance, Features, Metric
from orca_cli.metrics.transport.clouds import check_finite

# Added to variances, in squared units of the features, so that the gradient of their root is finite
# where a dimension is constant.
_EPS = 1e-12


class Moments(Metric):
    """Distance between the first two moments of source and target in each dimension.

        value = 1/d sum_k (mean_k(target) - mean_k(source))^2 + (std_k(target) - std_k(source))^2

    That is 1/d times the squared 2-Wasserstein distance of the two Gaussians with these means and
    diagonal covariances, in squared units of the features. Labels are not used: a target class is
    compared with the whole source.

    Variances are divided by n, not n - 1, so that a single point has a variance (of 0). The
    distance is computed in float64. Every claim about another metric has to beat this control.
    """

    @torch.no_grad()
    def prepare(self, source: Features) -> dict[str, Tensor]:
        """Return the source's mean [d] and std [d], float64."""
        check_finite("source features", source.x)
        mean, std = _moments(source.x)
        return {"mean": mean, "std": std}

    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Distance:
        """Return the distance. No diagnostics."""
        check_finite("target features", target.x)
        mean, std = _moments(target.x)
        mean_distance = (mean - prepared["mean"]).square().mean()
        std_distance = (std - prepared["std"]).square().mean()
        value = (mean_distance + std_distance).to(target.x.dtype)
        check_finite("distance", value)
        return Distance(value)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean [d] and the standard deviation [d] of points [n, d], float64."""
    x = x.double()
    variance = x.var(0, correction=0) + _EPS
    return x.mean(0), variance.sqrt()
