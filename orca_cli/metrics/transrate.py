"""TransRate (Huang et al. 2022): the part of the features' coding rate that separates classes.

    R(Z) = 1/2 log det(I + Z^T Z / (n eps))
    TransRate = R(Z) - 1/k sum_c R(Z_c)
    value = -TransRate

R is the coding rate of n centred features at distortion eps; the mean is over the k classes that
have points, each with its own n.

TransRate is a score of transferability: higher is better. Stage 2 minimises, so the value is its
negative: at most 0 for separate classes. Only the target's features and labels are used.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from orca_cli.config.ranges import Positive
from orca_cli.interfaces import Distance, Features, Metric
from orca_cli.metrics.transport.clouds import check_finite, prepare_nothing


@dataclass(frozen=True)
class TransRate(Metric):
    """Negative TransRate of the target in nats, differentiated by autograd in float64.

    With one class R(Z) = R(Z_1), and value and gradient are 0: a problem has to have several target
    classes (align.classes_per_problem). The centred features are divided by their Frobenius norm,
    as the authors do.
    """

    all_classes = True
    least_classes = 2  # with one class the value is always 0

    eps: Annotated[
        Positive,
        "Squared error that the coding rate allows per encoded point (the distortion), in squared"
        " units of the normalised features.",
    ] = 1e-4

    prepare = prepare_nothing

    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Distance:
        """Return minus TransRate of the target.

        Memory grows with min(m, d) squared. No diagnostics.
        """
        check_finite("target features", target.x)
        z = target.x.double()  # [m, d]
        z = z - z.mean(0)
        norm = torch.linalg.vector_norm(z)
        # If all points are equal, they are at 0 and need no division.
        z = z / torch.where(norm > 0, norm, 1)
        rate = self._coding_rate(z)
        class_rate = rate
        present = torch.unique(target.labels)
        if len(present) > 1:
            rates = [self._coding_rate(z[target.labels == label]) for label in present]
            class_rate = torch.stack(rates).mean()
        value = (class_rate - rate).to(target.x.dtype)
        check_finite("distance", value)
        return Distance(value)

    def _coding_rate(self, z: Tensor) -> Tensor:
        """Return R(Z) of points [n, d]."""
        n, d = z.shape
        # Z^T Z and Z Z^T have the same eigenvalues, except zeros.
        gram = z.T @ z if d <= n else z @ z.T
        identity = torch.eye(len(gram), dtype=z.dtype, device=z.device)
        return torch.linalg.slogdet(identity + gram / (n * self.eps)).logabsdet / 2
