"""Model FLOPs utilisation: how much of what this machine can do goes into training."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch

from lmlab.console import say
from lmlab.errors import LabError
from lmlab.training.callbacks import module_data, of_training
from lmlab.training.costs.flops import flops_per_token

SECONDS = 0.5  # of measuring


class MFU(L.Callback):
    """`train/mfu`: operations of training in a second, as a part of the machine's peak.

    Operations are counted as for `train/flops`: the model's, and its teachers' forward passes. The
    peak is that of a product of large square matrices, in the type that the run computes in and
    with as many threads, measured before the first step; what else the machine does then lowers it.
    Evaluations do not count as time (PaLM, Chowdhery et al. 2022, arXiv 2204.02311, appendix B).
    """

    def __init__(self) -> None:
        self.peak = 0.0  # operations a second
        self.flops_per_token = 0.0

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        config, data = module.config, module_data(trainer)
        own = flops_per_token(config, data.vocab_size)
        taught = module.loss.flops_per_token(data)
        if not own or taught is None:
            what = type(module.loss).__name__ if own else config.model["_target_"]
            raise LabError(
                f"callbacks.mfu: {what} multiplies no matrices that can be counted; leave it out "
                "with ~callbacks.mfu"
            )
        dtype = _computes_in(str(config.trainer.precision))
        self.flops_per_token, self.peak = own + taught, peak(module.device, dtype)
        if trainer.is_global_zero:
            say(
                f"peak      {self.peak / 1e9:,.0f} GFLOP/s in {str(dtype).removeprefix('torch.')}, "
                f"{torch.get_num_threads()} threads"
            )

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if not self.peak or not of_training(trainer, module):
            return
        per_process = module.tokens_per_second / trainer.world_size
        module.write(
            {"train/mfu": per_process * self.flops_per_token / self.peak}, module.global_step
        )


def _computes_in(precision: str) -> torch.dtype:
    kinds = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
    return kinds.get(precision.partition("-")[0], torch.float32)


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second in products of square matrices: the best of half a second."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    best, end = 0.0, time.perf_counter() + SECONDS
    left @ right
    while time.perf_counter() < end:
        _finish(device)
        begin = time.perf_counter()
        left @ right
        _finish(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - begin))
    return best


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
