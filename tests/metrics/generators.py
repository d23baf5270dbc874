"""Clouds of points, and functions that call a metric for the tests."""

import itertools
from dataclasses import replace

import torch
from geomloss import SamplesLoss
from safetensors.torch import load, save

from orca_cli.interfaces import Features
from orca_cli.metrics.transport.entropic import Transport
from orca_cli.seeding import torch_generator


def cloud(n, d, *names, scale=1.0):
    return torch.randn(n, d, generator=torch_generator(0, *names), dtype=torch.float64) * scale


def labelled(n, d, k, *names, scale=1.0, spread=1.0):
    """Features in k classes around separate centres; every class has a point."""
    centres = cloud(k, d, *names, "centres", scale=spread)
    labels = torch.arange(n) % k
    x = cloud(n, d, *names, scale=scale) + centres[labels]
    return Features(x=x, labels=labels, num_classes=k)


def unlabelled(x):
    """Features of one class."""
    return Features(x=x, labels=torch.zeros(len(x), dtype=torch.long), num_classes=1)


def changed(features, function):
    """Features whose points a function has moved."""
    return replace(features, x=function(features.x))


def as_features(cloud):
    return cloud if isinstance(cloud, Features) else unlabelled(cloud)


def consecutive(features, samples, size):
    """The first points as samples: x is [samples, size, d], labels [samples, size]."""
    x = features.x[: samples * size].unflatten(0, (samples, size))
    labels = features.labels[: samples * size].unflatten(0, (samples, size))
    return replace(features, x=x, labels=labels)


def as_compared(metric, source, target):
    """Both sides in the form that the metric takes: clouds, or samples of consecutive points.

    A side of at least two points is cut into at least two samples.
    """
    if not metric.sample_size:
        return source, target
    points = min(len(source.x), len(target.x))
    size = min(metric.sample_size, max(1, points // 2))
    return tuple(consecutive(side, points // size, size) for side in (source, target))


def distance(metric, source, target):
    """The distance of features or bare points.

    The prepared tensors of the source are read back from a file, as from the cache.
    """
    source = as_features(source)
    target = as_features(target)
    prepared = load(save(metric.prepare(source)))
    source, target = as_compared(metric, source, target)
    return metric.distance(source, prepared, target)


def value(metric, source, target):
    return distance(metric, source, target).value.item()


def gradient(metric, source, target):
    """The gradient of the distance by the target's points."""
    target = as_features(target)
    x = target.x.detach().clone().requires_grad_()
    distance(metric, source, replace(target, x=x)).value.backward()
    return x.grad


def converged(kind, reg=0.1, newton_points=512):
    """A metric whose transport is solved to 1e-10."""
    transport = Transport(
        tolerance=1e-10, max_iterations=3000, newton_points=newton_points, newton_steps=300
    )
    return type(kind.__name__, (kind,), {"transport": transport})(reg)


def cosine(a, b):
    a, b = a.flatten().double(), b.flatten().double()
    return torch.nn.functional.cosine_similarity(a, b, dim=0).item()


def squares(x, y):
    return (x[:, :, None] - y[:, None]).square().sum(-1)


def geomloss_otdd(source, target, reg, **annealing):
    """The dataset distance by geomloss alone: labels are a coordinate, W is a table of numbers."""
    settings = {"loss": "sinkhorn", "p": 2, "blur": reg**0.5, "backend": "tensorized"} | annealing
    clouds = []
    for side in (source, target):
        clouds += [side.x.detach()[side.labels == label] for label in range(side.num_classes)]
    table = torch.zeros(len(clouds), len(clouds), dtype=source.x.dtype)
    label_distance = SamplesLoss(cost=squares, **settings)
    for a, b in itertools.combinations(range(len(clouds)), 2):
        table[a, b] = table[b, a] = label_distance(clouds[a], clouds[b]).item()

    def cost(x, y):
        rows = x[..., -1].long()
        columns = y[..., -1].long()
        return squares(x[..., :-1], y[..., :-1]) / 2 + table[rows[:, :, None], columns[:, None]] / 2

    joined = []
    for side, start in ((source, 0), (target, source.num_classes)):
        numbers = (side.labels + start)[:, None].to(side.x)
        joined.append(torch.cat([side.x, numbers], 1))
    return SamplesLoss(cost=cost, **settings)(*joined)


def difference_quotients(function, x, step):
    """Return (direction, central difference of `function` at x in it), in three directions."""
    for number in range(3):
        move = cloud(*x.shape, "direction", number)
        up, down = (function(x + sign * step * move) for sign in (1, -1))
        yield move, (up - down) / (2 * step)
