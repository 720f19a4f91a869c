"""Several models of one shape take their optimizer steps together, in one computation.

Each model is trained by a thread of its own, with its own Trainer, callbacks and directory, like
any other run. Only the steps are shared: a thread hands in its windows and waits, and the last one
to come computes the steps of all, with a leading axis R (runs) on every parameter. The parameters
of a model are views of its row, so callbacks and checkpoints find the model and its optimizer as
they always do.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lmlab.console import say
from lmlab.data.datamodule import free_memory
from lmlab.data.windows import shift
from lmlab.streams import default_states, set_default_states, turn_given_up
from lmlab.training.footprint import memory_bytes
from lmlab.training.row_rules import ROW_RULES, RowRule
from lmlab.training.stopping import Stop

if TYPE_CHECKING:
    from lmlab.training.module import LanguageModule

# The loss of each micro-batch, the rates of each step.
Steps = tuple[list[Tensor], list[dict[str, float]]]


@dataclass(eq=False)
class Request:
    """The windows (steps * accumulate, B, T + 1) of one model's next steps, and their result."""

    module: LanguageModule
    windows: Tensor
    first: int  # the step before
    done: threading.Event = field(default_factory=threading.Event)
    steps: Steps | None = None
    error: BaseException | None = None


_membership: ContextVar[object] = ContextVar("membership", default=None)


