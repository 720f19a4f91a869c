"""One seed, separate streams."""

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmlab.data.streams import Stream, derive, generator

STREAMS = get_args(Stream)
seeds = st.integers(0, 2**63 - 1)


@given(st.sets(seeds, min_size=1, max_size=5))
def test_every_stream_of_every_seed_has_a_seed_of_its_own(some):
    derived = [derive(seed, stream) for seed in some for stream in STREAMS]
    assert len(set(derived)) == len(some) * len(STREAMS)
    assert all(0 <= value < 2**63 for value in derived)  # what torch takes as a seed


def test_derived_seeds_stay_what_they_were():
    # The first 63 bits of sha256("1337/init") and sha256("0/sample"): old runs depend on them.
    assert derive(1337, "init") == 0x395504A488C2E4E4 // 2
    assert derive(0, "sample") == 0x2819E60A6DB471E4 // 2


@given(seeds, st.sampled_from(STREAMS))
def test_a_stream_draws_the_same_numbers_again(seed, stream):
    first = torch.rand(8, generator=generator(seed, stream))
    assert torch.equal(torch.rand(8, generator=generator(seed, stream)), first)


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_is_moved_neither_by_the_others_nor_by_torchs_own(stream):
    undisturbed = torch.rand(8, generator=generator(1337, stream))
    ours = generator(1337, stream)
    drawn = []
    for _ in range(8):
        torch.rand(3)
        for other in STREAMS:
            torch.rand(3, generator=generator(1337, other))
        drawn.append(torch.rand(1, generator=ours))
    assert torch.equal(torch.cat(drawn), undisturbed)
    state = torch.random.get_rng_state()
    torch.rand(3, generator=ours)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_numbers_of_two_streams_are_unrelated():
    draws = [torch.randn(10_000, generator=generator(1337, stream)) for stream in STREAMS]
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(len(STREAMS))
    assert correlations.abs().max() < 0.05
