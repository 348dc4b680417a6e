"""The greatest eigenvalues and the trace of a symmetric matrix that is known by its products with vectors."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sam_bench.errors import UserError

Product = Callable[[Tensor], Tensor]
"""From v to A v; both float64 vectors on the CPU."""


class NotConverged(UserError):
    """Lanczos's method found no eigenvalue of the precision that was asked for."""


class Estimate(NamedTuple):
    """A mean over random vectors, with its standard error; NaN for a single one."""

    mean: float
    standard_error: float


def top_eigenpairs(
    product: Product, size: int, count: int, tolerance: float = 1e-3, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the `count` greatest eigenvalues, descending, and their eigenvectors, by Lanczos's method (ARPACK).

    Takes 20 products or more, and memory for as many vectors.

    Args:
        size: d, the matrix's number of rows.
        count: from 1 to d − 1.
        tolerance: a pair is done when `‖A v − λ v‖ ≤ tolerance · |λ|`; the error of λ itself goes with its square.
        seed: of the random vector that it begins with.

    Returns:
        Float64: `count` values, and d × `count` vectors of length 1.

    Raises:
        ValueError: `count` is out of its range.
        NotConverged: it did not come to an end, as where a product is not finite.
    """
    if not 1 <= count < size:
        raise ValueError(f"the number of eigenvalues, {count}, must be from 1 to {size - 1}")
    from scipy.sparse.linalg import LinearOperator, eigsh  # which only this needs of what every run imports

    start = np.random.default_rng(seed).standard_normal(size)

    def multiply(v: np.ndarray) -> np.ndarray:
        found = product(torch.from_numpy(v.reshape(-1).copy())).numpy()
        if not np.isfinite(found).all():
            raise NotConverged("a product with the Hessian is not finite: there are no eigenvalues")
        return found

    matrix = LinearOperator((size, size), matvec=multiply, dtype=np.float64)
    try:
        values, vectors = eigsh(matrix, k=count, which="LA", tol=tolerance, v0=start)
    except NotConverged:
        raise
    except RuntimeError as error:  # of ARPACK
        raise NotConverged(f"no eigenvalues: {error}") from error
    order = np.argsort(values)[::-1]
    return torch.from_numpy(values[order].copy()), torch.from_numpy(vectors[:, order].copy())


def trace(
    product: Product, size: int, probes: int, seed: int = 0, known: tuple[Tensor, Tensor] | None = None
) -> Estimate:
    """Estimate the trace by Hutchinson's method (1989), with random signs, and what is known taken exactly.

    Args:
        probes: random vectors, one product each.
        known: eigenvalues and eigenvectors as `top_eigenpairs` has them: their part is exact, and what is estimated is
            the rest, which varies less (as in Hutch++; Meyer et al., 2021, arXiv:2010.09649).
    """
    generator = np.random.default_rng(seed)
    values, vectors = known if known is not None else (torch.zeros(0), torch.zeros(size, 0, dtype=torch.float64))
    found = []
    for _ in range(probes):
        z = torch.from_numpy(generator.choice((-1.0, 1.0), size))
        z = z - vectors @ (vectors.T @ z)
        found.append(float(z @ product(z)))
    error = float(np.std(found, ddof=1)) / math.sqrt(probes) if probes > 1 else math.nan
    return Estimate(float(values.sum()) + float(np.mean(found)), error)
