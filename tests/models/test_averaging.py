"""The averaging trick: the notebook's cells 12, 13, 14 and 16, and its three versions as one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.models.averaging import Average, average_by_loop, average_by_matmul, average_by_softmax

VERSIONS = [average_by_loop, average_by_matmul, average_by_softmax]


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(1337)
    return torch.randn(4, 8, 32)


def test_the_notebook_draws_this_x(x):
    expected = torch.tensor([0.1808, -0.0700, -0.3596, -0.9152])
    torch.testing.assert_close(x[0, 0, :4], expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("average", VERSIONS)
def test_cells_12_to_14_print_these_averages(average, x):
    expected = torch.tensor([-0.2412, -0.1606, 0.3253, -0.3968])
    torch.testing.assert_close(average(x)[0, 1, :4], expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("average", VERSIONS)
def test_cell_16_averages_three_rows(average):
    torch.manual_seed(42)
    b = torch.randint(0, 10, (3, 2)).float()
    expected = torch.tensor([[2, 7], [4, 5.5], [4.6667, 5.3333]])
    torch.testing.assert_close(average(b[None])[0], expected, rtol=0, atol=5e-5)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 8)),
    seed=st.integers(0, 2**32),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_three_versions_agree(shape, seed, dtype):
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    by_loop = average_by_loop(x)
    assert by_loop.dtype == dtype
    torch.testing.assert_close(average_by_matmul(x), by_loop)
    torch.testing.assert_close(average_by_softmax(x), by_loop)


@pytest.mark.parametrize("average", VERSIONS)
def test_the_first_position_has_only_itself_and_the_last_has_all(average, x):
    assert torch.equal(average(x)[:, 0], x[:, 0])
    torch.testing.assert_close(average(x)[:, -1], x.mean(1))


def test_the_layer_has_nothing_to_learn(x):
    layer = Average(n_embd=32)
    assert list(layer.parameters()) == []
    torch.testing.assert_close(layer(x), average_by_loop(x))
