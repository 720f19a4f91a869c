"""How likely a model finds each choice of each item: in batches by length, prefixes read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmlab.console import count_progress
from lmlab.data.evals import EVAL_LOGITS, EVAL_TOKENS
from lmlab.data.tokenizer import Tokenizer
from lmlab.errors import LabError
from lmlab.models.contract import Hooks
from lmlab.models.inside.torch_inside import uncompiled
from lmlab.models.memory import Memory
from lmlab.tasks.items import Item

SHORTEST_PREFIX = 8  # tokens: to read less than this twice is cheaper than to remember it


@dataclass(frozen=True)
class Answers:
    """What a model says to items: a row for each, a column for each choice.

    Where an item has fewer choices, and in the whole row of one that the tokenizer cannot write,
    `log_probs` is NaN.
    """

    log_probs: np.ndarray  # (n_items, n_choices), nats: of all tokens of a choice together
    is_greedy: np.ndarray  # (n_items, n_choices): whether each of its tokens is the likeliest
    characters: np.ndarray  # (n_items, n_choices)
    n_bytes: np.ndarray  # (n_items, n_choices), in UTF-8
    right: np.ndarray  # (n_items,): the column of the right choice

    @property
    def is_asked(self) -> np.ndarray:
        """(n_items,): false where the tokenizer does not know a character."""
        return ~np.isnan(self.log_probs[:, 0])

    def select(self, rows: np.ndarray) -> Answers:
        """Those to some of the items."""
        return Answers(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


class Window(NamedTuple):
    """A part of a text that a model can read at once, such as of `windows.full_pass`."""

    ids: np.ndarray  # (up to block_size + 1,), int64
    counted: int  # how many of the last predictions count
    choice: tuple[int, int]  # row and column of the answer that they count for


def ask(
    model: nn.Module,
    tokenizer: Tokenizer,
    items: Sequence[Item],
    stride: int | None = None,
    what: str = "items",
) -> Answers:
    """What a model in eval mode says to items, on the device that it is on.

    Of a choice each token is predicted once, after its context and the tokens before it. Without a
    context the text begins behind `tokenizer.opening()`. A text that is longer than block_size is
    read in windows `stride` apart (None: side by side), the last of which ends with the text; see
    `windows_of`.
    """
    block_size: int = Hooks.of(model).block_size  # type: ignore[assignment]  # see give_sizes
    shape = len(items), max((len(item.choices) for item in items), default=1)
    log_probs, is_greedy = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    characters, n_bytes = np.ones(shape), np.ones(shape)
    groups: list[list[Window]] = []
    for row, item in enumerate(items):
        for column, choice in enumerate(item.choices):
            characters[row, column] = len(choice)
            n_bytes[row, column] = len(choice.encode(errors="replace"))
        texts = encoded(tokenizer, item)
        if texts is None:
            continue
        log_probs[row, : len(texts)], is_greedy[row, : len(texts)] = 0.0, True
        several = [
            list(windows_of(ids, begin, block_size, stride or block_size, (row, column)))
            for column, (ids, begin) in enumerate(texts)
        ]
        if all(len(windows) == 1 for windows in several):
            groups.append([window for (window,) in several])
        else:
            groups += [[window] for windows in several for window in windows]
    with torch.no_grad(), count_progress(f"asking {what}", len(groups), "texts") as advance:
        for batch, shared in batches(groups, Memory.of(model) is not None, _at_a_time(model)):
            windows = [window for group in batch for window in group]
            nll, likeliest = _read(model, batch, windows, shared)
            for window, nats, greedy in zip(windows, nll, likeliest, strict=True):
                log_probs[window.choice] -= nats
                is_greedy[window.choice] &= greedy
            advance(len(batch))
    right = np.array([item.answer for item in items], dtype=np.int64)
    return Answers(log_probs, is_greedy, characters, n_bytes, right)


def encoded(tokenizer: Tokenizer, item: Item) -> list[tuple[np.ndarray, int]] | None:
    """The ids of each choice behind its context, and where the choice begins in them; None if the
    tokenizer does not know a character.

    Where a token reaches over the end of the context, it is counted with the context, unless
    nothing would be left of the choice.
    """
    try:
        before = tokenizer.encode(item.context) if item.context else ()
        if len(before) == 0:
            before = tokenizer.opening()
            texts = [
                np.concatenate([before, tokenizer.encode(choice)]).astype(np.int64)
                for choice in item.choices
            ]
        else:
            texts = [
                tokenizer.encode(item.context + choice).astype(np.int64) for choice in item.choices
            ]
    except (LabError, UnicodeEncodeError):
        return None
    if min(map(len, texts)) < 2:
        return None
    return [(ids, max(1, min(len(before), len(ids) - 1))) for ids in texts]


def windows_of(
    ids: np.ndarray, begin: int, block_size: int, stride: int, choice: tuple[int, int]
) -> Iterator[Window]:
    """Windows that predict ids[begin:], begin > 0, each once.

    The last ends with the text, so a choice of up to block_size tokens is read in one, behind as
    much of its context as there is room for. A longer one is read in several, each `stride` before
    the next, and a prediction is taken from the first window that makes it, as in
    `data.windows.full_pass`.
    """
    last = len(ids) - 1
    starts = [max(0, last - block_size)]
    while starts[-1] >= begin:
        starts.append(max(0, starts[-1] - stride))
    predicted = begin
    for start in reversed(starts):
        end = min(start + block_size, last)
        yield Window(ids[start : end + 1], end + 1 - predicted, choice)
        predicted = end + 1


def batches(
    groups: Sequence[list[Window]], remembers: bool, at_a_time: int
) -> Iterator[tuple[list[list[Window]], int]]:
    """Groups of windows to read together, and how many tokens all windows of a group begin with
    alike, 0 if nothing is gained by reading them once.

    They come by length, for shorter ones are padded to the longest. `at_a_time` is in tokens.
    """
    whole: list[tuple[int, int, list[Window]]] = []  # prefix, length, group
    for group in groups:
        longest = max(len(window.ids) - 1 for window in group)
        prefix = _alike(group) if remembers and len(group) > 1 else 0
        if prefix >= SHORTEST_PREFIX:
            whole.append((prefix, longest, group))
        else:
            whole += [(0, len(window.ids) - 1, [window]) for window in group]
    whole.sort(key=lambda entry: entry[:2], reverse=True)
    batch: list[list[Window]] = []
    n_rows, longest, shared = 0, 0, 0
    for prefix, length, group in whole:
        n = n_rows + len(group)
        if batch and ((prefix == 0) != (shared == 0) or n * max(longest, length) > at_a_time):
            yield batch, shared
            batch, n, longest = [], len(group), 0
        batch.append(group)
        n_rows, longest, shared = n, max(longest, length), prefix  # the least so far
    if batch:
        yield batch, shared


def _alike(group: Sequence[Window]) -> int:
    """How many tokens all windows of a group begin with alike, that are followed by another."""
    first, *others = (window.ids for window in group)
    prefix = min(len(window.ids) for window in group) - 1
    for ids in others:
        differs = np.flatnonzero(first[:prefix] != ids[:prefix])
        prefix = int(differs[0]) if len(differs) else prefix
    return prefix


def _read(
    model: nn.Module, batch: Sequence[list[Window]], windows: Sequence[Window], shared: int
) -> tuple[list[float], list[bool]]:
    """Of each window the nats of what counts in it, and whether all of that is the likeliest."""
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    lengths = torch.tensor([len(window.ids) - 1 for window in windows])
    ids = torch.zeros(len(windows), int(lengths.max()) + 1, dtype=torch.int64)
    for row, window in zip(ids, windows, strict=True):
        row[: len(window.ids)] = torch.from_numpy(window.ids)
    ids, forward = ids.to(device), uncompiled(model)
    memory = Memory.of(model) if shared else None
    if memory is None:
        nll, likeliest = _predicted(forward(ids[:, :-1]), ids[:, 1:])
    else:
        sizes = torch.tensor([len(group) for group in batch], device=device)
        group_of = torch.repeat_interleave(sizes)
        firsts = sizes.cumsum(0) - sizes
        with memory:
            logits = forward(ids[firsts, :shared])
            within = _predicted(logits[:, :-1], ids[firsts, 1:shared])
            parts = [tuple(part[group_of] for part in within)]
            parts.append(_predicted(logits[group_of, -1:], ids[:, shared : shared + 1]))
            if ids.shape[1] > shared + 1:
                memory.select(group_of)
                parts.append(_predicted(forward(ids[:, shared:-1]), ids[:, shared + 1 :]))
        nll, likeliest = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    places = torch.arange(ids.shape[1] - 1, device=device)
    counted = torch.tensor([window.counted for window in windows], device=device)
    ends = lengths.to(device)[:, None]
    counts = (places < ends) & (places >= ends - counted[:, None])
    dtype = torch.float32 if device.type == "mps" else torch.float64
    nats = nll.to(dtype).where(counts, 0.0).sum(1)
    return nats.tolist(), (likeliest | ~counts).all(1).tolist()


def _predicted(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of each target (B, T) its nats, and whether no other token is likelier."""
    logits = logits.float()
    nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    likeliest = logits.amax(-1) <= logits.gather(-1, targets[..., None])[..., 0]
    return nll.view(targets.shape), likeliest


def _at_a_time(model: nn.Module) -> int:
    """How many tokens, as in an evaluation of the loss."""
    vocab_size = Hooks.of(model).vocab_size
    return min(EVAL_TOKENS, EVAL_LOGITS // vocab_size) if vocab_size else EVAL_TOKENS
