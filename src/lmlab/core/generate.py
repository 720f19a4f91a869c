"""Logits to text, and `scripts/generate.py`: text from a checkpoint, printed as it is sampled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from lmlab.config.own_code import parts_named
from lmlab.config.schema import Generate
from lmlab.console import console, quiet_libraries
from lmlab.data.tokenizer import stream_text
from lmlab.errors import LabError
from lmlab.models.contract import Hooks
from lmlab.models.sampling import generate
from lmlab.output import output
from lmlab.runs.directory import RunDirectory
from lmlab.training.beginning.restored import Trained, restore
from lmlab.training.processes.waiting import waiting

AT_A_TIME = 64  # samples made beside each other


def write(config: Generate) -> list[str]:
    """Print `samples` continuations of the prompt, prompt included; returns them.

    Each sample has a generator of its own, so the third is the same however many are asked for.
    They are made beside each other; the first is printed as it comes, the others follow.

    Raises:
        LabError: if there is no such run or checkpoint, or the prompt cannot be encoded.
    """
    quiet_libraries()
    waiting.settle()
    trained = restore(RunDirectory.open(config.run), config.checkpoint)
    with parts_named(trained.config.plain()):
        return [_show(trained, config, row, n) for n, row in enumerate(samples(trained, config), 1)]


def samples(trained: Trained, config: Generate) -> Iterator[Iterable[int]]:
    """The tokens of each of `samples` continuations of the prompt, one after the other.

    Raises:
        LabError: if the prompt cannot be encoded.
    """
    prompt = _encode(trained, config.prompt)
    seeds = range(config.seed, config.seed + config.samples)
    for start in range(0, len(seeds), AT_A_TIME):
        sources = [torch.Generator().manual_seed(s) for s in seeds[start : start + AT_A_TIME]]
        tokens = generate(
            trained.model,
            prompt.expand(len(sources), -1),
            config.max_new_tokens,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            generator=sources,
        )
        others: list[list[int]] = [[] for _ in sources[1:]]
        end = trained.tokenizer.end_of_text if config.stop else None
        yield _shared_out(tokens, others, end)
        yield from others


def _shared_out(
    tokens: Iterable[torch.Tensor], others: list[list[int]], end: int | None
) -> Iterator[int]:
    """The first sequence's tokens as they come, while those of the others are put aside; each
    until it comes to the id `end`."""
    going = [True] * (1 + len(others))
    for column in tokens:
        for row, token in enumerate(column.flatten().tolist()):
            going[row] = going[row] and token != end
            if not going[row]:
                continue
            if row:
                others[row - 1].append(token)
            else:
                yield token
        if not any(going):
            return


def _show(trained: Trained, config: Generate, tokens: Iterable[int], number: int) -> str:
    """Print one sample; returns it."""
    if config.samples > 1:
        console.rule(f"sample {number}", style="dim")
    text = config.prompt or ""
    _print(text)
    for piece in stream_text(trained.tokenizer, tokens):
        if output.is_closed:
            break
        _print(piece)
        text += piece
    _print("\n")
    return text


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
    block_size = trained.config.data.block_size
    if len(ids) > block_size and not Hooks.of(trained.model).endless:
        console.print(
            f"the prompt is {len(ids)} tokens long, and the model sees the last {block_size}",
            style="dim",
        )
    return torch.from_numpy(ids.astype("int64"))[None]


def _print(text: str) -> None:
    # Not rich's print: a sample may hold anything, and must come out as it is.
    output.write(text)
    output.flush()
