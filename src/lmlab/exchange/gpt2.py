"""GPT-2's weights by the names that Hugging Face and nanoGPT give them.

Both have the same names but for a prefix. Hugging Face keeps the matrices of blocks transposed, as
OpenAI's code did (`Conv1D`); nanoGPT has nn.Linear's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from lmlab.errors import LabError
from lmlab.exchange.tensor_files import FLOATS, Described
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
    """The modules that both have: the lab's name, and the foreign one without the prefix."""
    yield from OUTSIDE.items()
    for i in range(n_layer):
        for name, foreign_name in IN_BLOCK.items():
            yield f"blocks.{i}.{name}", f"h.{i}.{foreign_name}"


def is_transposed(name: str) -> bool:
    """Whether Hugging Face keeps a weight the other way round; of either name."""
    return ".attn.c_" in name or ".mlp.c_" in name


def exported(model: GPT) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A model as transformers' GPT2LMHeadModel: its config, and weights. Biases that it lacks are
    zero."""
    return _config(model), {name: tensor.contiguous() for name, tensor in _weights(model)}


def _config(model: GPT) -> dict[str, Any]:
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
        # transformers would take 0.1 for each.
        "embd_pdrop": model.dropout.p,
        "attn_pdrop": block.attention.dropout,
        "resid_pdrop": block.dropout.p,
    }


def _weights(model: GPT) -> Iterator[tuple[str, Tensor]]:
    state = model.state_dict()
    for name, foreign_name in names(len(model.blocks)):
        weight = state[f"{name}.weight"]
        is_turned = is_transposed(f".{foreign_name}.")
        yield f"{PREFIX}{foreign_name}.weight", weight.t() if is_turned else weight
        if not foreign_name.startswith("w"):  # embeddings have none
            bias = state.get(f"{name}.bias")
            zeros = weight.new_zeros(len(weight))
            yield f"{PREFIX}{foreign_name}.bias", zeros if bias is None else bias
    if model.lm_head.weight is not model.token_embedding.weight:
        yield READ_OUT, state[READ_OUT]


def expected_shapes(
    n_layer: int, n_embd: int, vocab_size: int, n_positions: int, bias: bool
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of a model of these sizes but for its read-out: their names without the prefix,
    and shapes as nn.Linear has them. One by one, since a config may say any number of layers."""
    C = n_embd
    matrices = {
        "attn.c_attn": (3 * C, C),
        "attn.c_proj": (C, C),
        "mlp.c_fc": (4 * C, C),
        "mlp.c_proj": (C, 4 * C),
    }
    yield from (("wte.weight", (vocab_size, C)), ("wpe.weight", (n_positions, C)))
    in_blocks = (f"h.{i}.{name}" for i in range(n_layer) for name in IN_BLOCK.values())
    for name in chain(["ln_f"], in_blocks):
        shape = matrices.get(name.split(".", 2)[-1], (C,))
        yield f"{name}.weight", shape
        if bias:
            yield f"{name}.bias", shape[:1]


def check_tensors(
    tensors: Mapping[str, Described],
    expected: Iterable[tuple[str, tuple[int, ...]]],
    tied: bool,
    transposed: bool,
) -> None:
    """Whether a file's tensors are those of a model, by what the file says of them alone.

    Raises:
        LabError: naming the tensor that is missing, left over, or does not fit.
    """
    prefix = _prefix(tensors)
    used = {READ_OUT}
    for name, shape in expected:
        there = f"{prefix}{name}"
        turned = transposed and is_transposed(f".{name}")
        _check_tensor(tensors, there, shape[::-1] if turned else shape)
        if name == "wte.weight" and (READ_OUT in tensors or not tied):
            _check_tensor(tensors, READ_OUT, shape)
        used.add(there)
    left = [n for n in tensors if n not in used and not n.endswith((".attn.bias", ".masked_bias"))]
    if left:
        raise LabError(f"{left[0]} has no place in this model ({len(left)} such tensors)")


def _prefix(tensors: Iterable[str]) -> str:
    return "" if "wte.weight" in tensors else PREFIX


def _check_tensor(tensors: Mapping[str, Described], name: str, shape: tuple[int, ...]) -> None:
    if name not in tensors:
        raise LabError(f"{name} is missing")
    if tensors[name].shape != shape:
        raise LabError(f"{name} has the shape {tensors[name].shape}, where {shape} is expected")
    if tensors[name].dtype not in FLOATS.values():
        known = ", ".join(FLOATS.values())
        raise LabError(f"{name} holds {tensors[name].dtype}, where one of {known} is expected")


def imported(
    tensors: Mapping[str, Tensor], model: GPT, tied: bool, transposed: bool
) -> dict[str, Tensor]:
    """Weights of Hugging Face's or nanoGPT's for a model of their sizes, in float32.

    The vocabulary and the positions may be more than it has: the last rows are left out, such as
    those that nanoGPT pads a vocabulary with. `tied`: they read out by the embedding.

    Raises:
        LabError: naming the tensor that is missing, does not fit, or holds what is no number.
    """
    prefix, n_layer = _prefix(tensors), len(model.blocks)
    pairs = [*names(n_layer)]
    foreign_names = {f"{n}.{kind}": f"{prefix}{f}.{kind}" for n, f in pairs for kind in KINDS}
    embedding = f"{prefix}wte.weight"
    foreign_names[READ_OUT] = embedding if tied else READ_OUT
    if tied and READ_OUT in tensors and not torch.equal(tensors[READ_OUT], tensors[embedding]):
        raise LabError(f"{READ_OUT} is another than {embedding}, and by the config they are one")
    weights = {}
    for name, parameter in model.state_dict().items():
        there = foreign_names[name]
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
        weights[name] = tensor.to(torch.float32).contiguous()
        if not weights[name].isfinite().all():
            raise LabError(f"{there} holds NaN, or numbers beyond float32")
    return weights
