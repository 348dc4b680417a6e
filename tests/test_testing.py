"""Tests that `check_method` accepts the package's methods and rejects broken ones."""

import pytest
import torch

from sam_bench import FSAM, SAM, LookSAM
from sam_bench.optim.registry import METHODS, method
from sam_bench.testing import CHECKS, check_method
from tests.optim.problem import ARGUMENTS, OPTIONS, RADII
from tests.optim.reference import fsam, sam


@pytest.mark.parametrize("name", METHODS)
def test_registered_methods_pass(name):
    options = OPTIONS.get(name, {}) | ARGUMENTS.get(name, {})
    check_method(method(name), None, RADII.get(name, 0.05), **options)


@pytest.mark.parametrize(("cls", "reference"), [(SAM, sam), (FSAM, fsam)])
def test_correct_method_equals_reference(cls, reference):
    check_method(cls, reference)


class WrongRadius(SAM):
    """A method that uses a larger radius than rho."""

    def radius(self, group):
        return 1.001 * super().radius(group)


class ExtraPass(SAM):
    """A method that takes a third pass."""

    def second_pass(self, closure, losses):
        closure()
        return 1 + super().second_pass(closure, losses)


class WeightWriter(SAM):
    """A method that changes the weights in `direction`."""

    def direction(self, w, g):
        torch._foreach_mul_(w, 1.0001)
        return super().direction(w, g)


class GradientWriter(SAM):
    """A method that changes the gradient that `combine` gets."""

    keeps_gradient = True

    def combine(self, g, h):
        torch._foreach_add_(g, h)
        return g


class HiddenState(SAM):
    """A method whose average is not in the state_dict."""

    average = None

    def direction(self, w, g):
        average = g if self.average is None else torch._foreach_lerp(self.average, g, 0.5)
        self.average = [x.clone() for x in average]
        return super().direction(w, average)


class EarlyState(SAM):
    """A method that updates its state before it is known if the step is skipped."""

    def init_state(self, p):
        return {"m": torch.zeros_like(p)}

    def direction(self, w, g, m):
        torch._foreach_lerp_(m, g, 0.5)
        return super().direction(w, m)

    def combine(self, g, h, m):
        return h


class DeviceWaiter(SAM):
    """A method that reads a number from the device in each step."""

    def radius(self, group):
        return super().radius(group) * float(self.skipped.item() >= 0)


class FifthStepWaiter(LookSAM):
    """A method that reads a number from the device only in steps with a second pass."""

    def direction(self, w, g, h_v):
        return super().direction(w, [x * float((x.sum() != 0).item()) for x in g], h_v)


class MaskIndexer(SAM):
    """A method that waits for the device since it needs the number of elements that a mask selects."""

    def direction(self, w, g):
        return super().direction(w, [torch.where(x.abs() > x[x > 0].sum() * 0, x, 0.0) for x in g])


class ZeroDivider(SAM):
    """A method that divides by a norm that may be 0."""

    def direction(self, w, g):
        length = torch.stack(torch._foreach_norm(g)).norm()
        return torch._foreach_div(g, length)


class SecondStatisticsUpdate(SAM):
    """A method whose second pass updates the running statistics of BatchNorm too."""

    def __init__(self, params, base_optimizer, rho=0.05, **options):
        super().__init__(params, base_optimizer, rho, **options | {"batchnorm": "both"})


class FirstGroupOnly(SAM):
    """A method that ignores all parameter groups but the first."""

    def _parameters(self):
        return list(self.param_groups[0]["params"])


class ScaledGradientUser(SAM):
    """A method that uses gradients before they are unscaled."""

    keeps_gradient = True

    def combine(self, g, h):
        return [torch.where(x.abs() > 1.0, 0.0, x) for x in self.scaled]

    def second_pass(self, closure, losses):
        passes = super().second_pass(closure, losses)
        self.scaled = [p.grad.clone() for p in self._parameters() if p.grad is not None]
        return passes


class OwnStateKey(SAM):
    """A method that adds a number to the state_dict in a way that wrappers do not see."""

    count = 0

    def direction(self, w, g):
        self.count = self.count + 1
        return super().direction(w, g)

    def _collect_state(self):
        return super()._collect_state() | {"count": torch.tensor(self.count)}

    def _apply_state(self, state_dict):
        super()._apply_state(state_dict)
        self.count = int(state_dict["count"])


class PartCounter(OwnStateKey):
    """A method that counts each part of a batch as a step."""

    def radius(self, group):
        return super().radius(group) / self.count


class ClassState(SAM):
    """A method that keeps its state in the class."""

    calls: list[int] = []  # noqa: RUF012

    def radius(self, group):
        self.calls.append(1)
        return super().radius(group) / len(self.calls)


class ClosureOnly(SAM):
    """A method that changes gradients in `second_pass`, which a hand-written loop does not call."""

    def second_pass(self, closure, losses):
        passes = super().second_pass(closure, losses)
        torch._foreach_mul_([p.grad for p in self._parameters() if p.grad is not None], 2.0)
        return passes


#: Broken methods, and the checks that must fail for each; others may fail too.
BROKEN = {
    WrongRadius: {"reference"},
    ExtraPass: {"reference"},
    WeightWriter: {"reference", "restore", "hooks"},
    GradientWriter: {"reference", "hooks"},
    HiddenState: {"reference", "resume"},
    EarlyState: {"skipped steps", "failed passes", "hooks"},
    DeviceWaiter: {"waiting"},
    FifthStepWaiter: {"waiting"},
    MaskIndexer: {"waiting"},
    ZeroDivider: {"zero gradients"},
    SecondStatisticsUpdate: {"statistics"},
    FirstGroupOnly: {"groups"},
    ScaledGradientUser: {"loss scaling"},
    OwnStateKey: {"wrappers"},
    PartCounter: {"parts"},
    ClassState: {"deep copy"},
    ClosureOnly: {"by hand"},
}


@pytest.mark.parametrize("cls", BROKEN)
def test_broken_method_fails_its_checks(cls):
    with pytest.raises(AssertionError) as caught:
        check_method(cls, sam)

    heading, *lines = str(caught.value).splitlines()
    failed = {line.removeprefix("- ").partition(":")[0] for line in lines}
    assert heading.startswith(f"{cls.__name__} fails {len(failed)} of {len(CHECKS)} checks")
    assert failed >= BROKEN[cls]


def test_method_without_second_pass_needs_options():
    with pytest.raises(AssertionError, match="second pass"):
        check_method(LookSAM, None, k=50)


def test_every_check_catches_a_broken_method():
    assert set().union(*BROKEN.values()) == set(CHECKS)
