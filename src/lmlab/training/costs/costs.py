"""What a step of training takes, and so what was spent up to any step."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from lmlab.config.schema import Train
from lmlab.data.datamodule import TextDataModule
from lmlab.runs.spent import NOTHING, Spent
from lmlab.training.costs.flops import flops_per_token


@dataclass(frozen=True)
class Costs:
    """What a step takes, in all processes together, and what was spent before the first of them."""

    before: Spent = NOTHING
    tokens: int = 0
    flops: float | None = 0.0  # of model and teachers; None: nobody knows
    teacher_flops: float | None = 0.0
    began: float = field(default_factory=time.monotonic)  # when the first of them did

    def now(self, step: int) -> Spent:
        """What was spent up to a step that has just been taken; pauses are no part of it."""
        return self.at(step, time.monotonic() - self.began)

    def at(self, step: int, seconds: float = 0.0) -> Spent:
        """What was spent up to a step, `seconds` of it since the first.

        Steps before the first are taken to have cost as much.
        """
        n, before = step - self.before.step, self.before
        return Spent(
            step=step,
            tokens=max(0, before.tokens + n * self.tokens),
            flops=_more(before.flops, n, self.flops),
            teacher_flops=_more(before.teacher_flops, n, self.teacher_flops),
            seconds=before.seconds + seconds,
        )


def costs_of(
    config: Train, module: Any, data: TextDataModule, n_processes: int, before: Spent
) -> Costs:
    """The costs of a run with this config, LanguageModule and data, which goes on from `before`."""
    tokens = data.tokens_per_step * n_processes
    own = flops_per_token(config, data.vocab_size)
    taught = module.loss.flops_per_token(data)
    if own is None or taught is None:
        return Costs(before, tokens, None, None)
    return Costs(before, tokens, tokens * (own + taught), tokens * taught)


def _more(before: float | None, n_steps: int, a_step: float | None) -> float | None:
    return None if before is None or a_step is None else max(0.0, before + n_steps * a_step)
