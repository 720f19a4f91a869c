"""`scripts/evaluate.py`: a checkpoint's loss on every token of its val split."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmlab.config import schema
from lmlab.config.check import check_plain
from lmlab.config.fingerprint import check_continues
from lmlab.config.own_code import changed_code, parts_named, source_file
from lmlab.console import quiet_libraries, say
from lmlab.data.evals import FULL, EvalBatch, FullEval, LoaderOfTheEnd
from lmlab.data.ids import Ids
from lmlab.data.tokenizer import Tokenizer
from lmlab.data.tokens import text_of
from lmlab.errors import LabError
from lmlab.models.ensemble import ensemble_of
from lmlab.runs.directory import SNAPSHOTS, RunDirectory
from lmlab.runs.newest import run_meant
from lmlab.runs.parents import snapshots_of
from lmlab.tasks.asked import (
    Items,
    answers_to,
    items_of,
    lines,
    lines_of_differences,
    make_tasks,
    metrics_of,
)
from lmlab.training.beginning.restored import Trained, config_beside, precision_of, restore
from lmlab.training.evaluating.dynamic_loss import METRIC, check_learns, dynamic_loss
from lmlab.training.evaluating.sums import add, means
from lmlab.training.processes.devices import computed_in, device_of
from lmlab.training.processes.waiting import waiting


def evaluate(config: schema.Evaluate) -> dict[str, float]:
    """The metrics of one deterministic pass over val, printed with their units.

    Raises:
        LabError: if there is no such run or checkpoint, its corpus has changed, or the windows
            would leave tokens out.
    """
    quiet_libraries()
    waiting.settle()
    run = RunDirectory.open(config.run)
    trained = restore(run, config.checkpoint)
    block_size = trained.config.data.block_size
    if config.stride is not None and config.stride > block_size:
        raise LabError(
            f"stride={config.stride} skips tokens: at most {block_size}, the run's data.block_size"
        )
    corpus = _corpus(run, trained) | config.corpus
    stored = {**trained.config.plain(), "corpus": corpus}
    with_text = check_plain(stored, schema.Train, parts=("corpus", "tokenizer"))
    # The tokenizer of a run that began from another was fitted on that one's text.
    text = text_of(with_text, trained.tokenizer if trained.config.begins_from else None)
    if text.sha256 != trained.corpus_sha256:
        raise LabError(f"run={config.run}: its corpus has changed since it was trained")
    if config.corpus:
        run.keep_corpus(with_text.corpus, text.sha256)
    if text.tokenizer.stored() != trained.tokenizer.stored():
        raise LabError(f"run={config.run}: its tokenizer makes other tokens of the same text now")
    for name in changed_code(run.record, trained.config.plain()):
        say(f"{source_file(name) or name} has changed since this run was trained")
    questions = Questions.of(config, trained, text.val) if config.tasks else None
    device = device_of(config.accelerator)
    model = _with_others(run, trained, config).to(device).eval()
    stride = config.stride or trained.config.eval.stride or block_size
    full = FullEval(FULL, text.val, block_size, stride, text.tokenizer.vocab_size)
    with parts_named(trained.config.plain()), computed_in(precision_of(trained.config)):
        if config.dynamic_lr is not None:
            check_learns(model, f"dynamic_lr={config.dynamic_lr}")
        metrics = _full_pass(model, full, text.tokenizer, device)
        if config.dynamic_lr is not None:
            metrics[METRIC] = dynamic_loss(model, full, device, config.dynamic_lr)
    averaged = ", averaged weights" if config.checkpoint == "ema" else ""
    if config.ensemble == SNAPSHOTS:
        steps = ", ".join(map(str, run.snapshots_by_step()))
        say(f"{run.path} (its snapshots of steps {steps}, their probabilities averaged)")
    else:
        say(f"{trained.path} (step {trained.step}{averaged})")
        for other in config.ensemble or []:
            say(f"and {other}, their probabilities averaged")
    say(
        f"val/loss_full  {metrics[FULL]:.4f} nats per token, over "
        f"{len(text.val) - 1:,} tokens, windows of {block_size} every {stride}"
    )
    ends = "" if text.tokenizer.end_of_text is None else "; the ends of documents count as tokens"
    if "val/bpc_full" in metrics:  # else nobody knows what ids stand for
        say(f"val/bpc_full   {metrics['val/bpc_full']:.4f} bits per character{ends}")
        say(f"val/bpb_full   {metrics['val/bpb_full']:.4f} bits per byte")
    if METRIC in metrics:
        say(
            f"{METRIC}  {metrics[METRIC]:.4f} nats per token, by a copy that learns from "
            f"each {stride} tokens behind their prediction"
        )
    if questions is not None:
        metrics |= questions.ask(model, stride)
    return metrics


def _full_pass(
    model: nn.Module, full: FullEval, tokenizer: Tokenizer, device: torch.device
) -> dict[str, float]:
    """What a run's own pass at its end comes to, with the weights as they are now.

    Raises:
        LabError: if that is no number.
    """
    lengths = tokenizer.characters_per_token(), tokenizer.bytes_per_token()
    characters, bytes_ = (torch.from_numpy(length).to(device) for length in lengths)
    sums = dict[str, Tensor]()
    with torch.inference_mode():
        for batches in LoaderOfTheEnd(full):
            for name, windows, counted in batches:
                batch = EvalBatch(name, windows.to(device), counted.to(device))
                add(sums, batch, model, characters, bytes_)
    metrics = means({metric: own.tolist() for metric, own in sums.items()})
    if not math.isfinite(loss := metrics[full.metric]):
        raise LabError(f"{full.metric} is {loss}: the weights of this checkpoint predict nothing")
    return metrics


@dataclass(frozen=True)
class Questions:
    """The tasks of an evaluation, and whom they are asked beside the run."""

    items: Items
    tokenizer: Tokenizer
    other: Trained | None
    stride: int | None  # of the windows in which the other run reads long texts

    @classmethod
    def of(cls, config: schema.Evaluate, trained: Trained, val: Ids) -> Questions:
        """
        Raises:
            LabError: if a task cannot be made of its file, or there is no such other run.
        """
        items = items_of(make_tasks(config.tasks), val, trained.tokenizer)
        if config.against is None:
            return cls(items, trained.tokenizer, None, None)
        against = run_meant(config.against, "against")
        other = restore(RunDirectory.open(against, "against"), "last")
        other.remark_on_text("against", against, trained.corpus_sha256, trained.config.data)
        stride = config.stride or other.config.eval.stride
        if stride is not None and stride > (block_size := other.config.data.block_size):
            raise LabError(f"stride={stride} skips tokens of against, which reads {block_size}")
        return cls(items, trained.tokenizer, other, stride)

    def ask(self, model: nn.Module, stride: int) -> dict[str, float]:
        """Ask them, and say what comes of it; the scores by their names."""
        answers = answers_to(self.items, model, self.tokenizer, stride)
        for line in lines(self.items, answers):
            say(line)
        if self.other is not None:
            other = self.other.model.to(next(iter(model.state_dict().values())).device)
            others = answers_to(self.items, other, self.other.tokenizer, self.stride)
            say(f"minus {self.other.path} (step {self.other.step}), item by item:")
            for line in lines_of_differences(answers, others):
                say(line)
        return metrics_of(answers)


def _corpus(run: RunDirectory, trained: Trained) -> dict[str, Any]:
    """The corpus of a checkpoint; of one of this run's, where the run says that the text is now."""
    beside = config_beside(run)
    if beside is None:
        return trained.config.corpus
    try:
        check_continues(trained.config.plain(), beside.plain(), may_change=("corpus",))
    except LabError:  # a checkpoint of another run
        return trained.config.corpus
    return beside.corpus


def _with_others(run: RunDirectory, trained: Trained, config: schema.Evaluate) -> nn.Module:
    """The model of a run, an ensemble of it and the runs beside it, or of its snapshots."""
    data, weights = trained.config.data, config.weights
    if config.ensemble == SNAPSHOTS:
        models = []
        for path in snapshots_of(run, "ensemble=snapshots").values():
            one = restore(run, str(path))
            one.check_beside("ensemble", str(path), trained.tokenizer, trained.corpus_sha256, data)
            models.append(one.model)
        asked = f"{len(models)}, one for each snapshot"
    else:
        models = [trained.model]
        for other_path in config.ensemble or []:
            other = restore(RunDirectory.open(other_path, "ensemble"), "last")
            other.check_beside(
                "ensemble", other_path, trained.tokenizer, trained.corpus_sha256, data
            )
            models.append(other.model)
        asked = f"{len(models)}, run's first"
    if weights is not None and len(weights) != len(models):
        raise LabError(f"weights={weights}: give {asked}")
    if len(models) == 1:
        return models[0]
    return ensemble_of(models, weights, trained.tokenizer.vocab_size, data.block_size)
