"""What holds on every rung: each option of conf/model, composed and built as a run builds it."""

import functools
import io
from typing import Any

import hydra
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lmlab.cli import conf_dir
from lmlab.config import build, schema
from lmlab.config.check import check
from lmlab.config.words.hydra_inside import version_base

RUNGS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
VOCAB_SIZE, BLOCK_SIZE = 13, 12
SMALLER = {"gpt2": ["model.n_layer=2", "model.n_head=4", "model.n_embd=32"]}  # of 85 M parameters

every_rung = pytest.mark.parametrize("rung", RUNGS)


@functools.cache
def model_node(rung: str, *overrides: str) -> dict[str, Any]:
    with hydra.initialize_config_dir(str(conf_dir()), **version_base()):
        size = f"data.block_size={BLOCK_SIZE}"
        words = [f"model={rung}", "name=x", size, *SMALLER.get(rung, []), *overrides]
        return check(hydra.compose("train", words), schema.Train).model


def build_rung(rung: str, seed: int = 0) -> nn.Module:
    """The rung at its default size, counted where it counts, with no weight zero, in eval mode."""
    torch.manual_seed(seed)
    model = build.model(model_node(rung), VOCAB_SIZE, BLOCK_SIZE).eval()
    for weight in model.parameters():
        if not weight.any():  # zero at first, which hides all that stands before it
            nn.init.normal_(weight, std=0.02)
    if hasattr(model, "fit"):
        model.fit(torch.randint(VOCAB_SIZE, (2000,)))
    return model


rung_model = functools.cache(build_rung)  # for tests that change nothing


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits_of(rung: str, idx: torch.Tensor) -> torch.Tensor:
    return rung_model(rung)(idx)


def test_the_ladder_has_its_rungs():
    assert {"bigram", "ngram", "bag_of_words", "head", "multi_head", "gpt"} <= set(RUNGS)


@every_rung
def test_logits_have_a_row_for_every_token(rung):
    logits = logits_of(rung, random_ids(3, BLOCK_SIZE))
    assert logits.shape == (3, BLOCK_SIZE, VOCAB_SIZE)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    model = rung_model(rung)
    assert (model.vocab_size, model.block_size) == (VOCAB_SIZE, BLOCK_SIZE)


@every_rung
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_no_position_sees_what_comes_after_it(rung, data):
    T = data.draw(st.integers(2, BLOCK_SIZE), label="T")
    cut = data.draw(st.integers(1, T - 1), label="first changed position")
    idx = random_ids(2, T, seed=data.draw(st.integers(0, 2**32), label="seed"))
    changed = idx.clone()
    changed[:, cut:] = (idx[:, cut:] + data.draw(st.integers(1, VOCAB_SIZE - 1))) % VOCAB_SIZE
    before, after = logits_of(rung, idx), logits_of(rung, changed)
    # Not nearly but exactly: a masked position has the weight 0.0.
    assert torch.equal(before[:, :cut], after[:, :cut])
    assert not torch.equal(before[:, cut], after[:, cut])


@pytest.mark.parametrize("rung", [rung for rung in RUNGS if rung not in ("bigram", "ngram")])
def test_the_last_position_sees_each_token_before_it(rung):
    idx = random_ids(1, BLOCK_SIZE)
    last = logits_of(rung, idx)[:, -1]
    for t in range(BLOCK_SIZE):
        changed = idx.clone()
        changed[:, t] = (idx[:, t] + 1) % VOCAB_SIZE
        assert not torch.allclose(logits_of(rung, changed)[:, -1], last, atol=1e-6)


@every_rung
def test_every_length_up_to_the_block_gives_the_beginning_of_the_same_logits(rung):
    idx = random_ids(2, BLOCK_SIZE)
    whole = logits_of(rung, idx)
    for T in range(1, BLOCK_SIZE + 1):
        torch.testing.assert_close(logits_of(rung, idx[:, :T]), whole[:, :T], rtol=1e-4, atol=1e-5)


@every_rung
def test_the_rows_of_a_batch_do_not_see_each_other(rung):
    idx = random_ids(4, BLOCK_SIZE)
    alone = torch.cat([logits_of(rung, row[None]) for row in idx])
    torch.testing.assert_close(logits_of(rung, idx), alone, rtol=1e-4, atol=1e-5)


@every_rung
def test_in_eval_mode_the_same_ids_give_the_same_logits(rung):
    idx = random_ids(2, BLOCK_SIZE)
    rung_model(rung)  # building it draws
    before = torch.random.get_rng_state()
    assert torch.equal(logits_of(rung, idx), logits_of(rung, idx))
    assert torch.equal(torch.random.get_rng_state(), before)  # nothing was drawn


@every_rung
def test_a_fresh_model_takes_over_a_state_dict(rung):
    file = io.BytesIO()
    torch.save(rung_model(rung).state_dict(), file)
    file.seek(0)
    other = build_rung(rung, seed=1)
    idx = random_ids(2, BLOCK_SIZE)
    assert not torch.equal(other(idx), logits_of(rung, idx))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(idx), logits_of(rung, idx))


@pytest.mark.parametrize("rung", [rung for rung in RUNGS if rung != "ngram"])
def test_every_parameter_takes_part(rung):
    model = build_rung(rung)
    model(random_ids(2, BLOCK_SIZE)).logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.count_nonzero() > 0, name


def n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


V, T, C, L = 65, 64, 32, 3  # vocabulary, block, embedding, layers
EMBEDDINGS, READ_OUT = V * C + T * C, C * V + V
HEADS = 3 * C * C  # key, query, value, however many heads share them
PROJECTION, NARROW, WIDE = C * C + C, C * C + C, 4 * C * C + 4 * C + 4 * C * C + C
NORM = 2 * C


@pytest.mark.parametrize(
    ("rung", "expected"),
    [
        ("bigram", V * V),
        ("ngram", 0),
        ("bag_of_words", EMBEDDINGS + READ_OUT),
        ("head", EMBEDDINGS + HEADS + READ_OUT),
        ("multi_head", EMBEDDINGS + HEADS + READ_OUT),
        ("feed_forward", EMBEDDINGS + HEADS + NARROW + READ_OUT),
        ("blocks_without_residual", EMBEDDINGS + L * (HEADS + NARROW) + READ_OUT),
        ("residual", EMBEDDINGS + L * (HEADS + PROJECTION + WIDE) + READ_OUT),
        ("layer_norm", EMBEDDINGS + L * (HEADS + PROJECTION + WIDE + 2 * NORM) + READ_OUT),
    ],
)
def test_parameters_are_as_many_as_counted_by_hand(rung, expected):
    assert n_parameters(build.model(model_node(rung), V, T)) == expected


def test_parameters_of_gpt_are_as_many_as_counted_by_hand():
    wide, deep = 128, 4
    attention, feed_forward, gain = 3 * wide**2 + wide**2, 2 * 4 * wide**2, wide  # no biases
    block = gain + attention + gain + feed_forward
    expected = V * wide + T * wide + deep * block + gain + wide * V
    assert n_parameters(build.model(model_node("gpt"), V, T)) == expected
