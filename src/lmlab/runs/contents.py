"""What a checkpoint holds, checked before anything is made of it: it may be somebody else's.

`check_contents` looks at types when it is read; the others at whether it fits a model, an
optimizer and callbacks, once these are there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import torch
from packaging.version import Version
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from torch import Tensor, nn
from torch.optim import Optimizer

from lmlab.bounds import Count, CountOrZero, Positive
from lmlab.config.fingerprint import leaves
from lmlab.errors import LabError, typed_line
from lmlab.runs.record import DEEPEST, Loose, check_plain_data, first_problem, shortened

if TYPE_CHECKING:
    import lightning as L

SMALLEST_LIGHTNING = Version("2.0")  # whose checkpoints are like today's


class Part(Loose):
    model_config = ConfigDict(arbitrary_types_allowed=True)  # tensors


def _is_generators_state(state: Tensor) -> Tensor:
    try:
        torch.Generator().set_state(state)
    except (RuntimeError, TypeError) as error:
        raise ValueError("no state of a generator") from error
    return state


def _is_version(version: str) -> str:
    if Version(version) < SMALLEST_LIGHTNING:
        raise ValueError(f"Lightning {SMALLEST_LIGHTNING} or later is expected")
    return version


GeneratorState = Annotated[Tensor, AfterValidator(_is_generators_state)]


class Stream(Part):
    """Where training is in its data: a generator, or a count of windows, as data.order has it."""

    step: CountOrZero
    generator: GeneratorState | None = None
    world_size: Count | None = None
    windows: CountOrZero | None = None
    windows_per_batch: Count | None = None

    @model_validator(mode="after")
    def says_where(self) -> Stream:
        if (self.generator is None) == (self.windows is None):
            raise ValueError("a generator or a count of windows is expected")
        return self


# A run that took no steps has none.
StreamIfAny = Annotated[Stream | None, BeforeValidator(lambda state: state or None)]


class Random(Part):
    """torch's default generators in one process."""

    cpu: GeneratorState
    cuda: list[Tensor] | None = None


class FurtherWeights(Part):
    step: CountOrZero
    weights: dict[str, Tensor]


class Group(Part):
    params: list[int]
    lr: float
    initial_lr: float


class OptimizerState(Part):
    state: dict[int, dict[str, Any]]
    param_groups: list[Group]


class RecorderState(Part):
    metrics: dict[str, float]
    step: CountOrZero | None


class CheckpointsState(Part):
    best: dict[str, float]


class Callbacks(Part):
    """The state of each callback. These two every run has; what others keep is their own."""

    recorder: RecorderState | None = Field(None, alias="Recorder")
    checkpoints: CheckpointsState | None = Field(None, alias="Checkpoints")


class Scaler(Part):
    """What scales gradients in float16."""

    scale: Positive
    growth_factor: Positive
    backoff_factor: Positive
    growth_interval: Count
    tracker: CountOrZero = Field(alias="_growth_tracker")


class Usable(Part):
    """What every use needs."""

    state_dict_: dict[str, Tensor] = Field(alias="state_dict")
    config: Annotated[dict[str, Any], AfterValidator(check_plain_data)]
    tokenizer: Annotated[dict[str, Any], AfterValidator(check_plain_data)]
    corpus_sha256: str
    global_step: CountOrZero
    ema: FurtherWeights | None = None
    swa: FurtherWeights | None = None
    trained: FurtherWeights | None = None


class Contents(Usable):
    """What training goes on with, too."""

    version: Annotated[str, AfterValidator(_is_version)] = Field(alias="pytorch-lightning_version")
    optimizer_states: list[OptimizerState]
    lr_schedulers: list[Any]
    callbacks: Callbacks
    stream: StreamIfAny = Field(None, alias="TextDataModule")
    since_log: list[float]
    last_loss: float
    trains: bool = True  # older ones do not say
    random: Annotated[list[Random], Field(min_length=1)] | None
    scaler: Scaler | None = Field(None, alias="MixedPrecision")


