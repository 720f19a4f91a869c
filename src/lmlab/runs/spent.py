"""What training has taken up to a step, a parent's share included: tokens, operations, seconds."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lmlab.bounds import CountOrZero, NotNegative
from lmlab.config.fingerprint import leaves
from lmlab.config.stored import with_todays_defaults
from lmlab.errors import LabError

KEY = "spent"  # in a checkpoint


class Spent(BaseModel):
    """What it took to come to a step.

    `flops` are operations in products of matrices, forward and backward, and those of teachers'
    forward passes among them, which are `teacher_flops`; None: nobody knows.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    step: CountOrZero = 0
    tokens: CountOrZero = 0
    flops: NotNegative | None = 0.0
    teacher_flops: NotNegative | None = 0.0
    seconds: NotNegative = 0.0

    @property
    def recorded(self) -> dict[str, Any]:
        """For run.json, without what is not known, and without teachers where there are none."""
        amounts = {
            "flops": None if self.flops is None else round(self.flops),
            "teacher_flops": round(self.teacher_flops) if self.teacher_flops else None,
        }
        return {
            "step": self.step,
            "tokens": self.tokens,
            **{name: amount for name, amount in amounts.items() if amount is not None},
            "seconds": round(self.seconds, 3),
        }


NOTHING = Spent()


def spent_at(checkpoint: dict[str, Any], record: dict[str, Any]) -> Spent:
    """What a run had spent at a checkpoint of its own; `record` is its run.json, or empty.

    Where an older checkpoint does not say, its config and the record do: each step counts as one of
    this run, with its part of the record's FLOPs and seconds.

    Raises:
        LabError: if its config does not say how many tokens a step had.
    """
    if KEY in checkpoint:
        try:
            return Spent.model_validate(checkpoint[KEY])
        except ValidationError as error:
            raise LabError(f"a checkpoint is damaged: {KEY} in it is no run's") from error
    step = checkpoint["global_step"]
    if not step:
        return NOTHING
    config = dict(leaves(with_todays_defaults(checkpoint["config"])))
    stream = checkpoint.get("TextDataModule")
    n_processes = _count(stream.get("world_size")) if isinstance(stream, dict) else None
    tokens = step * (n_processes or 1)
    for key in ("data.batch_size", "data.block_size", "trainer.accumulate_grad_batches"):
        if (factor := _count(config.get(key))) is None:
            raise LabError(f"a checkpoint is damaged: its config has {key}={config.get(key)!r}")
        tokens *= factor
    n_tokens, n_steps = (_count(record.get(key)) for key in ("tokens", "step"))
    counted = 0 if record.get("flops") == 0 else _count(record.get("flops"))
    flops = None if counted is None or n_tokens is None else tokens * counted / n_tokens
    seconds = record.get("seconds", 0.0) * min(1.0, step / n_steps) if n_steps else 0.0
    return Spent(step=step, tokens=tokens, flops=flops, seconds=max(0.0, seconds))


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63
    return value if is_count else None
