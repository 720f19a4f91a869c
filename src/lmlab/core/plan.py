"""`dry_run=true`: what a config would do, without doing it."""

from __future__ import annotations

import re
from pathlib import Path

from rich.filesize import decimal
from rich.table import Table
from torch import nn

from lmlab.config import build
from lmlab.config.fingerprint import fingerprint
from lmlab.config.schema import Train
from lmlab.console import console, quiet_libraries
from lmlab.core.experiment import about_order, make_data
from lmlab.data.datamodule import TextDataModule
from lmlab.training import preflight
from lmlab.training.beginning.start import Start
from lmlab.training.optimizers.configure import CombinedOptimizer, configure, groups_by_rule
from lmlab.training.optimizers.parametrisation import parametrisation_of
from lmlab.training.optimizers.rules import REST, names_of, rules_of
from lmlab.training.preflight import footprint
from lmlab.training.processes.processes import Processes

NAMES = 2  # of parameters that a row of the rules has room for
RULE_COLUMNS = (
    *("rule", "optimizer", "lr", "decay", "schedule", "tensors", "parameters", "names"),
)


def plan(config: Train) -> None:
    """Print the size, the work, the memory and the place of the run that a resolved config asks
    for.

    Raises:
        LabError: where the run itself would, before its first step.
    """
    quiet_libraries()
    processes = Processes(config)
    if processes.rank:
        return  # the first says it
    start = Start.find(config)
    text = start.text()
    data = make_data(config, text)
    trainer, shape = config.trainer, config.data
    preflight.check_memory(config, data.vocab_size)
    size = footprint(config, data.vocab_size)
    preflight.check_logits(size.model, config.model["_target_"], data.vocab_size, data.block_size)
    preflight.check_pause(config, size.model)
    n_parameters = sum(p.numel() for p in size.model.parameters() if p.requires_grad)
    rules = _rules(config, size.model) if n_parameters else []
    tokens_per_step = shape.batch_size * shape.block_size
    tokens_per_step *= trainer.accumulate_grad_batches * processes.world_size
    first = config.begins_from.step if config.begins_from else 0
    tokens = tokens_per_step * (trainer.max_steps - first)

    order = "; ".join(about_order(config, data, size.model, processes.world_size))
    table = Table(box=None, show_header=False, pad_edge=False)
    for row in (
        ("model", f"{type(size.model).__name__}, {n_parameters:,} parameters"),
        (
            "corpus",
            f"{len(data.train_tokens):,} train and {len(data.val_tokens):,} val tokens, "
            f"vocabulary of {data.vocab_size:,}",
        ),
        ("step", f"{tokens_per_step:,} tokens"),
        (
            "steps",
            f"{trainer.max_steps:,}{f', from {first:,} on' * bool(first)}: {tokens:,} tokens, "
            f"{tokens / len(data.train_tokens):.2f} times the train split",
        ),
        *([("order", order)] if order else []),
        ("full pass", _full_pass(data, tokens_per_step)),
        (
            "memory",
            f"weights {decimal(size.weights)}, as much for gradients, "
            f"optimizer {_amount(size.optimizer)}; corpus mapped from disk "
            f"{decimal(text.ids.nbytes)}; activations not counted",
        ),
        ("kept in", _where(start)),
        ("fingerprint", fingerprint(config.plain())),
    ):
        table.add_row(*row)
    console.print(table, soft_wrap=True)
    if rules:
        console.print()
        rows = [RULE_COLUMNS, *rules]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for cells in rows:  # a table of rich's would cut off names where a terminal is narrow
            line = "  ".join(map(str.ljust, cells, widths))
            console.print(line.rstrip(), markup=False)
    for remark in preflight.remarks(config):
        console.print(remark, markup=False)


def _rules(config: Train, model: nn.Module) -> list[tuple[str, ...]]:
    """Which optimizer takes which parameters: those that decay and those that do not, apart."""
    factors = parametrisation_of(config.parametrisation).factors(model, config.model)
    node = config.optimizer
    optimizer = configure(model, build.optimizer(node), rules_of(node), factors)
    several = isinstance(optimizer, CombinedOptimizer)
    names = {parameter: called[0] for parameter, called in names_of(model).items()}
    nodes = {REST: node, **(node.get("rules") or {})}
    return [
        (
            name if several else "all",
            _last(nodes[name].get("_target_", node["_target_"])),
            f"{group['lr']:g}",
            f"{group['weight_decay']:g}" if "weight_decay" in group else "-",
            _last((nodes[name].get("schedule") or config.schedule)["_target_"]),
            f"{len(group['params']):,}",
            f"{sum(p.numel() for p in group['params']):,}",
            _shortened([names[p] for p in group["params"]]),
        )
        for name, groups in groups_by_rule(optimizer).items()
        for group in groups
    ]


def _full_pass(data: TextDataModule, tokens_per_step: int) -> str:
    """What is predicted at the end, and how many steps' operations that takes: forward alone is a
    third of a step."""
    n, n_all = data.n_full, len(data.val_tokens) - 1
    if not n:
        return "none (eval.full=false): the result is val/loss of the last evaluation"
    work = n * data.block_size / data.stride / (3 * tokens_per_step)
    which = f"{n:,} val tokens" if n == n_all else f"the first {n:,} of {n_all:,} val tokens"
    return (
        f"at the end, {which} in windows of {data.block_size} every {data.stride}: the operations "
        f"of {work:,.0f} steps"
    )


def _amount(n_bytes: int | None) -> str:
    return "not counted" if n_bytes is None else decimal(n_bytes)


def _last(target: str) -> str:
    return target.rpartition(".")[2]


def _shortened(names: list[str]) -> str:
    """Names of parameters with * for what is numbered, each once; those that have room."""
    patterns = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names))
    first = ", ".join(patterns[:NAMES])
    return f"{first} and {len(patterns) - NAMES} more" if len(patterns) > NAMES else first


def _where(start: Start) -> str:
    config, run, parent = start.config, start.run, start.config.begins_from
    if run is not None:
        return f"{run.path}, going on from step {run.record.get('step', 0)}"
    where = str(config.run_dir or Path(config.output_dir) / config.name / "<time>")
    if parent is None:
        return where
    return f"{where}, beginning from step {parent.step} of {parent.run}"
