"""Several models of one shape are computed together: their optimizer steps, their samples.

Each model is trained by a thread of its own, with its own Trainer, callbacks and directory, like
any other run. Only what takes time is shared: a thread hands in its windows and waits, and the last
one to come computes the steps of all, with a leading axis R (runs) on every parameter. The
parameters of a model are views of its row, so callbacks and checkpoints find the model and its
optimizer as they always do.
"""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lmlab.console import say
from lmlab.data.datamodule import free_memory
from lmlab.data.windows import shift
from lmlab.memory_limit import memory_bytes
from lmlab.streams import default_states, set_default_states, turn_given_up
from lmlab.training.rows import Rows, Steps
from lmlab.training.stopping import Stop

if TYPE_CHECKING:
    from lmlab.training.module import LanguageModule

Task = Callable[[Rows, list[Any]], list[Any]]

# Parameters times tokens of a step. Beyond, a step of one model keeps a processor busy with
# arithmetic, and is faster with the fused attention, which cannot be computed for several at once.
LARGE = 1 << 25


@dataclass(eq=False)
class Request:
    """What one member wants computed: see `Group.compute`."""

    member: int
    module: LanguageModule
    task: Task
    like: Hashable
    mine: Any
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None


_member: ContextVar[int] = ContextVar("member", default=-1)


class Group:
    """Models that are trained together; each in a thread that has `joined`."""

    def __init__(
        self,
        n_members: int,
        stop: Stop,
        on_steps: Callable[[int, int], None] | None = None,
        share: float = 0.5,
    ):
        """`n_members` will join; `on_steps(step, n)` is called when n models have taken steps;
        `stop` is asked between steps; `share` is how much of the free memory a computation may
        take: if all do not fit, they are computed in several pieces."""
        self.n_members, self.stop = n_members, stop
        self._on_steps, self._share = on_steps, share
        self._numbers = itertools.count()
        self._left: set[int] = set()
        self._waiting: list[Request] = []
        self._rows: list[Rows] = []
        self._most = 1  # models that are computed at once
        self._why_not: str | None = None  # "": nothing keeps them from being computed together

    @contextmanager
    def joined(self) -> Iterator[None]:
        """The whole life of a member, whether it takes steps or not. It must have the turn at the
        end: see `streams.own_default_generators`."""
        before = _member.set(next(self._numbers))
        try:
            yield
        finally:
            self.leave()
            _member.reset(before)

    @property
    def n_others(self) -> int:
        """How many runs each one's steps were computed with; 0 if they had to be taken alone."""
        return 0 if self._why_not else self.n_members - 1

    @property
    def computes(self) -> bool:
        """Whether its models have turned out to be such that can be computed together."""
        return self._why_not == ""

    def leave(self) -> None:
        """Wait for this thread no more."""
        self._left.add(_member.get())
        self._compute_if_all_wait()

    def take_steps(self, module: LanguageModule, windows: Tensor) -> Steps:
        """As `LanguageModule.take_steps`, once all other members have handed in theirs or left.

        A model that cannot be computed with others leaves, and takes its steps alone.
        """
        if self._why_not is None:
            self._why_not = why_not(module.model, windows[0]) or ""
            if self.computes:
                self._most = self._how_many(module, windows[0])
            else:
                say(f"alone: {type(module.model).__name__} {self._why_not}")
        if not self.computes:
            self.leave()
            return module.take_steps(windows)
        # Of runs that were stopped at different steps, some take fewer.
        steps: Steps = self.compute(module, self._take_steps, windows.shape, windows)
        module.count_steps(len(steps[1]))
        return steps

    def _take_steps(self, rows: Rows, windows: list[Tensor]) -> list[Steps]:
        first = rows.modules[0].global_step
        steps = rows.take_steps(windows, self.stop)
        if self._on_steps is not None:
            self._on_steps(first + len(steps[0][1]), len(steps))
        return steps

    def compute(self, module: LanguageModule, task: Task, like: Hashable, mine: Any) -> Any:
        """This member's part of what `task` makes of `mine` and what the others have handed in.

        All members wait here for each other. Those with the same task, and equal `like`, are
        computed at once: `task(rows, [theirs, …])` has a result for each. Steps come last, so that
        a task that only some members have does not part them.
        """
        request = Request(_member.get(), module, task, like, mine)
        self._waiting.append(request)
        self._compute_if_all_wait()
        if not request.done.is_set():
            with turn_given_up():
                request.done.wait()
        if request.error is not None:
            raise request.error
        return request.result

    def _compute_if_all_wait(self) -> None:
        if not self._waiting or len(self._waiting) < self.n_members - len(self._left):
            return
        before_steps = [r for r in self._waiting if r.task != self._take_steps]
        # Threads come in any order, and a model keeps its row as long as it can.
        now = sorted(before_steps or self._waiting, key=lambda request: request.member)
        self._waiting = [request for request in self._waiting if request not in now]
        by_task: dict[Any, list[Request]] = {}
        for request in now:
            by_task.setdefault((request.task, request.like), []).append(request)
        for alike in by_task.values():
            try:
                for start in range(0, len(alike), self._most):
                    self._compute(alike[start : start + self._most])
            except BaseException as error:
                for request in alike:
                    request.error = error
        for request in now:
            request.done.set()

    def _compute(self, requests: list[Request]) -> None:
        rows = self._rows_of([request.module for request in requests])
        results = requests[0].task(rows, [request.mine for request in requests])
        for request, result in zip(requests, results, strict=True):
            request.result = result

    def _rows_of(self, modules: list[LanguageModule]) -> Rows:
        for rows in self._rows:
            if rows.modules == modules:
                return rows
        others = [rows for rows in self._rows if not set(rows.modules) & set(modules)]
        new = Rows(modules)
        self._rows = [*others, new]
        return new

    def _how_many(self, module: LanguageModule, windows: Tensor) -> int:
        """How many models like this one fit into memory at once."""
        device = windows.device
        free = memory_bytes() if device.type == "cpu" else free_memory(device)
        return max(1, int(self._share * free) // bytes_of_a_step(module, windows))


def why_not(model: nn.Module, windows: Tensor) -> str | None:
    """Why a model cannot be computed for several runs at once; None if it can.

    It is tried with one batch of windows (B, T + 1), by a forward pass alone and one for two runs.
    """
    if any(True for _ in model.buffers()):
        return "has buffers, which a step may change"
    if not all(p.requires_grad for p in model.parameters()):
        return "has weights that are not trained"
    idx, _ = shift(windows)
    n_parameters = sum(p.numel() for p in model.parameters())
    if windows.device.type == "cpu" and n_parameters * idx.numel() > LARGE:
        return "is large enough to keep a processor busy by itself"
    before, names = default_states(), [name for name, _ in model.named_parameters()]
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            logits = model.forward(idx)
            if not all(map(torch.equal, *map(_all_states, (before, default_states())))):
                return "draws random numbers while it is trained"
            twice = [torch.stack([p, p]) for p in model.parameters()]
            shell = copy.deepcopy(model)

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
