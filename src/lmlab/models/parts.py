"""The parts of `modern.Modern`, each with its formula and where it comes from."""

from collections.abc import Callable
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmlab.bounds import Count, Given, Positive
from lmlab.errors import LabError
from lmlab.models.memory import Past

# Called with size=..., it makes a module that normalises the last dimension.
Norm = Annotated[Callable[..., nn.Module], Given("size")]

# --- norms -----------------------------------------------------------------------------------


class LayerNorm(nn.LayerNorm):
    """(x - mean) / standard deviation * gain, without a bias (Ba et al. 2016, arXiv 1607.06450)."""

    def __init__(self, size: Count, gain: bool = True):
        super().__init__(size, elementwise_affine=gain, bias=False)


class RMSNorm(nn.RMSNorm):
    """x / root of the mean square * gain (Zhang and Sennrich 2019, arXiv 1910.07467).

    It is less to compute than a LayerNorm, yet on a CPU torch has no kernel of its own for it, and
    forward and backward together take two to seven times as long.
    """

    def __init__(self, size: Count, gain: bool = True):
        super().__init__(size, eps=1e-5, elementwise_affine=gain)


# --- feed-forward ----------------------------------------------------------------------------
# Each is `width` times as wide inside as outside.


class GELU(nn.Sequential):
    """GELU(x W) V, as GPT-2 has it (Hendrycks and Gimpel 2016, arXiv 1606.08415)."""

    def __init__(self, n_embd: Count, width: Positive = 4.0):
        super().__init__(*_two_linear(n_embd, width * n_embd, nn.GELU()))


class ReLUSquared(nn.Sequential):
    """ReLU(x W)² V (Primer, So et al. 2021, arXiv 2109.08668)."""

    def __init__(self, n_embd: Count, width: Positive = 4.0):
        super().__init__(*_two_linear(n_embd, width * n_embd, SquaredReLU()))


class SwiGLU(nn.Sequential):
    """(SiLU(x W) * x U) V (Shazeer 2020, arXiv 2002.05202).

    It has three matrices and is two thirds as wide, so it has as many parameters as the others.
    """

    def __init__(self, n_embd: Count, width: Positive = 4.0):
        super().__init__(*_two_linear(n_embd, 2 / 3 * width * n_embd, Gated(), n_inputs=2))


def _two_linear(
    n_embd: int, n_hidden: float, between: nn.Module, n_inputs: int = 1
) -> list[nn.Module]:
    n_hidden = max(1, round(n_hidden))
    return [
        nn.Linear(n_embd, n_inputs * n_hidden, bias=False),
        between,
        nn.Linear(n_hidden, n_embd, bias=False),
    ]


class SquaredReLU(nn.Module):
    positionwise = True

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


class Gated(nn.Module):
    """One half of x says how much of the other half goes on."""

    positionwise = True

    def forward(self, x: Tensor) -> Tensor:
        gate, value = x.chunk(2, dim=-1)
        return F.silu(gate) * value


# --- positions -------------------------------------------------------------------------------


def turns(positions: Tensor, n_rotated: int, base: float) -> Tensor:
    """How far each pair of dimensions is turned at each position: (T,) -> complex (T, n_rotated/2).

    Pair i turns by base^(-2i/n_rotated) radians a position: the first pairs tell neighbours apart,
    the last ones turn so slowly that they tell far from near (RoPE, Su et al. 2021, arXiv
    2104.09864).
    """
    # Where weights have 16 bits, angles still have 32.
    dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
    steps = torch.arange(0, n_rotated, 2, device=positions.device, dtype=dtype)
    angles = positions[:, None] * base ** (-steps / n_rotated)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the first dimensions of x (..., T, head_size), two by two; the rest stays as it is.

    The dot product of a query and a key that were turned depends on how far they are apart, and not
    on where they stand. A pair is taken as a complex number: turning it is one product, which on a
    CPU takes a third of the time of sines and cosines written out.
    """
    turned, rest = x.split([2 * turns.shape[-1], x.shape[-1] - 2 * turns.shape[-1]], dim=-1)
    pairs = torch.view_as_complex(turned.float().unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)
    return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned


# --- streams ---------------------------------------------------------------------------------
# Each has learned numbers of its own for each layer.


class ValueResidual(nn.Module):
    """(1 - λ) v + λ v₁, where v₁ are the values of the first layer (arXiv 2410.17897)."""

    positionwise = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5]))

    def forward(self, value: Tensor, first: Tensor) -> Tensor:
        return value.lerp(first, self.weight[0].to(value.dtype))


class Shortcut(nn.Module):
    """λ x + μ x₀, where x₀ is what went into the first layer (modded-nanogpt, Jordan et al. 2024).

    It begins with λ = 1 and μ = 0, as if it were not there.
    """

    positionwise = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        return self.weight[0] * x + self.weight[1] * embedded


class Skip(nn.Module):
    """x + w y, where y is the output of an earlier layer, by its number.

    In a U-Net that layer is as far from the start as this one is from the end (Ronneberger et al.
    2015, arXiv 1505.04597; in a language model: modded-nanogpt).
    """

    positionwise = True

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.weight = nn.Parameter(torch.tensor([1.0]))

    def forward(self, x: Tensor, outputs: list[Tensor]) -> Tensor:
        return x + self.weight[0] * outputs[self.layer]


# --- neighbours ------------------------------------------------------------------------------


class ShortConv(nn.Module):
    """x plus what the few positions before it have, each dimension by weights of its own.

    A causal depthwise convolution: it shows each position its neighbours, for which attention would
    need heads (Primer, So et al. 2021, arXiv 2109.08668; Canon layers, Allen-Zhu 2025, arXiv
    2512.17351). `width` counts the position itself. It begins as if it were not there. Its weights
    are one vector: to an optimizer they are gains, not a matrix.
    """

    past: Past | None = None  # the last positions

    def __init__(self, size: int, width: int):
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.zeros((width - 1) * size))

    def forward(self, x: Tensor, documents: Tensor | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C). Of `documents` (B, T or more), it stays within one."""
        T, reach = x.shape[1], self.width - 1
        near = x
        if self.past is not None:
            (near,) = self.past.extend(x, reach=reach)
        near = F.pad(near, (0, 0, T + reach - near.shape[1], 0))  # (B, T + reach, C)
        if documents is not None:
            documents = F.pad(documents[:, -T - reach :], (reach, 0), value=-1)[:, -T - reach :]
        for i, weight in enumerate(self.weight.to(x.dtype).view(reach, -1), 1):
            before = near[:, reach - i : reach - i + T]
            if documents is not None:
                is_same = documents[:, reach - i : reach - i + T] == documents[:, -T:]
                before = before * is_same[..., None]
            x = torch.addcmul(x, before, weight)
        return x


