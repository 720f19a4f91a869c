"""The bigram model against the notebook's cells 8 and 9, and its cells 17 and 18 on the loss."""

import torch
import torch.nn.functional as F
from torch import nn

from lmlab.models.bigram import Bigram
from lmlab.models.sampling import generate

# The batch that cell 7 prints; each target is the token after its input.
X = torch.tensor(
    [
        [24, 43, 58, 5, 57, 1, 46, 43],
        [44, 53, 56, 1, 58, 46, 39, 58],
        [52, 58, 1, 58, 46, 39, 58, 1],
        [25, 17, 27, 10, 0, 21, 1, 54],
    ]
)
Y = torch.cat([X[:, 1:], torch.tensor([[39], [1], [46], [39]])], dim=1)


def test_cells_8_and_9_print_this_loss_and_then_sample_this_token():
    torch.manual_seed(1337)
    model = Bigram(65, 8)
    logits = model(X).flatten(0, 1)  # (B*T, C)
    assert logits.shape == (32, 65)
    assert round(F.cross_entropy(logits, Y.flatten()).item(), 4) == 4.8786
    tokens = torch.cat(list(generate(model, torch.tensor([[0]]), 5)), dim=1)
    assert tokens.shape == (1, 5)
    assert tokens[0, 0] == 31


def test_logits_are_the_row_of_the_present_token():
    model = Bigram(65, 8)
    for b in range(4):
        for t in range(8):
            assert torch.equal(model(X)[b, t], model.table.weight[X[b, t]])


def test_one_parameter_for_each_pair_of_tokens():
    assert sum(p.numel() for p in Bigram(65, 8).parameters()) == 65 * 65


def test_cell_17_cross_entropy_three_ways():
    torch.manual_seed(1337)
    logits = torch.randn(1, 3, 3).flatten(0, 1)
    targets = torch.randint(0, 2, (1, 3)).flatten()
    by_hand = -logits[torch.arange(3), targets] + logits.exp().sum(-1).log()
    losses = [
        F.cross_entropy(logits, targets),
        nn.CrossEntropyLoss()(logits, targets),
        by_hand.mean(),
    ]
    assert [round(loss.item(), 4) for loss in losses] == [1.5926] * 3


def test_cell_18_only_the_underscore_changes_its_own_tensor():
    tensor, mask = torch.zeros(2, 2), torch.eye(2) == 1
    filled = tensor.masked_fill(mask, 1.0)
    assert torch.equal(filled, torch.eye(2))
    assert torch.equal(tensor, torch.zeros(2, 2))
    returned = tensor.masked_fill_(mask, 1.0)
    assert returned is tensor
    assert torch.equal(tensor, torch.eye(2))
