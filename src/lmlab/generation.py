"""Logits to text, and `scripts/generate.py`: text from a checkpoint, printed as it is sampled."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmlab.console import console, quiet_libraries
from lmlab.data.tokenizer import Tokenizer
from lmlab.errors import LabError
from lmlab.models.memory import Memory
from lmlab.runs import Run
from lmlab.training.state import Trained, restore
from lmlab.waiting import waiting

AT_A_TIME = 64  # samples made beside each other


def probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """What to sample from: logits (B, vocab_size) -> probabilities (B, vocab_size).

    `temperature` divides the logits; 0 leaves only the likeliest token. `top_k` keeps the k
    likeliest, `top_p` the fewest likeliest that together hold that much probability (nucleus
    sampling, Holtzman et al. 2020).
    """
    if temperature < 1e-20:  # 0, or so little that dividing by it could overflow
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        kth = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < kth, float("-inf"))
    probs = F.softmax(logits, dim=-1)
    if top_p is not None and top_p < 1:
        ordered, order = probs.sort(descending=True)
        before = ordered.cumsum(-1) - ordered  # held by the tokens likelier than this one
        ordered = ordered.masked_fill((before >= top_p) & (before > 0), 0.0)  # the first is kept
        probs = torch.zeros_like(probs).scatter(-1, order, ordered)
        probs = probs / probs.sum(-1, keepdim=True)
    return probs


@torch.no_grad()
def generate(
    model: nn.Module,
    idx: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Iterator[Tensor]:
    """Continue idx (B, T), one token (B, 1) at a time, as they are sampled.

    The model, which should be in eval mode, sees the last block_size tokens. Up to there a model
    that can is given only what is new (`models.memory`). Beyond, every token has another place in
    the window and all is computed anew, as it is for models that cannot. A model that is `endless`
    goes on beyond: it reads all tokens, each once, and keeps what its own windows reach.

    `generator=None` is torch's default generator. With a generator for each sequence, a sequence
    does not depend on how many others are sampled beside it.
    """
    block_size: Any = model.block_size
    sees: Any = getattr(model, "sees", block_size)
    memory = Memory.of(model)
    endless: bool = getattr(model, "endless", False)
    # A compiled model would be compiled anew for every length.
    forward = model if model._compiled_call_impl is None else model.forward
    n_read = 0
    for _ in range(max_new_tokens):
        if memory is not None and (endless or idx.shape[1] <= block_size):
            with memory:
                for new in idx[:, n_read:].split(block_size, dim=1):
                    logits = forward(new)[:, -1]  # (B, vocab_size)
            n_read = idx.shape[1]
        else:
            logits = forward(idx[:, -sees:])[:, -1]
        logits = logits.float()
        if not logits.amax(-1).isfinite().all():  # the largest of a row is NaN where any is
            raise LabError("the model's logits are NaN or infinite: there is nothing to draw from")
        probs = probabilities(logits, temperature, top_k, top_p)
        token = _draw(probs, generator).to(idx.device)
        idx = torch.cat([idx, token], dim=1)
        yield token


def _draw(probs: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
    """A token (B, 1) for each row of probs (B, vocab_size)."""
    if generator is None or isinstance(generator, torch.Generator):
        # Drawn where the generator is: the same text whatever computed the logits.
        probs = probs if generator is None else probs.to(generator.device)
        return torch.multinomial(probs, 1, generator=generator)
    probs = probs.to(generator[0].device)
    rows = zip(probs, generator, strict=True)
    return torch.stack([torch.multinomial(row, 1, generator=source) for row, source in rows])


def stream_text(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """Text of tokens as they come; a character cut in two by tokens waits for its other half."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        if text := decoder.decode(tokenizer.token_bytes(token)):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest


def write(config: dict[str, Any]) -> list[str]:
    """Print `samples` continuations of the prompt, prompt included; returns them.

    Each sample has a generator of its own, so the third is the same however many are asked for.
    They are made beside each other; the first is printed as it comes, the others follow.

    Raises:
        LabError: if there is no such run or checkpoint, or the prompt cannot be encoded.
    """
    quiet_libraries()
    waiting.settle()
    trained = restore(Run.open(config["run"]), config["checkpoint"])
    return [_show(trained, config, row, n) for n, row in enumerate(samples(trained, config), 1)]


def samples(trained: Trained, config: dict[str, Any]) -> Iterator[Iterable[int]]:
    """The tokens of each of `samples` continuations of the prompt, one after the other.

    Raises:
        LabError: if the prompt cannot be encoded.
    """
    prompt = _encode(trained, config["prompt"])
    seeds = range(config["seed"], config["seed"] + config["samples"])
    for start in range(0, len(seeds), AT_A_TIME):
        sources = [torch.Generator().manual_seed(s) for s in seeds[start : start + AT_A_TIME]]
        tokens = generate(
            trained.model,
            prompt.expand(len(sources), -1),
            config["max_new_tokens"],
            temperature=config["temperature"],
            top_k=config["top_k"],
            top_p=config["top_p"],
            generator=sources,
        )
        others: list[list[int]] = [[] for _ in sources[1:]]
        yield _shared_out(tokens, others)
        yield from others


def _shared_out(tokens: Iterable[torch.Tensor], others: list[list[int]]) -> Iterator[int]:
    """The first sequence's tokens as they come, while those of the others are put aside."""
    for column in tokens:
        first, *rest = column.flatten().tolist()
        for kept, token in zip(others, rest, strict=True):
            kept.append(token)
        yield first


def _show(trained: Trained, config: dict[str, Any], tokens: Iterable[int], number: int) -> str:
    """Print one sample; returns it."""
    if config["samples"] > 1:
        console.rule(f"sample {number}", style="dim")
    text = config["prompt"] or ""
    _print(text)
    for piece in stream_text(trained.tokenizer, tokens):
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
    block_size = trained.config["data"]["block_size"]
    if len(ids) > block_size and not getattr(trained.model, "endless", False):
        console.print(
            f"the prompt is {len(ids)} tokens long, and the model sees the last {block_size}",
            style="dim",
        )
    return torch.from_numpy(ids.astype("int64"))[None]


def _print(text: str) -> None:
    # Not rich's print: a sample may hold anything, and must come out as it is.
    console.file.write(text)
    console.file.flush()
