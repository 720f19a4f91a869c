"""The LightningModule: where logits meet targets."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.plugins import DoublePrecision
from torch import Tensor, nn

from lmlab.config.schema import Train
from lmlab.config.targets import class_name
from lmlab.console import say
from lmlab.data.datamodule import TextDataModule
from lmlab.data.evals import EvalBatch
from lmlab.data.streams import default_states, derive, set_default_states
from lmlab.data.windows import inputs_and_targets
from lmlab.errors import DivergedError, LabError
from lmlab.training.evaluating.sums import add, means
from lmlab.training.first_steps import FirstSteps
from lmlab.training.lightning_inside import (
    begin_at,
    count_steps,
    gradients_shared,
    nobody_between,
    scales_gradients,
)
from lmlab.training.loss import CrossEntropy, Loss, both
from lmlab.training.optimizers.configure import (
    avoid_faulty_kernels,
    configure,
    eps_lost,
    groups_by_rule,
)
from lmlab.training.optimizers.parametrisation import Factors
from lmlab.training.optimizers.rules import REST, MakeOptimizer, Rule, Schedule
from lmlab.training.processes.processes import gathered
from lmlab.training.processes.stopping import Interrupted, Stop

Rates = dict[str, float]  # by tag: train/lr, and train/lr/<rule> of each rule


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
        bytes_per_token: np.ndarray,
        *,
        rules: Mapping[str, Rule] | None = None,
        factors: Mapping[nn.Parameter, Factors] | None = None,
        max_steps: int,
        accumulate: int = 1,
        clip_norm: float | None = None,
        log_every: int = 1,
        dropout_seed: int | None = None,
        about: dict[str, Any] | None = None,
        config: Train | None = None,
        stop: Stop | None = None,
        loss: Loss | None = None,
    ):
        """What `rules` match has optimizers of its own, and `factors` are a parametrisation's;
        `dropout_seed` makes the default stream dropout's own (None: it stays as it is);
        `about` is plain data that travels in every checkpoint: the config and the tokenizer;
        `stop` is asked between steps; `loss` is what they descend (None: the cross-entropy)."""
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.make_optimizer, self.schedule, self.max_steps = make_optimizer, schedule, max_steps
        self.rules, self.factors = rules or {}, factors or {}
        self.accumulate, self.clip_norm, self.log_every = accumulate, clip_norm, log_every
        self.dropout_seed = dropout_seed
        self.config = config
        self.about, self.stop = about or {}, Stop() if stop is None else stop
        self.loss = CrossEntropy() if loss is None else loss
        self.beside = self.loss.learned_beside(model)  # what is trained, and no part of the model
        self.characters: Tensor
        self.bytes: Tensor
        self.register_buffer("characters", torch.from_numpy(characters_per_token), persistent=False)
        self.register_buffer("bytes", torch.from_numpy(bytes_per_token), persistent=False)
        self._sums: dict[str, Tensor] = {}  # by metric: nats, tokens, characters and bytes
        self.metrics: dict[str, float] = {}  # of the last evaluation
        self.last_loss = math.nan  # of the last optimizer step's batch
        self.tokens_per_second = math.nan
        self._since_log: list[float] = []
        # First step, losses, and of each step its rates by tag.
        self._unread: list[tuple[int, Tensor, list[dict[str, float]]]] = []
        self._clock = self._last_read = 0.0
        # States to go on from, one for each process, until training does.
        self._random: list[dict[str, Any]] | None = None
        self._trains = False  # whether a step has been seen to change a weight
        self._first_steps: FirstSteps | None = None  # until then

    def forward(self, idx: Tensor) -> Tensor:
        """idx (B, T) -> logits (B, T, vocab_size)."""
        return self.model(idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        make = self.make_optimizer
        scales = scales_gradients(self.trainer)
        fused = getattr(make, "keywords", {}).get("fused")
        if scales and self.clip_norm is not None and fused and not self.rules:
            # A fused optimizer unscales the gradients itself, too late to clip them. (One of
            # several does not.)
            make = partial(make, fused=False)
        optimizer = self._configured(make)
        if self.clip_norm is not None:
            # Right before the step, since a gradient scaler (16-mixed) unscales at its beginning.
            optimizer.register_step_pre_hook(self._clip)
        return optimizer

    def fresh_optimizer(self) -> torch.optim.Optimizer:
        """One over the model's parameters, before its first step."""
        return self._configured(self.make_optimizer)

    def _configured(self, make: MakeOptimizer) -> torch.optim.Optimizer:
        beside = [] if self.beside is None else [*self.beside.parameters()]
        return configure(self.model, make, self.rules, self.factors, beside)

    def _clip(self, *_: Any) -> None:
        assert self.clip_norm is not None
        nn.utils.clip_grad_norm_(self.parameters(), self.clip_norm)

    def on_train_start(self) -> None:
        # Here, since a loaded state brings parameter groups of its own.
        avoid_faulty_kernels(self.trainer.optimizers[0])
        if lost := self._eps_lost():
            say(lost)
        if not self._trains:
            self._first_steps = FirstSteps(self.model)
        self.loss.to(self.device)
        # Here, since building and setting up may draw.
        if self._random is not None:
            self._go_on_drawing()
        elif self.dropout_seed is not None:  # no two processes drop the same
            torch.manual_seed(self.dropout_seed + self.global_rank)
        self._clock, self._last_read = time.perf_counter(), -math.inf  # the first loss is shown

    def training_step(self, windows: Tensor, batch_idx: int) -> None:
        """As many optimizer steps as `windows` (steps * accumulate, B, T + 1) hold."""
        first = self.global_step
        losses, rates = self.take_steps(windows)
        self._keep_losses(first, losses, rates)

    def take_steps(self, windows: Tensor) -> tuple[Tensor, list[Rates]]:
        """The loss of each micro-batch (n,), and the rates of each step."""
        optimizer: Any = self.optimizers()
        backward, update = self.manual_backward, optimizer.step
        direct = nobody_between(self.trainer, self)
        if direct:
            backward, update = Tensor.backward, optimizer.optimizer.step
        parameters, n = list(self.parameters()), self.accumulate
        share = torch.full((), 1 / n, device=windows.device)  # of a micro-batch in its step
        # Contiguous for the whole chunk at once; a step then takes views.
        idx, targets = (ids.contiguous() for ids in inputs_and_targets(windows))
        first, rated = self.global_step, self._rated(optimizer)
        losses: list[Tensor] = []
        rates: list[Rates] = []
        for i, (x, y) in enumerate(zip(idx.unbind(), targets.unbind(), strict=True), 1):
            loss, shown = self._loss_of(x, y)
            losses.append(shown.detach())
            with gradients_shared(self.trainer, last=i % n == 0):
                backward(loss, share)
            if i % n:
                continue
            for _, groups, schedule in rated:
                factor = schedule(first + len(rates), self.max_steps)
                for group in groups:
                    group["lr"] = group["initial_lr"] * factor
            rates.append({tag: groups[0]["lr"] for tag, groups, _ in rated})
            update()  # clips first: see configure_optimizers
            if self._first_steps is not None:
                self._watch(rates[-1], is_last=first + len(rates) == self.max_steps)
            for parameter in parameters:
                parameter.grad = None
            # Within one autocast context the low-precision copies of the weights are kept, and the
            # next step would still see those from before the update.
            torch.clear_autocast_cache()
            stops = self.stop and self.trainer.world_size == 1
            if stops or first + len(rates) == self.stop.pause_at:
                break  # what is left of the windows is drawn again when the run goes on
        if direct:
            count_steps(self.trainer, len(rates))
        return torch.stack(losses), rates

    def _loss_of(self, idx: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What a batch's step descends, and what is shown of it; idx and targets (B, T).

        Raises:
            LabError: if there is nothing to descend.
        """
        try:
            loss, shown = both(self.loss(self.model, idx, targets))
        except (AttributeError, TypeError) as error:  # of a model that returns no logits
            if reason := self._no_logits(idx):
                raise LabError(reason) from error
            raise
        if isinstance(loss, Tensor) and loss.requires_grad and not loss.dim():
            return loss, shown
        raise LabError(
            self._no_logits(idx)
            or f"loss: {class_name(type(self.loss))} has to return a scalar with a gradient; "
            f"it returns {loss!r:.80}"
        )

    def _no_logits(self, idx: Tensor) -> str | None:
        """Why there is nothing to learn from the model's logits, if there is not."""
        logits = self.model(idx)
        target = class_name(type(self.model))
        if not isinstance(logits, Tensor):
            kind = type(logits).__name__
            return f"model: {target}.forward has to return logits; in training it returns a {kind}"
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            return f"model: {target} has no parameters to train: give trainer.max_steps=0"
        if not logits.requires_grad:
            return (
                f"model: {target}.forward has to return logits with a gradient; they have none "
                "(torch.no_grad, detach)"
            )
        return None

    def _watch(self, rates: Rates, is_last: bool) -> None:
        """See to it that training changes something."""
        assert self._first_steps is not None
        if self._first_steps.changed(max(rates.values()), is_last):
            self._trains, self._first_steps = True, None

    def _rated(
        self, optimizer: torch.optim.Optimizer
    ) -> list[tuple[str, list[dict[str, Any]], Schedule]]:
        """Of each rule, the optimizer itself first: the tag of its rate, its parameter groups, and
        its schedule. (Loading a state puts new groups in place.)"""
        rated = []
        for name, groups in groups_by_rule(optimizer).items():
            tag = "train/lr" if name == REST else f"train/lr/{name}"
            own = None if name == REST else self.rules[name].schedule
            rated.append((tag, groups, own or self.schedule))
        return rated

    def _keep_losses(self, first: int, losses: Tensor, rates: list[Rates]) -> None:
        """Keep the losses of the steps after `first` on the device until they are due.

        Reading them waits for the device: once for all steps, not once a step, and on a GPU no more
        often than a person looks.
        """
        mean = self.trainer.strategy.reduce(losses, reduce_op="mean")  # of processes
        self._unread.append((first, mean, rates))
        data: TextDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        step = first + len(rates)
        due = step % data.eval_every == 0 or step == self.max_steps
        if due or self.device.type == "cpu" or time.perf_counter() - self._last_read > 1:
            self.read_losses()

    def read_losses(self) -> None:
        """Log the steps whose losses are still on the device."""
        unread, self._unread = self._unread, []
        for first, losses, rates in unread:
            self._record(first, losses.tolist(), rates)
        if unread:
            # All of these steps are over only now: a device works behind the calls that ask it to.
            n_steps = sum(len(rates) for *_, rates in unread)
            now = time.perf_counter()
            self.tokens_per_second = n_steps * self._tokens_per_step() / (now - self._clock)
            self._clock = self._last_read = now

    def _tokens_per_step(self) -> int:
        data: TextDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return data.tokens_per_step * self.trainer.world_size

    def _record(self, first: int, losses: list[float], rates: list[Rates]) -> None:
        """Keep the mean loss of each step's batches, and log what is due."""
        n, last_loss = self.accumulate, self.last_loss
        for i, rate in enumerate(rates):
            step, loss = first + i + 1, sum(losses[i * n : (i + 1) * n]) / n
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the loss became {loss} at step {step} (last finite loss "
                    f"{last_loss:.4f}, learning rate {rate['train/lr']:.3g}); {self.what_to_try()}"
                )
            self._since_log.append(loss)
            if step % self.log_every == 0:
                last = self._since_log[-self.log_every :]
                self._since_log.clear()
                # A run may go on, and a branch begin, between two points that are other than its
                # checkpoint's: some of the losses are then not there.
                is_whole = len(last) == self.log_every
                mean = {"train/loss": sum(last) / len(last)} if is_whole else {}
                self.write({**mean, **rate}, step)
            last_loss = loss
        self.last_loss = last_loss

    def what_to_try(self) -> str:
        """Against a loss that grows without bound."""
        if lost := self._eps_lost():
            return f"{lost}; the last good checkpoint is kept"
        clip = "" if self.clip_norm else " or trainer.gradient_clip_val=1.0"
        return f"try a smaller optimizer.lr{clip}; the last good checkpoint is kept"

    def _eps_lost(self) -> str | None:
        optimizers = self.trainer.optimizers
        return eps_lost(optimizers[0]) if optimizers else None

    def validation_step(self, batch: list[EvalBatch], batch_idx: int) -> None:
        alone = self.trainer.world_size == 1  # several cannot agree here, and go on to the end
        for part in batch:
            if self.stop and alone and self.trainer.state.fn == "validate":
                # After training: its last checkpoint stands, and this can be done again.
                raise Interrupted(self.stop.signum or signal.SIGTERM, self.global_step)
            add(self._sums, part, self.model, self.characters, self.bytes)

    def on_validation_epoch_end(self) -> None:
        reduce = self.trainer.strategy.reduce  # over all processes
        sums = {m: reduce(own, reduce_op="sum").tolist() for m, own in self._sums.items()}
        self._sums.clear()
        metrics = means(sums)
        for name, loss in metrics.items():
            if not math.isfinite(loss):
                raise DivergedError(
                    f"{name} became {loss} at step {self.global_step} (last loss of training "
                    f"{self.last_loss:.4f}); {self.what_to_try()}"
                )
        self.metrics = dict(metrics)
        if not math.isnan(self.tokens_per_second):
            self.metrics["train/tokens_per_second"] = self.tokens_per_second
        of_the_end = "val/loss_full" in metrics  # behind training, whose speed was said
        self.write(metrics if of_the_end else self.metrics, self.global_step)
        for logger in self.loggers:
            logger.save()  # an evaluation is when somebody may look
        # For callbacks that watch a metric. (All processes have the same: the means are shared.)
        self.log_dict(self.metrics, logger=False, sync_dist=self.trainer.world_size > 1)

    def on_validation_start(self) -> None:
        self._go_on_drawing()  # where no step was left to train, nothing else has seen to it

    def on_validation_end(self) -> None:
        self._clock = time.perf_counter()  # evaluation is not training time

    def write(self, metrics: dict[str, float], step: int) -> None:
        """Hand metrics to the loggers under the optimizer step they belong to."""
        for logger in self.loggers:
            logger.log_metrics(metrics, step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.read_losses()
        checkpoint.update(self.about)
        checkpoint["since_log"], checkpoint["last_loss"] = list(self._since_log), self.last_loss
        checkpoint["trains"] = self._trains
        # Of torch's default generators, by rank. Where the data share this stream, the datamodule
        # knows better how far they have come.
        drawn = self._random or gathered(default_states(), self.trainer.world_size)
        checkpoint["random"] = drawn

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if isinstance(self.trainer.precision_plugin, DoublePrecision):
            self.double()  # as the Trainer does, but only after float32 weights were loaded into
        data: TextDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        begin_at(self.trainer, checkpoint, data.ends.until(checkpoint["global_step"]))
        self._since_log, self.last_loss = checkpoint["since_log"], checkpoint["last_loss"]
        self._random = checkpoint["random"]
        self._trains = checkpoint.get("trains", True)  # older checkpoints do not say

    def _go_on_drawing(self) -> None:
        if self._random is None:
            return
        if len(self._random) == self.trainer.world_size:
            set_default_states(self._random[self.global_rank])
        else:  # nobody's goes on; what was drawn before is not drawn again
            seed = derive((self.dropout_seed or 0) + self.global_step, "dropout")
            torch.manual_seed(seed + self.global_rank)
        self._random = None
