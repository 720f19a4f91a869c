"""`data.order=random`: windows from anywhere, as the notebook draws them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmlab.data.ids import Ids
from lmlab.data.order.order import Order, Share
from lmlab.data.windows import draw_starts, draw_windows
from lmlab.errors import LabError


class Drawn(Order):
    """Every window is drawn anew from all of the text, whether it was there before or not."""

    def __init__(self, tokens: Ids, block_size: int, share: Share, generator: torch.Generator):
        self.tokens, self.block_size, self.share = tokens, block_size, share
        self.generator = generator
        self._before = generator.get_state(), 0  # of the last take, and how many it took

    def take(self, n_batches: int) -> Tensor:
        self._before = self.generator.get_state(), n_batches
        drawn, mine = self.share.drawn, self.share.mine
        return draw_windows(self.tokens, n_batches, drawn, self.block_size, self.generator, mine)

    def state(self, n_taken: int) -> dict[str, Any]:
        before, n_batches = self._before
        after = self.generator.get_state()
        if n_taken < n_batches:  # many were drawn at once
            source = torch.Generator()
            source.set_state(before)
            draw_starts(self.tokens, n_taken * self.share.drawn, self.block_size, source)
            after = source.get_state()
        return {"generator": after, "world_size": self.share.world_size}

    def go_on(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])
        self._before = state["generator"], 0

    def check(self, state: dict[str, Any]) -> None:
        now, before = self.share.world_size, state.get("world_size")
        if "generator" not in state:
            raise LabError("data.order=random draws from a generator, and the checkpoint has none")
        if before not in (now, None):
            raise LabError(
                f"trainer.devices: {now} processes cannot go on exactly where {before} stopped; "
                f"each step's batches are shared out among all"
            )
