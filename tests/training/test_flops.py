"""Operations of a step: the counter's beside a formula, and what is done without one."""

import time

import pytest
import torch
from comparing import tensorboard
from small import checked

from lmlab.errors import LabError
from lmlab.training.costs.flops import flops_per_token
from lmlab.training.costs.mfu import peak

GPT = {"n_layer": 3, "n_head": 4, "n_embd": 32}
PARTS = {
    "plain": [],
    "grouped queries": ["model.n_kv_head=2"],
    "SwiGLU": ["model.feed_forward._target_=lmlab.models.parts.SwiGLU"],
    "tables": [
        "model.bigram_embedding=all",
        "model.bigram_logits=50",
        "model.trigram_embedding=40",
    ],
    "a way from each layer": ["model.value_residual=true", "model.u_net=true"],
    "counts": ["model.counts_order=3"],
}


def words(name: str, block_size: int) -> list[str]:
    sizes = [f"model.{key}={value}" for key, value in GPT.items()]
    return [f"model={name}", f"data.block_size={block_size}", *sizes]


@pytest.mark.parametrize("block_size", [8, 48])
def test_a_gpt_is_six_times_its_matrices_and_its_attention(composed, block_size):
    C, L, V = GPT["n_embd"], GPT["n_layer"], 65
    matrices = L * 12 * C * C + C * V
    attention = 12 * L * C * block_size
    assert (
        flops_per_token(checked(composed(*words("gpt", block_size))), V) == 6 * matrices + attention
    )


@pytest.mark.parametrize("part", PARTS)
def test_a_modern_one_is_counted_with_its_parts(composed, part):
    C, L, V, T = GPT["n_embd"], GPT["n_layer"], 65, 16
    matrices = L * 12 * C * C + C * V
    if part == "grouped queries":
        matrices -= L * C * C  # half of the keys and the values
    if part == "SwiGLU":
        hidden = round(2 / 3 * 4 * C)
        matrices += L * (3 * hidden * C - 8 * C * C)
    expected = 6 * matrices + 12 * L * C * T
    if part == "counts":  # shown to the network by a product with the vectors of all tokens
        expected += 4 * V * C
    found = flops_per_token(checked(composed(*words("modern", T), *PARTS[part])), V)
    assert found == expected


@pytest.mark.parametrize("model", ["bigram", "ngram", "head", "layer_norm"])
def test_every_rung_is_counted(composed, model):
    found = flops_per_token(checked(composed(f"model={model}")), 65)
    if model == "ngram":
        assert found is None
    else:
        assert (found == 0) == (model == "bigram")


def test_counting_leaves_no_trace(composed):
    config = composed("model=gpt", "model.n_embd=40", "model.dropout=0.3")
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert flops_per_token(checked(config), 65)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_that_looks_at_values_is_not_counted(composed):
    config = composed("model=gpt")
    config["model"] = {"_target_": "test_flops.Peeks"}
    assert flops_per_token(checked(config), 65) is None


class Peeks(torch.nn.Module):
    def __init__(self, vocab_size: int, block_size: int):
        super().__init__()
        self.table = torch.nn.Embedding(vocab_size, vocab_size)

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        return self.table(idx) * (2 if idx.max().item() > 3 else 1)


def test_runs_and_sweeps_know_their_operations(experiment):
    run = experiment("model=head", "trainer.accumulate_grad_batches=2")
    per_token = flops_per_token(checked(run.config), 65)
    assert run.record["flops"] == 24 * 2 * 4 * 8 * per_token
    assert experiment("model=bigram").record["flops"] == 0
    assert "flops" not in experiment("model=ngram").record


def test_utilisation_is_a_part_of_the_peak(experiment):
    run = experiment("model=head", "callbacks=mfu")
    events = tensorboard(run)["train/mfu"]
    assert [step for step, _ in events] == [12, 24]
    assert all(0 < part < 1 for _, part in events)


def test_the_peak_is_what_a_product_of_matrices_reaches():
    found = peak(torch.device("cpu"), torch.float32)
    left = torch.ones(64, 64)
    begin = time.perf_counter()
    left @ left
    assert found > 2 * 64**3 / (time.perf_counter() - begin) / 100


def test_without_products_there_is_no_utilisation(experiment):
    with pytest.raises(LabError, match="Bigram multiplies no matrices"):
        experiment("model=bigram", "callbacks=mfu")
