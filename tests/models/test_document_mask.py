"""Attention that stays within a document: what stands in another one makes no difference."""

import pytest
import torch
from torch import Tensor

from lmlab.models.gpt import GPT
from lmlab.models.inside.document_mask import can_stay_within, keep_within
from lmlab.models.memory import Memory
from lmlab.models.modern import Modern

END, V, T = 0, 11, 24
ENDS = (5, 6, 15)


def model_with(**more: object) -> Modern:
    torch.manual_seed(3)
    settings = {"n_layer": 2, "n_head": 2, "n_embd": 16, "learned_positions": False}
    model = Modern(V, T, rope_base=100.0, **{**settings, **more})
    for parameter in model.parameters():  # so that attention decides something
        torch.nn.init.normal_(parameter, std=0.3)
    keep_within(model, END)
    return model.eval()


def ids(seed: int = 0) -> Tensor:
    idx = torch.randint(1, V, (3, T), generator=torch.Generator().manual_seed(seed))
    idx[:, ENDS] = END
    return idx


@pytest.mark.parametrize(
    "more",
    [{}, {"window": [6, None]}, {"n_kv_head": 1, "head_gate": True}, {"short_conv": 4}],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_document_is_read_as_if_it_stood_alone(dtype: torch.dtype, more: dict) -> None:
    """Behind its end-of-text id, and with positions that are only told from each other."""
    model = model_with(**more).to(dtype)
    with torch.no_grad():
        together = model(ids())
        for first, last in zip((0, *ENDS), (*ENDS, T), strict=True):
            alone = model(ids()[:, first:last])
            assert torch.allclose(
                together[:, first:last].float(),
                alone.float(),
                atol=1e-5 if dtype == torch.float32 else 0.15,
            )


def test_without_it_all_of_the_window_is_seen() -> None:
    model, other = model_with(), ids(1)
    other[:, ENDS[-1] :] = ids()[:, ENDS[-1] :]
    with torch.no_grad():
        assert torch.equal(model(ids())[:, ENDS[-1] :], model(other)[:, ENDS[-1] :])
        model.end_of_text = None
        assert not torch.allclose(model(ids())[:, ENDS[-1] :], model(other)[:, ENDS[-1] :])


@pytest.mark.parametrize(
    "more", [{}, {"window": [6, None]}, {"window": 4}, {"short_conv": 4}], ids=str
)
@pytest.mark.parametrize("pieces", [[T], [1] * T, [4, 1, 1, 5, 13]], ids=len)
def test_tokens_handed_over_alone_are_read_as_all_together(pieces: list[int], more: dict) -> None:
    model = model_with(**more)
    memory = Memory.of(model)
    assert memory is not None
    with torch.no_grad():
        together = model(ids())
        with memory:
            in_pieces = torch.cat([model(piece) for piece in ids().split(pieces, dim=1)], dim=1)
    assert torch.allclose(in_pieces, together, atol=1e-5)


def test_a_model_without_a_mask_says_so() -> None:
    gpt = GPT(V, T, n_layer=1, n_head=2, n_embd=16)
    keep_within(gpt, END)
    assert not hasattr(gpt, "end_of_text")
    assert not can_stay_within(gpt)
    assert can_stay_within(model_with())
