"""Models of one shape in one matrix, each a row of it, computed all at once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lmlab.data.windows import shift
from lmlab.training.row_rules import ROW_RULES, RowRule
from lmlab.training.stopping import Stop

if TYPE_CHECKING:
    from lmlab.training.module import LanguageModule

# The loss of each micro-batch (n,), the rates of each step.
Steps = tuple[Tensor, list[dict[str, float]]]


class MeanNLL(torch.autograd.Function):
    """The mean negative log-likelihood of each run, as F.cross_entropy has it.

    torch's backward pass writes the gradient of the logits in three passes, this in one: with small
    models that is a third of a step.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """logits (R, N, vocab_size), targets (R, N) -> (R,)."""
        log_probs = logits.log_softmax(-1)
        ctx.save_for_backward(log_probs, targets)
        return -log_probs.gather(-1, targets[..., None]).mean((1, 2))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        log_probs, targets = ctx.saved_tensors
        error = log_probs.exp_()  # in place: nobody else has it, and there is no second pass
        error.scatter_add_(
            -1, targets[..., None], error.new_full((), -1.0).expand(*targets.shape, 1)
        )
        return error.mul_(gradient[:, None, None] / targets.shape[1]), None


class SideBySide(nn.Module):
    """The models of rows, as one that takes a sequence for each."""

    def __init__(self, rows: Rows):
        super().__init__()
        self.rows, self.block_size = rows, rows.modules[0].model.block_size

    def forward(self, idx: Tensor) -> Tensor:
        """idx (R, T) -> logits (R, T, vocab_size)."""
        shell = self.rows.shell
        training = shell.training
        shell.eval()
        logits = self.rows.logits(idx[:, None])[:, 0]
        shell.train(training)
        return logits


