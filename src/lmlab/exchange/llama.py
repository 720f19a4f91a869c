"""`modern` as Llama, or as Qwen3 where queries and keys are normalised: what these two can hold.

They are one function in training and out of it but for dropout of attention weights. So a
temperature, by which `modern` divides its logits only out of training, is in the weights there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lmlab.errors import LabError
from lmlab.models.modern import Attention, Modern
from lmlab.models.parts import RMSNorm, SwiGLU


def exported(model: Modern) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A model as transformers' LlamaForCausalLM or Qwen3ForCausalLM: its config and weights.

    Raises:
        LabError: naming each part that neither of them has.
    """
    if parts := list(in_the_way(model)):
        raise LabError(f"neither Llama nor Qwen3 has {', '.join(parts)}")
    attention: Any = model.blocks[0].attention
    feed_forward: Any = model.blocks[0].feed_forward
    n_hidden = feed_forward[2].in_features
    is_qwen = attention.qk_norm is not None
    config = {
        "model_type": "qwen3" if is_qwen else "llama",
        "architectures": ["Qwen3ForCausalLM" if is_qwen else "LlamaForCausalLM"],
        "hidden_size": model.token_embedding.embedding_dim,
        "intermediate_size": n_hidden,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": attention.n_head,
        "num_key_value_heads": attention.n_kv_head,
        "head_dim": attention.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": model.block_size,
        "rms_norm_eps": model.final_norm.eps,
        "rope_theta": model.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_base},
        "attention_dropout": attention.dropout,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": model.lm_head.weight is model.token_embedding.weight,
    }
    return config, {name: t.contiguous() for name, t in _weights(model, is_qwen).items()}


def caveats(model: Modern) -> Iterator[str]:
    """What holds for the exported model where it is trained on, and not here."""
    block: Any = model.blocks[0]
    if model.temperature != 1.0:
        yield (
            f"model.temperature={model.temperature:g} is part of the last norm's gain: trained on "
            "there, logits are divided by it in training, too"
        )
    if model.end_of_text is not None:
        yield (
            "data.order=documents: here attention stays within a document, and there it looks "
            "across its end; give one document at a time"
        )
    if block.dropout.n_dropped:
        yield (
            f"trained on there, dropout is of attention weights alone ({block.attention.dropout:g})"
            ": Llama and Qwen3 have no other (model.dropout)"
        )
    blocks: Any = model.blocks
    if any(one.drop_path.p for one in blocks):
        yield "trained on there, no layer is left out (model.drop_path)"


def in_the_way(model: Modern) -> Iterator[str]:
    """The parts of a model that Llama and Qwen3 lack, by the keys of its config."""
    attention: Any = model.blocks[0].attention
    if model.position_embedding is not None or model.rope_base is None:
        yield "learned positions or none (model.rope_base)"
    elif model.n_rotated != attention.head_size:
        yield "model.rope_fraction below 1"
    block: Any = model.blocks[0]
    norms = [block.attention_norm, block.feed_forward_norm, model.final_norm]
    norms += [] if attention.qk_norm is None else [attention.qk_norm]
    others = {type(norm).__name__: None for norm in norms if type(norm) is not RMSNorm}
    if others:
        yield f"{' and '.join(others)} (model.norm, model.qk_norm: they have RMSNorm)"
    if type(block.feed_forward) is not SwiGLU:
        yield f"{type(block.feed_forward).__name__} (model.feed_forward: SwiGLU)"
    for key in ("bigram_embedding", "trigram_embedding", "bigram_logits", "soft_cap", "counts"):
        if getattr(model, key) is not None:
            yield f"model.{key}" if key != "counts" else "model.counts_order"
    if model.u_net:
        yield "model.u_net"
    last: Any = model.blocks[-1]
    for key, part in (
        ("embedding_shortcut", last.shortcut),
        ("head_gate", last.attention.gate),
        ("value_residual", last.attention.value_residual),
        ("value_embeddings", last.attention.value_embedding),
        ("short_conv", last.attention_conv),
    ):
        if part is not None:
            yield f"model.{key}"
    blocks: Any = model.blocks
    if any(block.attention.window is not None for block in blocks):
        yield "model.window"


def _weights(model: Modern, is_qwen: bool) -> dict[str, Tensor]:
    weights = {
        "model.embed_tokens.weight": model.token_embedding.weight,
        # Dividing what the read-out is given divides the logits, be it the embedding or not.
        "model.norm.weight": _gain(model.final_norm) / model.temperature,
    }
    if model.lm_head.weight is not model.token_embedding.weight:
        weights["lm_head.weight"] = model.lm_head.weight
    blocks: Any = model.blocks
    for i, block in enumerate(blocks):
        attention, feed_forward, at = block.attention, block.feed_forward, f"model.layers.{i}"
        size = attention.head_size
        sizes = [attention.n_head * size, *[attention.n_kv_head * size] * 2]
        query, key, value = attention.query_key_value.weight.split(sizes)
        gate, up = feed_forward[0].weight.chunk(2)
        weights |= {
            f"{at}.input_layernorm.weight": _gain(block.attention_norm),
            f"{at}.self_attn.q_proj.weight": _in_halves(query, attention),
            f"{at}.self_attn.k_proj.weight": _in_halves(key, attention),
            f"{at}.self_attn.v_proj.weight": value,
            f"{at}.self_attn.o_proj.weight": attention.projection.weight,
            f"{at}.post_attention_layernorm.weight": _gain(block.feed_forward_norm),
            f"{at}.mlp.gate_proj.weight": gate,
            f"{at}.mlp.up_proj.weight": up,
            f"{at}.mlp.down_proj.weight": feed_forward[2].weight,
        }
        if is_qwen:
            gain = _in_halves(_gain(attention.qk_norm)[:, None], attention)[:, 0]
            weights |= {f"{at}.self_attn.{name}_norm.weight": gain.clone() for name in "qk"}
    return {name: weight.detach() for name, weight in weights.items()}


def _in_halves(weight: Tensor, attention: Attention) -> Tensor:
    """The dimensions of each head in the order that transformers rotates them in.

    Here neighbours are turned as a pair; there the first half of a head goes with the second.
    """
    heads = weight.view(-1, attention.head_size, weight.shape[-1])
    return torch.cat([heads[:, 0::2], heads[:, 1::2]], dim=1).reshape(weight.shape)


def _gain(norm: Any) -> Tensor:
    weight: Tensor | None = norm.weight
    return torch.ones(norm.normalized_shape) if weight is None else weight
