"""What a recipe has to keep to, so that its losses may stand beside those of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmlab.config.fingerprint import fingerprint
from lmlab.config.schema import Train
from lmlab.errors import LabError

TEXT = "lmlab.data.corpus.tinyshakespeare"
REHEARSED = "lmlab.data.corpus.tinyshakespeare_train"  # val stays unseen
SEEDS = 3  # the fewest
LEVEL = 0.01  # a lower mean is a new record if p is below it


@dataclass(frozen=True)
class Budget:
    """A budget of processor time: what all processes and threads of a seed may spend together."""

    name: str  # how long two cores take for it
    cpu_seconds: int


BUDGETS = {b.name: b for b in (Budget("10s", 20), Budget("3min", 360), Budget("30min", 3600))}


def budget_named(name: str) -> Budget:
    """A budget by its name.

    Raises:
        LabError: if there is none of that name.
    """
    if name not in BUDGETS:
        raise LabError(f"budget {name}: give one of {', '.join(BUDGETS)}")
    return BUDGETS[name]


@dataclass(frozen=True)
class Recipe:
    """Trainings, one after the other: each learns from the models that those before it made, and
    the last makes the model that counts."""

    stages: tuple[Train, ...]
    words: tuple[tuple[str, ...], ...]  # the same, as they were typed

    @property
    def is_rehearsal(self) -> bool:
        """Whether it keeps to the train split: settings are chosen so, and no row is made."""
        return self.stages[-1].corpus["_target_"] == REHEARSED

    @property
    def fingerprint(self) -> str:
        """Of all stages; without the seed, so that it is the same for each."""
        configs = [{**stage.plain(), "seed": None} for stage in self.stages]
        return "+".join(fingerprint(config) for config in configs)

    def __str__(self) -> str:
        return " then ".join(" ".join(words) for words in self.words)


def check_recipe(recipe: Recipe) -> None:
    """Whether a recipe keeps the rules.

    Raises:
        LabError: naming the first key that breaks one.
    """
    for stage in recipe.stages:
        for key, is_kept, rule in _rules(stage):
            if not is_kept:
                raise LabError(f"{key} {rule} (docs/records.md)")
        if kind := _no_network(stage):
            raise LabError(f"model has a {kind}; a record is one network alone (docs/records.md)")
    if len({stage.corpus["_target_"] for stage in recipe.stages}) > 1:
        raise LabError(f"corpus: all trainings of {recipe} read one text")


def _rules(stage: Train) -> Sequence[tuple[str, bool, str]]:
    """Keys, whether each is as it should be, and how that is."""
    text = stage.corpus["_target_"]
    char = "lmlab.data.tokenizer.CharTokenizer"
    return [
        (f"corpus={text}", text in (TEXT, REHEARSED), "has to be tinyshakespeare"),
        ("tokenizer", stage.tokenizer["_target_"] == char, "has to be char"),
        ("data.val_fraction", stage.data.val_fraction == 0.1, "has to be 0.1"),
        ("eval.stride", stage.eval.stride is None, "has to be null: windows side by side"),
        (
            f"eval.every={stage.eval.every}",
            stage.eval.every >= stage.trainer.max_steps and not stage.eval.at_start,
            "with eval.at_start=false has to be trainer.max_steps or more: val is looked at once",
        ),
        ("from", stage.parent is None, "has to be null: training begins at nothing"),
        (
            "teacher.runs",
            not (stage.teacher and stage.teacher.runs),
            "is given by the trainings before, after `then`",
        ),
    ]


def _no_network(stage: Train) -> str | None:
    """What of a model is no network, or is several."""
    from lmlab.config import build
    from lmlab.models.contract import Hooks

    vocab_size = 65
    model = build.model(stage.model, vocab_size, stage.data.block_size)
    for part in model.modules():
        hooks = Hooks.of(part)
        if hooks.fit is not None or hooks.members is not None:  # it counts, or it is several
            return type(part).__name__
    return None


def check_run(name: str, record: dict[str, Any]) -> None:
    """Whether a finished run is one that others can repeat.

    Raises:
        LabError: if it is not.
    """
    if record.get("code"):
        raise LabError(f"{name} has code of its own: {', '.join(record['code'])}")
    if before := record.get("computed_before"):
        raise LabError(f"{name} was begun on another machine: {before[0]}")
