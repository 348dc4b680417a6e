"""Eigenvalues and traces of matrices that are known."""

import math

import numpy as np
import pytest
import torch

from sam_bench.analysis.spectrum import NotConverged, top_eigenpairs, trace
from tests.analysis.problem import dense_hessian, examples, network, objective

SIZE = 60


def symmetric(eigenvalues):
    """A dense matrix with this spectrum, and a function that multiplies with it."""
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator, dtype=torch.float64))
    matrix = q @ torch.diag(torch.as_tensor(eigenvalues, dtype=torch.float64)) @ q.T
    return matrix, lambda v: matrix @ v


SPECTRA = {
    "evenly spread": np.linspace(-3, 5, SIZE),
    "a few outliers": [40, 22, 15, 9, 8.5, *np.linspace(-1, 1, SIZE - 5)],
    "nearly equal": [7, 7 - 1e-4, 7 - 2e-4, 6, 5, *np.linspace(0, 1, SIZE - 5)],
    "negative alone": -np.linspace(1, 20, SIZE),
    "mostly zero": [3, 2, 1.5, 1, 0.5, *[0.0] * (SIZE - 5)],
}


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_a_quadratic_has_its_own_eigenvalues(spectrum, count):
    matrix, product = symmetric(SPECTRA[spectrum])
    values, vectors = top_eigenpairs(product, SIZE, count, tolerance=1e-10)
    expected = torch.linalg.eigvalsh(matrix).flip(0)[:count]
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(matrix @ vectors, vectors * values, rtol=0, atol=1e-6)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(count, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("batchnorm", ["stored", "batch"])
def test_a_tiny_network_has_the_eigenvalues_of_its_dense_hessian(batchnorm):
    ours = objective(batchnorm)
    hessian = dense_hessian(ours.weights, batchnorm)
    expected = torch.linalg.eigvalsh(hessian).flip(0)[:5]
    values, vectors = top_eigenpairs(lambda v: ours.hessian_product(ours.weights, v), ours.size, 5, tolerance=1e-10)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-6)
    exact = trace(lambda v: hessian @ v, ours.size, 2000, known=(values, vectors))
    assert exact.mean == pytest.approx(hessian.trace().item(), abs=4 * exact.standard_error)


def test_curvlinops_agrees():
    """An implementation of others, by two backward passes."""
    curvlinops = pytest.importorskip("curvlinops")
    ours = objective()
    its = network().eval()
    x, y = examples()
    parameters = [p for p in its.parameters() if p.requires_grad]
    batches = list(zip(x.split(20), y.split(20), strict=True))
    theirs = curvlinops.HessianLinearOperator(its, torch.nn.CrossEntropyLoss(), parameters, batches)
    v = torch.randn(ours.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.hessian_product(ours.weights, v), theirs @ v, rtol=1e-9, atol=1e-10)


def test_the_trace_is_met_within_its_standard_error_and_varies_less_with_what_is_known():
    matrix, product = symmetric(SPECTRA["a few outliers"])
    known = top_eigenpairs(product, SIZE, 5, tolerance=1e-10)
    alone = [trace(product, SIZE, 10, seed) for seed in range(200)]
    helped = [trace(product, SIZE, 10, seed, known) for seed in range(200)]
    exact = matrix.trace().item()
    for estimates in (alone, helped):
        within = np.mean([abs(each.mean - exact) <= 2.26 * each.standard_error for each in estimates])
        assert 0.9 <= within <= 0.99  # Student's 95 %, of nine degrees of freedom
    assert np.std([each.mean for each in helped]) < 0.5 * np.std([each.mean for each in alone])
    assert math.isnan(trace(product, SIZE, 1).standard_error)


def test_the_same_seed_gives_the_same():
    _, product = symmetric(SPECTRA["evenly spread"])
    assert torch.equal(top_eigenpairs(product, SIZE, 3)[1], top_eigenpairs(product, SIZE, 3)[1])
    assert trace(product, SIZE, 3) == trace(product, SIZE, 3) != trace(product, SIZE, 3, seed=1)


@pytest.mark.parametrize("count", [0, SIZE])
def test_a_number_of_eigenvalues_that_there_cannot_be_is_refused(count):
    with pytest.raises(ValueError, match=f"from 1 to {SIZE - 1}"):
        top_eigenpairs(lambda v: v, SIZE, count)


def test_products_that_are_not_finite_have_no_eigenvalues():
    with pytest.raises(NotConverged, match="not finite"):
        top_eigenpairs(lambda v: v * math.nan, SIZE, 2)
