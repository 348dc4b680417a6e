"""Tests against pytorch_optimizer, a widely used implementation, and of where it departs from the published rules.

Its norms are summed in float32, so it agrees with ours to that precision.
"""

from types import SimpleNamespace

import pytest
import torch

from sam_bench import ASAM, GSAM, SAM, WSAM
from tests.optim.problem import SGD, closure_for, flat_weights, network

foreign = pytest.importorskip("pytorch_optimizer")


def step_on_closure(optimizer, closure) -> None:
    """Take a step as our optimizers and its WSAM do."""
    optimizer.step(closure)


def step_after_first_pass(optimizer, closure) -> None:
    """Take a step of its SAM, which needs the gradients at the weights before it is called."""
    closure()
    optimizer.step(closure)


def step_on_outputs_and_loss(optimizer, closure) -> None:
    """Take a step of its GSAM, whose closure returns the model's outputs too."""
    optimizer.step(torch.enable_grad()(lambda: (None, closure())))


def train(make, step=step_on_closure) -> torch.Tensor:
    """Train a network with the optimizer that `make` returns for it; return its weights."""
    model = network()
    optimizer = make(model)
    for t in range(15):
        step(optimizer, closure_for(model, optimizer, t))
    return flat_weights(model)


#: By case, what makes our optimizer, what makes theirs, and how theirs takes a step.
CASES = {
    "SAM": (
        lambda m: SAM(m.parameters(), torch.optim.SGD, 0.5, model=m, **SGD),
        lambda m: foreign.SAM(m.parameters(), torch.optim.SGD, rho=0.5, **SGD),
        step_after_first_pass,
    ),
    "ASAM": (
        lambda m: ASAM(m.parameters(), torch.optim.SGD, 0.5, model=m, **SGD),
        lambda m: foreign.SAM(m.parameters(), torch.optim.SGD, rho=0.5, adaptive=True, **SGD),
        step_after_first_pass,
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
            step_on_outputs_and_loss,
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
            step_on_closure,
        )
        for decouple in (False, True)
    },
}


@pytest.mark.parametrize("case", CASES)
def test_foreign_steps_equal_ours(case):
    make_ours, make_theirs, step = CASES[case]
    torch.testing.assert_close(train(make_theirs, step), train(make_ours), rtol=0, atol=2e-5)


def test_foreign_wsam_clips_second_gradient_only():
    class ClipsSecondOnly(WSAM):
        def combine(self, g, h):
            return torch._foreach_lerp(g, self._clip(h), self.a)

    options = SGD | {"rho": 0.5, "gamma": 0.8, "decouple": False, "max_norm": 0.3}
    theirs = train(lambda m: foreign.WSAM(m, m.parameters(), torch.optim.SGD, **options))
    ours, second_only = (
        train(lambda m, cls=cls: cls(m.parameters(), torch.optim.SGD, model=m, **options))
        for cls in (WSAM, ClipsSecondOnly)
    )
    assert (theirs - ours).abs().max() > 1e-3
    torch.testing.assert_close(theirs, second_only, rtol=0, atol=2e-5)


def test_foreign_sam_changes_statistics_twice():
    model = network()
    optimizer = foreign.SAM(model.parameters(), torch.optim.SGD, rho=0.5, **SGD)
    step_after_first_pass(optimizer, closure_for(model, optimizer))
    assert model[1].num_batches_tracked.item() == 2
