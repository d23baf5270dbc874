"""Sinkhorn's algorithm stopped where annealing ends, as geomloss runs it (Feydy 2020, 3.3.3; `SamplesLoss`, "tensorized").

Reg falls from the squared diameter of the two clouds by a constant ratio r (D^2, D^2, D^2 r, D^2 r^2, ... while above reg, then
reg), with one symmetrised update at each level, and one without averaging at the end, the extrapolation:

    f <- (f + softmin(g)) / 2,    g <- (g + softmin(f)) / 2,    softmin(g)_i = -reg log sum_j b_j exp((g_j - c_ij) / reg)

Nothing makes sure that the marginals are right by then: only the same levels give the same numbers.

The transport of a cloud to itself is needed at the diameter that the cloud has together with another one. As a function of
u = log(D^2 / reg) / log(1 / r) it is smooth between whole numbers, where the number of levels changes, and nearly periodic,
since it hardly remembers its first levels. So it is tabulated at Chebyshev nodes of the first periods that are asked for, and
later ones are read from the last of them: right to a few 1e-6 of its value.

Shapes are those of `entropic`. Costs are half squared distances and what is added to them, and squared diameters come in their
units; where a cloud meets itself, its cost is a function of some rows that returns these, [r, points].
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from orca_cli.metrics.transport.entropic import log_sum_exp

_SCALING = 0.5  # root of the ratio between two levels
_PERIODS = 4  # of a table
# Chebyshev's of the first kind in 0..1
_NODES = [(1 + math.cos(math.pi * (2 * index + 1) / 14)) / 2 for index in range(7)]
TABLE_SIZE = 1 + _PERIODS * len(_NODES)
_REMEMBERED = 7  # levels after which the first one is forgotten: later periods equal this one
_CHUNK_ELEMENTS = 2**20  # exponents of clouds against themselves that are worked on at once
_HELD_ELEMENTS = 2**26  # entries of a cloud's cost that are held while it is tabulated, 256 MB in float32


# Levels of reg for B problems, [S, B], front-padded to the same number S, and how far a potential goes towards its update at
# each: 1/2, and 0 at padding.
Levels = tuple[Tensor, Tensor]
Rows = Callable[[slice], Tensor]


def levels_from(squares: list[float], reg: float, like: Tensor) -> Levels:
    """Return the levels of problems of these squared diameters."""
    counts = [math.ceil(_position(square, reg)) for square in squares]  # levels above reg
    length = max(counts) + 2
    regs, steps = [], []
    for square, count in zip(squares, counts, strict=True):
        # Of points this close any level makes one; 0 cannot be divided by.
        first = max(square, reg * 1e-6)
        padding = length - count - 2
        regs.append([first] * (padding + 1) + [first * _SCALING ** (2 * place) for place in range(count)] + [reg])
        steps.append([0.0] * padding + [0.5] * (count + 2))
    levels, step = (torch.tensor(table, dtype=torch.float64).T.to(like, non_blocking=True) for table in (regs, steps))
    return levels, step


def cross(cost: Tensor, a: Tensor, b: Tensor, levels: Levels) -> tuple[Tensor, Tensor, Tensor]:
    """Anneal B problems; return the values [B] at the extrapolated potentials, f before the extrapolation and g after it."""
    log_a, log_b = a.log(), b.log()
    memory = torch.empty_like(cost)

    def updates(f: Tensor, g: Tensor, reg: Tensor) -> tuple[Tensor, Tensor]:
        return _softmin(cost, g, log_b, reg, memory), _softmin(cost.mT, f, log_a, reg, memory.mT)

    f, g = updates(torch.zeros_like(a), torch.zeros_like(b), levels[0][0])
    for reg, step in zip(*levels, strict=True):
        new_f, new_g = updates(f, g, reg)
        f, g = torch.lerp(f, new_f, step[:, None]), torch.lerp(g, new_g, step[:, None])
    final_f, final_g = updates(f, g, levels[0][-1])
    return (a * final_f).sum(1) + (b * final_g).sum(1), f, final_g


def selves(cost: Rows, points: int, levels: Levels) -> tuple[Tensor, Tensor]:
    """Anneal one cloud with uniform weights against itself, at the Q diameters of `levels` at once.

    Return the mean [Q] of the extrapolated potential, half the value of the transport, and the potential before, [Q, points].
    """
    regs, steps = levels
    diameters = regs.shape[1]
    height = min(points, max(1, _CHUNK_ELEMENTS // points))
    together = min(diameters, max(1, _CHUNK_ELEMENTS // (height * points)))
    weights = regs.new_full((diameters, points), -math.log(points))
    memory = regs.new_empty(together * height * points)

    def softmin(f: Tensor, reg: Tensor) -> Tensor:
        result = torch.empty_like(f)
        for start in range(0, points, height):
            rows = slice(start, min(start + height, points))
            block = cost(rows)
            for first in range(0, diameters, together):
                some = slice(first, first + together)
                shape = (len(f[some]), *block.shape)
                held = memory[: math.prod(shape)].view(shape)
                result[some, rows] = _softmin(block.expand(shape), f[some], weights[some], reg[some], held)
        return result

    f = softmin(torch.zeros_like(weights), regs[0])
    for reg, step in zip(regs, steps, strict=True):
        f = torch.lerp(f, softmin(f, reg), step[:, None])
    return softmin(f, regs[-1]).mean(1), f


def tabulate(cost: Rows, x: Tensor, square: float, reg: float) -> Tensor:
    """Return the transport to itself of a cloud of points x at all squared diameters from `square` on, for `read`.

    The table, [TABLE_SIZE] float64, has the first period, and the means of the potential at the nodes of four periods.
    """
    first = _period(_position(square, reg))
    periods = min(max(_REMEMBERED + 1 - first, 1), _PERIODS)
    places = [first - 1 + period + node for period in range(periods) for node in _NODES]
    levels = levels_from([reg * _SCALING ** (-2 * place) for place in places], reg, x)
    if len(x) ** 2 <= _HELD_ELEMENTS:
        cost = cost(slice(len(x))).__getitem__
    table = selves(cost, len(x), levels)[0].double().view(periods, len(_NODES))
    later = table[-1:].expand(_PERIODS - periods, -1)
    return torch.cat([table.new_full((1,), float(first)), table.reshape(-1), later.reshape(-1)])


def read(table: list[float], square: float, reg: float) -> float:
    """Return the mean of the extrapolated potential at a squared diameter, from a row of `tabulate`."""
    position = _position(square, reg)
    period = _period(position)
    node = position - (period - 1)
    start = 1 + len(_NODES) * min(max(period - int(table[0]), 0), _PERIODS - 1)
    total = 0.0
    for knot, value in zip(_NODES, table[start:], strict=False):
        total += value * math.prod((node - other) / (knot - other) for other in _NODES if other != knot)
    return total


def _position(square: float, reg: float) -> float:
    """Return u, the number of levels from the squared diameter down to reg; 0 where it is below."""
    return math.log(square / reg) / (-2 * math.log(_SCALING)) if square > reg else 0.0


def _period(position: float) -> int:
    return max(math.ceil(position), 1)


def _softmin(cost: Tensor, g: Tensor, log_b: Tensor, reg: Tensor, memory: Tensor) -> Tensor:
    """Return the softmin [B, p] over the last axis of the cost; reg is [B]; `memory` [B, p, q] is overwritten."""
    inverse = reg.reciprocal()[:, None]
    exponent = torch.addcmul((log_b + g * inverse)[:, None, :], cost, inverse[:, None], value=-1, out=memory)
    return log_sum_exp(exponent).mul_(-reg[:, None])