# --- dropout ---------------------------------------------------------------------------------


class Dropout(nn.Module):
    """x with some elements set to zero and the others scaled up, so that the mean stays.

    As nn.Dropout, but each element is decided by one random byte and not by a random number of its
    own, which on a CPU takes a fifteenth of the time: there the numbers of dropout would be a
    quarter of a small model's step. So p is taken to the next 256th.
    """

    positionwise = True

    def __init__(self, p: float):
        super().__init__()
        self.p = p  # may change as training goes on

    @property
    def n_dropped(self) -> int:
        """Of the 256 values of a byte."""
        return min(round(256 * self.p), 255)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not (n_dropped := self.n_dropped):
            return x
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device)
        kept = words.random_(-(2**63), None).view(torch.uint8)[: x.numel()] >= n_dropped
        return x * (kept.view_as(x) * (256 / (256 - n_dropped))).to(x.dtype)


class DropPath(nn.Module):
    """What a layer adds to the stream, left out for some windows in training and scaled up for the
    others (stochastic depth, Huang et al. 2016, arXiv 1603.09382)."""

    positionwise = True

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        if not self.training or not self.p:
            return x
        kept = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= self.p
        return x * (kept / (1 - self.p)).to(x.dtype)


def rising(most: float, n_layer: int) -> list[float]:
    """A rate for each layer, on a straight line from 0 at the first to `most` at the last."""
    return [most * i / max(1, n_layer - 1) for i in range(n_layer)]


# --- tables of tokens ------------------------------------------------------------------------


class NGrams(nn.Module):
    """A row of numbers for each token together with the `order` - 1 before it.

    Each n-gram has a row of its own where there are as many; else n-grams share rows by a
    multiplicative hash (Knuth, The Art of Computer Programming 3, section 6.4), as they do in
    fastText (Joulin et al. 2016, arXiv 1607.01759). The first tokens of a text have too few before
    them, and no row.
    """

    past: Past | None = None  # the tokens themselves

    def __init__(self, order: int, vocab_size: int, n_rows: int, width: int):
        super().__init__()
        self.order, self.vocab_size = order, vocab_size
        self.n_rows = min(n_rows, vocab_size**order)
        self.table = nn.Embedding(self.n_rows, width)

    def forward(self, idx: Tensor) -> Tensor:
        """idx (B, T) -> (B, T, width)."""
        T = idx.shape[1]
        if self.past is not None:
            (tokens,) = self.past.extend(idx[..., None], reach=self.order - 1)
            idx = tokens[..., 0]
        n_whole = max(0, idx.shape[1] - self.order + 1)  # positions with enough before them
        is_shared = self.n_rows < self.vocab_size**self.order
        n_grams = idx[:, :n_whole]
        for i in range(1, self.order):
            if is_shared and i > 1:  # three tokens may be more than 64 bits hold
                n_grams = _hashed(n_grams)
            n_grams = n_grams * self.vocab_size + idx[:, i : i + n_whole]
        if is_shared:
            n_grams = (_hashed(n_grams) * self.n_rows) >> 32
        rows = self.table(n_grams)
        return F.pad(rows, (0, 0, T - n_whole, 0))


def _hashed(numbers: Tensor) -> Tensor:
    return numbers * 2654435761 & 0xFFFFFFFF  # 2³² / golden ratio


def n_grams(
    key: str, n_rows: int | str | None, order: int, vocab_size: int, width: int
) -> NGrams | None:
    """The table of the config's key: `n_rows` is a number of rows, "all", or None for no table.

    Raises:
        LabError: if it is something else.
    """
    if n_rows is None:
        return None
    n_all = vocab_size**order
    if n_rows != "all" and (isinstance(n_rows, str) or n_rows < 1):
        raise LabError(f"model.{key}={n_rows}: give a number of rows, all ({n_all:,}), or null")
    return NGrams(order, vocab_size, n_all if isinstance(n_rows, str) else n_rows, width)


def soft_capped(logits: Tensor, cap: float) -> Tensor:
    """Logits between -cap and cap: cap * tanh(logits / cap), (Gemma 2, arXiv 2408.00118).

    They come in float32, which the loss needs anyway.
    """
    return cap * torch.tanh(logits.float() / cap)