def check_contents(checkpoint: Any, n_bytes: int) -> None:
    """Whether a checkpoint of so many bytes can be a run's.

    Raises:
        LabError: naming the first part that is of another type than it should be.
    """
    _check_tree(checkpoint, n_bytes)
    _validate(checkpoint, Usable)


def check_continuable(checkpoint: Mapping[str, Any]) -> None:
    """Whether a checkpoint holds all that training goes on with.

    Raises:
        LabError: naming the first part that is missing or of another type.
    """
    _validate(checkpoint, Contents)
    stream = checkpoint.get("TextDataModule")
    if stream and stream["step"] != checkpoint["global_step"]:
        raise LabError(
            f"its data are at step {stream['step']}, and its global_step is "
            f"{checkpoint['global_step']}"
        )
    order = dict(leaves(checkpoint["config"])).get("data.order", "random")
    if stream and (stream.get("windows") is None) != (order == "random"):
        raise LabError(f"its data are not in the order of its config, {order}")


def _validate(checkpoint: Any, kind: type[Part]) -> None:
    try:
        kind.model_validate(checkpoint)
    except ValidationError as error:
        raise LabError(first_problem(error, kind)) from error


def _check_tree(checkpoint: Any, n_bytes: int) -> None:
    """Refuse what is nested without end, and tensors that are no plain numbers in the file."""
    seen: set[int] = set()
    above: list[tuple[Any, str, int]] = [(checkpoint, "", 0)]
    while above:
        node, key, depth = above.pop()
        if isinstance(node, Tensor):
            _check_tensor(node, key, n_bytes)
        elif isinstance(node, dict | list | tuple) and id(node) not in seen:
            # (What is within itself ends here, too, for it has been seen.)
            seen.add(id(node))
            if depth > DEEPEST:
                raise LabError(f"its {key[:60]}… is nested more than {DEEPEST} deep")
            children = node.items() if isinstance(node, dict) else enumerate(node)
            above += [
                (child, f"{key}.{name}" if key else str(name), depth + 1)
                for name, child in children
            ]


def _check_tensor(tensor: Tensor, key: str, n_bytes: int) -> None:
    plain = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_nested
    if not plain or tensor.device.type != "cpu":
        raise LabError(f"its {key} is no plain tensor of numbers")
    if tensor.numel() * tensor.element_size() > n_bytes:
        raise LabError(f"its {key} has the shape {tuple(tensor.shape)}, more than is in the file")


def weights_of(checkpoint: Mapping[str, Any], prefix: str = "model.") -> dict[str, Tensor]:
    """A model's weights, by their names in it."""
    return {
        name.removeprefix(prefix): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }


def check_weights(weights: Mapping[str, Any], model: nn.Module) -> None:
    """Whether `weights`, by the names of a model's parameters, fit it. It may be on any device.

    Raises:
        LabError: naming the first that is missing, of another shape or type, or not a number.
    """
    for name, parameter in model.named_parameters(remove_duplicate=False):
        stored = weights.get(name)
        if stored is None:
            raise LabError(f"it lacks {name}")
        if stored.shape != parameter.shape:
            shape, wanted = tuple(stored.shape), tuple(parameter.shape)
            raise LabError(f"its {name} has the shape {shape}, not {wanted}")
        if _kind(stored) != _kind(parameter):
            raise LabError(f"its {name} is of {stored.dtype}, not of {parameter.dtype}")
        if stored.isnan().any():
            raise LabError(f"its {name} holds NaN")


