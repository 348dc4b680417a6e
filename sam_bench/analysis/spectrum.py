"""The greatest eigenvalues and the trace of a symmetric matrix, computed from its products with vectors.

Letters: A is the matrix, d the number of its rows, v a vector, and λ an eigenvalue.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sam_bench.errors import UserError

#: A function that returns A v for a vector v; both are float64 vectors on the CPU.
Product = Callable[[Tensor], Tensor]


class NotConverged(UserError):
    """An error of Lanczos's method, which did not find the eigenvalues with the requested precision."""


class Estimate(NamedTuple):
    """A mean over random vectors, with its standard error, which is NaN for a single vector."""

    mean: float
    standard_error: float


def top_eigenpairs(
    product: Product, size: int, count: int, tolerance: float = 1e-3, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the `count` greatest eigenvalues, descending, and their eigenvectors, by Lanczos's method (ARPACK).

    It takes 20 products or more, and memory for as many vectors.

    Args:
        size: d, the number of rows of the matrix.
        count: number of eigenvalues, from 1 to d − 1.
        tolerance: the method ends when `‖A v − λ v‖ ≤ tolerance · |λ|`. The error of λ is proportional to the square of
            this length.
        seed: the seed of the random vector that the method starts with.

    Returns:
        The eigenvalues, of shape (count,), and eigenvectors of length 1, of shape (d, count), both float64.

    Raises:
        ValueError: `count` is out of range.
        NotConverged: the method did not converge, or a product is not finite.
    """
    if not 1 <= count < size:
        raise ValueError(f"count={count} must be from 1 to {size - 1}")

    # Imported here, because every run imports this module and few need scipy.
    from scipy.sparse.linalg import LinearOperator, eigsh

    start = np.random.default_rng(seed).standard_normal(size)

    def multiply(v: np.ndarray) -> np.ndarray:
        result = product(torch.from_numpy(v.reshape(-1).copy())).numpy()
        if not np.isfinite(result).all():
            raise NotConverged("a product with the Hessian is not finite, so its eigenvalues cannot be computed")
        return result

    matrix = LinearOperator((size, size), matvec=multiply, dtype=np.float64)
    try:
        values, vectors = eigsh(matrix, k=count, which="LA", tol=tolerance, v0=start)
    except NotConverged:
        raise
    except RuntimeError as error:  # raised by ARPACK
        raise NotConverged(f"Lanczos's method found no eigenvalues: {error}") from error

    order = np.argsort(values)[::-1]
    return torch.from_numpy(values[order].copy()), torch.from_numpy(vectors[:, order].copy())


def trace(
    product: Product, size: int, probes: int, seed: int = 0, known: tuple[Tensor, Tensor] | None = None
) -> Estimate:
    """Estimate the trace by Hutchinson's method (1989), with random signs.

    Args:
        size: d, the number of rows of the matrix.
        probes: number of random vectors, which take one product each.
        known: eigenvalues and eigenvectors from `top_eigenpairs`. Their part of the trace is then exact, and only the
            rest is estimated, which varies less (as in Hutch++; Meyer et al., 2021, arXiv:2010.09649).
        seed: the seed of the random vectors.
    """
    generator = np.random.default_rng(seed)
    values, vectors = known if known is not None else (torch.zeros(0), torch.zeros(size, 0, dtype=torch.float64))

    samples = []
    for _ in range(probes):
        probe = torch.from_numpy(generator.choice((-1.0, 1.0), size))
        probe = probe - vectors @ (vectors.T @ probe)
        samples.append(float(probe @ product(probe)))

    error = float(np.std(samples, ddof=1)) / math.sqrt(probes) if probes > 1 else math.nan
    return Estimate(float(values.sum()) + float(np.mean(samples)), error)
