"""What only torch knows about a config, checked before anything is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from rich.filesize import decimal
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lmlab.config import build
from lmlab.config.schema import Train
from lmlab.config.targets import class_name
from lmlab.errors import LabError, first_line, typed_line
from lmlab.models.contract import Hooks
from lmlab.models.inside.memory_limit import memory_bytes
from lmlab.models.inside.torch_inside import in_eval_mode
from lmlab.runs.contents import on_shapes
from lmlab.training.loss import Loss, both
from lmlab.training.optimizers.configure import configure
from lmlab.training.optimizers.rules import rules_of

SMALL = 1 / 16  # weights below this part of memory fit, whatever the optimizer keeps beside them


def check_memory(config: Train, vocab_size: int) -> None:
    """Whether memory can hold the model and a batch.

    Raises:
        LabError: naming what needs more memory than this machine has.
    """
    has = memory_bytes()
    for needs, what in (*_windows(config), _logits(config, vocab_size)):
        if needs > has:
            raise LabError(
                f"{what} need {decimal(needs)} of memory, and this machine has {decimal(has)}"
            )
    check_fits(config, vocab_size)


def check_pause(config: Train, model: nn.Module) -> None:
    """Whether a run comes to the step that it is to pause at.

    Raises:
        LabError: if its model counts, or it begins at a later step.
    """
    step, parent = config.pause_at, config.begins_from
    if step is None:
        return
    if Hooks.of(model).fit is not None:
        raise LabError(
            f"pause_at={step}: {config.model['_target_']} counts and takes no steps; leave it out"
        )
    if parent is not None and step <= parent.step:
        raise LabError(f"pause_at={step}: the run begins at step {parent.step}; give a later one")


def remarks(config: Train) -> list[str]:
    """What may well be meant, and is worth a line all the same."""
    warmup, max_steps = config.schedule.get("warmup_steps", 0), config.trainer.max_steps
    if not isinstance(warmup, int) or not 0 < max_steps <= warmup:
        return []
    return [
        f"schedule.warmup_steps={warmup}: the warm-up does not end within trainer.max_steps="
        f"{max_steps}, so the learning rate never reaches optimizer.lr"
    ]


def check_logits(model: nn.Module, target: str, vocab_size: int, block_size: int) -> None:
    """Whether a model makes logits of ids: one forward, which leaves no trace in random numbers.

    A model on the meta device is not judged by what cannot be computed there.

    Raises:
        LabError: with the shapes that are wanted and found.
    """
    T = min(2, block_size)
    wanted = f"forward(idx (1, {T})) -> logits (1, {T}, {vocab_size}) of floats"
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    try:  # in eval mode, so that no running mean is moved
        with in_eval_mode(model), torch.random.fork_rng(devices=[]), torch.no_grad(), device:
            logits = model.forward(torch.zeros((1, T), dtype=torch.int64))
    except Exception as error:  # whatever somebody's model raises
        if device.type == "meta" and isinstance(error, NotImplementedError):
            return
        raise LabError(f"model: {target} has to do {wanted}; {typed_line(error)}") from error
    if isinstance(logits, Tensor):
        if logits.shape == (1, T, vocab_size) and logits.is_floating_point():
            return
        returned = f"{tuple(logits.shape)} of {logits.dtype}"
    else:
        returned = f"a {type(logits).__name__}"
    raise LabError(f"model: {target} has to do {wanted}; it returns {returned}")


def check_loss(loss: Loss, model: nn.Module, block_size: int) -> None:
    """Whether a loss of somebody's own makes one of a model: one call that leaves no trace in it.

    Raises:
        LabError: with what is wanted, and what it returns.
    """
    kind, trained = type(loss), any(p.requires_grad for p in model.parameters())
    target, T = class_name(kind), min(2, block_size)
    if target.startswith("lmlab.") or not trained:
        return
    wanted = f"{target} has to make a scalar with a gradient of model, idx and targets (1, {T})"
    try:
        with in_eval_mode(model), torch.random.fork_rng(devices=[]):
            descended, shown = both(loss(model, *torch.zeros((2, 1, T), dtype=torch.int64)))
    except Exception as error:  # whatever somebody's loss raises
        raise LabError(f"loss: {wanted}; {type(error).__name__}: {first_line(error)}") from error
    scalars = [one for one in (descended, shown) if isinstance(one, Tensor) and not one.dim()]
    if len(scalars) < 2 or not descended.requires_grad:
        raise LabError(f"loss: {wanted}; it returns {descended!r:.80}")


def _windows(config: Train) -> list[tuple[int, str]]:
    """Bytes of the windows that are drawn at once, and the keys that say so."""
    trainer, shape, evaluation = config.trainer, config.data, config.eval
    batch = 8 * (shape.block_size + 1) * shape.batch_size  # int64
    steps = min(shape.steps_per_batch, evaluation.every, trainer.max_steps)
    accumulate = trainer.accumulate_grad_batches
    keys = f"data.batch_size={shape.batch_size} data.block_size={shape.block_size}"
    trained = (
        f"{keys} data.steps_per_batch={shape.steps_per_batch} "
        f"trainer.accumulate_grad_batches={accumulate}: the windows of {steps} steps"
    )
    if evaluation.protocol != "random":
        return [(batch * accumulate * steps, trained)]
    evaluated = f"{keys} eval.iters={evaluation.iters}: the windows"
    return [(batch * accumulate * steps, trained), (batch * evaluation.iters, evaluated)]


def _logits(config: Train, vocab_size: int) -> tuple[int, str]:
    """Bytes of a batch's logits, if they take 16 bits each, and the keys that say so."""
    shape, trained = config.data, config.trainer.max_steps > 0
    needs = shape.batch_size * shape.block_size * vocab_size * 2 * trained
    keys = f"data.batch_size={shape.batch_size} data.block_size={shape.block_size}"
    return needs, f"{keys}: the logits of a vocabulary of {vocab_size:,}"


