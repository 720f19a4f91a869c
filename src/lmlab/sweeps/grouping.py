"""Which jobs of a sweep can be trained together.

Jobs go together if they differ only in numbers: the seed, what their optimizer and schedule are
given, the clipping norm, how they are logged and kept. Whatever changes a shape or the sequence of
operations makes another group. Whether a model of one's own can be computed for several runs at
once is tried when its first step is due: see `training.group.why_not`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lmlab import schema
from lmlab.config import check
from lmlab.errors import LabError
from lmlab.fingerprint import NOT_IN_FINGERPRINT, leaves, under
from lmlab.signatures import signature

# The optimizers of `training.row_rules`, here by name, since jobs are grouped without torch.
RULES = tuple(f"torch.optim.{name}" for name in ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW"))
STANDARD = "lmlab.training.parametrisation.Standard"
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


@dataclass(frozen=True)
class Grouped:
    """The jobs of a sweep by number: `pieces` are trained together, each by itself; `alone` are by
    the reason for it."""

    pieces: list[list[int]]
    alone: dict[str, list[int]]

    @classmethod
    def of(cls, jobs: Sequence[DictConfig], size: int, n_processes: int) -> Grouped:
        """`jobs` are configs as Hydra composes them; `size` go together at most.

        A group is cut into as many pieces as its share of all jobs keeps processes at work.
        """
        groups: dict[str, list[int]] = {}
        alone: dict[str, list[int]] = {}
        for i, job in enumerate(jobs):
            key, reason = _key(job)
            of_kind = alone.setdefault(reason, []) if reason else groups.setdefault(key, [])
            of_kind.append(i)
        pieces = [
            piece
            for members in groups.values()
            for piece in _cut(members, size, ceil(n_processes * len(members) / len(jobs)))
        ]
        if single := [piece[0] for piece in pieces if len(piece) == 1]:
            alone.setdefault("no other job is like it", []).extend(single)
        return cls([piece for piece in pieces if len(piece) > 1], alone)

    def lines(self, jobs: Sequence[DictConfig]) -> list[str]:
        """What to say of them."""
        together = [f"together {len(p):4} jobs: {_describe(jobs[p[0]])}" for p in self.pieces]
        return together + [
            f"alone    {len(members):4} job{'s' * (len(members) > 1)}: {reason}"
            for reason, members in self.alone.items()
        ]


def _cut(members: list[int], size: int, n_pieces: int) -> list[list[int]]:
    """In pieces of equal length, give or take one: as many as asked for, fewer where one would be
    alone, and more where `size` asks."""
    n_pieces = max(min(n_pieces, len(members) // 2), ceil(len(members) / size))
    ends = [len(members) * n // n_pieces for n in range(n_pieces + 1)]
    return [members[start:end] for start, end in pairwise(ends)]


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
    if (config.get("teacher") or {}).get("runs"):
        return "teacher.runs: a teacher looks at one run's windows"
    for key, value in leaves(model):
        if key.endswith("dropout") and value:
            return f"model.{key}={value}: each would need random numbers of its own"
    if any(rule is not None for rule in (optimizer.get("rules") or {}).values()):
        return "optimizer.rules: several optimizers are not computed for several runs at once"
    if (config.get("parametrisation") or {}).get("_target_", STANDARD) != STANDARD:
        return "parametrisation: several rates are not computed for several runs at once"
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
