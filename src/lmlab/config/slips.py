"""What is meant by words that are nearly right: those of other tools, and those of other shells."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

# How others call what the lab's keys are. A name that is near to one of the lab's own is found
# without: n_layr, lr, batch_size.
CALLED_ELSEWHERE = {
    "data.batch_size": ("bs", "per_device_batch_size", "micro_batch_size"),
    "data.block_size": ("ctx", "n_ctx", "context", "context_length", "seq_len", "max_seq_len"),
    "eval.every": ("eval_interval", "eval_every", "val_check_interval", "check_val_every_n_epoch"),
    "eval.iters": ("eval_batches", "limit_val_batches"),
    "model.dropout": ("drop", "dropout_rate"),
    "model.n_embd": ("d_model", "dim", "embed_dim", "embedding_size", "hidden_size", "width"),
    "model.n_head": ("heads", "num_heads", "n_heads", "num_attention_heads"),
    "model.n_layer": ("layers", "depth", "num_layers", "n_layers", "num_hidden_layers"),
    "optimizer.betas": ("beta1", "beta2"),
    "optimizer.lr": ("learning_rate", "rate"),
    "optimizer.weight_decay": ("wd", "decay"),
    "output_dir": ("out", "out_dir", "default_root_dir", "log_dir"),
    "schedule.warmup_steps": ("warmup", "warmup_iters", "lr_warmup_steps"),
    "trainer.accelerator": ("device", "gpus", "cuda"),
    "trainer.accumulate_grad_batches": ("grad_accum", "gradient_accumulation_steps"),
    "trainer.gradient_clip_val": ("clip", "grad_clip", "max_grad_norm", "max_norm"),
    "trainer.max_steps": ("steps", "n_steps", "num_steps", "iters", "max_iters", "max_epochs"),
    "trainer.precision": ("dtype", "fp16", "bf16", "amp"),
    "corpus": ("dataset", "data_dir", "text"),
}
OURS = {name: key for key, names in CALLED_ELSEWHERE.items() for name in names}


def called_here(name: str) -> str | None:
    """The lab's key for what others call `name`, whatever stands before the name's last dot."""
    return OURS.get(name.rpartition(".")[2].lower().replace("-", "_"))


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean …?` where a known name looks like `name`, else nothing.

    Names are compared whole, then without what stands before the last dot or slash: n_layr and
    lecture/hed are found as well.
    """
    for shortened in (lambda name: name, lambda name: re.split(r"[./]", name)[-1]):
        by_short = {shortened(other).lower(): other for other in reversed(known)}
        if close := difflib.get_close_matches(shortened(name).lower(), by_short, n=1, cutoff=0.65):
            return f"; did you mean {by_short[close[0]]}?"
    return ""


def as_override(flag: str, words: Sequence[str]) -> tuple[str, str]:
    """The key and the value that `flag` gives as flags do: --lr=0.1, or --lr 0.1 among `words`."""
    name, equals, value = flag.lstrip("-").partition("=")
    if not equals and flag in words[:-1]:
        value = words[words.index(flag) + 1]
    return name.replace("-", "_"), value


def apart_from_value(word: str, words: Sequence[str]) -> str | None:
    """`a=b`, where `words` have it with spaces around the equals sign: word is `a`, `=b` or so."""
    together = re.sub(r"\s*=\s*", "=", " ".join(words))
    typed = next((pair for pair in together.split() if pair.partition("=")[0] == word), None)
    return typed if typed is not None and typed.partition("=")[2] else None


def several_values(value: object) -> str | None:
    """How the values are written in a sweep, if `value` looks like several of them."""
    if isinstance(value, list) and len(value) > 1 and not any(isinstance(v, list) for v in value):
        return ",".join(map(str, value))
    if isinstance(value, str) and (span := re.fullmatch(r"(-?\d+)\.\.\.?(-?\d+)", value.strip())):
        return f"range({span[1]},{int(span[2]) + 1})"
    return None
