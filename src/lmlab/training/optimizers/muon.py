"""Muon: the momentum of a matrix, made nearly orthogonal, is its update."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.linalg import matrix_norm
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from lmlab.bounds import BelowOne, Count, CountOrZero, NotNegative, Positive

# Coefficients of x -> a x + b x^3 + c x^5, which takes small singular values to about 1 the
# fastest.
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrices: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Matrices (n, rows, columns) with all singular values made about 1 (0.7 to 1.2).

    Newton-Schulz iterations in `dtype`, all matrices at once. Singular values below a thousandth of
    the matrix's Frobenius norm come out smaller.
    """
    x = (matrices / (matrix_norm(matrices, keepdim=True) + 1e-7)).to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:  # x @ x.mT is then the smaller product
        x = x.mT
    for _ in range(steps):
        square = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(square, square, square, beta=B, alpha=C)
        x = torch.baddbmm(x, polynomial, x, beta=A)
    return (x.mT if tall else x).to(matrices.dtype)


def fast_dtype(device: torch.device) -> Literal["bfloat16", "float32"]:
    """The faster of two types for products of matrices on a device.

    A CPU without instructions for bfloat16 converts every number, and takes longer than in float32.
    """
    of_cpu = torch.cpu.get_capabilities()
    native = of_cpu.get("avx512_bf16", False) or of_cpu.get("amx_bf16", False)
    return "bfloat16" if device.type == "cuda" or (device.type == "cpu" and native) else "float32"


class Muon(Optimizer):
    """Momentum, orthogonalised by Newton-Schulz (Jordan et al. 2024, kellerjordan.github.io/posts/
    muon). For matrices inside a model; something else should train embeddings and the read-out.

    Computes what `torch.optim.Muon` does, up to rounding, but takes all matrices of one shape
    together, in a type that is fast on this machine.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Positive = 0.02,
        momentum: BelowOne = 0.95,
        nesterov: bool = True,
        weight_decay: NotNegative = 0.0,
        ns_steps: Count = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw"] = "original",
        dtype: Literal["float32", "bfloat16"] | None = None,
        momentum_warmup_steps: CountOrZero = 0,
        momentum_start: BelowOne = 0.85,
        beta2: BelowOne | None = None,
        cautious: bool = False,
        parts: Count = 1,
    ):
        """`ns_steps` are iterations, computed in `dtype`.

        `dtype=None` is `fast_dtype`. So the same config may train in bfloat16 on one processor and
        in float32 on another, and the results differ by more than the last digits, as they do with
        precision=bf16-mixed. A run's record names the processor. The type is chosen once and kept
        with the optimizer's state, so a run that goes on elsewhere stays with it.

        `adjust_lr_fn` multiplies the rate by sqrt(max(1, rows / columns)), or, so that rates of
        AdamW fit, by 0.2 sqrt(max(rows, columns)) (Liu et al. 2025, arXiv 2502.16982).

        The momentum grows from `momentum_start` in a straight line over `momentum_warmup_steps`.

        `beta2` is NorMuon's (Li et al. 2025, arXiv 2510.05491): each row of the update is divided
        by the root of a running mean of its squares, and the whole then has its norm from before.

        `cautious` decays only weights that the update makes smaller, too (Chen et al. 2025, arXiv
        2510.12402).

        `parts` blocks of rows are each orthogonalised by themselves: 3 for a query, key and value
        in one matrix.

        Raises:
            ValueError: for a parameter that is no matrix, or whose rows `parts` does not divide.
        """
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
            "dtype": dtype,
            "momentum_warmup_steps": momentum_warmup_steps,
            "momentum_start": momentum_start,
            "beta2": beta2,
            "cautious": cautious,
            "parts": parts,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Checked, and with a type for the iterations where none is given."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for p in group["params"]:
            shape = tuple(p.shape)
            if p.dim() != 2:
                raise ValueError(f"Muon only supports 2D parameters, not one of shape {shape}")
            if len(p) % group["parts"]:
                raise ValueError(
                    f"parts={group['parts']} does not divide the rows of a parameter {shape}"
                )
        if group["dtype"] is None:
            group["dtype"] = fast_dtype(group["params"][0].device)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every matrix that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[Any, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    key = (p.shape, p.dtype, p.device, self._momentum(p, group))
                    alike.setdefault(key, []).append(p)
            for (*_, momentum), parameters in alike.items():
                self._update(parameters, momentum, group)
        return loss

    def _momentum(self, p: Tensor, group: dict[str, Any]) -> float:
        """The momentum of a parameter's next step, which is counted if the momentum grows."""
        last, n = group["momentum"], group["momentum_warmup_steps"]
        if not n:
            return last
        step = self.state[p].get("step", 0)
        self.state[p]["step"] = step + 1
        return last + (group["momentum_start"] - last) * max(0.0, 1 - step / n)

    def _update(self, parameters: list[Tensor], momentum: float, group: dict[str, Any]) -> None:
        """Update n parameters of one shape."""
        directions = []
        for p in parameters:
            assert p.grad is not None
            mean = self._kept(p, "momentum_buffer", p)
            mean.lerp_(p.grad, 1 - momentum)
            directions.append(p.grad.lerp(mean, momentum) if group["nesterov"] else mean)
        stacked = torch.stack(directions)  # (n, rows, columns)
        of_parts = stacked.unflatten(1, (group["parts"], -1)).flatten(0, 1)
        rows, columns = of_parts.shape[1:]
        dtype = getattr(torch, group["dtype"])
        update = orthogonalise(of_parts, group["ns_steps"], dtype).view_as(stacked)
        if group["beta2"] is not None:
            update = self._rows_evened(parameters, update, group["beta2"])
        if group["adjust_lr_fn"] == "match_rms_adamw":
            scale = 0.2 * math.sqrt(max(rows, columns))
        else:
            scale = math.sqrt(max(1, rows / columns))
        decay = 1 - group["lr"] * group["weight_decay"]
        for p, u in zip(parameters, update, strict=True):
            if decay != 1:
                p.mul_(torch.where(u * p >= 0, decay, 1.0) if group["cautious"] else decay)
            p.add_(u, alpha=-group["lr"] * scale)

    def _rows_evened(self, parameters: list[Tensor], update: Tensor, beta2: float) -> Tensor:
        """NorMuon's update (n, rows, columns). Its mean of squares starts at zero, uncorrected: a
        common factor is lost with the norm."""
        means = []
        for p, squares in zip(parameters, update.square().mean(2, keepdim=True), strict=True):
            means.append(self._kept(p, "second_moment", squares).lerp_(squares, 1 - beta2))
        evened = update / (torch.stack(means).sqrt() + 1e-10)
        before, after = (matrix_norm(m, keepdim=True) for m in (update, evened))
        return evened * (before / (after + 1e-10))

    def _kept(self, p: Tensor, name: str, like: Tensor) -> Tensor:
        """A part of a parameter's state, zero at first."""
        state = self.state[p]
        if name not in state:
            state[name] = torch.zeros_like(like, memory_format=torch.contiguous_format)
        return state[name]