def check_optimizer_state(stored: list[Any], make: Callable[[], Optimizer]) -> None:
    """Whether a fresh optimizer can go on with a stored state, found by steps on shapes alone.

    Raises:
        LabError: if it cannot.
    """
    if len(stored) != 1:
        raise LabError(f"its optimizer_states are of {len(stored)} optimizers, not of one")
    (state,) = stored
    optimizer = on_shapes(make())
    groups = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in state["param_groups"]] != [g["params"] for g in groups]:
        raise LabError("its optimizer_states are of other parameters")
    for fresh, old in zip(groups, state["param_groups"], strict=True):
        for name in sorted(fresh.keys() & old.keys()):
            if not _same_option(name, fresh[name], old[name]):
                raise LabError(f"its optimizer's {name} is {shortened(old[name])}")
    try:
        on_shapes(make()).step()
    except Exception:  # whatever somebody's optimizer raises: it wants more than shapes
        return
    values = {i: _without_numbers(values) for i, values in state["state"].items()}
    try:
        options = [{**group, "fused": None} for group in state["param_groups"]]
        optimizer.load_state_dict({"state": values, "param_groups": options})
        optimizer.step()
    except Exception as error:  # as above; but now it is the state that it does not take
        reason = typed_line(error, 200)
        raise LabError(f"its optimizer_states do not fit the optimizer: {reason}") from error


def on_shapes(optimizer: Optimizer) -> Optimizer:
    """An optimizer with parameters without numbers, and gradients for them, in place of its own."""
    for group in optimizer.param_groups:
        group["fused"] = None  # of another device
        own = group["params"]
        group["params"] = [nn.Parameter(torch.empty_like(p, device="meta")) for p in own]
        for p, parameter in zip(own, group["params"], strict=True):
            parameter.grad = torch.empty_like(parameter)
            if p in optimizer.state:  # Adagrad has some from its beginning
                optimizer.state[parameter] = _without_numbers(optimizer.state.pop(p))
    return optimizer


def _without_numbers(values: dict[str, Any]) -> dict[str, Any]:
    """A parameter's state; those that stand alone, as counts do, keep their number."""
    for name, value in values.items():
        if isinstance(value, Tensor) and (value.is_complex() or _shares_memory(value)):
            raise LabError(f"its optimizer's {name} is no tensor of real numbers of its own")
    return {
        name: value.to("meta")
        if isinstance(value, Tensor) and value.dim()
        else copy.deepcopy(value)  # a step is taken with it
        for name, value in values.items()
    }


def _shares_memory(tensor: Tensor) -> bool:
    """Whether one number stands for several."""
    strides = zip(tensor.shape, tensor.stride(), strict=True)
    return any(size > 1 and stride == 0 for size, stride in strides)


def check_callbacks(stored: Mapping[str, Any], callbacks: Iterable[L.Callback]) -> None:
    """Whether what callbacks kept is of the types that they keep.

    Raises:
        LabError: naming the first whose state is not.
    """
    for callback in callbacks:
        state, fresh = stored.get(callback.state_key), callback.state_dict()
        if not state or not isinstance(fresh, dict) or not fresh:
            continue
        for name, value in fresh.items():
            if not isinstance(state, dict) or name not in state:
                raise LabError(f"its state of {callback.state_key} lacks {name}")
            if not _alike(value, state[name]):
                raise LabError(f"its {callback.state_key}.{name} is {shortened(state[name])}")


def _alike(fresh: Any, stored: Any) -> bool:
    """Whether a value can stand for another one: numbers for numbers, texts for texts.

    Where there is none yet, nobody knows what it will be.
    """
    if fresh is None or stored is None:
        return fresh is None or isinstance(fresh, bool)
    if isinstance(fresh, list | tuple) and isinstance(stored, list | tuple):
        return not fresh or (len(fresh) == len(stored) and all(map(_alike, fresh, stored)))
    if isinstance(fresh, Tensor) and isinstance(stored, Tensor):
        return fresh.shape == stored.shape and _kind(fresh) == _kind(stored)
    for kind in (bool, int | float, str, dict, list | tuple, Tensor):
        if isinstance(fresh, kind) or isinstance(stored, kind):
            return isinstance(fresh, kind) and isinstance(stored, kind)
    return True


def _same_option(name: str, fresh: Any, stored: Any) -> bool:
    """Whether an optimizer's option is the stored one: numbers may have been scheduled, and what is
    fast depends on the device."""
    if isinstance(fresh, bool) and name not in ("fused", "foreach"):
        return fresh is stored
    return _alike(fresh, stored)


def _kind(tensor: Tensor) -> str:
    if tensor.is_complex():
        return "complex"
    return "float" if tensor.is_floating_point() else "whole"
