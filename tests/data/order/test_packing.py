"""`data.order=documents`: windows that begin with documents, packed."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmlab.data.ids import Ids
from lmlab.data.order.order import Share
from lmlab.data.order.packed import Documents, Pieces, ends_of
from lmlab.data.order.packing import Packing

END = 0
# Of documents, their ends among them; 1 is an empty one.
lengths = st.lists(st.integers(1, 40), min_size=1, max_size=60).filter(lambda ls: max(ls) > 1)
block_sizes = st.integers(1, 12)


def text_of(lengths: list[int]) -> Tensor:
    """Ids that all differ, but for the ends of documents."""
    ids = torch.arange(1, sum(lengths) + 1)
    ids[np.cumsum(lengths) - 1] = END
    return ids


def order_of(
    lengths: list[int], block_size: int, share: Share | None = None, seed: int = 3
) -> Documents:
    tokens = Ids(text_of(lengths))
    return Documents(tokens, Pieces(ends_of(tokens, END), block_size), share or Share(1), seed)


def documents_of(ids: list[int]) -> list[list[int]]:
    """Cut behind each end."""
    documents: list[list[int]] = [[]]
    for i in ids:
        documents[-1].append(i)
        if i == END:
            documents.append([])
    return [document for document in documents if document]


def targets_of(window: list[int]) -> list[tuple[int, int]]:
    """Of a window, each id that is a target, with the id before it."""
    ids = [i if i >= 0 else ~i for i in window]
    return [(before, i) for before, i, w in zip(ids, ids[1:], window[1:], strict=False) if w >= 0]


@given(lengths=lengths, block_size=block_sizes, epoch=st.integers(0, 10**6), seed=st.integers(0, 3))
@settings(max_examples=60)
def test_an_epoch_has_every_id_of_every_document_once_behind_the_id_before_it(
    lengths: list[int], block_size: int, epoch: int, seed: int
) -> None:
    order = order_of(lengths, block_size, seed=seed)
    n = order.n_windows
    windows = order.gather(order.find(np.arange(epoch * n, (epoch + 1) * n))).tolist()
    assert all(len(window) == block_size + 1 for window in windows)
    expected = [
        pair
        for document in documents_of(text_of(lengths).tolist())
        if len(document) > 1
        for pair in pairwise([END, *document])
    ]
    assert sorted(pair for window in windows for pair in targets_of(window)) == sorted(expected)
    n_targets = n * block_size
    assert order.pieces.padding == pytest.approx((n_targets - len(expected)) / n_targets)


@given(lengths=lengths, block_size=block_sizes)
@settings(max_examples=60)
def test_documents_that_fit_into_a_window_are_never_cut(
    lengths: list[int], block_size: int
) -> None:
    order = order_of(lengths, block_size)
    windows = order.gather(order.find(np.arange(order.n_windows))).tolist()
    inside = {tuple(one) for window in windows for one in documents_of(window[1:])}
    for document in documents_of(text_of(lengths).tolist()):
        if 1 < len(document) <= block_size:
            assert tuple(document) in inside


def test_windows_are_full_where_documents_are_many() -> None:
    lengths = np.random.default_rng(0).integers(2, 300, 3000).tolist()
    assert order_of(lengths, 64).pieces.padding < 0.005
    assert order_of(lengths, 256).pieces.padding < 0.005


def test_what_shares_a_window_is_drawn_for_each_epoch() -> None:
    lengths = [3, 4] * 50
    order = order_of(lengths, 7)
    assert order.n_windows == 50
    epochs = order.gather(order.find(np.arange(4 * 50))).view(4, 50, 8).tolist()
    assert len({frozenset(map(tuple, epoch)) for epoch in epochs}) == 4
    again = order_of(lengths, 7, seed=4)
    assert again.gather(again.find(np.arange(50))).tolist() != epochs[0]


@given(n_before=st.integers(0, 9), takes=st.lists(st.integers(1, 5), min_size=1, max_size=3))
@settings(max_examples=20)
def test_it_goes_on_from_a_count_with_other_processes(n_before: int, takes: list[int]) -> None:
    lengths = [2, 9, 30, 4, 5] * 5
    alone = order_of(lengths, 8, Share(6))
    whole = alone.take(n_before + sum(takes))
    shares = []
    for rank in range(2):
        order = order_of(lengths, 8, Share(3, rank, 2))
        order.check(alone.state(n_before))
        order.go_on(alone.state(n_before))
        shares.append(torch.cat([order.take(n) for n in takes]))
    assert torch.equal(torch.cat(shares, dim=1), whole[n_before:])


@given(lengths=lengths, block_size=block_sizes)
@settings(max_examples=60)
def test_what_fits_best_follows_the_longest(lengths: list[int], block_size: int) -> None:
    """The packing is that of a loop over single pieces."""
    counts = Pieces(np.cumsum(lengths), block_size).counts
    packing = Packing(counts, block_size)
    slots = packing.slots(np.arange(len(packing)))
    left = [int(kind) for kind in counts.nonzero()[0] for _ in range(counts[kind])]
    width = block_size + 1
    expected = []
    while left:
        room, window = block_size, []
        while True:
            costs = {kind: kind % width + (kind // width if window else 0) for kind in left}
            fitting = [kind for kind in left if costs[kind] <= room]
            if not fitting:
                break
            best = max(fitting, key=lambda kind: (costs[kind], -kind))
            left.remove(best)
            window.append(best)
            room -= costs[best]
        expected.append(window)
    ours = [slots.kind[slots.window == i].tolist() for i in range(len(packing))]
    assert ours == expected
    uses = sorted(zip(slots.kind.tolist(), slots.which.tolist(), strict=True))
    assert uses == [(k, i) for k in counts.nonzero()[0].tolist() for i in range(counts[k])]


def test_a_billion_pieces_are_packed_by_arithmetic() -> None:
    counts = np.zeros(2 * 1024 + 2, np.int64)
    counts[1:1025] = 1_000_000
    packing = Packing(counts, 1024)
    assert 512_500_000 <= len(packing) < 513_500_000  # of 1,024 million and some
    assert len(packing.slots(np.array([0, len(packing) - 1])).window) >= 2


def test_ends_are_found_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmlab.data.order.packed.CHUNK", 3)
    tokens = Ids(
        torch.tensor([5, 0, 7, 0, 0, 8, 0], dtype=torch.uint8),
        torch.tensor([0, 9], dtype=torch.uint8),
    )
    assert ends_of(tokens, END).tolist() == [2, 4, 5, 7, 8]
