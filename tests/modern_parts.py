"""The parts of Modern, by names for tests, and small models with them."""

from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from lmlab.models import parts
from lmlab.models.modern import Modern

V, T = 11, 12
SIZE: dict[str, Any] = {"n_layer": 3, "n_head": 4, "n_embd": 32}
GAIN_FREE = partial(parts.LayerNorm, gain=False)
DEFAULT: dict[str, Any] = {  # as in conf/model/modern.yaml
    "learned_positions": False,
    "rope_base": 10000.0,
    "qk_norm": GAIN_FREE,
    "feed_forward": parts.ReLUSquared,
    "soft_cap": 15.0,
    "projection_scale": 0.0,
}
PARTS: dict[str, dict[str, Any]] = {
    "default": {},
    "learned positions": {"learned_positions": True, "rope_base": None},
    "no positions": {"rope_base": None},
    "half rotated": {"rope_fraction": 0.5},
    "RMSNorm": {"norm": parts.RMSNorm, "qk_norm": partial(parts.RMSNorm, gain=False)},
    "no gains": {"norm": GAIN_FREE},
    "no QK-norm": {"qk_norm": None},
    "GELU": {"feed_forward": parts.GELU},
    "SwiGLU": {"feed_forward": partial(parts.SwiGLU, width=2.0)},
    "grouped queries": {"n_kv_head": 2},
    "multi-query": {"n_kv_head": 1},
    "window": {"window": 4},
    "windows in turn": {"window": [3, None]},
    "head gate": {"head_gate": True},
    "value residual": {"value_residual": True},
    "embedding shortcut": {"embedding_shortcut": True},
    "short convolutions": {"short_conv": 3},
    "U-net": {"u_net": True},
    "value embeddings": {"value_embeddings": True, "n_kv_head": 2},
    "bigram embedding": {"bigram_embedding": "all"},
    "hashed bigrams": {"bigram_embedding": 50, "bigram_logits": 30},
    "trigram embedding": {"trigram_embedding": "all"},
    "hashed trigrams": {"trigram_embedding": 70},
    "bigram logits": {"bigram_logits": "all"},
    "tied": {"tied": True},
    "no cap": {"soft_cap": None},
    "counts": {"counts_order": 3, "counts_folds": 2},
}


def modern(**given: Any) -> Modern:
    torch.manual_seed(0)
    model = Modern(V, T, **{**SIZE, **given})
    model.prepare(random_ids(300, seed=2))
    return model


def lively(**given: Any) -> Modern:
    """With weights that let every part show, the default's parts but for those that are given."""
    model = modern(**{**DEFAULT, **given})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.eval()


def random_ids(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def choices(draw):
    """Any parts together; of those that exclude each other, the last drawn."""
    names = draw(st.lists(st.sampled_from(list(PARTS)), min_size=1, max_size=6, unique=True))
    given: dict[str, Any] = {}
    for name in names:
        given |= PARTS[name]
    return given
