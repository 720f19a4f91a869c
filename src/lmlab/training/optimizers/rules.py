"""Rules: which optimizer takes which parameters of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lmlab.config import build
from lmlab.config.slips import nearest
from lmlab.errors import LabError
from lmlab.models.contract import Hooks

MakeOptimizer = Callable[..., Optimizer]  # a torch.optim class with everything but its parameters
Schedule = Callable[[int, int], float]  # (step, max_steps) -> factor on the learning rate

REST = "rest"  # what no rule takes: the parameters of the optimizer itself
ROLES = ("embeddings", "readout", "matrices", "vectors")


@dataclass(frozen=True)
class Rule:
    """An optimizer of their own for some parameters."""

    params: tuple[str, ...]  # roles, and patterns of names such as blocks.*.attention.*
    make: MakeOptimizer
    schedule: Schedule | None = None  # None: the run's


def rules_of(optimizer: dict[str, Any]) -> dict[str, Rule]:
    """The rules of an optimizer's node by name, in their order; a rule that is null is turned off.

    A rule without a `_target_` is the optimizer itself with some other numbers.

    Raises:
        LabError: naming the key that is wrong.
    """
    itself = {k: v for k, v in optimizer.items() if k != "rules"}
    nodes = optimizer.get("rules") or {}
    return {
        name: _rule(node, f"optimizer.rules.{name}", itself)
        for name, node in nodes.items()
        if node is not None
    }


def _rule(node: Any, key: str, itself: dict[str, Any]) -> Rule:
    if key.endswith(f".{REST}"):
        raise LabError(f"{key}: the rest is what optimizer itself takes; give another name")
    if not isinstance(node, dict):
        raise LabError(f"{key}={node!r}: a rule is params, lr and what else the optimizer takes")
    params = node.get("params")
    params = [params] if isinstance(params, str) else params
    if not isinstance(params, list) or not params or not all(isinstance(p, str) for p in params):
        raise LabError(
            f"{key}.params={node.get('params')!r}: give {', '.join(ROLES)}, "
            "names such as blocks.*.attention.*, or a list of these"
        )
    arguments = {k: v for k, v in node.items() if k not in ("params", "schedule")}
    if "_target_" not in node:
        arguments = itself | arguments
    schedule = node.get("schedule")
    return Rule(
        tuple(params),
        build.optimizer(arguments, key),
        None if schedule is None else build.schedule(schedule, f"{key}.schedule"),
    )


def names_of(model: nn.Module) -> dict[nn.Parameter, list[str]]:
    """Every parameter that is trained, with its names: a tied one is one, and has several."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            names.setdefault(parameter, []).append(name)
    return names


def roles_of(model: nn.Module) -> dict[nn.Parameter, set[str]]:
    """The roles of every parameter that is trained, derived from the model's structure.

    - embeddings: weights of `nn.Embedding`;
    - readout: the 2-D weight with `model.vocab_size` rows that is no embedding; of a model with
      `members`, that of each;
    - matrices: all others of two or more dimensions;
    - vectors: gains and biases.

    A read-out that is tied to an embedding has both roles.
    """
    embedded = {
        parameter
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for parameter in module.parameters(recurse=False)
    }
    readouts = readouts_of(model)
    roles: dict[nn.Parameter, set[str]] = {}
    for parameter in names_of(model):
        tables = {"embeddings"} if parameter in embedded else set()
        if parameter in readouts:
            tables.add("readout")
        roles[parameter] = tables or {"matrices" if parameter.dim() >= 2 else "vectors"}
    return roles


def n_inside(model: nn.Module) -> int:
    """How many parameters are trained between the embeddings and the read-out."""
    tables = {"embeddings", "readout"}
    return sum(p.numel() for p, roles in roles_of(model).items() if not roles & tables)


def readouts_of(model: nn.Module) -> set[nn.Parameter]:
    """The weights that make logits: of those that could, the last of the outermost ones.

    (A layer within a block may happen to have as many rows as there are tokens.)
    """
    hooks = Hooks.of(model)
    if isinstance(hooks.members, nn.ModuleDict):
        return {readout for member in hooks.members.values() for readout in readouts_of(member)}
    could_be = [
        (name, parameter)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter.dim() == 2
        and parameter.shape[0] == hooks.vocab_size
        and not isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Embedding)
    ]
    if not could_be:
        return set()
    return {min(reversed(could_be), key=lambda named: named[0].count("."))[1]}


def assign(model: nn.Module, rules: Mapping[str, Rule]) -> dict[str, list[nn.Parameter]]:
    """The parameters of each rule, in the model's order: the first rule that matches takes one.

    REST comes first, with those that no rule matches.

    Raises:
        LabError: for a rule that matches or takes nothing, and for rules that leave nothing.
    """
    if not rules:
        return {REST: [p for p in model.parameters() if p.requires_grad]}
    names, roles = names_of(model), roles_of(model)
    matched = {
        name: _matched(f"optimizer.rules.{name}.params", rule.params, names, roles, model)
        for name, rule in rules.items()
    }
    taken: dict[str, list[nn.Parameter]] = {REST: [], **{name: [] for name in rules}}
    for parameter in names:
        takers = (name for name in rules if parameter in matched[name])
        taken[next(takers, REST)].append(parameter)
    for name in rules:
        if not taken[name]:
            raise LabError(
                f"optimizer.rules.{name}: rules above it take all that its params match; put it "
                f"before them, or leave it out by optimizer.rules.{name}=null"
            )
    if not taken[REST]:
        raise LabError(
            "optimizer.rules: they take every parameter, so optimizer itself has none; make the "
            "last rule the optimizer, or let it take fewer"
        )
    return taken


def _matched(
    key: str,
    params: tuple[str, ...],
    names: dict[nn.Parameter, list[str]],
    roles: dict[nn.Parameter, set[str]],
    model: nn.Module,
) -> set[nn.Parameter]:
    """What any of a rule's roles and patterns matches; each must match something."""
    all_matched: set[nn.Parameter] = set()
    for pattern in params:
        if pattern in ROLES:
            matched = {p for p in names if pattern in roles[p]}
        else:
            matched = {p for p in names if any(fnmatchcase(n, pattern) for n in names[p])}
        if not matched:
            called = [name for of_one in names.values() for name in of_one]
            there = ", ".join(role for role in ROLES if any(role in r for r in roles.values()))
            raise LabError(
                f"{key}={pattern}: {type(model).__name__} trains no parameter of this "
                f"{'role' if pattern in ROLES else 'name'}"
                f"{nearest(pattern, [*ROLES, *called]) if pattern not in ROLES else ''}; it has "
                f"the roles {there}, and names such as {called[-1]}"
            )
        all_matched |= matched
    return all_matched
