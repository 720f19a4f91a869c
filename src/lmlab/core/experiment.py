"""What a config is made into: every part that it can exchange, made once, here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lmlab.config import build
from lmlab.config.build import targets
from lmlab.config.fingerprint import leaves
from lmlab.config.own_code import code_of
from lmlab.config.schema import Parent, Train
from lmlab.config.targets import named, signature
from lmlab.data.datamodule import TextDataModule
from lmlab.data.order.packed import pieces_of
from lmlab.data.streams import derive, generator
from lmlab.data.tokens import TokenizedCorpus
from lmlab.display.from_config import MakeLoggers, loggers
from lmlab.errors import LabError, first_line
from lmlab.models.contract import Hooks
from lmlab.models.inside.document_mask import can_stay_within, keep_within
from lmlab.runs.directory import RunDirectory
from lmlab.runs.parents import checkpoint_path
from lmlab.tasks.asked import Items, items_of, make_tasks
from lmlab.tasks.items import Task
from lmlab.training import preflight
from lmlab.training.beginning.restored import restore
from lmlab.training.beginning.start import Start
from lmlab.training.lightning_inside import sees_batches
from lmlab.training.loss import CrossEntropy, Distillation, Loss
from lmlab.training.module import LanguageModule
from lmlab.training.optimizers.configure import configure
from lmlab.training.optimizers.parametrisation import Factors, parametrisation_of, scale_weights
from lmlab.training.optimizers.rules import MakeOptimizer, Rule, Schedule, n_inside, rules_of
from lmlab.training.processes.stopping import Stop


@dataclass(frozen=True)
class Parts:
    """Whatever can be exchanged. A part of somebody's own is a class and a YAML, as these are."""

    config: Train
    text: TokenizedCorpus  # what the tokenizer makes of the corpus
    model: nn.Module  # freshly initialised
    factors: Mapping[nn.Parameter, Factors]  # the parametrisation's, for this model
    optimizer: MakeOptimizer
    rules: Mapping[str, Rule]  # the optimizers of some parameters
    schedule: Schedule
    loss: Loss
    tasks: Mapping[str, Task]
    callbacks: list[L.Callback]
    trial: list[L.Callback]  # what reports to the trial of a study that the run is for
    loggers: MakeLoggers

    @classmethod
    def of(cls, config: Train, text: TokenizedCorpus) -> Parts:
        """The parts of a resolved config.

        Raises:
            LabError: naming the one that cannot be made.
        """
        torch.manual_seed(derive(config.seed, "init") if own_streams(config) else config.seed)
        model = build.model(config.model, text.tokenizer.vocab_size, config.data.block_size)
        if config.data.order == "documents" and text.tokenizer.end_of_text is not None:
            keep_within(model, text.tokenizer.end_of_text)
        if config.trainer.compile:
            model.compile()  # in place, so that the weights keep their names
        factors = parametrisation_of(config.parametrisation).factors(model, config.model)
        scale_weights(factors)
        optimizer, rules = build.optimizer(config.optimizer), rules_of(config.optimizer)
        if any(p.requires_grad for p in model.parameters()):
            configure(model, optimizer, rules, factors)  # whether it can be made
        trial = config.sweep and config.sweep.trial
        return cls(
            config,
            text,
            model,
            factors,
            optimizer,
            rules,
            build.schedule(config.schedule),
            make_loss(config, text),
            make_tasks(config.tasks),
            make_callbacks(config, text),
            [build.part(trial.plain(), "sweep.trial", L.Callback)] if trial else [],
            loggers(config),
        )

    def module(self, stop: Stop | None = None) -> LanguageModule:
        """The model and what trains it, in a LightningModule that `stop` ends early."""
        config, trainer, text = self.config, self.config.trainer, self.text
        return LanguageModule(
            self.model,
            self.optimizer,
            self.schedule,
            text.tokenizer.characters_per_token(),
            text.tokenizer.bytes_per_token(),
            rules=self.rules,
            factors=self.factors,
            loss=self.loss,
            max_steps=trainer.max_steps,
            accumulate=trainer.accumulate_grad_batches,
            clip_norm=trainer.gradient_clip_val,
            log_every=trainer.log_every_n_steps,
            dropout_seed=derive(config.seed, "dropout") if own_streams(config) else None,
            config=config,
            about={
                "config": {**config.plain(), "pause_at": None},
                "tokenizer": text.tokenizer.stored(),
                "corpus_sha256": text.sha256,
            },
            stop=stop,
        )


