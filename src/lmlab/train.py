"""`scripts/train.py`: one config in, one run directory out."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from lmlab import build
from lmlab.console import command, console, log, logged_to, quiet_libraries, say
from lmlab.data.datamodule import TextDataModule
from lmlab.data.tokens import TokenizedCorpus
from lmlab.errors import LabError
from lmlab.files import write_atomically
from lmlab.models.ngram import NGram
from lmlab.runs import LOG, RECORD, SAMPLE, Run, check_continues
from lmlab.streams import derive, generator
from lmlab.training.callbacks import Bar, Checkpoints, NotebookCells, Recorder, Sample
from lmlab.training.footprint import check_fits
from lmlab.training.loggers import begin, end, event_files, loggers
from lmlab.training.module import LanguageModule
from lmlab.training.pictures import Pictures
from lmlab.training.projector import Projector
from lmlab.training.pruning import Pruning
from lmlab.training.state import AtomicCheckpointIO, Start, check_goes_on, newest_whole
from lmlab.training.stopping import Interrupted, Pruned, Stop

RUN = "LMLAB_RUN"  # the environment variable that tells helping processes the run directory


def train(config: dict[str, Any], swept: dict[str, Any] | None = None) -> Run:
    """Train what a checked config says, and return the run: its directory holds all there is.

    A config whose `run` names a directory goes on from that run's last checkpoint; so does one with
    `resume=auto`, if it finds a run of its own that was begun before. `swept` goes into the record:
    the keys that a sweep varies, with this run's values.

    Raises:
        LabError: for anything the user can put right. Before the run directory is made, as far as
            it can be known before.
        Interrupted: if a signal asked to stop; everything is on disk.
    """
    quiet_libraries()
    if int(os.environ.get("LOCAL_RANK", 0)):
        return _help_to_train(config)
    run = _run_to_continue(config)
    if run is not None:
        check_continues(run.config, config)
        if run.record.get("status") == "done" and run.record["step"] >= _max_steps(config):
            say(f"{run.path} is done already, after {run.record['step']} steps")
            return run
    text = build.tokens(config)
    if run is not None and run.record.get("corpus_sha256", text.sha256) != text.sha256:
        raise LabError(f"run={run.path} cannot go on: its corpus has changed since it began")
    stop = Stop()
    data, module = make_data(config, text), make_module(config, text, stop)
    callbacks = _callbacks(config, text)
    new = run is None
    run = run or Run.create(config, swept)
    with run.locked(), logged_to(run.path / LOG), stop.listening():
        os.environ[RUN] = str(run.path.absolute())  # for the processes that Lightning starts
        start = None if new else _start(run, module)
        curves = loggers(config, run.path, None if start is None else start.step)
        if not new:
            run.go_on(config, swept)
        run.update(
            corpus_sha256=text.sha256,
            parameters=sum(p.numel() for p in module.model.parameters()),
        )
        _introduce(config, data, module, run, start)
        try:
            _record_outcome(run, lambda: _fit(config, data, module, callbacks, run, start, curves))
        except BaseException:
            with suppress(LabError):  # the directory may be gone
                end(curves, run.told.get("status", "failed"))
            raise
    return run


def _run_to_continue(config: dict[str, Any]) -> Run | None:
    if config["run"]:
        return Run.open(config["run"])
    return Run.to_resume(config) if config["resume"] else None


def _max_steps(config: dict[str, Any]) -> int:
    return config["trainer"]["max_steps"]


def _start(run: Run, module: LanguageModule) -> Start:
    found = newest_whole(run, lambda stored: check_goes_on(stored, module.about, module.model))
    return Start(0, None) if found is None else Start(found[1]["global_step"], *found)


def _help_to_train(config: dict[str, Any]) -> Run:
    """Train as one of several processes on a machine: the first has seen to the directory."""
    if RUN not in os.environ:
        raise LabError("trainer.devices: let one process start the others (run without torchrun)")
    console.quiet = True
    run = Run(Path(os.environ[RUN]))
    text = build.tokens(config)
    stop = Stop()
    data, module = make_data(config, text), make_module(config, text, stop)
    with stop.listening():
        start = _start(run, module) if run.checkpoints() else None
        curves = loggers(config, run.path, None if start is None else start.step)
        _fit(config, data, module, _callbacks(config, text), run, start, curves)
    return run


def _record_outcome(run: Run, fit: Callable[[], None]) -> None:
    """Fit, and leave in the record how it ended."""
    try:
        try:
            fit()
        except SIGTERMException:  # Lightning's own answer, in the middle of an evaluation
            raise Interrupted(signal.SIGTERM, run.record["step"]) from None
    except Interrupted as stopped:
        run.update(status="interrupted", step=stopped.step)
        say(f"{stopped}; everything is kept")
        say(f"continue  {command('train')} run={run.path}")
        raise
    except Pruned as pruned:
        run.update(status="pruned", step=pruned.step)
        say(str(pruned))
        raise
    except BaseException as error:
        with suppress(LabError):  # the disk may be what failed
            log.error("failed", exc_info=error)
            run.update(status="failed", error=f"{type(error).__name__}: {error}")
        if isinstance(error, Exception) and not (run.path / RECORD).is_file():
            raise LabError(
                f"run={run.path} is gone: it was moved or deleted while it was trained"
            ) from error
        if isinstance(error, OSError):
            raise LabError(f"{run.path}: {error.strerror or error}") from error
        raise


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


def make_module(
    config: dict[str, Any], text: TokenizedCorpus, stop: Stop | None = None
) -> LanguageModule:
    """The model of a config, freshly initialised, in its LightningModule."""
    check_fits(config, text.tokenizer.vocab_size)
    own_stream = config["streams"] == "separate"
    torch.manual_seed(derive(config["seed"], "init") if own_stream else config["seed"])
    model = build.model(config, text.tokenizer.vocab_size)
    if config["trainer"]["compile"]:
        model.compile()  # in place, so that the weights keep their names
    return LanguageModule(
        model,
        build.optimizer(config),
        build.schedule(config),
        text.tokenizer.characters_per_token(),
        max_steps=config["trainer"]["max_steps"],
        accumulate=config["trainer"]["accumulate_grad_batches"],
        clip_norm=config["trainer"]["gradient_clip_val"],
        log_every=config["trainer"]["log_every_n_steps"],
        dropout_seed=derive(config["seed"], "dropout") if own_stream else None,
        about={
            "config": config,
            "tokenizer": text.tokenizer.to_json(),
            "corpus_sha256": text.sha256,
        },
        stop=stop,
    )


def _fit(
    config: dict[str, Any],
    data: TextDataModule,
    module: LanguageModule,
    callbacks: list[L.Callback],
    run: Run,
    start: Start | None,
    curves: list[Logger],
) -> None:
    """Train, evaluate a last time, and leave a last checkpoint, a sample and a finished record."""
    settings = config["trainer"]
    tokens_per_step = data.batch_size * data.block_size * settings["accumulate_grad_batches"]
    recorder = Recorder(run, tokens_per_step)
    keeper = Checkpoints(run, module.stop, **config["checkpoint"])
    trial = (config.get("sweep") or {}).get("trial")
    trainer = _trainer(
        **{key: settings[key] for key in ("max_steps", "accelerator", "devices", "strategy")},
        precision=settings["precision"],
        val_check_interval=data.batches_per_eval,
        check_val_every_n_epoch=None,  # count over the whole run: it is one long epoch
        num_sanity_val_steps=0,
        # What is kept, once all else is done; a report to a trial comes before, so that none is
        # missing where training goes on from a checkpoint.
        callbacks=[*callbacks, Bar(), recorder, *([Pruning(trial)] if trial else []), keeper],
        logger=curves,
        plugins=[AtomicCheckpointIO(start)],
        default_root_dir=run.path,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        log_every_n_steps=1,  # the module does the logging; this keeps Lightning from warning
    )
    begin(curves, module, data.tokens_per_step * trainer.world_size, run.record["started"])
    if isinstance(module.model, NGram):  # it counts: there is no gradient to descend
        module.model.fit(data.train_tokens)
    elif settings["max_steps"]:
        trainer.fit(module, datamodule=data, ckpt_path=start.checkpoint if start else None)
    for logger in event_files(trainer.loggers):
        logger.begin_end()
    if recorder.step != trainer.global_step:  # the end does not fall on an evaluation
        if trainer.global_step:
            keeper.save(trainer, module)  # from here on only evaluations can be interrupted
        trainer.validate(module, datamodule=data, verbose=False)
    trainer.validate(module, data.full_dataloader(), verbose=False)
    keeper.save(trainer, module)
    if trainer.is_global_zero:
        for sampler in (callback for callback in callbacks if isinstance(callback, Sample)):
            text_made = sampler.text or sampler.make(module)
            write_atomically(run.path / SAMPLE, text_made.encode())
        end(curves, "done")  # before the record: a run that says done is not looked at again
        run.update(status="done", step=trainer.global_step, metrics=recorder.metrics)


def _trainer(**settings: Any) -> L.Trainer:
    """Lightning's Trainer; what it says of settings that do not go together is the user's to know.

    Raises:
        LabError: if they do not.
    """
    try:
        return L.Trainer(**settings)
    except (ValueError, MisconfigurationException) as error:
        raise LabError(f"trainer: {str(error).splitlines()[0]}") from error


def _callbacks(config: dict[str, Any], text: TokenizedCorpus) -> list[L.Callback]:
    """The callbacks of a config; ours are given what a config cannot say."""
    seed = config["seed"]
    sample_seed = seed if config["streams"] == "separate" else None
    more: dict[type, dict[str, Any]] = {
        Sample: {"tokenizer": text.tokenizer, "seed": sample_seed},
        Pictures: {"tokenizer": text.tokenizer},
        Projector: {"tokenizer": text.tokenizer},
        NotebookCells: {"seed": seed},
    }
    by_name = {f"{kind.__module__}.{kind.__qualname__}": given for kind, given in more.items()}
    return [
        build.part(node, f"callbacks.{name}", L.Callback, **by_name.get(node["_target_"], {}))
        for name, node in config["callbacks"].items()
    ]


def _introduce(
    config: dict[str, Any],
    data: TextDataModule,
    module: LanguageModule,
    run: Run,
    start: Start | None,
) -> None:
    n_parameters = sum(p.numel() for p in module.model.parameters())
    say(
        f"{config['name']}: {type(module.model).__name__} of {n_parameters:,} parameters; "
        f"{len(data.train_tokens):,} train and {len(data.val_tokens):,} val tokens, "
        f"vocabulary of {data.vocab_size:,}"
    )
    say(f"kept in {run.path}" + (f", going on from step {start.step}" if start else ""))
