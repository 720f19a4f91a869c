"""The first rung: the next token depends on the present one alone."""

from torch import Tensor, nn


class Bigram(nn.Module):
    """A table with a row of logits for each token; learning it is learning counts the slow way."""

    def __init__(self, vocab_size: int, block_size: int):
        super().__init__()
        self.vocab_size, self.block_size = vocab_size, block_size
        self.sees = 1  # how many of the last tokens decide the next
        self.table = nn.Embedding(vocab_size, vocab_size)

    def next_token_logits(self) -> Tensor:
        """(vocab_size, vocab_size): row i has the logits of what follows token i."""
        return self.table.weight

    def forward(self, idx: Tensor) -> Tensor:
        """idx (B, T) -> logits (B, T, vocab_size)."""
        return self.table(idx)
