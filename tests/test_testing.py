"""`check_method` lets our own methods pass, and names what is wrong with others."""

import numpy as np
import pytest
import torch

from sam_bench import FSAM, SAM, LookSAM
from sam_bench.optim.registry import METHODS, method
from sam_bench.testing import CHECKS, check_method
from tests.optim.problem import ARGUMENTS, OPTIONS, RADII


def norm(g):
    return np.sqrt(sum((x**2).sum() for x in g.values()))


def moved(w, d, rho):
    return {name: w[name] + rho * d[name] / (norm(d) + 1e-12) for name in w}


def sam(gradient, w, rho, memory):
    return gradient(moved(w, gradient(w), rho))


def fsam(gradient, w, rho, memory):
    g = gradient(w)
    m = memory.get("m")
    h = gradient(moved(w, g if m is None else {name: g[name] - m[name] for name in g}, rho))
    memory["m"] = g if m is None else {name: 0.9 * m[name] + 0.1 * g[name] for name in g}
    return h


@pytest.mark.parametrize("name", METHODS)
def test_our_own_methods_pass(name):
    options = OPTIONS.get(name, {}) | ARGUMENTS.get(name, {})
    check_method(method(name), None, RADII.get(name, 0.05), **options)


@pytest.mark.parametrize(("cls", "reference"), [(SAM, sam), (FSAM, fsam)])
def test_a_right_method_equals_its_reference(cls, reference):
    check_method(cls, reference)


class TooLong(SAM):
    """Another radius than it is given."""

    def radius(self, group):
        return 1.001 * super().radius(group)


class OnePassTooMany(SAM):
    """A pass that no formula has."""

    def second_pass(self, closure, losses):
        closure()
        return 1 + super().second_pass(closure, losses)


class MovesTheWeights(SAM):
    """Writes to the weights themselves."""

    def direction(self, w, g):
        torch._foreach_mul_(w, 1.0001)
        return super().direction(w, g)


class UsesGradientsUp(SAM):
    """Writes to a gradient that is given to it."""

    keeps_gradient = True

    def combine(self, g, h):
        torch._foreach_add_(g, h)
        return g


class RemembersByItself(SAM):
    """Keeps its average where no state_dict finds it."""

    average = None

    def direction(self, w, g):
        average = g if self.average is None else torch._foreach_lerp(self.average, g, 0.5)
        self.average = [x.clone() for x in average]
        return super().direction(w, average)


class LearnsBeforeTheEnd(SAM):
    """Remembers a step before it is known to be taken."""

    def init_state(self, p):
        return {"m": torch.zeros_like(p)}

    def direction(self, w, g, m):
        torch._foreach_lerp_(m, g, 0.5)
        return super().direction(w, m)

    def combine(self, g, h, m):
        return h


class Waits(SAM):
    """Asks the device for a number."""

    def radius(self, group):
        return super().radius(group) * float(self.skipped.item() >= 0)


class WaitsEveryFifth(LookSAM):
    """Asks the device for a number, in its few steps with a second pass."""

    def direction(self, w, g, h_v):
        return super().direction(w, [x * float((x.sum() != 0).item()) for x in g], h_v)


class ChoosesByAMask(SAM):
    """Has to know how many elements a mask lets through."""

    def direction(self, w, g):
        return super().direction(w, [torch.where(x.abs() > x[x > 0].sum() * 0, x, 0.0) for x in g])


class DividesByZero(SAM):
    """Has nothing to keep a denominator from 0."""

    def direction(self, w, g):
        length = torch.stack(torch._foreach_norm(g)).norm()
        return torch._foreach_div(g, length)


class PerturbsStatistics(SAM):
    """Forgets BatchNorm in the second pass."""

    def __init__(self, params, base_optimizer, rho=0.05, **options):
        super().__init__(params, base_optimizer, rho, **options | {"batchnorm": "both"})


class OneGroup(SAM):
    """Does not know of a second group."""

    def _parameters(self):
        return list(self.param_groups[0]["params"])


class DependsOnTheScale(SAM):
    """Takes gradients where they are still scaled."""

    keeps_gradient = True

    def combine(self, g, h):
        return [torch.where(x.abs() > 1.0, 0.0, x) for x in self.scaled]

    def second_pass(self, closure, losses):
        passes = super().second_pass(closure, losses)
        self.scaled = [p.grad.clone() for p in self._parameters() if p.grad is not None]
        return passes


class CountsByItself(SAM):
    """Saves a number that steps through a wrapper do not reach."""

    count = 0

    def direction(self, w, g):
        self.count = self.count + 1
        return super().direction(w, g)

    def _collect_state(self):
        return super()._collect_state() | {"count": torch.tensor(self.count)}

    def _apply_state(self, state_dict):
        super()._apply_state(state_dict)
        self.count = int(state_dict["count"])


class CountsCalls(CountsByItself):
    """Takes each part of a batch for a step."""

    def radius(self, group):
        return super().radius(group) / self.count


class SharesWithAll(SAM):
    """Keeps what it remembers in its class."""

    seen: list[int] = []  # noqa: RUF012

    def radius(self, group):
        self.seen.append(1)
        return super().radius(group) / len(self.seen)


class WorksInTheClosure(SAM):
    """Changes gradients where a hand-written loop does not come by."""

    def second_pass(self, closure, losses):
        passes = super().second_pass(closure, losses)
        torch._foreach_mul_([p.grad for p in self._parameters() if p.grad is not None], 2.0)
        return passes


WRONG = {
    TooLong: {"reference"},
    OnePassTooMany: {"reference"},
    MovesTheWeights: {"reference", "restore", "hooks"},
    UsesGradientsUp: {"reference", "hooks"},
    RemembersByItself: {"reference", "resume"},
    LearnsBeforeTheEnd: {"skipped steps", "failed passes", "hooks"},
    Waits: {"waiting"},
    WaitsEveryFifth: {"waiting"},
    ChoosesByAMask: {"waiting"},
    DividesByZero: {"zero gradients"},
    PerturbsStatistics: {"statistics"},
    OneGroup: {"groups"},
    DependsOnTheScale: {"loss scaling"},
    CountsByItself: {"wrappers"},
    CountsCalls: {"parts"},
    SharesWithAll: {"deep copy"},
    WorksInTheClosure: {"by hand"},
}
"""What is wrong, and the checks that must say so."""


@pytest.mark.parametrize("cls", WRONG)
def test_a_wrong_method_is_caught_by_the_checks_that_are_for_it(cls):
    with pytest.raises(AssertionError) as caught:
        check_method(cls, sam)
    heading, *lines = str(caught.value).splitlines()
    named = {line.removeprefix("- ").partition(":")[0] for line in lines}
    assert heading == f"{cls.__name__} fails {len(named)} of {len(CHECKS)} checks of sam_bench.testing:"
    assert named >= WRONG[cls]


def test_a_method_that_never_shows_its_second_pass_is_told_to():
    with pytest.raises(AssertionError, match="none of steps 1 to 11 has a second pass: choose options"):
        check_method(LookSAM, None, k=50)


def test_every_check_catches_something():
    assert set().union(*WRONG.values()) == set(CHECKS)
