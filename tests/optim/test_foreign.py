"""A widely used implementation agrees where it implements the published rule; where it does not, the test says why.

Its norms are summed in float32, so agreement is to that precision.
"""

from types import SimpleNamespace

import pytest
import torch

from sam_bench import ASAM, GSAM, SAM, WSAM
from tests.optim.problem import SGD, closure_for, flat, network

foreign = pytest.importorskip("pytorch_optimizer")
STEPS = 15


def ours(make) -> torch.Tensor:
    model = network()
    optimizer = make(model)
    for t in range(STEPS):
        optimizer.step(closure_for(model, optimizer, t))
    return flat(model)


def theirs(make, step) -> torch.Tensor:
    model = network()
    optimizer = make(model)
    for t in range(STEPS):
        step(optimizer, closure_for(model, optimizer, t))
    return flat(model)


def clean_pass_first(optimizer, closure) -> None:
    """Its SAM wants the gradients at the weights before it is called."""
    closure()
    optimizer.step(closure)


def with_outputs(optimizer, closure) -> None:
    """Its GSAM wants a closure that returns the model's outputs too."""
    optimizer.step(torch.enable_grad()(lambda: (None, closure())))


def closure_only(optimizer, closure) -> None:
    optimizer.step(closure)


CASES = {
    "SAM": (
        lambda m: SAM(m.parameters(), torch.optim.SGD, 0.5, model=m, **SGD),
        lambda m: foreign.SAM(m.parameters(), torch.optim.SGD, rho=0.5, **SGD),
        clean_pass_first,
    ),
    "ASAM": (
        lambda m: ASAM(m.parameters(), torch.optim.SGD, 0.5, model=m, **SGD),
        lambda m: foreign.SAM(m.parameters(), torch.optim.SGD, rho=0.5, adaptive=True, **SGD),
        clean_pass_first,
    ),
    **{
        f"GSAM, adaptive={adaptive}": (
            lambda m, adaptive=adaptive: GSAM(
                m.parameters(), torch.optim.SGD, 0.5, alpha=0.4, adaptive=adaptive, model=m, **SGD
            ),
            lambda m, adaptive=adaptive: foreign.GSAM(
                m.parameters(),
                torch.optim.SGD(m.parameters(), **SGD),
                m,
                SimpleNamespace(step=lambda: 0.5),
                alpha=0.4,
                adaptive=adaptive,
            ),
            with_outputs,
        )
        for adaptive in (False, True)
    },
    **{
        f"WSAM, decouple={decouple}": (
            lambda m, decouple=decouple: WSAM(
                m.parameters(), torch.optim.SGD, 0.5, gamma=0.8, decouple=decouple, model=m, **SGD
            ),
            lambda m, decouple=decouple: foreign.WSAM(
                m, m.parameters(), torch.optim.SGD, rho=0.5, gamma=0.8, decouple=decouple, **SGD
            ),
            closure_only,
        )
        for decouple in (False, True)
    },
}


@pytest.mark.parametrize("case", CASES)
def test_it_agrees_where_it_implements_the_published_rule(case):
    own, other, step = CASES[case]
    torch.testing.assert_close(theirs(other, step), ours(own), rtol=0, atol=2e-5)


def test_wsams_clipping_differs_because_it_clips_the_second_gradient_only():
    clipped = SGD | {"max_norm": 0.3}
    other = theirs(
        lambda m: foreign.WSAM(m, m.parameters(), torch.optim.SGD, rho=0.5, gamma=0.8, decouple=False, **clipped),
        closure_only,
    )
    both = ours(
        lambda m: WSAM(m.parameters(), torch.optim.SGD, 0.5, gamma=0.8, decouple=False, model=m, max_norm=0.3, **SGD)
    )
    assert (other - both).abs().max() > 1e-3

    class SecondOnly(WSAM):
        def combine(self, g, h):
            return torch._foreach_lerp(g, self._clip(h), self.a)

    second = ours(
        lambda m: SecondOnly(
            m.parameters(), torch.optim.SGD, 0.5, gamma=0.8, decouple=False, model=m, max_norm=0.3, **SGD
        )
    )
    torch.testing.assert_close(other, second, rtol=0, atol=2e-5)


def test_its_running_statistics_differ_because_its_sam_changes_them_in_every_pass():
    model = network()
    optimizer = foreign.SAM(model.parameters(), torch.optim.SGD, rho=0.5, **SGD)
    clean_pass_first(optimizer, closure_for(model, optimizer))
    assert model[1].num_batches_tracked.item() == 2
