"""`scripts/generate.py`: text from a checkpoint, printed as it is sampled."""

from __future__ import annotations

from typing import Any

import torch

from lmlab.console import console, quiet_libraries
from lmlab.errors import LabError
from lmlab.generation import generate as sample_tokens
from lmlab.generation import stream_text
from lmlab.runs import Run
from lmlab.training.state import Trained, restore


def generate(config: dict[str, Any]) -> list[str]:
    """Print `samples` continuations of the prompt, prompt included; returns them.

    Each sample has a generator of its own, so the third is the same however many are asked for.

    Raises:
        LabError: if there is no such run or checkpoint, or the prompt cannot be encoded.
    """
    quiet_libraries()
    trained = restore(Run.open(config["run"]), config["checkpoint"])
    prompt = _encode(trained, config["prompt"])
    texts = []
    for i in range(config["samples"]):
        if config["samples"] > 1:
            console.rule(f"sample {i + 1}", style="dim")
        source = torch.Generator().manual_seed(config["seed"] + i)
        tokens = sample_tokens(
            trained.model,
            prompt,
            config["max_new_tokens"],
            temperature=config["temperature"],
            top_k=config["top_k"],
            top_p=config["top_p"],
            generator=source,
        )
        text = config["prompt"] or ""
        _print(text)
        for piece in stream_text(trained.tokenizer, (int(token) for token in tokens)):
            _print(piece)
            text += piece
        _print("\n")
        texts.append(text)
    return texts


def _encode(trained: Trained, prompt: str | None) -> torch.Tensor:
    """The prompt's ids (1, T)."""
    if prompt == "":
        raise LabError("prompt is empty: give at least one character, or leave it out")
    try:
        tokenizer = trained.tokenizer
        ids = tokenizer.opening() if prompt is None else tokenizer.encode(prompt)
    except UnicodeEncodeError as error:
        raise LabError(f"prompt={prompt!r} is not UTF-8") from error
    except LabError as error:
        raise LabError(f"prompt has {error}") from error
    block_size = trained.config["data"]["block_size"]
    if len(ids) > block_size:
        console.print(
            f"the prompt is {len(ids)} tokens long, and the model sees the last {block_size}",
            style="dim",
        )
    return torch.from_numpy(ids.astype("int64"))[None]


def _print(text: str) -> None:
    # Not rich's print: a sample may hold anything, and must come out as it is.
    console.file.write(text)
    console.file.flush()
