"""`scripts/train.py`: one config in, one run directory out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from lmlab import build
from lmlab.console import console, logged_to, quiet_libraries, say
from lmlab.data.datamodule import TextDataModule
from lmlab.data.tokens import TokenizedCorpus
from lmlab.runs import CHECKPOINTS, Run
from lmlab.streams import derive, generator
from lmlab.training.callbacks import Bar, NotebookCells, Recorder, Sample
from lmlab.training.module import LanguageModule
from lmlab.training.state import AtomicCheckpointIO


def train(config: dict[str, Any]) -> dict[str, float]:
    """Train what a checked config says; returns the final metrics, which run.json holds too.

    Raises:
        LabError: for anything the user can put right. Before the run directory is made, as far as
            it can be known before.
    """
    quiet_libraries()
    text = build.tokens(config)
    data = _data(config, text)
    module = _module(config, text)
    run = Run.create(config)
    with logged_to(run.path / "train.log"):
        _introduce(config, data, module, run)
        recorder = Recorder(run)
        try:
            sample = _fit(config, text, data, module, recorder)
        except KeyboardInterrupt:
            run.update(status="interrupted")
            raise
        except BaseException as error:
            run.update(status="failed", error=f"{type(error).__name__}: {error}")
            raise
        run.update(status="done")
        _conclude(run, recorder.metrics, sample)
    return recorder.metrics


def _data(config: dict[str, Any], text: TokenizedCorpus) -> TextDataModule:
    data, evaluation = config["data"], config["eval"]
    own_stream = config["streams"] == "separate"
    return TextDataModule(
        text.ids,
        text.tokenizer.vocab_size,
        **data,
        accumulate=config["trainer"]["accumulate_grad_batches"],
        max_steps=config["trainer"]["max_steps"],
        eval_every=evaluation["every"],
        eval_protocol=evaluation["protocol"],
        eval_iters=evaluation["iters"],
        stride=evaluation["stride"],
        seed=config["seed"],
        generator=generator(config["seed"], "data") if own_stream else None,
    )


def _module(config: dict[str, Any], text: TokenizedCorpus) -> LanguageModule:
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
    recorder: Recorder,
) -> str:
    """Train, evaluate a last time, and leave a last checkpoint; returns a sample."""
    folder = recorder.run.path
    own_stream = config["streams"] == "separate"
    needs = {
        Sample: {"tokenizer": text.tokenizer, "seed": config["seed"] if own_stream else None},
        NotebookCells: {"seed": config["seed"]},
    }
    callbacks: list[L.Callback] = [
        build.part(node, f"callbacks.{name}", **_needed(node, needs))
        for name, node in config["callbacks"].items()
    ]
    callbacks += [Bar(), recorder, _checkpoints(folder / CHECKPOINTS)]
    settings = config["trainer"]
    trainer = L.Trainer(
        max_steps=settings["max_steps"],
        accelerator=settings["accelerator"],
        devices=settings["devices"],
        strategy=settings["strategy"],
        precision=settings["precision"],
        val_check_interval=data.batches_per_eval,
        check_val_every_n_epoch=None,  # count batches over the whole run: it is one long epoch
        num_sanity_val_steps=0,
        callbacks=callbacks,
        logger=_loggers(config, folder),
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    if hasattr(module.model, "fit"):  # it counts instead of descending a gradient
        module.model.fit(data.train_tokens)
    elif settings["max_steps"]:
        trainer.fit(module, datamodule=data)
    if trainer.global_step % data.eval_every or not trainer.global_step:
        trainer.validate(module, datamodule=data, verbose=False)
    trainer.validate(module, data.full_dataloader(), verbose=False)
    trainer.save_checkpoint(folder / CHECKPOINTS / "last.ckpt")
    samplers = [callback for callback in callbacks if isinstance(callback, Sample)]
    return (samplers[0].text or samplers[0].make(module)) if samplers else ""


def _needed(node: dict[str, Any], needs: dict[type, dict[str, Any]]) -> dict[str, Any]:
    """What a callback of ours takes beyond its config."""
    for kind, arguments in needs.items():
        if node.get("_target_") == f"{kind.__module__}.{kind.__qualname__}":
            return arguments
    return {}


def _checkpoints(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=folder,
        filename="best",
        monitor="val/loss",
        save_last=True,
        enable_version_counter=False,
    )


def _loggers(config: dict[str, Any], folder: Path) -> list[Logger]:
    # Empty name and version: the run directory is the one folder for everything.
    loggers: list[Logger] = []
    if config["logger"]["tensorboard"]:
        loggers.append(TensorBoardLogger(folder, name="", version="", default_hp_metric=False))
    if config["logger"]["csv"]:
        loggers.append(CSVLogger(folder, name="", version=""))
    return loggers


def _introduce(
    config: dict[str, Any], data: TextDataModule, module: LanguageModule, run: Run
) -> None:
    n_parameters = sum(p.numel() for p in module.model.parameters())
    kind = type(module.model).__name__
    say(
        f"{config['name']}: {kind} of {n_parameters:,} parameters; "
        f"{len(data.train_tokens):,} train and {len(data.val_tokens):,} val tokens, "
        f"vocabulary of {data.vocab_size:,}; kept in {run.path}"
    )


def _conclude(run: Run, metrics: dict[str, float], sample: str) -> None:
    if sample:
        console.rule("sample", style="dim")
        say(sample)
        console.rule(style="dim")
    if "val/loss_full" in metrics:
        say(
            f"val/loss_full {metrics['val/loss_full']:.4f} nats per token, "
            f"{metrics['val/bpc']:.4f} bits per character (every val token once)"
        )
    say(f"run       {run.path}")
    say("look      make board")
    say(f'sample    python scripts/generate.py run={run.path} prompt="ROMEO:"')