class Group:
    """Models that are trained together; each in a thread that has `joined`."""

    def __init__(
        self,
        n_members: int,
        stop: Stop,
        on_steps: Callable[[int, int], None] | None = None,
        memory: int | None = None,
    ):
        """`n_members` will join; `on_steps(step, n)` is called when n models have taken steps;
        `stop` is asked between steps; `memory` is how many bytes a computation may take (None: half
        of what there is): if all do not fit, they are computed in several pieces."""
        self.n_members, self.stop = n_members, stop
        self._on_steps, self._memory = on_steps, memory
        self._left: set[object] = set()
        self._waiting: list[Request] = []
        self._stacks: list[Rows] = []
        self._bytes_each: int | None = None
        self._why_not: str | None = None  # "": nothing keeps them from being computed together

    @contextmanager
    def joined(self) -> Iterator[None]:
        """The whole life of a member, whether it takes steps or not. It must have the turn at the
        end: see `streams.own_default_generators`."""
        before = _membership.set(object())
        try:
            yield
        finally:
            self.leave()
            _membership.reset(before)

    @property
    def n_others(self) -> int:
        """How many runs each one's steps were computed with; 0 if they had to be taken alone."""
        return 0 if self._why_not else self.n_members - 1

    def leave(self) -> None:
        """Wait for this thread's steps no more."""
        self._left.add(_membership.get())
        self._compute_if_all_wait()

    def take_steps(self, module: LanguageModule, windows: Tensor) -> Steps:
        """As `LanguageModule.take_steps`, once all other members have handed in theirs or left.

        A model that cannot be computed with others leaves, and takes its steps alone.
        """
        if self._why_not is None:
            self._why_not = why_not(module.model, windows[0]) or ""
            if self._why_not:
                say(f"alone: {type(module.model).__name__} {self._why_not}")
        if self._why_not:
            self.leave()
            return module.take_steps(windows)
        request = Request(module, windows, module.global_step)
        self._waiting.append(request)
        self._compute_if_all_wait()
        if not request.done.is_set():
            with turn_given_up():
                request.done.wait()
        if request.error is not None:
            raise request.error
        assert request.steps is not None
        module.count_steps(len(request.steps[1]))
        return request.steps

    def _compute_if_all_wait(self) -> None:
        if not self._waiting or len(self._waiting) < self.n_members - len(self._left):
            return
        requests, self._waiting = self._waiting, []
        by_shape: dict[Any, list[Request]] = {}
        for request in requests:  # of runs that were stopped at different steps, some take fewer
            by_shape.setdefault(request.windows.shape, []).append(request)
        before, self._stacks = self._stacks, []
        for alike in by_shape.values():
            try:
                most = self._most(alike[0])
                for start in range(0, len(alike), most):
                    self._compute(alike[start : start + most], before)
            except BaseException as error:
                for request in alike:
                    request.error = error
        for request in requests:
            request.done.set()

    def _compute(self, requests: list[Request], stacks: list[Rows]) -> None:
        modules = [request.module for request in requests]
        stack = next((stack for stack in stacks if stack.modules == modules), None)
        if stack is None:
            stack = Rows(modules)
        self._stacks.append(stack)
        steps = stack.take_steps([request.windows for request in requests], self.stop)
        for request, its_steps in zip(requests, steps, strict=True):
            request.steps = its_steps
        if self._on_steps is not None:
            self._on_steps(requests[0].first + len(steps[0][1]), len(requests))

    def _most(self, request: Request) -> int:
        """How many models like this one fit into memory at once."""
        if self._memory is None:
            device = request.windows.device
            free = memory_bytes() if device.type == "cpu" else free_memory(device)
            self._memory = free // 2
        if self._bytes_each is None:
            self._bytes_each = bytes_of_a_step(request.module, request.windows[0])
        return max(1, self._memory // self._bytes_each)


def why_not(model: nn.Module, windows: Tensor) -> str | None:
    """Why a model cannot be computed for several runs at once; None if it can.

    It is tried with one batch of windows (B, T + 1), by a forward pass alone and one for two runs.
    """
    if any(True for _ in model.buffers()):
        return "has buffers, which a step may change"
    idx, _ = shift(windows)
    before, names = default_states(), [name for name, _ in model.named_parameters()]
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            logits = model.forward(idx)
            if not all(map(torch.equal, *map(_all_states, (before, default_states())))):
                return "draws random numbers while it is trained"
            twice = [torch.stack([p, p]) for p in model.parameters()]
            shell = copy.deepcopy(model).to("meta")

            def forward(weights: list[Tensor]) -> Tensor:
                return functional_call(shell, dict(zip(names, weights, strict=True)), (idx,))

            both = vmap(forward)(twice)
    except Exception as error:  # whatever somebody's model raises
        return f"cannot be computed for several runs at once: {str(error).splitlines()[0]}"
    finally:
        set_default_states(before)
    if not all(torch.allclose(one, logits, rtol=1e-3, atol=1e-4) for one in both):
        return "gives other logits when it is computed for several runs at once"
    return None


def _all_states(states: dict[str, Any]) -> list[Tensor]:
    return [states["cpu"], *states.get("cuda", [])]


def bytes_of_a_step(module: LanguageModule, windows: Tensor) -> int:
    """About how much memory a step with windows (B, T + 1) takes of a model trained together."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    idx, _ = shift(windows)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with sdpa_kernel(SDPBackend.MATH), hooks:
        logits = module.model.forward(idx)
    weights = sum(p.numel() * p.element_size() for p in module.model.parameters())
    n_states = 2  # of Adam, which keeps the most
    # Gradients of what is kept, the logits thrice; gradients in pieces and whole, and a few more.
    return 2 * sum(kept.values()) + 3 * logits.nbytes + (n_states + 6) * weights


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
        # On the meta device: its weights are given at each call.
        self.shell = copy.deepcopy(modules[0].model).to("meta")
        self.stacked = [
            columns.view(len(modules), *shape).detach().requires_grad_()
            for columns, shape in zip(self.weights.split(self.sizes, 1), self.shapes, strict=True)
        ]
        self.forward = vmap(self._forward, in_dims=(0, 0))

    def _forward(self, weights: list[Tensor], idx: Tensor) -> Tensor:
        return functional_call(self.shell, dict(zip(self.names, weights, strict=True)), (idx,))

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
        """What differs from run to run: (R, 1) each, and the decay of each weight (R, P)."""
        like = self.weights
        found = {
            name: like.new_tensor([[_number(o.param_groups[0], name)] for o in self.optimizers])
            for name in self.rule.numbers
        }
        decay = torch.empty_like(like)
        for r, optimizer in enumerate(self.optimizers):
            sizes = [sum(p.numel() for p in g["params"]) for g in optimizer.param_groups]
            for columns, group in zip(decay[r].split(sizes), optimizer.param_groups, strict=True):
                columns.fill_(group["weight_decay"])
        return {**found, "weight_decay": decay}

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
            # The fused attention of a CPU would be called once a run.
            with sdpa_kernel(SDPBackend.MATH):
                logits = self.forward(self.stacked, x)  # (R, B, T, vocab_size)
            nll = F.cross_entropy(logits.flatten(0, 2).float(), y.flatten(), reduction="none")
            loss = nll.view(n_runs, -1).mean(1)  # (R,)
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
        by_run = torch.stack(losses).unbind(1)
        return [
            (list(its_losses.unbind()), [{"train/lr": step[r]} for step in rates])
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