class Rows:
    """Models of one shape, each a row: `weights` (R, P), and as much for each state of the rule."""

    def __init__(self, modules: list[LanguageModule]):
        self.modules = modules
        optimizers: list[Any] = [module.optimizers() for module in modules]
        self.optimizers: list[torch.optim.Optimizer] = [o.optimizer for o in optimizers]
        first = self.optimizers[0]
        self.rule: RowRule = ROW_RULES[type(first)]
        # In the order of the optimizer's groups, so that a group is a range of columns.
        place = {id(p): name for name, p in modules[0].model.named_parameters()}
        self.names = [place[id(p)] for group in first.param_groups for p in group["params"]]
        rows = [dict(module.model.named_parameters()) for module in modules]
        self.rows = [[row[name] for name in self.names] for row in rows]
        self.sizes = [p.numel() for p in self.rows[0]]
        self.shapes = [p.shape for p in self.rows[0]]
        self.weights = torch.stack([_flat(row) for row in self.rows])
        self.state = {
            name: torch.stack(
                [
                    _flat([_state_of(optimizer, p, name) for p in row])
                    for optimizer, row in zip(self.optimizers, self.rows, strict=True)
                ]
            )
            for name in self.rule.state(first.param_groups[0])
        }
        self._hand_out()
        self.numbers = self._numbers()
        self.initial_rates = [o.param_groups[0]["initial_lr"] for o in self.optimizers]
        # A copy, since calling it with the weights of all changes it for the time of the call.
        self.shell = copy.deepcopy(modules[0].model)
        self.stacked = [
            columns.view(len(modules), *shape).detach().requires_grad_()
            for columns, shape in zip(self.weights.split(self.sizes, 1), self.shapes, strict=True)
        ]
        self._forward_all = vmap(self._forward, in_dims=(0, 0))

    def _forward(self, weights: list[Tensor], idx: Tensor) -> Tensor:
        return functional_call(self.shell, dict(zip(self.names, weights, strict=True)), (idx,))

    def logits(self, idx: Tensor) -> Tensor:
        """Each run's idx (R, B, T) -> logits (R, B, T, vocab_size)."""
        # The fused attention of a CPU would be called once a run.
        with sdpa_kernel(SDPBackend.MATH):
            return self._forward_all(self.stacked, idx)

    def side_by_side(self) -> SideBySide:
        """The models in eval mode, for one sequence each."""
        return SideBySide(self)

    def _hand_out(self) -> None:
        """Let each model's parameters, and its optimizer's state, be views of its row."""
        for r, (row, optimizer) in enumerate(zip(self.rows, self.optimizers, strict=True)):
            for i, (p, values) in enumerate(zip(row, self._cut(self.weights[r]), strict=True)):
                p.data = values
                if self.rule.counts_steps:
                    optimizer.state[p].setdefault("step", torch.zeros((), dtype=torch.float32))
                for name, rows in self.state.items():
                    optimizer.state[p][name] = self._cut(rows[r])[i]

    def _cut(self, row: Tensor) -> list[Tensor]:
        pieces = zip(row.split(self.sizes), self.shapes, strict=True)
        return [piece.view(shape) for piece, shape in pieces]

    def _numbers(self) -> dict[str, Tensor]:
        """What differs from run to run: (R, 1) each; if any decays, the decay of each weight
        (R, P)."""
        like = self.weights
        found = {
            name: like.new_tensor([[_number(o.param_groups[0], name)] for o in self.optimizers])
            for name in self.rule.numbers
        }
        decay = torch.zeros_like(like)
        for r, optimizer in enumerate(self.optimizers):
            sizes = [sum(p.numel() for p in g["params"]) for g in optimizer.param_groups]
            for columns, group in zip(decay[r].split(sizes), optimizer.param_groups, strict=True):
                columns.fill_(group["weight_decay"])
        return {**found, "weight_decay": decay} if decay.any() else found

    def take_steps(self, windows: list[Tensor], stop: Stop) -> list[Steps]:
        """As many steps as the windows (steps * accumulate, B, T + 1) of each run hold."""
        one, n_runs = self.modules[0], len(self.modules)
        n = one.accumulate
        idx, targets = (ids.contiguous() for ids in shift(torch.stack(windows, dim=1)))
        share = torch.full((n_runs,), 1 / n, device=idx.device)
        firsts = [module.global_step for module in self.modules]
        counted = self._steps_taken()
        losses: list[Tensor] = []
        rates: list[list[float]] = []
        gradient: Tensor | None = None
        for i, (x, y) in enumerate(zip(idx, targets, strict=True), 1):
            logits = self.logits(x)  # (R, B, T, vocab_size)
            loss: Tensor = MeanNLL.apply(logits.flatten(1, 2).float(), y.flatten(1))  # (R,)
            parts = torch.autograd.grad(loss, self.stacked, share)
            summand = torch.cat([part.reshape(n_runs, -1) for part in parts], dim=1)
            gradient = summand if gradient is None else gradient.add_(summand)
            losses.append(loss.detach())
            if i % n:
                continue
            rates.append(
                [
                    initial * module.schedule(first + len(rates), module.max_steps)
                    for initial, module, first in zip(
                        self.initial_rates, self.modules, firsts, strict=True
                    )
                ]
            )
            self._update(gradient, rates[-1], counted + len(rates))
            gradient = None
            if stop:
                break  # what is left of the windows is drawn again when the runs go on
        self._note(rates)
        by_run = torch.stack(losses, dim=1)  # (R, n)
        return [
            (its_losses, [{"train/lr": step[r]} for step in rates])
            for r, its_losses in enumerate(by_run)
        ]

    @torch.no_grad()
    def _update(self, gradient: Tensor, rates: list[float], steps: Tensor) -> None:
        limits = [module.clip_norm for module in self.modules]
        if any(limit is not None for limit in limits):
            largest = gradient.new_tensor([torch.inf if x is None else x for x in limits])
            norm = torch.linalg.vector_norm(gradient, dim=1)
            gradient.mul_((largest / (norm + 1e-6)).clamp(max=1.0)[:, None])
        lr = self.weights.new_tensor(rates)[:, None]
        self.rule.update(self.weights, gradient, self.state, {**self.numbers, "lr": lr}, steps)

    def _steps_taken(self) -> Tensor:
        """(R, 1): how many steps each optimizer has counted, in float64."""
        taken = [
            float(o.state[row[0]]["step"]) if self.rule.counts_steps else module.global_step
            for o, row, module in zip(self.optimizers, self.rows, self.modules, strict=True)
        ]
        return torch.tensor(taken, dtype=torch.float64, device=self.weights.device)[:, None]

    def _note(self, rates: list[list[float]]) -> None:
        """Leave each optimizer as if it had taken the steps itself."""
        for r, (optimizer, row) in enumerate(zip(self.optimizers, self.rows, strict=True)):
            for group in optimizer.param_groups:
                group["lr"] = rates[-1][r]
            if self.rule.counts_steps:
                for p in row:
                    optimizer.state[p]["step"] += len(rates)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def _state_of(optimizer: torch.optim.Optimizer, parameter: Tensor, name: str) -> Tensor:
    found = optimizer.state.get(parameter, {}).get(name)
    return torch.zeros_like(parameter) if found is None else found


def _number(group: dict[str, Any], name: str) -> float:
    if name in ("beta1", "beta2"):
        return float(group["betas"][name == "beta2"])
    return float(group[name])
