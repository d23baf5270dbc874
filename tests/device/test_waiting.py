"""How often the host waits for a GPU: in a solver once or twice an iteration, in a metric a few times besides."""

from contextlib import closing

import pytest
import torch

from orca_cli.config import compose, configuration, parts
from orca_cli.interfaces import Features
from orca_cli.metrics.transport.clouds import half_squared_distances
from orca_cli.metrics.transport.entropic import Transport
from orca_cli.stages.build import build, with_train
from orca_cli.stages.optimizer_steps import OptimizerSteps
from orca_cli.terminal import LogReporter
from orca_cli.training.engine import Engine
from tests.device.emulated import DEVICE, counted
from tests.metrics.generators import as_compared

SOLVERS = ("metrics/transport/entropic.py",)
# Reads of one distance to three target classes, those of the solvers apart. A metric that is not named has the usual few:
# of the source, the target, the result, and its diagnostics.
BESIDE_SOLVERS = {
    "otdd_by_class": 11,
    "otdd_gaussian": 24,
    "otdd_reference": 17,
    "otdd_exact": 7,
    "transrate": 12,
}
USUAL = 6


def clouds(*sizes, width=6):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(size, width, generator=draw) for size in sizes]


def batch(device, problems=5, rows=40, columns=9):
    costs = [
        half_squared_distances(*clouds(rows, columns, width=2 + number))
        for number in range(problems)
    ]
    a, b = torch.full((problems, rows), 1 / rows), torch.full((problems, columns), 1 / columns)
    b[0, -2:] = 0
    b[0] /= b[0].sum()
    return [tensor.to(device) for tensor in (torch.stack(costs), a, b)]


def total(counter, *files):
    return sum(number for place, number in counter.items() if not files or place.startswith(files))


def test_tensors_of_two_devices_do_not_meet_and_what_the_host_waits_for_is_counted(device):
    here = torch.arange(6.0).view(2, 3)
    x = here.to(device)
    for meet in (
        lambda: torch.where(x > 0, x, here),
        lambda: here[x > 0],
        lambda: here.sum().add_(x.sum()),
    ):
        with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
            meet()
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, generator=torch.Generator(), device=DEVICE)
    assert torch.equal((torch.tensor(2.0) - x.masked_fill(x > 2, 2.0)).cpu(), 2 - here.clamp(max=2))
    expected = {
        lambda: bool((x > 0).all()): (1, 0),
        x.tolist: (1, 0),
        x.cpu: (1, 0),
        lambda: x[x > 0]: (1, 0),
        lambda: torch.unique(x): (1, 0),
        lambda: here.to(DEVICE): (0, 1),
        lambda: torch.tensor([1.0], device=DEVICE): (0, 1),
        lambda: x[torch.tensor([0])]: (0, 1),
        lambda: (x * 2).sum().exp(): (0, 0),
        lambda: here.to(DEVICE, non_blocking=True): (0, 0),
    }
    for call, counts in expected.items():
        with counted() as transfers:
            call()
        assert (total(transfers.reads), total(transfers.writes)) == counts


def test_newton_waits_twice_an_iteration_at_most_and_sinkhorn_once(device):
    cost, a, b = batch(device)
    transport = Transport(1e-4, max_iterations=200, newton_steps=30)
    with counted() as transfers:
        solution = transport.by_newton(cost, a, b, 0.05)
    assert solution.iterations > 10
    # One read for the step and one for each step length tried; at the start, the padding and the largest cost.
    assert total(transfers.reads) <= 2 * solution.iterations + 4
    assert not transfers.writes
    with counted() as transfers:
        solution = transport.by_sinkhorn(cost, a, b, 0.05)
    assert solution.iterations > 10
    assert (
        total(transfers.reads) <= 10 + solution.iterations
    )  # one more at every level, and for the largest cost
    assert not transfers.writes


@pytest.mark.parametrize("name", sorted(set(configuration.choices("metric")) - {"none"}))
def test_a_distance_is_the_cpus_and_waits_a_few_times_beside_its_solvers(device, name):
    """Waits do not grow with the number of points, except inside solvers."""
    metric = parts.build(configuration.content(configuration.choices("metric")[name]), "metric")
    beside = []
    for n, m in ((48, 12), (96, 24)):
        x, z = clouds(n, m)
        results = []
        for place in (torch.device("cpu"), device):
            source = Features(x.to(place), (torch.arange(n) % 4).to(place), 4)
            target = Features(
                z.clone().to(place).requires_grad_(), (torch.arange(m) % 3).to(place), 3
            )
            prepared = {key: value.to(place) for key, value in metric.prepare(source).items()}
            sides = as_compared(metric, source, target)
            with counted() as transfers:
                value = metric.distance(sides[0], prepared, sides[1]).value
                value.backward()
            results.append((value.detach().cpu(), target.x.grad.cpu()))
        beside.append(total(transfers.reads) - total(transfers.reads, *SOLVERS))
        torch.testing.assert_close(results[1], results[0], rtol=2e-3, atol=1e-3)
    assert beside[0] == beside[1]
    assert beside[1] <= BESIDE_SOLVERS.get(name, USUAL), transfers.reads


def test_a_step_of_stage_3_waits_once_for_its_result(device, words, environment):
    """With masked losses and batches of unequal weight; a CPU hands over pinned batches without waiting."""
    with compose.session() as session:
        built = build(
            session.compose(words("swin", (1, 8, 8), "dense", missing=0.3)).config, LogReporter()
        )
    built.model.to(device)
    for accumulation, clip in ((1, 0), (3, 0.5)):
        changed = with_train(built, batch_size=2, accumulation=accumulation, clip=clip)
        with closing(OptimizerSteps(changed, Engine(device, "fp32"), built.task.train, 0)) as plan:
            plan.take(0)
            with counted() as transfers:
                plan.take(1)
        assert total(transfers.reads) == 1
        assert total(transfers.writes) == 2 * accumulation  # inputs and targets of every batch
