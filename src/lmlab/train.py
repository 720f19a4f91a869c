"""`scripts/train.py`: one config in, one run directory out."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lmlab import build
from lmlab.console import logged_to, quiet_libraries, say
from lmlab.data.datamodule import TextDataModule
from lmlab.data.tokens import TokenizedCorpus
from lmlab.files import write_atomically
from lmlab.models.ngram import NGram
from lmlab.runs import CHECKPOINTS, LOG, SAMPLE, Run, check_continues
from lmlab.streams import derive, generator
from lmlab.training.callbacks import Bar, NotebookCells, Recorder, Sample
from lmlab.training.loggers import loggers
from lmlab.training.module import LanguageModule
from lmlab.training.state import AtomicCheckpointIO, read


def train(config: dict[str, Any]) -> Run:
    """Train what a checked config says, and return the run: its directory holds all there is.

    A config whose `run` names a directory goes on from that run's last checkpoint.

    Raises:
        LabError: for anything the user can put right. Before the run directory is made, as far as
            it can be known before.
    """
    quiet_libraries()
    run = Run.open(config["run"]) if config["run"] else None
    resume_step = None
    if run is not None:
        check_continues(run.config, config)
        resume_step = read(run.checkpoint("last"))["global_step"]
        if run.record.get("status") == "done" and resume_step >= config["trainer"]["max_steps"]:
            say(f"{run.path} is done already, after {resume_step} steps")
            return run
    text = build.tokens(config)
    data = make_data(config, text)
    module = make_module(config, text)
    if run is None:
        run = Run.create(config)
    else:
        run.update(status="running", error=None)
    with logged_to(run.path / LOG):
        _introduce(config, data, module, run, resume_step)
        try:
            _fit(config, text, data, module, run, resume_step)
        except KeyboardInterrupt:
            run.update(status="interrupted")
            raise
        except BaseException as error:
            run.update(status="failed", error=f"{type(error).__name__}: {error}")
            raise
    return run


def make_data(config: dict[str, Any], text: TokenizedCorpus) -> TextDataModule:
    """The datamodule of a config over a tokenised corpus."""
    evaluation = config["eval"]
    own_stream = config["streams"] == "separate"
    return TextDataModule(
        text.ids,
        text.tokenizer.vocab_size,
        **config["data"],
        accumulate=config["trainer"]["accumulate_grad_batches"],
        max_steps=config["trainer"]["max_steps"],
        eval_every=evaluation["every"],
        eval_protocol=evaluation["protocol"],
        eval_iters=evaluation["iters"],
        stride=evaluation["stride"],
        seed=config["seed"],
        generator=generator(config["seed"], "data") if own_stream else None,
    )


def make_module(config: dict[str, Any], text: TokenizedCorpus) -> LanguageModule:
    """The model of a config, freshly initialised, in its LightningModule."""
    own_stream = config["streams"] == "separate"
    torch.manual_seed(derive(config["seed"], "init") if own_stream else config["seed"])
    model = build.model(config, text.tokenizer.vocab_size)
    if own_stream:
        torch.manual_seed(derive(config["seed"], "dropout"))  # what is left of the default stream
    return LanguageModule(
        model,
        build.optimizer(config),
        build.schedule(config),
        text.tokenizer.characters_per_token(),
        max_steps=config["trainer"]["max_steps"],
        accumulate=config["trainer"]["accumulate_grad_batches"],
        clip_norm=config["trainer"]["gradient_clip_val"],
        log_every=config["trainer"]["log_every_n_steps"],
        about={"config": config, "tokenizer": text.tokenizer.to_json()},
    )


def _fit(
    config: dict[str, Any],
    text: TokenizedCorpus,
    data: TextDataModule,
    module: LanguageModule,
    run: Run,
    resume_step: int | None,
) -> None:
    """Train, evaluate a last time, and leave a last checkpoint, a sample and a finished record."""
    last = run.path / CHECKPOINTS / "last.ckpt"
    settings = config["trainer"]
    recorder = Recorder(run)
    callbacks = _callbacks(config, text)
    trainer = L.Trainer(
        **{key: settings[key] for key in ("max_steps", "accelerator", "devices", "strategy")},
        precision=settings["precision"],
        val_check_interval=data.batches_per_eval,
        check_val_every_n_epoch=None,  # count over the whole run: it is one long epoch
        num_sanity_val_steps=0,
        callbacks=[*callbacks, Bar(), recorder, _checkpoints(last.parent)],
        logger=loggers(config, run.path, resume_step),
        plugins=[AtomicCheckpointIO()],
        default_root_dir=run.path,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=1,  # the module does the logging; this keeps Lightning from warning
    )
    if isinstance(module.model, NGram):  # it counts: there is no gradient to descend
        module.model.fit(data.train_tokens)
    elif settings["max_steps"]:
        trainer.fit(module, datamodule=data, ckpt_path=None if resume_step is None else last)
    if trainer.global_step % data.eval_every or not trainer.global_step:
        trainer.validate(module, datamodule=data, verbose=False)
    trainer.validate(module, data.full_dataloader(), verbose=False)
    trainer.save_checkpoint(last)
    if trainer.is_global_zero:
        for sampler in (callback for callback in callbacks if isinstance(callback, Sample)):
            text_made = sampler.text or sampler.make(module)
            write_atomically(run.path / SAMPLE, text_made.encode())
        run.update(status="done", step=trainer.global_step, metrics=recorder.metrics)


def _callbacks(config: dict[str, Any], text: TokenizedCorpus) -> list[L.Callback]:
    """The callbacks of a config; ours are given what a config cannot say."""
    seed = config["seed"]
    sample_seed = seed if config["streams"] == "separate" else None
    more: dict[type, dict[str, Any]] = {
        Sample: {"tokenizer": text.tokenizer, "seed": sample_seed},
        NotebookCells: {"seed": seed},
    }
    by_name = {f"{kind.__module__}.{kind.__qualname__}": given for kind, given in more.items()}
    return [
        build.part(node, f"callbacks.{name}", **by_name.get(node["_target_"], {}))
        for name, node in config["callbacks"].items()
    ]


def _checkpoints(folder: Any) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=folder,
        filename="best",
        monitor="val/loss",
        save_last=True,
        enable_version_counter=False,
    )


def _introduce(
    config: dict[str, Any],
    data: TextDataModule,
    module: LanguageModule,
    run: Run,
    resume_step: int | None,
) -> None:
    n_parameters = sum(p.numel() for p in module.model.parameters())
    say(
        f"{config['name']}: {type(module.model).__name__} of {n_parameters:,} parameters; "
        f"{len(data.train_tokens):,} train and {len(data.val_tokens):,} val tokens, "
        f"vocabulary of {data.vocab_size:,}"
    )
    say(f"kept in {run.path}" + (f", going on from step {resume_step}" if resume_step else ""))
