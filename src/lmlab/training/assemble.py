"""What training is made of: data, model and callbacks, from a checked config and its text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden

from lmlab.config import build
from lmlab.config.build import targets
from lmlab.config.fingerprint import leaves
from lmlab.config.targets import named, signature
from lmlab.data.datamodule import TextDataModule
from lmlab.data.streams import derive, generator
from lmlab.data.tokens import TokenizedCorpus
from lmlab.errors import LabError
from lmlab.runs.checkpoint import AtomicCheckpointIO, Resumed
from lmlab.runs.directory import RunDirectory
from lmlab.runs.parents import checkpoint_path
from lmlab.training.module import LanguageModule
from lmlab.training.optimizers.configure import check_optimizer
from lmlab.training.optimizers.parametrisation import parametrisation_of, scale_weights
from lmlab.training.optimizers.rules import rules_of
from lmlab.training.processes.processes import trainer as trainer_of
from lmlab.training.processes.stopping import Stop
from lmlab.training.restored import restore
from lmlab.training.teacher import Teacher


def may_draw(model: dict[str, Any]) -> bool:
    """Whether a model's config may stand for one that draws random numbers in its forward pass."""
    ours = all(target.startswith("lmlab.models.") for _, target in targets(model, "model"))
    return not ours or any(p for key, p in leaves(model) if key.endswith("dropout"))


# Lightning calls these hooks of a callback once for each batch of training, or within it.
AROUND_A_BATCH = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


def make_data(config: dict[str, Any], text: TokenizedCorpus) -> TextDataModule:
    """The datamodule of a config over a tokenised corpus."""
    evaluation = config["eval"]
    own_stream = config["streams"] == "separate"
    return TextDataModule(
        text.ids,
        text.tokenizer.vocab_size,
        n_train=text.n_train,
        **{**config["data"], "steps_per_batch": steps_per_batch(config)},
        accumulate=config["trainer"]["accumulate_grad_batches"],
        max_steps=config["trainer"]["max_steps"],
        eval_every=evaluation["every"],
        save_every=config["checkpoint"]["every"],
        eval_protocol=evaluation["protocol"],
        eval_iters=evaluation["iters"],
        stride=evaluation["stride"],
        seed=config["seed"],
        generator=generator(config["seed"], "data") if own_stream else None,
    )


def steps_per_batch(config: dict[str, Any]) -> int:
    """How many optimizer steps a Lightning batch holds.

    `data.steps_per_batch`, but one where a part might notice: somebody else's callback
    that is called for every batch wants to see every step; and where all draw from one stream
    (streams=global), a model that draws must do so in turn with the data.
    """
    several: int = config["data"]["steps_per_batch"]
    watched = any(_sees_batches(str(node["_target_"])) for node in config["callbacks"].values())
    draws_in_turn = config["streams"] == "global" and may_draw(config["model"])
    return 1 if watched or draws_in_turn else several


def _sees_batches(target: str) -> bool:
    """Whether a callback may want to see every step. Ours know that a batch holds several."""
    if target.startswith("lmlab."):
        return False
    callback = named(target)
    return not isinstance(callback, type) or any(
        is_overridden(hook, callback, L.Callback) for hook in AROUND_A_BATCH
    )


def make_module(
    config: dict[str, Any], text: TokenizedCorpus, stop: Stop | None = None
) -> LanguageModule:
    """The model of a config, freshly initialised, in its LightningModule."""
    own_stream = config["streams"] == "separate"
    torch.manual_seed(derive(config["seed"], "init") if own_stream else config["seed"])
    model = build.model(config, text.tokenizer.vocab_size)
    if config["trainer"]["compile"]:
        model.compile()  # in place, so that the weights keep their names
    factors = parametrisation_of(config).factors(model, config["model"])
    scale_weights(factors)
    make_optimizer, rules = build.optimizer(config), rules_of(config)
    check_optimizer(model, make_optimizer, rules, factors)
    return LanguageModule(
        model,
        make_optimizer,
        build.schedule(config),
        text.tokenizer.characters_per_token(),
        rules=rules,
        factors=factors,
        max_steps=config["trainer"]["max_steps"],
        accumulate=config["trainer"]["accumulate_grad_batches"],
        clip_norm=config["trainer"]["gradient_clip_val"],
        log_every=config["trainer"]["log_every_n_steps"],
        dropout_seed=derive(config["seed"], "dropout") if own_stream else None,
        about={
            "config": config,
            "tokenizer": text.tokenizer.stored(),
            "corpus_sha256": text.sha256,
        },
        stop=stop,
        teacher=_teacher(config, text),
    )


