"""Tests of eigenvalues and traces, on known matrices and a tiny network."""

import math

import numpy as np
import pytest
import torch

from sam_bench.analysis.spectrum import NotConverged, top_eigenpairs, trace
from tests.analysis.problem import dense_hessian, examples, make_network, make_objective

SIZE = 60


def symmetric(eigenvalues):
    """Return a dense matrix with these eigenvalues, and its product with a vector as a function."""
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator, dtype=torch.float64))
    matrix = q @ torch.diag(torch.as_tensor(eigenvalues, dtype=torch.float64)) @ q.T
    return matrix, lambda v: matrix @ v


SPECTRA = {
    "evenly spread": np.linspace(-3, 5, SIZE),
    "a few outliers": [40, 22, 15, 9, 8.5, *np.linspace(-1, 1, SIZE - 5)],
    "nearly equal": [7, 7 - 1e-4, 7 - 2e-4, 6, 5, *np.linspace(0, 1, SIZE - 5)],
    "all negative": -np.linspace(1, 20, SIZE),
    "mostly zero": [3, 2, 1.5, 1, 0.5, *[0.0] * (SIZE - 5)],
}


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_eigenpairs_of_known_matrix_are_exact(spectrum, count):
    matrix, product = symmetric(SPECTRA[spectrum])

    values, vectors = top_eigenpairs(product, SIZE, count, tolerance=1e-10)

    expected = torch.linalg.eigvalsh(matrix).flip(0)[:count]
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(matrix @ vectors, vectors * values, rtol=0, atol=1e-6)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(count, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("batchnorm", ["stored", "batch"])
def test_spectrum_of_network_equals_dense_hessian(batchnorm):
    objective = make_objective(batchnorm)
    hessian = dense_hessian(objective.weights, batchnorm)

    def product(v):
        return objective.hessian_product(objective.weights, v)

    values, vectors = top_eigenpairs(product, objective.size, 5, tolerance=1e-10)
    torch.testing.assert_close(values, torch.linalg.eigvalsh(hessian).flip(0)[:5], rtol=0, atol=1e-6)

    estimate = trace(lambda v: hessian @ v, objective.size, 2000, known=(values, vectors))
    assert estimate.mean == pytest.approx(hessian.trace().item(), abs=4 * estimate.standard_error)


def test_hessian_product_equals_curvlinops():
    """Curvlinops computes the product with two backward passes."""
    curvlinops = pytest.importorskip("curvlinops")
    network = make_network().eval()
    parameters = [p for p in network.parameters() if p.requires_grad]
    x, y = examples()
    batches = list(zip(x.split(20), y.split(20), strict=True))
    hessian = curvlinops.HessianLinearOperator(network, torch.nn.CrossEntropyLoss(), parameters, batches)

    objective = make_objective()
    v = torch.randn(objective.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(objective.hessian_product(objective.weights, v), hessian @ v, rtol=1e-9, atol=1e-10)


def test_trace_is_within_its_error_and_uses_eigenpairs():
    matrix, product = symmetric(SPECTRA["a few outliers"])
    eigenpairs = top_eigenpairs(product, SIZE, 5, tolerance=1e-10)
    without = [trace(product, SIZE, 10, seed) for seed in range(200)]
    with_eigenpairs = [trace(product, SIZE, 10, seed, eigenpairs) for seed in range(200)]

    # 2.26 standard errors are Student's 95 % interval with nine degrees of freedom.
    exact = matrix.trace().item()
    for estimates in (without, with_eigenpairs):
        within = np.mean([abs(each.mean - exact) <= 2.26 * each.standard_error for each in estimates])
        assert 0.9 <= within <= 0.99

    assert np.std([each.mean for each in with_eigenpairs]) < 0.5 * np.std([each.mean for each in without])
    assert math.isnan(trace(product, SIZE, 1).standard_error)


def test_spectrum_depends_on_seed():
    _, product = symmetric(SPECTRA["evenly spread"])
    assert torch.equal(top_eigenpairs(product, SIZE, 3)[1], top_eigenpairs(product, SIZE, 3)[1])
    assert trace(product, SIZE, 3) == trace(product, SIZE, 3) != trace(product, SIZE, 3, seed=1)


@pytest.mark.parametrize("count", [0, SIZE])
def test_bad_number_of_eigenvalues_is_refused(count):
    with pytest.raises(ValueError, match=f"from 1 to {SIZE - 1}"):
        top_eigenpairs(lambda v: v, SIZE, count)


def test_nonfinite_products_have_no_eigenvalues():
    with pytest.raises(NotConverged, match="not finite"):
        top_eigenpairs(lambda v: v * math.nan, SIZE, 2)
