"""The LightningDataModule: a train/val split of ids, handed out as windows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lmlab.config.schema import WindowOrder
from lmlab.data.evals import FULL, EvalLoader, FullEval, LoaderOfTheEnd, RandomEval
from lmlab.data.ids import Ids
from lmlab.data.order.drawn import Drawn
from lmlab.data.order.epochs import Epochs, windows_an_epoch
from lmlab.data.order.order import Order, Share
from lmlab.data.order.packed import Documents, Pieces
from lmlab.errors import LabError


@dataclass(frozen=True)
class Ends:
    """The steps at which the items of the training stream end: every `eval_every`-th, every
    `save_every`-th after these, and every `steps_per_batch`-th after those.

    So there are as many items from each evaluation to the next.
    """

    steps_per_batch: int
    save_every: int | None  # None: no checkpoint is due between evaluations
    eval_every: int

    def after(self, step: int) -> int:
        """The next end, wherever a run is resumed."""
        evaluated = step - step % self.eval_every
        saved = step - (step - evaluated) % self._save_every
        stacked = step - (step - saved) % self.steps_per_batch + self.steps_per_batch
        return min(stacked, saved + self._save_every, evaluated + self.eval_every)

    def until(self, step: int, is_last: bool = False) -> int:
        """How many there are by `step`; where the stream ends there, that is one, too."""
        evaluations, since = divmod(step, self.eval_every)
        return evaluations * self._within(self.eval_every, True) + self._within(since, is_last)

    def _within(self, n_steps: int, is_last: bool) -> int:
        saves, rest = divmod(n_steps, self._save_every)
        per_save = math.ceil(self._save_every / self.steps_per_batch)
        left = rest / self.steps_per_batch
        return saves * per_save + (math.ceil(left) if is_last else math.floor(left))

    @property
    def _save_every(self) -> int:
        return self.save_every or self.eval_every


@dataclass
class TrainBatches:
    """The training stream: each item is the windows of up to `steps_per_batch` optimizer steps.

    An item ends where an evaluation or a checkpoint is due, so however many steps are stacked,
    these fall on the same steps and every step sees the same windows.

    Yields windows (steps * accumulate, batch_size, block_size + 1), int64.
    """

    order: Order
    accumulate: int
    ends: Ends
    max_steps: int
    start_step: int = 0  # where a resumed run goes on, and the order's state there
    start_state: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self._item: tuple[int, int] | None = None  # the steps where it begins and ends

    def __len__(self) -> int:
        # Lightning fetches ahead of a loader without a length, and so would move the generator.
        if self.start_step >= self.max_steps:
            return 0
        return self.ends.until(self.max_steps, True) - self.ends.until(self.start_step)

    def __iter__(self) -> Iterator[Tensor]:
        if self.start_state is not None:
            self.order.go_on(self.start_state)
        step = self.start_step
        while step < self.max_steps:
            end = min(self.ends.after(step), self.max_steps)
            self._item = step, end
            yield self.order.take((end - step) * self.accumulate)
            step = end

    def state_after(self, step: int) -> dict[str, Any]:
        """The order's state once the windows of `step` steps are used and no more.

        An item takes those of many steps at once; a run that stops between them goes on from here.
        """
        if self._item is None:  # resumed with no step left to take
            return self.order.state(0) if self.start_state is None else self.start_state
        return self.order.state((step - self._item[0]) * self.accumulate)


def free_memory(device: torch.device) -> int:
    """Bytes; a cautious guess where the device does not say."""
    try:
        return torch.accelerator.get_memory_info(device)[0]
    except RuntimeError:
        return 1 << 30


class TextDataModule(L.LightningDataModule):
    """Train and val splits of one corpus."""

    def __init__(
        self,
        train: Ids,
        val: Ids,
        vocab_size: int,
        *,
        batch_size: int,
        block_size: int,
        val_fraction: float = 0.1,
        order: WindowOrder = "random",
        pieces: Pieces | None = None,
        steps_per_batch: int = 1,
        accumulate: int = 1,
        max_steps: int = 0,
        eval_every: int = 1,
        save_every: int | None = None,
        eval_protocol: str = "random",
        eval_iters: int = 50,
        stride: int | None = None,
        full: bool | int = True,
        seed: int = 1337,
        generator: torch.Generator | None = None,
    ):
        """`val_fraction` is what the splits were made by, for the sake of errors.

        `generator` draws the training windows (None: torch's default one) where the order is
        random; `seed` evaluates, and decides another order. `pieces` are the documents of the train
        split, to train on them in their order. A checkpoint is due every `save_every` steps after
        an evaluation. `full`: whether the pass at the end predicts all val tokens, or how many.

        Raises:
            LabError: if a split is too short for a single window.
        """
        super().__init__()
        self.train_tokens, self.val_tokens = train, val
        self._on_gpu: tuple[Ids, Ids] | None = None
        for split, part in (("train", train), ("val", val)):
            if len(part) < block_size + 1:
                raise LabError(
                    f"data.block_size={block_size} needs a {split} split of at least "
                    f"{block_size + 1} tokens, and this one has {len(part)} "
                    f"(data.val_fraction={val_fraction} of {len(train) + len(val)})"
                )
        self.vocab_size = vocab_size
        self.batch_size, self.block_size, self.order = batch_size, block_size, order
        self.pieces = pieces
        self.steps_per_batch, self.accumulate = steps_per_batch, accumulate
        self.ends = Ends(steps_per_batch, save_every, eval_every)
        self.eval_every, self.eval_protocol, self.eval_iters = eval_every, eval_protocol, eval_iters
        self.stride, self.max_steps, self.seed = stride or block_size, max_steps, seed
        self._full = full
        self.generator = torch.default_generator if generator is None else generator
        self.start_step = 0
        self.start_state: dict[str, Any] | None = None
        self.stream: TrainBatches | None = None

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one process learns from at each optimizer step."""
        return self.batch_size * self.block_size * self.accumulate

    @property
    def n_full(self) -> int:
        """How many val tokens the pass at the end predicts; 0: there is none."""
        n_all = len(self.val_tokens) - 1
        return n_all * self._full if isinstance(self._full, bool) else min(self._full, n_all)

    @property
    def batches_per_eval(self) -> int:
        """How many items of the training stream lie between two evaluations."""
        return self.ends.until(self.eval_every)

    def state_dict(self) -> dict[str, Any]:
        """Where training is in the stream; Lightning keeps it in every checkpoint."""
        if self.trainer is None or self.stream is None or not self.trainer.global_step:
            return {}
        step = self.trainer.global_step
        return {**self.stream.state_after(step), "step": step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        if not state_dict:
            return
        self._ordered().check(state_dict)
        self.start_step, self.start_state = state_dict["step"], state_dict

    def begun(self, parents: dict[str, Any]) -> dict[str, Any]:
        """The state that a run begins with whose parent's is `parents`; {}: it has none."""
        if self.order == "random":
            return parents or {"generator": self.generator.get_state(), "world_size": None}
        return {"windows": parents.get("windows", 0), "windows_per_batch": None}

    @property
    def n_windows(self) -> int | None:
        """Of an epoch; None where windows are drawn from anywhere."""
        if self.order == "random":
            return None
        if self.order == "documents":
            return None if self.pieces is None else len(self.pieces.packing)
        return windows_an_epoch(len(self.train_tokens), self.block_size)

    def train_dataloader(self) -> TrainBatches:
        self.stream = TrainBatches(
            self._ordered(),
            self.accumulate,
            self.ends,
            self.max_steps,
            self.start_step,
            self.start_state,
        )
        return self.stream

    def _ordered(self) -> Order:
        tokens, share = self._splits()[0], Share(self.batch_size, *self._share())
        if self.order == "random":
            return Drawn(tokens, self.block_size, share, self.generator)
        if self.order == "epochs":
            return Epochs(tokens, self.block_size, share, self.seed)
        assert self.pieces is not None, "order=documents trains on the pieces of documents"
        return Documents(tokens, self.pieces, share, self.seed)

    def val_dataloader(self) -> EvalLoader:
        """What an evaluation during training looks at."""
        if self.eval_protocol == "full":
            return EvalLoader(self._pass("val/loss", self._splits()[1]))
        train, val = self._splits()
        splits = {"val/loss": val, "train/loss_eval": train}
        shape = self.batch_size, self.block_size, self.eval_iters, self.vocab_size
        return EvalLoader(RandomEval(splits, *shape, self.seed, *self._share()))

    def full_dataloader(self) -> EvalLoader:
        """One deterministic pass over val, or as much of it as the end is to see."""
        _, val = self._splits()
        return LoaderOfTheEnd(self._pass(FULL, val[: self.n_full + 1]))

    def _pass(self, metric: str, tokens: Ids) -> FullEval:
        shape = self.block_size, self.stride, self.vocab_size
        return FullEval(metric, tokens, *shape, *self._share())

    def _splits(self) -> tuple[Ids, Ids]:
        """Both splits where their windows are to be gathered: in a GPU's memory, if they take
        little of it; else as they are, mapped from disk."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if device.type in ("cpu", "mps"):  # Apple's GPUs share the memory of the CPU
            return self.train_tokens, self.val_tokens
        if self._on_gpu is None:
            train, val = self.train_tokens, self.val_tokens
            # CUDA gathers few of the unsigned types.
            dtype = torch.uint8 if train.dtype == torch.uint8 else torch.int32
            if (len(train) + len(val)) * dtype.itemsize <= free_memory(device) // 4:
                train, val = train.to(device, dtype), val.to(device, dtype)
            self._on_gpu = train, val
        return self._on_gpu

    def _share(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
