"""Windows of ids: the notebook's batches, and a pass that leaves nothing out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lmlab.data.ids import Ids
from lmlab.data.tokenizer import CharTokenizer
from lmlab.data.windows import draw_windows, full_pass, get_batch, shift

DTYPES = [torch.uint8, torch.uint16, torch.uint32, torch.int64]
sizes = {
    "block_size": st.integers(1, 12),
    "spare": st.integers(1, 40),  # how much longer the text is than a block
    "batch_size": st.integers(1, 6),
    "seed": st.integers(0, 2**32),
}


@pytest.fixture(scope="module")
def train(tinyshakespeare_text: str) -> Tensor:
    ids = CharTokenizer.fit([tinyshakespeare_text]).encode(tinyshakespeare_text)
    return torch.from_numpy(ids[: int(0.9 * len(ids))].astype("int64"))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def notebook_batch(
    data: Tensor, batch_size: int, block_size: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """The notebook's get_batch, line for line."""
    ix = torch.randint(len(data) - block_size, (batch_size,), generator=generator)
    x = torch.stack([data[i : i + block_size] for i in ix])
    y = torch.stack([data[i + 1 : i + block_size + 1] for i in ix])
    return x, y


def test_the_notebooks_text_begins(train: Tensor) -> None:
    assert train[:9].tolist() == [18, 47, 56, 57, 58, 1, 15, 47, 58]


def test_eight_examples_hide_in_nine_characters(train: Tensor) -> None:
    idx, targets = shift(train[:9])
    assert [(idx[: t + 1].tolist(), targets[t].item()) for t in range(8)] == [
        ([18], 47),
        ([18, 47], 56),
        ([18, 47, 56], 57),
        ([18, 47, 56, 57], 58),
        ([18, 47, 56, 57, 58], 1),
        ([18, 47, 56, 57, 58, 1], 15),
        ([18, 47, 56, 57, 58, 1, 15], 47),
        ([18, 47, 56, 57, 58, 1, 15, 47], 58),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_notebooks_batch(train: Tensor, dtype: torch.dtype) -> None:
    torch.manual_seed(1337)
    idx, targets = get_batch(train.to(dtype), batch_size=4, block_size=8)
    assert idx.dtype == targets.dtype == torch.int64
    assert idx.tolist() == [
        [24, 43, 58, 5, 57, 1, 46, 43],
        [44, 53, 56, 1, 58, 46, 39, 58],
        [52, 58, 1, 58, 46, 39, 58, 1],
        [25, 17, 27, 10, 0, 21, 1, 54],
    ]
    assert targets[:, :-1].tolist() == idx[:, 1:].tolist()
    assert targets[:, -1].tolist() == [39, 1, 46, 39]


@given(**sizes)
def test_a_batch_is_the_notebooks(block_size: int, spare: int, batch_size: int, seed: int) -> None:
    tokens = torch.arange(block_size + spare)
    ours, theirs = seeded(seed), seeded(seed)
    idx, targets = get_batch(tokens, batch_size, block_size, ours)
    x, y = notebook_batch(tokens, batch_size, block_size, theirs)
    assert torch.equal(idx, x)
    assert torch.equal(targets, y)
    assert torch.equal(targets, idx + 1)
    assert torch.equal(ours.get_state(), theirs.get_state())


@given(**sizes, n_batches=st.integers(1, 7), dtype=st.sampled_from(DTYPES))
def test_batches_drawn_at_once_are_batches_drawn_one_by_one(
    block_size: int, spare: int, batch_size: int, seed: int, n_batches: int, dtype: torch.dtype
) -> None:
    tokens = torch.arange(block_size + spare).to(dtype)
    at_once, one_by_one = seeded(seed), seeded(seed)
    windows = draw_windows(Ids(tokens), n_batches, batch_size, block_size, at_once)
    assert windows.shape == (n_batches, batch_size, block_size + 1)
    assert windows.dtype == torch.int64
    for some in windows:
        idx, targets = get_batch(tokens, batch_size, block_size, one_by_one)
        assert torch.equal(some[:, :-1], idx)
        assert torch.equal(some[:, 1:], targets)
    assert torch.equal(at_once.get_state(), one_by_one.get_state())


def test_no_generator_is_torchs_default_one() -> None:
    tokens = torch.arange(1000)
    torch.manual_seed(5)
    by_default = get_batch(tokens, 4, 8)
    after = torch.get_rng_state()
    given = seeded(5)
    assert torch.equal(by_default[0], get_batch(tokens, 4, 8, given)[0])
    assert torch.equal(after, given.get_state())


def test_a_generator_of_ones_own_leaves_the_default_one_alone() -> None:
    before = torch.get_rng_state()
    get_batch(torch.arange(1000), 4, 8, seeded(5))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_window_can_be_drawn_and_none_beyond_the_end() -> None:
    idx, targets = get_batch(torch.arange(11), 1000, 8, seeded(5))
    assert set(idx[:, 0].tolist()) == {0, 1, 2}
    assert targets.max() == 10


@given(
    block_size=st.integers(1, 12),
    spare=st.integers(1, 60),
    batch_size=st.integers(1, 6),
    data=st.data(),
    dtype=st.sampled_from(DTYPES),
)
def test_a_full_pass_predicts_every_token_but_the_first_once(
    block_size: int, spare: int, batch_size: int, data: st.DataObject, dtype: torch.dtype
) -> None:
    stride = data.draw(st.integers(1, block_size), label="stride")
    n_tokens = block_size + spare
    ids = Ids(torch.arange(n_tokens).to(dtype))
    batches = list(full_pass(ids, block_size, stride, batch_size))
    assert all(len(windows) == batch_size for windows, _ in batches[:-1])
    predicted = []
    for windows, counted in batches:
        assert windows.dtype == torch.int64
        assert windows.shape == (len(counted), block_size + 1)
        assert torch.equal(windows.diff(), torch.ones(len(windows), block_size).long())
        for window, count in zip(windows, counted.tolist(), strict=True):
            first = not predicted
            assert count == block_size if first else 1 <= count <= stride
            predicted += window[-count:].tolist()
    assert predicted == list(range(1, n_tokens))
