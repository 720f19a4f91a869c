"""GPT-2's weights by the names that Hugging Face and nanoGPT give them.

Both have the same names but for a prefix. Hugging Face keeps the matrices of blocks transposed, as
OpenAI's code did (`Conv1D`); nanoGPT has nn.Linear's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lmlab.errors import LabError
from lmlab.models.gpt import GPT

PREFIX = "transformer."
OUTSIDE = {"token_embedding": "wte", "position_embedding": "wpe", "final_norm": "ln_f"}
IN_BLOCK = {
    "attention_norm": "ln_1",
    "attention.query_key_value": "attn.c_attn",
    "attention.projection": "attn.c_proj",
    "feed_forward_norm": "ln_2",
    "feed_forward.0": "mlp.c_fc",
    "feed_forward.2": "mlp.c_proj",
}
READ_OUT = "lm_head.weight"
KINDS = ("weight", "bias")


def names(n_layer: int) -> Iterator[tuple[str, str]]:
    """The modules that both have: our name, and theirs without the prefix."""
    yield from OUTSIDE.items()
    for i in range(n_layer):
        for ours, theirs in IN_BLOCK.items():
            yield f"blocks.{i}.{ours}", f"h.{i}.{theirs}"


def is_transposed(name: str) -> bool:
    """Whether Hugging Face keeps a weight of this name, ours or theirs, the other way round."""
    return ".attn.c_" in name or ".mlp.c_" in name


def config(model: GPT) -> dict[str, Any]:
    """The config.json of a model as transformers' GPT2LMHeadModel, but for its tokenizer."""
    block: Any = model.blocks[0]
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_layer": len(model.blocks),
        "n_head": block.attention.n_head,
        "n_embd": model.token_embedding.embedding_dim,
        "n_positions": model.block_size,
        "n_ctx": model.block_size,
        "layer_norm_epsilon": block.attention_norm.eps,
        "activation_function": {"none": "gelu", "tanh": "gelu_new"}[
            block.feed_forward[1].approximate
        ],
        "tie_word_embeddings": model.lm_head.weight is model.token_embedding.weight,
    }


def exported(model: GPT) -> dict[str, Tensor]:
    """A model's weights for transformers' GPT2LMHeadModel. Biases that it lacks are zero."""
    ours, found = model.state_dict(), {}
    for name, theirs in names(len(model.blocks)):
        weight = ours[f"{name}.weight"]
        turned = weight.t() if is_transposed(f".{theirs}.") else weight
        found[f"{PREFIX}{theirs}.weight"] = turned
        if not theirs.startswith("w"):  # embeddings have none
            bias = ours.get(f"{name}.bias")
            found[f"{PREFIX}{theirs}.bias"] = (
                weight.new_zeros(len(weight)) if bias is None else bias
            )
    if model.lm_head.weight is not model.token_embedding.weight:
        found[READ_OUT] = ours[READ_OUT]
    return {name: tensor.contiguous() for name, tensor in found.items()}


def imported(
    tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], n_layer: int, transposed: bool
) -> dict[str, Tensor]:
    """Weights of Hugging Face's or nanoGPT's for a `GPT` whose own are `like`.

    The vocabulary and the positions may be more than it has: the last rows are left out, such as
    those that nanoGPT pads a vocabulary with.

    Raises:
        LabError: naming the tensor that is missing, left over, or does not fit.
    """
    prefix = "" if "wte.weight" in tensors else PREFIX
    theirs = {f"{n}.{kind}": f"{prefix}{t}.{kind}" for n, t in names(n_layer) for kind in KINDS}
    theirs[READ_OUT] = READ_OUT if READ_OUT in tensors else f"{prefix}wte.weight"
    found = {}
    for name, parameter in like.items():
        there = theirs[name]
        if there not in tensors:
            raise LabError(f"{there} is missing")
        tensor = tensors[there]
        if transposed and there.endswith(".weight") and is_transposed(f".{there}"):
            tensor = tensor.t()
        if name.endswith("embedding.weight") or name == READ_OUT:
            tensor = tensor[: len(parameter)]
        if tensor.shape != parameter.shape:
            shapes = tuple(tensor.shape), tuple(parameter.shape)
            raise LabError(f"{there} has the shape {shapes[0]}, where {shapes[1]} is expected")
        found[name] = tensor.to(torch.float32).contiguous()
    used = {theirs[name] for name in like} | {READ_OUT, f"{prefix}wte.weight"}
    left = [n for n in tensors if n not in used and not n.endswith((".attn.bias", ".masked_bias"))]
    if left:
        raise LabError(f"{left[0]} has no place in this model ({len(left)} such tensors)")
    return found
