import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.models.geometry import (
    fold_shape,
    from_canvas,
    layout,
    smallest_kernel,
    to_canvas,
    token_grid,
)
from orca_cli.models.predictors import shuffle
from tests.properties import examples

sizes = st.integers(1, 3000)


@given(
    extent=st.one_of(st.tuples(sizes), st.tuples(sizes, sizes), st.tuples(sizes, sizes, sizes)),
    max_tokens=st.integers(1, 3136),
)
def test_kernel_is_the_smallest_that_fits(extent, max_tokens):
    kernel = smallest_kernel(extent, max_tokens)
    assert math.prod(token_grid(extent, kernel)) <= max_tokens
    assert kernel == 1 or math.prod(token_grid(extent, kernel - 1)) > max_tokens


def test_deepsea_on_roberta_has_the_papers_kernel():
    assert layout((4, 1000), max_tokens=512, canvas=None).kernel == 2


def test_darcy_on_swin_has_the_papers_kernel():
    cut = layout((3, 85, 85), max_tokens=3136, canvas=(224, 224))
    assert (cut.kernel, cut.grid) == (4, (56, 56))


def test_a_prime_length_keeps_its_resolution():
    assert layout((1, 997), max_tokens=512, canvas=None).tokens == 499


@examples(100)
@given(
    grid=st.one_of(*(st.tuples(*[st.integers(1, 5)] * axes) for axes in (1, 2, 3))),
    factor=st.integers(1, 4),
    channels=st.integers(1, 3),
)
def test_shuffle_puts_every_value_where_its_token_is(grid, factor, channels):
    axes = len(grid)
    extent = [size * factor for size in grid]
    # The map that should come out: value = channel * 10^6 + flat position.
    position = torch.arange(math.prod(extent)).reshape(extent)
    expected = torch.stack([position + channel * 10**6 for channel in range(channels)])
    tokens = []
    for token in range(math.prod(grid)):
        corner = [int(i) * factor for i in torch.unravel_index(torch.tensor(token), grid)]
        patch = expected
        for axis in range(axes):
            patch = patch.narrow(1 + axis, corner[axis], factor)
        tokens.append(patch.reshape(-1))
    torch.testing.assert_close(shuffle(torch.stack(tokens)[None], grid, factor)[0], expected)


@pytest.fixture
def wave():
    """A smooth series [1, 2, 100], and the layout that folds it for a body of images."""
    cut = layout((2, 100), max_tokens=3136, canvas=(224, 224))
    return torch.sin(torch.linspace(0, 3, 100)).expand(1, 2, 100), cut


def test_a_series_fills_the_canvas(wave):
    assert to_canvas(*wave).shape == (1, 2, 224, 224)


def test_canvas_and_back_keeps_a_smooth_signal(wave):
    x, cut = wave
    error = (from_canvas(to_canvas(x, cut), cut) - x).abs()
    assert error.max() < 0.2
    assert error.mean() < 0.03


@examples(50)
@given(
    depth=st.integers(1, 40),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    channels=st.integers(1, 3),
)
def test_slices_of_a_volume_lie_side_by_side(depth, height, width, channels):
    rows, columns = fold_shape(depth)
    canvas = (rows * height, columns * width)  # neither resized nor, for these depths, resampled
    cut = layout((channels, rows * columns, height, width), max_tokens=3136, canvas=canvas)
    assert (cut.fold, cut.extent) == ((rows, columns), canvas)
    x = torch.randn(2, channels, rows * columns, height, width)
    seen = to_canvas(x, cut)
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        tile = seen[:, :, row * height : (row + 1) * height, column * width : (column + 1) * width]
        assert torch.equal(tile, x[:, :, number])
    assert torch.equal(from_canvas(seen, cut), x)
