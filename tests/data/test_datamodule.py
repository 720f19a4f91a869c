"""What the Trainer is given: splits, the training stream, and the two protocols of evaluation."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lmlab.data.datamodule import Ends, TextDataModule, TrainBatches
from lmlab.data.evals import EvalBatch, EvalLoader, FullEval, RandomEval
from lmlab.data.ids import Ids
from lmlab.data.order.drawn import Drawn
from lmlab.data.order.epochs import Epochs
from lmlab.data.order.order import Order, Share
from lmlab.data.streams import generator
from lmlab.data.windows import get_batch
from lmlab.errors import LabError

IDS = Ids(torch.arange(100, dtype=torch.uint8))
counts = st.integers(1, 20)


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def divided(val_fraction: float) -> tuple[Ids, Ids]:
    n_train = int((1 - val_fraction) * len(IDS))
    return IDS[:n_train], IDS[n_train:]


def stream(**changes: Any) -> TrainBatches:
    """Of `order=random` with a generator, or of `order=epochs`."""
    ends = {"steps_per_batch": 1, "save_every": None, "eval_every": 10}
    ends |= {name: changes.pop(name) for name in ends if name in changes}
    share = {"batch_size": 3, "rank": 0, "world_size": 1}
    share |= {name: changes.pop(name) for name in share if name in changes}
    tokens = changes.pop("tokens", Ids(torch.arange(1000)))
    if changes.pop("order", "random") == "random":
        order: Order = Drawn(tokens, 5, Share(**share), changes.pop("generator", seeded()))
    else:
        order = Epochs(tokens, 5, Share(**share), seed=7)
    settings: dict[str, Any] = {"accumulate": 1, "max_steps": 33}
    return TrainBatches(order, ends=Ends(**ends), **settings | changes)


def windows_of(items: Iterable[Tensor]) -> Tensor:
    return torch.cat([torch.empty(0, dtype=torch.int64), *items])


@pytest.mark.parametrize(("val_fraction", "split"), [(0.1, "val"), (0.9, "train"), (0.0, "val")])
def test_a_split_too_short_for_a_window_is_refused(val_fraction: float, split: str) -> None:
    with pytest.raises(
        LabError, match=rf"^data\.block_size=10 needs a {split} split of at least 11"
    ):
        TextDataModule(*divided(val_fraction), 256, batch_size=2, block_size=10)


def test_a_split_of_a_single_window_is_enough() -> None:
    data = TextDataModule(*divided(0.1), 256, batch_size=2, block_size=9)
    (only,), *others = data.full_dataloader()
    assert only.windows.tolist() == [[*range(90, 100)]]
    assert not others
    assert next(iter(data.val_dataloader().evals)).windows.tolist() == [[*range(90, 100)]] * 2 * 50


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("steps_per_batch", [1, 3, 7, 50])
def test_the_stream_is_get_batch_after_get_batch(steps_per_batch: int, accumulate: int) -> None:
    ours, theirs = seeded(), seeded()
    batches = stream(steps_per_batch=steps_per_batch, accumulate=accumulate, generator=ours)
    windows = windows_of(batches)
    assert windows.shape == (33 * accumulate, 3, 6)
    assert windows.dtype == torch.int64
    for some in windows:
        idx, targets = get_batch(torch.arange(1000), 3, 5, theirs)
        assert torch.equal(some[:, :-1], idx)
        assert torch.equal(some[:, 1:], targets)
    assert torch.equal(ours.get_state(), theirs.get_state())


@given(
    steps_per_batch=counts,
    accumulate=st.integers(1, 3),
    eval_every=counts,
    max_steps=counts,
    save_every=st.none() | counts,
)
def test_items_end_where_an_evaluation_or_a_checkpoint_is_due(
    steps_per_batch: int, accumulate: int, eval_every: int, max_steps: int, save_every: int | None
) -> None:
    batches = stream(
        steps_per_batch=steps_per_batch,
        accumulate=accumulate,
        eval_every=eval_every,
        max_steps=max_steps,
        save_every=save_every,
    )
    steps = [len(item) // accumulate for item in batches]
    ends = np.cumsum(steps).tolist()
    assert len(batches) == len(ends)
    assert max(steps) <= steps_per_batch
    due = {*range(eval_every, max_steps + 1, eval_every), max_steps}
    if save_every is not None:
        due |= {step for step in range(1, max_steps) if step % eval_every % save_every == 0}
    assert due <= set(ends)
    items = [  # from each evaluation to the next: always as many
        sum(n - eval_every < end <= n for end in ends)
        for n in range(eval_every, max_steps + 1, eval_every)
    ]
    assert len(set(items)) <= 1


def test_the_length_of_a_long_stream_is_known_at_once() -> None:
    batches = stream(max_steps=10**12 + 1, eval_every=250, steps_per_batch=100)
    assert len(batches) == 10**12 // 250 * 3 + 1


def test_without_steps_the_stream_is_empty() -> None:
    assert len(stream(max_steps=0)) == 0
    assert list(stream(max_steps=0)) == []


def test_the_stream_may_be_torchs_default_generator() -> None:
    torch.manual_seed(7)
    assert torch.equal(windows_of(stream(generator=torch.default_generator)), windows_of(stream()))


@given(
    order=st.sampled_from(["random", "epochs"]),
    start_step=st.integers(0, 32),
    steps_per_batch=counts,
    eval_every=counts,
    save_every=st.none() | counts,
    accumulate=st.integers(1, 3),
)
def test_a_resumed_stream_goes_on_and_ends_its_items_where_it_would_have(
    order: str,
    start_step: int,
    steps_per_batch: int,
    eval_every: int,
    save_every: int | None,
    accumulate: int,
) -> None:
    settings = {
        "order": order,
        "steps_per_batch": steps_per_batch,
        "eval_every": eval_every,
        "save_every": save_every,
        "accumulate": accumulate,
    }
    items = list(stream(**settings))
    ends = np.cumsum([len(item) // accumulate for item in items])
    stopped = stream(**settings)  # in the item that has the step in it
    for _item, end in zip(stopped, ends, strict=False):
        if end >= start_step:
            break
    state = stopped.state_after(start_step)
    resumed = stream(start_step=start_step, start_state=state, **settings)
    rest = list(resumed)
    assert len(resumed) == len(rest)
    assert torch.equal(windows_of(rest), windows_of(items)[start_step * accumulate :])
    ends_of_rest = start_step + np.cumsum([len(item) // accumulate for item in rest])
    assert ends_of_rest.tolist() == ends[ends > start_step].tolist()


def test_epochs_are_the_same_for_any_number_of_steps_in_an_item() -> None:
    windows = windows_of(stream(order="epochs", accumulate=2))
    for steps_per_batch in (2, 7, 50):
        items = stream(order="epochs", accumulate=2, steps_per_batch=steps_per_batch)
        assert torch.equal(windows_of(items), windows)


@pytest.mark.parametrize("order", ["random", "epochs"])
@pytest.mark.parametrize("steps_per_batch", [1, 7])
def test_two_processes_share_the_windows_of_one_with_a_double_batch(
    steps_per_batch: int, order: str
) -> None:
    settings = {"order": order, "steps_per_batch": steps_per_batch}
    shares = [windows_of(stream(rank=rank, world_size=2, **settings)) for rank in range(2)]
    assert shares[0].shape == (33, 3, 6)
    assert torch.equal(torch.cat(shares, dim=1), windows_of(stream(order=order, batch_size=6)))


def test_a_process_gathers_its_own_windows_only() -> None:
    gathered: list[int] = []

    class Tokens(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            result = super().__torch_function__(func, types, args, kwargs or {})
            if func is torch.Tensor.index_select:
                gathered.append(len(result))
            return result

    tokens = Ids(torch.arange(1000).as_subclass(Tokens))
    for item in stream(tokens=tokens, steps_per_batch=7, rank=1, world_size=2):
        assert gathered.pop() == item.shape[0] * item.shape[1]
    evaluation = RandomEval({"val/loss": tokens}, 3, 5, 4, 1000, seed=3, rank=1, world_size=2)
    assert sum(len(batch.windows) for batch in evaluation) == gathered.pop() == 12


def module_with(**changes: Any) -> TextDataModule:
    settings: dict[str, Any] = {"batch_size": 3, "block_size": 5, "eval_iters": 4, "seed": 11}
    ids = Ids(torch.arange(1000).to(torch.uint16))
    return TextDataModule(ids[:900], ids[900:], 1000, **settings | changes)


def test_random_evaluation_looks_at_the_same_windows_each_time() -> None:
    evaluation = module_with().val_dataloader().evals
    assert isinstance(evaluation, RandomEval)
    first, again = list(evaluation), list(evaluation)
    assert len(evaluation) == len(first) == 2
    assert [batch.metric for batch in first] == ["val/loss", "train/loss_eval"]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.windows, other.windows)
        assert one.windows.shape == (12, 6)
        assert one.counted.tolist() == [5] * 12
        assert (one.windows.min() >= 900) == (one.metric == "val/loss")
        assert len(set(one.windows[:, 0].tolist())) > 6


@given(
    batch_size=counts,
    block_size=counts,
    iters=counts,
    vocab_size=st.sampled_from([65, 50_000, 1 << 20, 1 << 30]),
)
def test_random_evaluation_takes_iters_batches_of_each_split_however_many_at_a_time(
    batch_size: int, block_size: int, iters: int, vocab_size: int
) -> None:
    splits = {"val/loss": IDS[:50], "train/loss_eval": IDS[50:]}
    evaluation = RandomEval(splits, batch_size, block_size, iters, vocab_size, seed=3)
    batches = list(evaluation)
    assert len(evaluation) == len(batches)
    source = generator(3, "eval")
    for metric, tokens in splits.items():
        windows = torch.cat([batch.windows for batch in batches if batch.metric == metric])
        for some in windows.view(iters, batch_size, block_size + 1):
            assert torch.equal(some[:, :-1], get_batch(tokens, batch_size, block_size, source)[0])


@given(n_windows=st.integers(1, 40))
def test_lightning_gets_all_evaluations_several_at_a_time(n_windows: int) -> None:
    evals = FullEval("val/loss", Ids(torch.arange(8 * n_windows + 1)), 8, 8, vocab_size=1 << 30)
    loader = EvalLoader(evals)
    batches = list(loader)
    assert len(batches) == len(loader) <= len(evals) == n_windows
    assert [len(batch) for batch in batches[:-1]] == [16] * (len(batches) - 1)
    assert all(map(_same, chain(*batches), evals))


def _same(one: EvalBatch, other: EvalBatch) -> bool:
    return one.metric == other.metric and torch.equal(one.windows, other.windows)


def test_random_evaluation_depends_on_the_seed_alone() -> None:
    def starts(**changes: Any) -> list[list[int]]:
        evals = module_with(**changes).val_dataloader().evals
        return [batch.windows[:, 0].tolist() for batch in evals]

    assert starts() == starts(generator=seeded(1)) == starts(steps_per_batch=9)
    assert starts() != starts(seed=12)


@pytest.mark.parametrize("protocol", ["random", "full"])
def test_evaluation_moves_no_other_generator(protocol: str) -> None:
    source = seeded()
    data = module_with(generator=source, eval_protocol=protocol)
    before, default = source.get_state(), torch.get_rng_state()
    assert list(data.val_dataloader())
    assert torch.equal(source.get_state(), before)
    assert torch.equal(torch.get_rng_state(), default)


def test_the_full_protocol_is_chosen_by_name() -> None:
    data = module_with(eval_protocol="full")
    during, after = data.val_dataloader().evals, data.full_dataloader().evals
    assert isinstance(during, FullEval)
    assert isinstance(after, FullEval)
    assert (during.metric, after.metric) == ("val/loss", "val/loss_full")
    assert during.stride == 5
    assert module_with(stride=2).stride == 2
    assert during.tokens is data.val_tokens


@given(
    n_tokens=st.integers(13, 300),
    block_size=st.integers(1, 12),
    vocab_size=st.sampled_from([65, 50_000, 1 << 20, 1 << 30]),
    world_size=st.integers(1, 3),
    data=st.data(),
)
def test_full_evaluation_counts_every_token_but_the_first_once(
    n_tokens: int, block_size: int, vocab_size: int, world_size: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, block_size), label="stride")
    whole = FullEval("val/loss", Ids(torch.arange(n_tokens)), block_size, stride, vocab_size)
    predicted = []
    for rank in range(world_size):
        share = replace(whole, rank=rank, world_size=world_size)
        batches = list(share)
        # The processes share out every batch, so none may miss one.
        assert len(share) == len(batches) == len(whole)
        for batch in batches:
            assert batch.metric == "val/loss"
            assert len(batch.windows) <= max(1, (1 << 22) // (block_size * vocab_size))
            for window, count in zip(batch.windows, batch.counted.tolist(), strict=True):
                predicted += window[len(window) - count :].tolist()
    assert sorted(predicted) == list(range(1, n_tokens))