@dataclass(frozen=True)
class Experiment:
    """What a config is made into, ready to be trained."""

    parts: Parts
    data: TextDataModule
    module: LanguageModule
    items: Items  # what the tasks ask

    @classmethod
    def of(cls, config: Train, start: Start, stop: Stop) -> Experiment:
        """A config for the text and the weights that it begins with, checked before anything is
        written.

        Raises:
            LabError: naming the part that cannot be made, or that does not do what it has to.
        """
        text = start.text()
        data = make_data(config, text)
        preflight.check_memory(config, data.vocab_size)
        parts = Parts.of(config, text)
        if (prepare := Hooks.of(parts.model).prepare) is not None:
            prepare(data.train_tokens.whole())
        module = parts.module(stop)
        start.load_into(module, parts.callbacks)
        target, block_size = config.model["_target_"], data.block_size
        preflight.check_logits(parts.model, target, data.vocab_size, block_size)
        preflight.check_loss(parts.loss, parts.model, block_size)
        preflight.check_pause(config, parts.model)
        items = items_of(parts.tasks, data.val_tokens, text.tokenizer)
        return cls(parts, data, module, items)

    @property
    def about(self) -> dict[str, Any]:
        """For the record."""
        model = self.parts.model
        return {
            "corpus_sha256": self.parts.text.sha256,
            "parameters": sum(p.numel() for p in model.parameters()),
            "parameters_inside": n_inside(model),
            "train_tokens": len(self.data.train_tokens),
            "full_pass": {"tokens": self.data.n_full, "of": len(self.data.val_tokens) - 1},
            "code": code_of(self.parts.config.plain()),
        }

    def introduction(self, n_processes: int = 1) -> Iterator[str]:
        """What is said of it before the first step."""
        config, data, model = self.parts.config, self.data, self.parts.model
        n_parameters = sum(p.numel() for p in model.parameters())
        yield (
            f"{config.name}: {type(model).__name__} of {n_parameters:,} parameters; "
            f"{len(data.train_tokens):,} train and {len(data.val_tokens):,} val tokens, "
            f"vocabulary of {data.vocab_size:,}"
        )
        for line in about_order(config, data, model, n_processes):
            yield f"data.order={data.order}: {line}"
        if data.steps_per_batch != config.data.steps_per_batch:
            yield "data.steps_per_batch: 1, so that every part sees every step"


def own_streams(config: Train) -> bool:
    """Whether data, dropout and the rest draw from generators of their own."""
    return config.streams == "separate"


def make_data(config: Train, text: TokenizedCorpus) -> TextDataModule:
    """The datamodule of a config over a tokenised corpus."""
    trainer, evaluation, shape = config.trainer, config.eval, config.data
    return TextDataModule(
        text.train,
        text.val,
        text.tokenizer.vocab_size,
        **{**dict(shape), "steps_per_batch": steps_per_batch(config)},
        pieces=pieces_of(text, shape.block_size) if shape.order == "documents" else None,
        accumulate=trainer.accumulate_grad_batches,
        max_steps=trainer.max_steps,
        eval_every=evaluation.every,
        save_every=config.checkpoint.every,
        eval_protocol=evaluation.protocol,
        eval_iters=evaluation.iters,
        stride=evaluation.stride,
        full=evaluation.full,
        seed=config.seed,
        generator=generator(config.seed, "data") if own_streams(config) else None,
    )


