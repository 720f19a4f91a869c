"""Which jobs of a sweep can be trained together, and training them so, each in a thread of its own.

Jobs go together if they differ only in numbers: the seed, what their optimizer and schedule are
given, the clipping norm, how they are logged and kept. Whatever changes a shape or the sequence of
operations makes another group. Whether a model of one's own can be computed for several runs at
once is tried when its first step is due: see `training.group.why_not`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lmlab import schema
from lmlab.config import check
from lmlab.console import say
from lmlab.errors import LabError
from lmlab.fingerprint import NOT_IN_FINGERPRINT, leaves, under
from lmlab.signatures import signature

if TYPE_CHECKING:
    from lmlab.training.group import Group

# The optimizers of `training.row_rules`, here by name, since jobs are grouped without torch.
RULES = tuple(f"torch.optim.{name}" for name in ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW"))
EVERY_STEP = ("lmlab.training.ema.EMA",)  # the lab's callbacks that see every optimizer step
PLAIN = {"nesterov", "fused", "foreach", "capturable", "differentiable"}  # flags that do not matter
MAY_DIFFER = (
    *NOT_IN_FINGERPRINT,
    "seed",
    "optimizer",  # but for `_rule`
    "schedule",
    "callbacks",
    "from",
    "trainer.gradient_clip_val",
)
SECONDS = 10.0  # from one line about a group's progress to the next

current_group: ContextVar[Group | None] = ContextVar("current_group", default=None)

Return = TypeVar("Return")


def run_together(
    jobs: Sequence[DictConfig], run: Callable[[DictConfig], Return], size: int
) -> list[Return]:
    """What `run` returns for each job, a config as Hydra composes it; `size` go together at most.

    Raises:
        BaseException: the first that a job raised, once all of its group have ended.
    """
    groups: dict[str, list[int]] = {}
    alone: dict[str, list[int]] = {}  # by reason
    for i, job in enumerate(jobs):
        key, reason = _key(job)
        (groups.setdefault(key, []) if reason is None else alone.setdefault(reason, [])).append(i)
    pieces = [
        members[start : start + size]
        for members in groups.values()
        for start in range(0, len(members), size)
    ]
    if single := [piece[0] for piece in pieces if len(piece) == 1]:
        alone.setdefault("no other job is like it", []).extend(single)
    pieces = [piece for piece in pieces if len(piece) > 1]
    for piece in pieces:
        say(f"together {len(piece):4} jobs: {_describe(jobs[piece[0]])}")
    for reason, members in alone.items():
        say(f"alone    {len(members):4} job{'s' * (len(members) > 1)}: {reason}")
    returns: dict[int, Return] = {}
    for piece in pieces:
        returns |= _run_group({i: jobs[i] for i in piece}, run)
    for i in sorted(i for members in alone.values() for i in members):
        returns[i] = run(jobs[i])
    return [returns[i] for i in range(len(jobs))]


def _key(job: DictConfig) -> tuple[str, str | None]:
    """What jobs of one group have in common; or why this job is trained alone."""
    HydraConfig.instance().set_config(job)  # for ${hydra:…}
    task = OmegaConf.masked_copy(job, [str(key) for key in job if key != "hydra"])
    try:
        config = check(task, schema.Train)
    except LabError:
        return "", "it will be refused"
    reason = why_alone(config)
    return (json.dumps(_shared(config), sort_keys=True), None) if reason is None else ("", reason)


def why_alone(config: dict[str, Any]) -> str | None:
    """What keeps a run from being trained with others; None if nothing does."""
    trainer, optimizer, model = config["trainer"], config["optimizer"], config["model"]
    if trainer["max_steps"] == 0 or signature(f"{model['_target_']}.fit") is not None:
        return "it takes no steps"
    if config["dry_run"]:
        return "dry_run=true"
    if config["streams"] == "global":
        return "streams=global is one stream for all"
    if model.get("dropout"):
        return f"model.dropout={model['dropout']}: each would need random numbers of its own"
    if any(rule is not None for rule in (optimizer.get("rules") or {}).values()):
        return "optimizer.rules: several optimizers are not computed for several runs at once"
    if optimizer["_target_"] not in RULES:
        return f"{optimizer['_target_']} is not computed for several runs at once"
    flags = [k for k, v in optimizer.items() if v is True and k not in PLAIN and k[0] != "_"]
    if flags:
        return f"optimizer.{flags[0]}=true is not computed for several runs at once"
    if str(trainer["precision"]) not in ("32-true", "32"):
        return f"trainer.precision={trainer['precision']}"
    if trainer["compile"]:
        return "trainer.compile=true"
    if trainer["devices"] not in (1, "1") or trainer["num_nodes"] != 1:
        return f"trainer.devices={trainer['devices']}: it may have several processes"
    for name, node in config["callbacks"].items():
        if node["_target_"] in EVERY_STEP:
            return f"callbacks.{name} sees every step"
    foreign = [
        name
        for name, node in config["callbacks"].items()
        if not node["_target_"].startswith("lmlab.")
    ]
    return (
        f"callbacks.{foreign[0]} is not the lab's, and may look into its steps" if foreign else None
    )


def _shared(config: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in leaves(config) if not under(key, MAY_DIFFER)}
    optimizer = config["optimizer"]
    return found | {"_rule": [optimizer["_target_"], bool(optimizer.get("momentum"))]}


def _describe(job: DictConfig) -> str:
    model, optimizer = job.model, job.optimizer
    layer = model.get("layer") or model
    names = [str(node["_target_"]).rpartition(".")[2] for node in (layer, optimizer)]
    return f"{names[0]} with {names[1]}, {job.trainer.max_steps:,} steps"


def _run_group(
    jobs: dict[int, DictConfig], run: Callable[[DictConfig], Return]
) -> dict[int, Return]:
    from lmlab.streams import own_default_generators
    from lmlab.training.group import Group
    from lmlab.training.stopping import Stop

    returns: dict[int, Return] = {}
    errors: list[BaseException] = []
    stop = Stop()
    group = Group(len(jobs), stop, _Progress(jobs).update)

    def member(i: int, job: DictConfig) -> None:
        with own_default_generators(), group.joined():
            current_group.set(group)
            try:
                returns[i] = run(job)
            except BaseException as error:
                errors.append(error)

    with stop.listening():
        threads = [
            threading.Thread(target=member, args=item, name=f"job {item[0]}")
            for item in jobs.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return returns


class _Progress:
    """A line about a group from time to time."""

    def __init__(self, jobs: dict[int, DictConfig]):
        self.max_steps = next(iter(jobs.values())).trainer.max_steps
        self._last = time.monotonic()

    def update(self, step: int, n: int) -> None:
        now = time.monotonic()
        if now - self._last > SECONDS:
            self._last = now
            say(f"         step {step:,}/{self.max_steps:,} of {n} jobs")
