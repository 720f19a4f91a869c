"""Ids in several parts are those of one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lmlab.data.ids import Ids
from lmlab.data.windows import draw_windows, full_pass

DTYPES = [torch.uint8, torch.uint16, torch.uint32, torch.int64]


def in_parts(tokens: Tensor, cuts: list[int]) -> Ids:
    ends = sorted(cut % (len(tokens) + 1) for cut in cuts)
    return Ids(*torch.tensor_split(tokens, ends))


@given(
    length=st.integers(1, 9),
    spare=st.integers(0, 40),
    cuts=st.lists(st.integers(0, 60), max_size=9),
    dtype=st.sampled_from(DTYPES),
)
def test_windows_of_parts_are_those_of_the_whole(
    length: int, spare: int, cuts: list[int], dtype: torch.dtype
) -> None:
    tokens = torch.arange(length + spare).to(dtype)
    ids, starts = in_parts(tokens, cuts), torch.arange(spare + 1).flip(0)
    windows = ids.windows(starts, length)
    assert windows.dtype == torch.int64
    assert torch.equal(windows, starts[:, None] + torch.arange(length))
    assert (len(ids), ids.dtype) == (len(tokens), dtype)
    assert ids.nbytes == tokens.nbytes


@given(
    n=st.integers(0, 30),
    cuts=st.lists(st.integers(0, 30), max_size=5),
    a=st.none() | st.integers(-9, 40),
    b=st.none() | st.integers(-9, 40),
)
def test_slices_of_parts_are_slices_of_the_whole(
    n: int, cuts: list[int], a: int | None, b: int | None
) -> None:
    tokens = torch.arange(n)
    some = in_parts(tokens, cuts)[a:b]
    assert some.whole().tolist() == tokens[a:b].tolist()
    assert some.to(torch.device("cpu"), torch.int32).whole().tolist() == tokens[a:b].tolist()


def test_batches_and_a_full_pass_do_not_see_the_parts() -> None:
    tokens = torch.arange(500).to(torch.uint16)
    one, several = Ids(tokens), in_parts(tokens, [100, 101, 103, 350])
    drawn = [
        draw_windows(ids, 5, 8, 16, torch.Generator().manual_seed(3)) for ids in (one, several)
    ]
    assert torch.equal(*drawn)
    passes = zip(full_pass(one, 16, 5, 7), full_pass(several, 16, 5, 7), strict=True)
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in passes)


def test_views_copy_nothing() -> None:
    tokens = torch.arange(100)
    part, _ = in_parts(tokens, [50])[10:60].parts
    assert part.data_ptr() == tokens[10:].data_ptr()
    with pytest.raises(IndexError, match="out of range"):
        Ids(tokens).windows(torch.tensor([95]), 8)
