"""The LightningModule: where logits meet targets."""

from __future__ import annotations

import math
import signal
import time
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lmlab.data.datamodule import EvalBatch, TextDataModule
from lmlab.data.windows import shift
from lmlab.errors import LabError
from lmlab.training.optim import MakeOptimizer, Schedule, configure
from lmlab.training.stopping import Interrupted, Stop


class LanguageModule(L.LightningModule):
    """Trains and evaluates any model from idx (B, T) to logits (B, T, vocab_size).

    A Lightning batch holds the windows of several optimizer steps, and the module takes these steps
    itself (manual optimisation): the Trainer's loop costs about a millisecond a round, many times
    a small model's step. Steps, not rounds, are what is counted, logged and scheduled.
    """

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: MakeOptimizer,
        schedule: Schedule,
        characters_per_token: np.ndarray,
        *,
        max_steps: int,
        accumulate: int = 1,
        clip_norm: float | None = None,
        log_every: int = 1,
        about: dict[str, Any] | None = None,
        stop: Stop | None = None,
    ):
        """`about` is plain data that travels in every checkpoint: the config and the tokenizer;
        `stop` is asked between steps."""
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.make_optimizer, self.schedule, self.max_steps = make_optimizer, schedule, max_steps
        self.accumulate, self.clip_norm, self.log_every = accumulate, clip_norm, log_every
        self.about, self.stop = about or {}, Stop() if stop is None else stop
        self.characters: Tensor
        self.register_buffer("characters", torch.from_numpy(characters_per_token), persistent=False)
        self.losses: dict[str, MeanMetric] = {}  # by metric: nats per token
        self.token_lengths: dict[str, MeanMetric] = {}  # by metric: characters per token
        self.metrics: dict[str, float] = {}  # of the last evaluation
        self.last_loss = math.nan  # of the last optimizer step's batch
        self.tokens_per_second = math.nan
        self._since_log: list[float] = []
        self._clock = 0.0
        self._random: dict[str, Any] | None = None  # states to go on from, until training does

    def forward(self, idx: Tensor) -> Tensor:
        """idx (B, T) -> logits (B, T, vocab_size)."""
        return self.model(idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return configure(self.model, self.make_optimizer)

    def on_train_start(self) -> None:
        if self._random is not None:  # here, since building and setting up may draw
            torch.set_rng_state(self._random["cpu"])
            if "cuda" in self._random and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(self._random["cuda"])
            self._random = None
        self._clock = time.perf_counter()

    def training_step(self, windows: Tensor, batch_idx: int) -> None:
        """As many optimizer steps as `windows` (steps * accumulate, B, T + 1) hold."""
        optimizer: Any = self.optimizers()
        base_rates = [
            group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups
        ]
        first = self.global_step
        losses: list[Tensor] = []
        rates: list[float] = []
        for batches in windows.split(self.accumulate):
            rates.append(self.schedule(first + len(rates), self.max_steps))
            for group, base_rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = base_rate * rates[-1]
            losses.append(self._optimizer_step(optimizer, batches))
            if self.stop and self.trainer.world_size == 1:
                break  # what is left of the windows is drawn again when the run goes on
        # Reading losses back waits for the device: once for all steps, not once a step.
        self._record(first, torch.stack(losses).tolist(), [base_rates[0] * r for r in rates])
        self._measure_speed(windows)

    def _optimizer_step(self, optimizer: Any, batches: Tensor) -> Tensor:
        total = torch.zeros((), device=batches.device)
        for windows in batches:
            idx, targets = shift(windows)
            logits = self.model(idx)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten()) / len(batches)
            self.manual_backward(loss)
            total = total + loss.detach()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        if torch.is_autocast_enabled(batches.device.type):
            # Within one autocast context the low-precision copies of the weights are kept, and
            # the next step would still see those from before the update.
            torch.clear_autocast_cache()
        return total

    def _record(self, first: int, losses: list[float], rates: list[float]) -> None:
        for step, (loss, rate) in enumerate(zip(losses, rates, strict=True), first + 1):
            if not math.isfinite(loss):
                raise LabError(
                    f"the loss became {loss} at step {step} (last finite loss "
                    f"{self.last_loss:.4f}, learning rate {rate:.3g}); {self.what_to_try()}"
                )
            self.last_loss = loss
            self._since_log.append(loss)
            if step % self.log_every == 0:
                mean = sum(self._since_log) / len(self._since_log)
                self._since_log.clear()
                self.write({"train/loss": mean, "train/lr": rate}, step)

    def what_to_try(self) -> str:
        """Against a loss that grows without bound."""
        clip = "" if self.clip_norm else " or trainer.gradient_clip_val=1.0"
        return f"try a smaller optimizer.lr{clip}; the last good checkpoint is kept"

    def _measure_speed(self, windows: Tensor) -> None:
        now = time.perf_counter()
        n_tokens = windows.numel() // windows.shape[-1] * (windows.shape[-1] - 1)
        self.tokens_per_second = n_tokens * self.trainer.world_size / (now - self._clock)
        self._clock = now

    def validation_step(self, batch: EvalBatch, batch_idx: int) -> None:
        if self.stop and self.trainer.state.fn == "validate":
            # After training: its last checkpoint stands, and the evaluation can be done again.
            raise Interrupted(self.stop.signum or signal.SIGTERM, self.global_step)
        idx, targets = shift(batch.windows)
        logits = self.model(idx)
        nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        places = torch.arange(idx.shape[1], device=idx.device)
        counts = places >= idx.shape[1] - batch.counted[:, None]  # (n, T)
        if batch.metric not in self.losses:
            self.losses[batch.metric] = self._mean()
            self.token_lengths[batch.metric] = self._mean()
        weights = counts.flatten().to(self._sum_dtype)
        self.losses[batch.metric].update(nll.to(self._sum_dtype), weights)
        lengths = self.characters[targets].flatten().to(self._sum_dtype)
        self.token_lengths[batch.metric].update(lengths, weights)

    @property
    def _sum_dtype(self) -> torch.dtype:
        """Sums over a whole split want float64, which Apple's GPUs lack."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    def _mean(self) -> MeanMetric:
        mean = MeanMetric(nan_strategy="disable").to(self.device)
        mean.set_dtype(self._sum_dtype)
        return mean

    def on_validation_epoch_end(self) -> None:
        metrics = {name: mean.compute().item() for name, mean in self.losses.items()}
        shown = dict(metrics)
        for name in metrics.keys() & {"val/loss", "val/loss_full"}:
            # Bits per character: nats per token, in bits, over the characters a token stands for.
            length = self.token_lengths[name].compute().item()
            shown["val/bpc"] = metrics[name] / math.log(2) / length if length else math.nan
        self.losses.clear()
        self.token_lengths.clear()
        if not math.isnan(self.tokens_per_second):
            shown["train/tokens_per_second"] = self.tokens_per_second
        self.metrics = shown
        # The curve of val/bpc belongs to val/loss; the full pass is another protocol.
        full = {"val/bpc_full": shown["val/bpc"]} if "val/loss_full" in metrics else shown
        self.write({**metrics, **full}, self.global_step)
        for logger in self.loggers:
            logger.save()  # an evaluation is when somebody may look
        # For callbacks that watch a metric. (All processes have the same: the means are shared.)
        self.log_dict(shown, logger=False, sync_dist=self.trainer.world_size > 1)

    def on_validation_end(self) -> None:
        self._clock = time.perf_counter()  # evaluation is not training time

    def write(self, metrics: dict[str, float], step: int) -> None:
        """Hand metrics to the loggers under the optimizer step they belong to."""
        for logger in self.loggers:
            logger.log_metrics(metrics, step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(self.about)
        checkpoint["since_log"], checkpoint["last_loss"] = list(self._since_log), self.last_loss
        # Where the data share this stream, the datamodule knows better how far they have come.
        checkpoint["random"] = self._random or _random_states()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Lightning would pick its loops up in mid-epoch, where it counts rounds; what counts here
        # are steps. So its loops begin anew and are told how far training is.
        del checkpoint["loops"]
        step = checkpoint["global_step"]
        loop = self.trainer.fit_loop.epoch_loop
        loop.manual_optimization.optim_step_progress.total.increment_by(step)
        data: TextDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        loop.batch_progress.total.increment_by(data.batches_before(step))
        self._since_log, self.last_loss = checkpoint["since_log"], checkpoint["last_loss"]
        self._random = checkpoint["random"]


def _random_states() -> dict[str, Any]:
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states