def about_order(
    config: Train, data: TextDataModule, model: nn.Module, n_processes: int
) -> Iterator[str]:
    """How many epochs a run makes, and of what; nothing where windows are drawn from anywhere."""
    if data.n_windows is None or not config.trainer.max_steps:
        return
    first = config.begins_from.step if config.begins_from else 0
    n_batches = (config.trainer.max_steps - first) * data.accumulate
    n_epochs = n_batches * data.batch_size * n_processes / data.n_windows
    yield f"{n_epochs:.2f} epochs of {data.n_windows:,} windows"
    if data.pieces is not None:
        yield str(data.pieces)
        if not can_stay_within(model):
            yield f"{type(model).__name__} looks across their ends; model=modern does not"


def steps_per_batch(config: Train) -> int:
    """How many optimizer steps a Lightning batch holds.

    `data.steps_per_batch`, but one where a part might notice: somebody else's callback
    that is called for every batch wants to see every step; and where all draw from one stream
    (streams=global), a model that draws must do so in turn with the data.
    """
    several = config.data.steps_per_batch
    watched = any(_sees_batches(str(node["_target_"])) for node in config.callbacks.values())
    draws_in_turn = not own_streams(config) and may_draw(config.model)
    return 1 if watched or draws_in_turn else several


def may_draw(model: dict[str, Any]) -> bool:
    """Whether a model's config may stand for one that draws random numbers in its forward pass."""
    ours = all(target.startswith("lmlab.models.") for _, target in targets(model, "model"))
    return not ours or any(p for key, p in leaves(model) if key.endswith(("dropout", "drop_path")))


def _sees_batches(target: str) -> bool:
    """Whether a callback may want to see every step. Ours know that a batch holds several."""
    if target.startswith("lmlab."):
        return False
    callback = named(target)
    return not isinstance(callback, type) or sees_batches(callback)


def make_loss(config: Train, text: TokenizedCorpus) -> Loss:
    """What a resolved config descends: its loss, with its teachers beside it.

    Raises:
        LabError: if it cannot be made, or a teacher's run has changed, or reads other tokens or
            fewer.
    """
    loss = CrossEntropy() if config.loss is None else build.part(config.loss, "loss", Loss)
    if config.teacher is None or not config.teacher.runs:
        return loss
    models = []
    for parent in config.teacher.runs:
        assert isinstance(parent, Parent)  # see runs.parents.resolve
        path = checkpoint_path(parent, "teacher.runs")
        trained = restore(RunDirectory.open(parent.run, "teacher.runs"), str(path))
        trained.check_beside("teacher.runs", parent.run, text.tokenizer, text.sha256, config.data)
        models.append(trained.model)
    return Distillation(loss, models, config.teacher.share)


def make_callbacks(config: Train, text: TokenizedCorpus) -> list[L.Callback]:
    """The callbacks of a config.

    One whose constructor cannot do without a `tokenizer` or a `seed` is given the run's, unless its
    config says one. With streams=global there is no seed but None: all draw from one stream.
    """
    seed = config.seed if own_streams(config) else None
    offered: dict[str, Any] = {"tokenizer": text.tokenizer, "seed": seed}
    made = []
    for name, node in config.callbacks.items():
        takes = signature(named(node["_target_"]))
        wanted = (
            [p.name for p in takes.parameters.values() if p.default is p.empty] if takes else []
        )
        given = {key: offered[key] for key in wanted if key in offered and key not in node}
        try:
            callback = build.part(node, f"callbacks.{name}", L.Callback, **given)
        except MisconfigurationException as error:
            target = node["_target_"]
            raise LabError(
                f"callbacks.{name}: {target} cannot be made: {first_line(error)}"
            ) from error
        if isinstance(callback, BatchSizeFinder | LearningRateFinder):
            raise LabError(
                f"callbacks.{name}: {node['_target_']} changes the config of a run that has begun; "
                "sweep the key"
            )
        made.append(callback)
    return made
