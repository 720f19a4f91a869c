"""Attention within a document, where several share a window.

Documents follow each other, each behind an end-of-text id: that id is where one begins from, and so
it is of the document behind it.
"""

from __future__ import annotations

from torch import Tensor, nn

from lmlab.models.contract import declares
from lmlab.models.memory import Past, causal_mask


def keep_within(model: nn.Module, end_of_text: int) -> None:
    """Let attention stay within documents, if the model or a module of it can."""
    for module in model.modules():
        if declares(module, "end_of_text"):
            module.end_of_text = end_of_text  # type: ignore[assignment]


def can_stay_within(model: nn.Module) -> bool:
    """Whether attention can."""
    return any(declares(module, "end_of_text") for module in model.modules())


def numbered(idx: Tensor, end_of_text: int, past: Past | None) -> Tensor:
    """Of idx (B, T) and what was read before: which document each position is of, (B, T or more).

    A `past` counts the positions, and keeps where documents began.
    """
    begins = idx == end_of_text
    if past is not None:
        (kept,) = past.extend(begins[..., None])
        begins = kept[..., 0]
    return begins.cumsum(-1)


def document_mask(documents: Tensor, n_queries: int, n_keys: int, window: int | None) -> Tensor:
    """(B, 1, n_queries, n_keys), true where a query may look: at what `causal_mask` says, if it is
    of the same document."""
    query, key = documents[:, None, -n_queries:, None], documents[:, None, None, -n_keys:]
    return causal_mask(n_queries, n_keys, documents.device, window) & (query == key)
