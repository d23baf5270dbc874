"""Squared 2-Wasserstein distance between Gaussians with the means and covariances of two clouds (paper A.1).

    W(a, b) = |mu_a - mu_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a^1/2 S_b S_a^1/2)^1/2)

with covariances divided by the number of points. No covariance is formed. With centred points A [p, d] and B [q, d] the last
trace is the sum of singular values of M = A B^T / sqrt(p q), and with the polar factor U V^T of M

    W(a, b) = sum_ij Q_ij |x_i - z_j|^2,    Q = 1 / (p q) + U V^T / sqrt(p q),

where rows of Q sum to 1/p and columns to 1/q. Q may have negative entries, but like a transport plan it carries the gradient:
dW/dz_j = 2 sum_i Q_ij (z_j - x_i). One point, or equal points, have covariance 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def coupling(x: Tensor, z: Tensor) -> Tensor:
    """Return Q [p, q] for clouds [p, d] and [q, d], all in float64."""
    p, q, d = len(x), len(z), x.shape[1]
    # What rounding leaves of products that cancel, such as those of equal points.
    noise = 10 * torch.finfo(x.dtype).eps * x.norm() * z.norm()
    if min(p, q) > d:
        left_basis, left = torch.linalg.qr(x - x.mean(0))
        right_basis, right = torch.linalg.qr(z - z.mean(0))
        polar = left_basis @ _polar(left @ right.T, noise) @ right_basis.T
    else:
        products = x @ z.T
        products -= products.mean(0)  # as if x were centred, for a fraction of the work
        polar = _polar(products - products.mean(1, keepdim=True), noise)
    # Small singular values leave rounding in the sums, which are 0.
    polar -= polar.mean(0)
    polar -= polar.mean(1, keepdim=True)
    return polar.div_((p * q) ** 0.5).add_(1 / (p * q))


def _polar(matrix: Tensor, noise: Tensor) -> Tensor:
    """Return U V^T of the singular value decomposition, over the singular values that are not 0 up to rounding."""
    if matrix.shape[0] < matrix.shape[1]:
        return _polar(matrix.T, noise).T
    squares, basis = torch.linalg.eigh(matrix.T @ matrix)
    eps = torch.finfo(matrix.dtype).eps
    floor = torch.maximum(squares[-1] * (10 * len(squares) * eps), noise**2)
    roots = torch.where(squares > floor, squares.rsqrt(), 0.0)
    return matrix @ (basis * roots) @ basis.T