def _teacher(config: dict[str, Any], text: TokenizedCorpus) -> Teacher | None:
    """The teacher of a resolved config.

    Raises:
        LabError: if one of its runs has changed, or reads other tokens or fewer.
    """
    settings = config.get("teacher") or {}
    models = []
    for parent in settings.get("runs") or []:
        path = checkpoint_path(parent, "teacher.runs")
        trained = restore(RunDirectory.open(parent["run"], "teacher.runs"), str(path))
        trained.check_beside(
            "teacher.runs", parent["run"], text.tokenizer, text.sha256, config["data"]
        )
        models.append(trained.model)
    return Teacher(models, settings["share"]) if models else None


def make_callbacks(config: dict[str, Any], text: TokenizedCorpus) -> list[L.Callback]:
    """The callbacks of a config.

    One whose constructor cannot do without a `tokenizer` or a `seed` is given the run's, unless its
    config says one. With streams=global there is no seed but None: all draw from one stream.
    """
    seed = config["seed"] if config["streams"] == "separate" else None
    offered: dict[str, Any] = {"tokenizer": text.tokenizer, "seed": seed}
    made = []
    for name, node in config["callbacks"].items():
        takes = signature(named(node["_target_"]))
        wanted = (
            [p.name for p in takes.parameters.values() if p.default is p.empty] if takes else []
        )
        given = {key: offered[key] for key in wanted if key in offered and key not in node}
        try:
            callback = build.part(node, f"callbacks.{name}", L.Callback, **given)
        except MisconfigurationException as error:
            target, said = node["_target_"], str(error).splitlines()[0]
            raise LabError(f"callbacks.{name}: {target} cannot be made: {said}") from error
        if isinstance(callback, BatchSizeFinder | LearningRateFinder):
            raise LabError(
                f"callbacks.{name}: {node['_target_']} changes the config of a run that has begun; "
                "sweep the key"
            )
        made.append(callback)
    return made


def trial_of(config: dict[str, Any]) -> list[L.Callback]:
    """What reports to the trial of a study that a run is for, if it is for one."""
    trial = (config.get("sweep") or {}).get("trial")
    return [build.part(trial, "sweep.trial", L.Callback)] if trial else []


def make_trainer(
    config: dict[str, Any],
    run: RunDirectory,
    data: TextDataModule,
    callbacks: list[L.Callback],
    loggers: list[Logger],
    resumed: Resumed | None,
) -> L.Trainer:
    """Lightning's Trainer for a run; `resumed` is where it goes on.

    Raises:
        LabError: if Lightning refuses the settings.
    """
    is_fresh = resumed is None or resumed.checkpoint is None
    own_streams = config["streams"] == "separate"
    return trainer_of(
        config,
        max_steps=config["trainer"]["max_steps"],
        val_check_interval=data.batches_per_eval,
        check_val_every_n_epoch=None,  # count over the whole run: it is one long epoch
        # An evaluation before the first step. On one global stream it would draw from it.
        num_sanity_val_steps=-1 if config["eval"]["at_start"] and is_fresh and own_streams else 0,
        callbacks=callbacks,
        logger=loggers,
        plugins=[AtomicCheckpointIO(resumed)],
        default_root_dir=run.path,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        log_every_n_steps=1,  # the module does the logging; this keeps Lightning from warning
    )


CALLBACKS = "lightning.pytorch.callbacks."


@contextmanager
def refusals_of_callbacks(config: dict[str, Any]) -> Iterator[None]:
    """What one of Lightning's callbacks finds wrong with its settings, once training has begun.

    Raises:
        LabError: naming the callback.
    """
    try:
        yield
    except (LabError, OSError):
        raise
    except Exception as error:  # they raise whatever they like
        frames = [frame for frame, _ in walk_tb(error.__traceback__)]
        modules = [str(frame.f_globals.get("__name__")) for frame in frames]
        ours = max(i for i, name in enumerate(modules) if name.startswith("lmlab."))
        theirs = [i for i, name in enumerate(modules) if name.startswith(CALLBACKS)]
        if not theirs or theirs[-1] < ours:
            raise
        kind = type(frames[theirs[-1]].f_locals.get("self")).__name__
        nodes = config["callbacks"].items()
        keys = [name for name, node in nodes if node["_target_"].rpartition(".")[2] == kind]
        key = ".".join(["callbacks", *keys[:1]])
        raise LabError(f"{key}: {kind}: {str(error).splitlines()[0]}") from error
