"""A scaling law: the loss as a function of parameters and tokens, and what follows for compute.

L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, arXiv 2203.15556, approach 3): E is
what no model can learn, the second term what N parameters cannot hold, the third what has not been
seen in D tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares, nnls

Array = NDArray[np.float64]

OPERATIONS = 6  # per parameter and token: two forward, four backward (Kaplan et al. 2020)
DELTA = 1e-3  # of the Huber loss, on the logarithm of the loss
EXPONENTS = np.geomspace(0.04, 2.2, 16)  # of the grid that the search begins with
LEAST, MOST = 0.01, 4.0  # an exponent at either is not known


@dataclass(frozen=True)
class Law:
    """L(N, D) = E + A / N^alpha + B / D^beta."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: ArrayLike, tokens: ArrayLike) -> Array:
        """The loss of models with so many parameters after so many tokens."""
        n, d = np.asarray(parameters, float), np.asarray(tokens, float)
        loss: Array = self.E + self.A * n**-self.alpha + self.B * d**-self.beta
        return loss

    def best_parameters(self, compute: ArrayLike) -> Array:
        """N* where 6 N D operations are spent best; NaN where one of two terms is missing.

        At the optimum a little more of either lowers the loss as much: alpha A / N^alpha equals
        beta B / D^beta.
        """
        product = np.asarray(compute, float) / OPERATIONS  # N D
        total = self.alpha + self.beta
        with np.errstate(all="ignore"):
            ratio = np.divide(self.alpha * self.A, self.beta * self.B)
            size: Array = ratio ** (1 / total) * product ** (self.beta / total)
        return np.where((size > 0) & np.isfinite(size), size, np.nan)

    def best_tokens(self, compute: ArrayLike) -> Array:
        """D* = compute / (6 N*)."""
        tokens: Array = np.asarray(compute, float) / OPERATIONS / self.best_parameters(compute)
        return tokens

    def best_loss(self, compute: ArrayLike) -> Array:
        """The frontier: the loss of the best model for so many operations."""
        return self.loss(self.best_parameters(compute), self.best_tokens(compute))

    def is_told_by(self, parameters: ArrayLike, tokens: ArrayLike) -> bool:
        """Whether such data can tell all five: both terms change along them by more than DELTA of
        the loss, and no exponent is at an end of what is searched."""
        n, d = np.asarray(parameters, float), np.asarray(tokens, float)
        terms = self.A * n**-self.alpha, self.B * d**-self.beta
        least = DELTA * self.loss(n, d).min()
        return all(np.ptp(term) > least for term in terms) and all(
            1.01 * LEAST < exponent < 0.99 * MOST for exponent in (self.alpha, self.beta)
        )


def fit(parameters: ArrayLike, tokens: ArrayLike, losses: ArrayLike) -> Law:
    """The law that is nearest to measured losses, which are above zero.

    For given exponents E, A and B follow by least squares without negative ones (variable
    projection), so a grid over the two exponents misses no basin. From its best point all five are
    moved together, to the least squares of the logarithms and then to their least Huber loss,
    which lets a run far off pull no harder than one that is a little off.
    """
    n, d, y = (np.asarray(values, float) for values in (parameters, tokens, losses))
    middle = [np.exp(np.log(values).mean()) for values in (n, d)]  # so that A and B are of one size
    n, d = n / middle[0], d / middle[1]

    def on_grid(alpha: float, beta: float) -> tuple[float, Array]:
        columns = np.stack([np.ones_like(y), n**-alpha, d**-beta], axis=1) / y[:, None]
        linear, miss = nnls(columns, np.ones_like(y))
        return miss, np.array([*linear, alpha, beta])

    grid = [on_grid(alpha, beta) for alpha in EXPONENTS for beta in EXPONENTS]
    best: Array = min(grid, key=lambda point: point[0])[1]
    residual, jacobian = _residuals(n, d, y)
    bounds = [0, 0, 0, LEAST, LEAST], [np.inf, np.inf, np.inf, MOST, MOST]
    about: dict[str, Any] = {"jac": jacobian, "bounds": bounds, "x_scale": "jac"}
    for loss in ("linear", "huber"):  # the Huber loss alone leads astray from further off
        best = least_squares(
            residual, best, loss=loss, f_scale=DELTA, xtol=1e-10, ftol=1e-10, **about
        ).x
    e, a, b, alpha, beta = best.tolist()
    return Law(e, float(a * middle[0] ** alpha), float(b * middle[1] ** beta), alpha, beta)


def _residuals(n: Array, d: Array, y: Array) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """log L(N, D) - log loss of five numbers, and its derivatives."""
    log_n, log_d, log_y = np.log(n), np.log(d), np.log(y)

    def terms(x: Array) -> tuple[Array, Array, Array]:
        of_n, of_d = np.exp(-x[3] * log_n), np.exp(-x[4] * log_d)
        return of_n, of_d, np.maximum(x[0] + x[1] * of_n + x[2] * of_d, 1e-300)

    def residual(x: Array) -> Array:
        return np.log(terms(x)[2]) - log_y

    def jacobian(x: Array) -> Array:
        of_n, of_d, loss = terms(x)
        ones = np.ones_like(loss)
        rows = [ones, of_n, of_d, -x[1] * of_n * log_n, -x[2] * of_d * log_d]
        return np.stack(rows, axis=1) / loss[:, None]

    return residual, jacobian
