"""The end of a run: its result, what it writes like, and what to do next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from lmlab.console import board_command, command, console, say
from lmlab.data.tokenizer import END_SHOWN
from lmlab.display.tracker_commands import tracker_commands
from lmlab.runs.directory import RunDirectory
from lmlab.runs.record import result_of, tokens_of_result


def show(run: RunDirectory, flags: Sequence[str] = ()) -> None:
    """Say the result of a run, what it writes like, and what to do next; `flags` are those that it
    was composed with."""
    metrics, step = run.record["metrics"], run.record["step"]
    result = result_of(metrics)
    assert result is not None  # a record that says done has one
    this = shlex.quote(f"run={run.path}")
    if (sample := run.sample) is not None:
        console.rule("sample", style="dim")
        say(sample)
        console.rule(style="dim")
    in_bits = "".join(  # what others wrote, or an earlier lmlab, may lack them
        f", {tag} {metrics[tag]:.4f} {unit}"
        for tag, unit in (
            (result.replace("loss", "bpc"), "bits per character"),
            (result.replace("loss", "bpb"), "per byte"),
        )
        if metrics.get(tag) is not None
    )
    say(f"{result} {metrics[result]:.4f} nats per token{in_bits} ({tokens_of_result(run.record)})")
    if (dynamic := metrics.get("val/loss_dynamic")) is not None:
        say(f"val/loss_dynamic {dynamic:.4f} nats per token (it learns from val as it reads it)")
    accuracies = [
        f"{name.split('/')[1]} {value:.3f}"
        for name, value in metrics.items()
        if name.startswith("tasks/") and name.endswith("/accuracy")
    ]
    if accuracies:
        say(f"tasks, accuracy: {', '.join(accuracies)}")
    say(f"run       {run.path}")
    outputs = Path(run.config["output_dir"])
    folder = outputs if run.path.is_relative_to(outputs) else run.path
    say(f"look      {board_command(folder)}")
    for name, shows in tracker_commands(run.path, run.config["logger"]):
        say(f"{name:<10}{shows}")
    say(f"sample    {command('generate')} {this}{_prompt(run)}")
    say(f"evaluate  {command('evaluate')} {this}")
    if step:
        that = shlex.quote(f"from={run.path}")
        words = " ".join([*flags, that, f"trainer.max_steps={2 * step}"])
        say(f"longer    {command('train')} {words}")


def _prompt(run: RunDirectory) -> str:
    """A prompt of characters that the run's text has: its sample began with it, or Shakespeare."""
    corpus = run.config["corpus"]["_target_"]
    if re.fullmatch(r"lmlab\.data\.corpus\.\w*shakespeare\w*", corpus) and not run.config["from"]:
        return ' prompt="ROMEO:"'
    sample = (run.sample or "").replace(END_SHOWN, " ")
    # As it can be typed again: an ASCII terminal shows other letters as escapes.
    here = (console.encoding, "ignore")
    words = [w for w in sample.split() if w.isprintable() and w.encode(*here).decode(here[0]) == w]
    return f" {shlex.quote(f'prompt={words[0][:20]}')}" if words else ""
