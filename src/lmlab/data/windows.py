"""Windows of ids: training batches drawn at random, and a full pass that leaves nothing out.

A window is block_size + 1 ids long: the input is all but its last, the targets all but its first.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lmlab.data.ids import Ids

NO_TARGET = -100  # the default of `ignore_index`


def draw_windows(
    tokens: Ids,
    n_batches: int,
    batch_size: int,
    block_size: int,
    generator: torch.Generator | None = None,
    gathered: slice = slice(None),
) -> Tensor:
    """`n_batches` training batches at once: (n_batches, batch_size, block_size + 1), int64.

    torch fills an integer tensor one draw after the other, so this takes the same numbers from the
    generator as `n_batches` single draws would, and leaves it where they would. The windows are
    gathered on the device that `tokens` are on, wherever the generator is.

    `gathered` selects some windows of each batch: all are drawn, and only these are gathered.
    """
    starts = draw_starts(tokens, n_batches * batch_size, block_size, generator)
    starts = starts.view(n_batches, batch_size)[:, gathered].flatten()
    return tokens.windows(starts, block_size + 1).view(n_batches, -1, block_size + 1)


def draw_starts(
    tokens: Ids, n_windows: int, block_size: int, generator: torch.Generator | None
) -> Tensor:
    """Where windows start, (n_windows,), as the notebook draws it."""
    device = "cpu" if generator is None else generator.device
    return torch.randint(len(tokens) - block_size, (n_windows,), generator=generator, device=device)


def get_batch(
    tokens: Tensor | Ids,
    batch_size: int,
    block_size: int,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """One random batch: idx and targets, both (batch_size, block_size), int64.

    Starts are drawn by one `randint(len(tokens) - block_size, (batch_size,))`; `generator=None` is
    torch's default generator, as everywhere in torch.
    """
    ids = Ids(tokens) if isinstance(tokens, Tensor) else tokens
    return shift(draw_windows(ids, 1, batch_size, block_size, generator)[0])


def inputs_and_targets(windows: Tensor) -> tuple[Tensor, Tensor]:
    """`shift`, of windows in which an id that is no target is written as ~id.

    There the target is NO_TARGET, which torch's cross-entropy leaves out.
    """
    idx, targets = shift(windows)
    return idx ^ (idx >> 63), targets.where(targets >= 0, NO_TARGET)  # x ^ -1 is ~x


def shift(windows: Tensor) -> tuple[Tensor, Tensor]:
    """Windows (..., block_size + 1) as idx and targets (..., block_size): targets one step on."""
    return windows[..., :-1], windows[..., 1:]


def full_pass(
    tokens: Ids, block_size: int, stride: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows that predict every token but the first (which has no context) exactly once.

    Windows start `stride` apart. Of each, only the last predictions that no earlier window made
    count: all block_size of the first, `stride` of the others. A smaller stride gives each
    prediction more context, for block_size / stride times the work. The last window is moved back
    to end with the text.

    Yields:
        windows (n, block_size + 1), int64, and counted (n,): how many of each window's last
        predictions count. n is `batch_size`, less in the last batch.
    """
    last = len(tokens) - 1 - block_size  # where the last whole window starts
    starts = torch.arange(0, last + 1, stride)
    counted = torch.full_like(starts, stride)
    counted[0] = block_size
    rest = last - int(starts[-1])
    if rest:
        starts = torch.cat([starts, torch.tensor([last])])
        counted = torch.cat([counted, torch.tensor([rest])])
    starts, counted = starts.to(tokens.device), counted.to(tokens.device)
    for some, count in zip(starts.split(batch_size), counted.split(batch_size), strict=True):
        yield tokens.windows(some, block_size + 1), count