@dataclass(frozen=True)
class Footprint:
    """The model of a config on the meta device, and bytes."""

    model: nn.Module
    weights: int  # those that are trained; their gradients take as much
    optimizer: int | None  # None: its first step has to see numbers


def footprint(config: Train, vocab_size: int) -> Footprint:
    """What a config asks for.

    Raises:
        LabError: if its model or its optimizer cannot be made.
    """
    model = model_on_meta(config, vocab_size)
    if model is None:
        model = build.model(config.model, vocab_size, config.data.block_size)
    return Footprint(model, _trained_bytes(model), _optimizer_bytes(model, config))


def check_fits(config: Train, vocab_size: int) -> None:
    """Refuse what this machine's memory cannot hold, which the system would end without a word.

    For another device only the weights count, which are made in the CPU's memory first.

    Raises:
        LabError: if weights, gradients and what the optimizer keeps are more than there is.
    """
    memory = memory_bytes()
    model = model_on_meta(config, vocab_size)
    if model is None:
        return
    needed = _trained_bytes(model)
    if needed < SMALL * memory:
        return
    accelerator = config.trainer.accelerator
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        needed = 2 * needed + (_optimizer_bytes(model, config) or 0)
    if needed > memory:
        n_parameters = sum(p.numel() for p in model.parameters())
        raise LabError(
            f"model={type(model).__name__} of {n_parameters:,} parameters (vocabulary of "
            f"{vocab_size:,}) needs {decimal(needed)} of memory to be trained, and this machine "
            f"has {decimal(memory)}: choose a smaller model, or a tokenizer of fewer tokens"
        )


class _NothingDrawn(TorchFunctionMode):
    """On the meta device no value is kept, so none is drawn.

    There torch draws from a normal distribution by code that imports its compiler, for a second.
    """

    DRAWS = (nn.init.normal_, nn.init.trunc_normal_, Tensor.normal_)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in self.DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def model_on_meta(config: Train, vocab_size: int, most: int = build.MOST_PARTS) -> nn.Module | None:
    """The model of a config on the meta device, which takes no memory; None if it cannot be made
    there: made in earnest it says why, or it is somebody's own that computes while it is built.

    Raises:
        TooLargeError: if it has too many parts, or no computer could hold one of its weights.
    """
    try:
        with torch.device("meta"), _NothingDrawn():
            return build.model(config.model, vocab_size, config.data.block_size, most)
    except build.TooLargeError:
        raise
    except LabError as error:
        if isinstance(error.__cause__, RuntimeError) and "overflow" in str(error.__cause__):
            target = config.model["_target_"]
            raise build.TooLargeError(
                f"model: {target} has weights of 2^63 bytes and more; give it smaller sizes"
            ) from error
        return None


def _trained_bytes(model: nn.Module) -> int:
    return sum(p.nbytes for p in model.parameters() if p.requires_grad)


def _optimizer_bytes(model: nn.Module, config: Train) -> int | None:
    """What the optimizer keeps, found by letting it take a step on shapes alone; None for one that
    cannot, as torch's Adafactor, which looks at the weights' norms."""
    if not any(p.requires_grad for p in model.parameters()):
        return 0
    make, rules = build.optimizer(config.optimizer), rules_of(config.optimizer)
    optimizer = on_shapes(configure(model, make, rules))
    try:
        optimizer.step()
    except (RuntimeError, TypeError, ValueError):  # of numbers that are not there
        return None
    states = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.nbytes for value in states if isinstance(value, Tensor))
