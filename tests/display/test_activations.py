"""Sizes of activations: what is measured, when, and that training does not notice."""

import torch
from comparing import curves, same, weights
from torch import nn

from lmlab.config.fingerprint import fingerprint
from lmlab.display.activations import LOGITS, mean_sizes

WORDS = ["model=gpt", "model.n_embd=16", "model.n_layer=2", "model.dropout=0.1"]
ON = "+callbacks.activations={_target_:lmlab.display.activations.Activations,every:1}"


class Doubling(nn.Module):
    """Gives twice what its part gives; another part gives no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.tensor([[-1.0], [3.0]]))
        self.pair = Pair()

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        return 2 * self.pair(self.embedding(idx))[0]


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        assert not self.training
        return x, None


def test_each_module_that_gives_a_tensor_is_measured():
    model = Doubling()
    sizes = mean_sizes(model, torch.tensor([[0, 1]]))
    assert sizes == {"embedding": 2.0, LOGITS: 4.0}
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_a_run_logs_them_before_the_first_step_and_trains_as_without(experiment):
    plain, measured = experiment(*WORDS), experiment(*WORDS, ON)
    assert same(weights(plain), weights(measured))
    assert fingerprint(plain.config) == fingerprint(measured.config)
    rows = {int(row["step"]): row for row in curves(measured)}
    tags = [tag for tag in rows[24] if tag.startswith("activations/")]
    assert {"activations/logits", "activations/blocks.1.attention"} <= set(tags)
    for step in (0, 12, 24):
        assert all(float(rows[step][tag]) > 0 for tag in tags)
    assert not any(rows[4][tag] for tag in tags)
    assert float(rows[24]["activations/logits"]) > float(rows[0]["activations/logits"])
    assert not any(tag.startswith("activations/") for tag in curves(plain)[-1])


def test_off_it_measures_nothing(experiment):
    run = experiment("model=bigram", ON.replace("every:1", "every:0"))
    assert not any(tag.startswith("activations/") for tag in curves(run)[-1])
