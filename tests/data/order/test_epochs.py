"""`data.order=epochs`: every window once before any comes again, wherever one goes on."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lmlab.data.ids import Ids
from lmlab.data.order.epochs import Epochs
from lmlab.data.order.order import Share
from lmlab.errors import LabError

lengths = st.integers(1, 300)
block_sizes = st.integers(1, 9)
seeds = st.integers(0, 5)


def order_of(
    share: Share | None = None, n_ids: int = 83, block_size: int = 4, seed: int = 3
) -> Epochs:
    return Epochs(Ids(torch.arange(n_ids)), block_size, share or Share(3), seed)


def taken(order: Epochs, takes: Sequence[int]) -> Tensor:
    """(batches, batch_size, block_size + 1), so many batches at a time."""
    return torch.cat([order.take(n) for n in takes])


@given(n_more=lengths, block_size=block_sizes, seed=seeds, epoch=st.integers(0, 10**9))
def test_an_epoch_has_every_window_once(
    n_more: int, block_size: int, seed: int, epoch: int
) -> None:
    order = order_of(None, block_size + n_more, block_size, seed)
    n = order.n_windows
    starts = np.sort(order.find(np.arange(epoch * n, (epoch + 1) * n)))
    shift = starts[0]
    assert 0 <= shift < block_size
    assert starts.tolist() == list(range(shift, shift + n * block_size, block_size))  # side by side
    assert starts[-1] + block_size + 1 <= block_size + n_more  # within the text
    n_targets, n_ids = n * block_size, block_size + n_more
    assert n_ids - n_targets <= 2 * block_size or n == 1


def test_every_shift_comes_and_no_epoch_has_the_order_of_another() -> None:
    epochs = order_of(seed=3).find(np.arange(200 * 19)).reshape(200, -1)
    assert set(epochs.min(axis=1)) == {0, 1, 2, 3}
    assert len(set(map(tuple, epochs - epochs.min(axis=1)[:, None]))) == 200
    assert not np.array_equal(epochs.ravel(), order_of(seed=4).find(np.arange(200 * 19)))


@given(n_more=lengths, block_size=block_sizes, data=st.data())
def test_any_place_is_the_same_whatever_it_is_asked_with(
    n_more: int, block_size: int, data: st.DataObject
) -> None:
    order = order_of(None, block_size + n_more, block_size)
    last = 5 * order.n_windows
    places = sorted(data.draw(st.sets(st.integers(0, last), min_size=1, max_size=30)))
    starts = order.find(np.arange(last + 1))
    assert order.find(np.array(places)).tolist() == starts[places].tolist()


@given(takes=st.lists(st.integers(1, 9), min_size=1, max_size=8), batch_size=st.integers(1, 30))
def test_windows_are_the_same_however_many_are_taken_at_a_time(
    takes: list[int], batch_size: int
) -> None:
    share = Share(batch_size)
    windows = taken(order_of(share), takes)
    assert windows.shape == (sum(takes), batch_size, 5)
    assert torch.equal(windows, order_of(share).take(sum(takes)))
    assert torch.equal(windows.diff(), torch.ones_like(windows[..., 1:]))  # ids are places here


def test_the_last_batch_of_an_epoch_runs_over_into_the_next() -> None:
    order = order_of(Share(8))  # 19 windows an epoch
    assert order.n_windows == 19
    windows = order.take(19).flatten(0, 1)[:, 0].view(8, 19)  # 8 epochs in 19 batches
    for epoch in windows:
        assert epoch.sort().values.diff().tolist() == [4] * 18


@given(n_before=st.integers(0, 40), takes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_it_goes_on_from_a_count(n_before: int, takes: list[int]) -> None:
    order = order_of()
    whole = order.take(n_before + sum(takes))
    state = order.state(n_before)
    assert state == {"windows": 3 * n_before, "windows_per_batch": 3}
    resumed = order_of()
    resumed.check(state)
    resumed.go_on(state)
    assert torch.equal(taken(resumed, takes), whole[n_before:])
    assert resumed.state(takes[-1]) == order.state(n_before + sum(takes))


@given(
    batch_size=st.integers(1, 6),
    shares=st.sampled_from([(1, 2), (2, 3), (3, 1), (6, 4)]),
    n_before=st.integers(0, 30),
)
def test_processes_share_each_batch_and_others_may_go_on(
    batch_size: int, shares: tuple[int, int], n_before: int
) -> None:
    """Together they have the windows of one process; and so have more or fewer after them."""
    n_together = batch_size * shares[0] * shares[1]
    alone = order_of(Share(n_together))
    whole = alone.take(n_before + 20)
    state = alone.state(n_before)
    for world_size in shares:
        windows = []
        for rank in range(world_size):
            order = order_of(Share(n_together // world_size, rank, world_size))
            order.check(state)
            order.go_on(state)
            windows.append(taken(order, (13, 7)))
        assert torch.equal(torch.cat(windows, dim=1), whole[n_before:])


def test_another_batch_is_refused() -> None:
    state = order_of(Share(6)).state(0)
    with pytest.raises(LabError, match=r"^data.batch_size=6 in 2 processes: 12 windows .* had 6;"):
        order_of(Share(6, 1, 2)).check(state)
    order_of(Share(6, 1, 2)).check({**state, "windows_per_batch": None})  # of a parent


def test_a_place_far_on_is_there_at_once() -> None:
    order = order_of()
    order.go_on({"windows": 10**15, "windows_per_batch": 3})
    assert order.take(2).shape == (2, 3, 5)
