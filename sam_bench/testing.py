"""Checks that every method of sam_bench passes, for tests of your own methods: `check_method`.

A test of your method is three lines:

    from sam_bench.testing import check_method
    from mine import Mine, reference

    def test_mine():
        check_method(Mine, reference, share=0.3)

It runs on the CPU and takes seconds.
"""

import contextlib
import copy
import functools
import inspect
import io
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sam_bench.optim.sharpness_aware import SharpnessAware

#: Weights, or gradients, by the parameter's name, in float64.
Weights = dict[str, np.ndarray]

#: A method without an optimizer class around it: `reference(gradient, w, rho, memory)` returns the direction `v` of a
#: step from the weights `w`. `gradient(w)` is the loss's gradient at any weights, `rho` the radius, and `memory` a
#: dictionary that is empty before the first step and is passed to every step.
Reference = Callable[[Callable[[Weights], Weights], Weights, float, dict[str, Any]], Weights]

#: Settings of the base optimizer, SGD, in all checks that do not change them.
BASE = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}

#: Operations for which the host waits for the device.
WAITS = {"aten._local_scalar_dense", "aten.equal", "aten.nonzero", "aten.masked_select", "aten._unique2"}

#: Operations for which the host waits if they index by a mask, because it needs the number of elements.
INDEXING = {"aten.index", "aten.index_put", "aten.index_put_"}

#: The checks by name. Each raises an AssertionError if a method fails it.
CHECKS: dict[str, Callable[["Problem"], None]] = {}


def check_method(cls: type[SharpnessAware], reference: Reference | None, rho: float = 0.05, **options: Any) -> None:
    """Run all checks of sam_bench's own methods on a method.

    Args:
        cls: the method's class.
        reference: the same method written as plainly as possible; None leaves out the comparison with it. A class
            whose `selects_examples` is True has no reference.
        rho: the radius, if the method has one.
        options: further keyword arguments of the method's constructor.

    Raises:
        AssertionError: at least one check fails; the message lists every failed check and why it failed.

    Example:
        >>> def reference(gradient, w, rho, memory):
        ...     g = gradient(w)
        ...     norm = sum((x**2).sum() for x in g.values()) ** 0.5
        ...     return gradient({name: w[name] + rho * g[name] / norm for name in w})
        >>> check_method(SAM, reference)
    """
    failures = []
    errors = []
    for name, check in CHECKS.items():
        try:
            check(Problem(cls, reference, rho, options))
        except Exception as error:  # a broken method can fail in any way
            errors.append(error)
            kind = "" if type(error) is AssertionError else f"{type(error).__name__}: "
            failures.append(f"- {name}: {kind}{next(iter(str(error).strip().splitlines()), '')}")

    if failures:
        heading = f"{cls.__name__} fails {len(failures)} of {len(CHECKS)} checks of sam_bench.testing:"
        raise AssertionError("\n".join([heading, *failures])) from ExceptionGroup("what the checks found", errors)


class Problem:
    """A method under test, and the small network and data that it is tested on.

    Args:
        cls, reference, rho, options: as in `check_method`.
    """

    def __init__(self, cls: type[SharpnessAware], reference: Reference | None, rho: float, options: dict[str, Any]):
        self.cls = cls
        self.reference = reference
        self.rho = rho
        self.options = dict(options)
        if "rho" in inspect.signature(cls).parameters:
            self.options["rho"] = rho

    def network(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
        """Return a network with BatchNorm, and with weights of 1, 2 and 4 dimensions."""
        torch.manual_seed(seed)
        layers = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 36, 10)
        return nn.Sequential(*layers).to(dtype)

    def optimizer(self, model: nn.Module, params: Any = None, **changes: Any) -> SharpnessAware:
        """Return the method on SGD, over the given parameters or all of the model's; `changes` replace settings."""
        arguments = {"model": model, "fused": True} | BASE | self.options | changes
        return self.cls(model.named_parameters() if params is None else params, torch.optim.SGD, **arguments)

    def closure(self, model: nn.Module, optimizer: Any, t: int, backward: Callable = Tensor.backward) -> Callable:
        """Return the closure of step `t`. A deep copy of it together with model and optimizer works on the copies."""
        return functools.partial(self._loss, model, optimizer, t, backward)

    def _loss(
        self, model: nn.Module, optimizer: Any, t: int, backward: Callable, examples: Any = slice(None)
    ) -> Tensor:
        """Run forward and backward on some examples of step `t`; return the loss, or one loss per example."""
        images, labels = batch(t, next(model.parameters()).dtype)
        losses = F.cross_entropy(model(images[examples]), labels[examples], reduction="none")
        if losses.requires_grad:
            optimizer.zero_grad()
            backward(losses.mean())
        return losses.detach() if self.cls.selects_examples else losses.detach().mean()

    def remember(self, model: nn.Module, optimizer: Any, t: int) -> None:
        """Tell a method that repeats batches that step `t` was the previous one."""
        if self.cls.repeats_batch:
            optimizer.remember(self.closure(model, optimizer, t))

    def train(self, model: nn.Module, optimizer: Any, steps: range) -> list[float]:
        """Take some steps, and return their losses."""
        return [optimizer.step(self.closure(model, optimizer, t)).mean().item() for t in steps]

    def begun(self, steps: int = 3, **changes: Any) -> tuple[nn.Module, SharpnessAware]:
        """Return network and optimizer after some steps."""
        model = self.network()
        optimizer = self.optimizer(model, **changes)
        self.train(model, optimizer, range(steps))
        return model, optimizer

    def kinds(self) -> dict[int, int]:
        """Return one step of each kind that the method has, keyed by its number of backward passes; never step 0.

        Raises:
            AssertionError: the method has second passes, but none in steps 1 to 11.
        """
        model = self.network()
        optimizer = self.optimizer(model)
        calls: list[None] = []
        step_by_passes: dict[int, int] = {}
        for t in range(12):
            before = len(calls)
            optimizer.step(self.closure(model, optimizer, t, lambda loss: (calls.append(None), loss.backward())))
            if t > 0:
                step_by_passes.setdefault(len(calls) - before, t)

        needed = 2 if self.cls.two_passes else 1
        expect(
            max(step_by_passes) >= needed, "none of steps 1 to 11 has a second pass: choose options with which one has"
        )
        return step_by_passes


def batch(t: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return the images, 12 × 3 × 8 × 8, and labels of a step."""
    generator = torch.Generator().manual_seed(1000 + t)
    return torch.randn(12, 3, 8, 8, generator=generator).to(dtype), torch.randint(0, 10, (12,), generator=generator)


def state(model: nn.Module, optimizer: SharpnessAware) -> dict[str, Tensor]:
    """Return copies of all tensors that a step may change: weights, running statistics, state of base and method."""
    copies = {name: value.clone() for name, value in model.state_dict().items()}
    for path, value in _tensors(optimizer.state_dict()):
        copies[f"optimizer {path}"] = value.clone()
    return copies


def _tensors(value: Any, path: str = "") -> Any:
    """Yield all tensors in nested dictionaries, each with its path of keys; counters are left out."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in ("steps", "passes", "skipped"):
                yield from _tensors(item, f"{path}.{key}".lstrip("."))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> None:
    """Check that two states are equal, bit for bit.

    Args:
        what: begins the message.

    Raises:
        AssertionError: the states have other names, or a tensor differs.
    """
    expect(found.keys() == expected.keys(), f"{what}: {sorted(found.keys() ^ expected.keys())} are in one state only")
    for name, value in expected.items():
        expect(torch.equal(found[name], value), f"{what}: {name} differs")


def expect(holds: bool, message: str) -> None:
    """Raise an AssertionError unless a condition holds; `python -O` does not remove this, as it does `assert`.

    Raises:
        AssertionError: the condition does not hold.
    """
    if not holds:
        raise AssertionError(message)


def _register(name: str) -> Callable:
    """Return a decorator that adds a check to `CHECKS` under this name."""

    def add(check: Callable[[Problem], None]) -> Callable[[Problem], None]:
        CHECKS[name] = check
        return check

    return add


@_register("reference")
def _check_reference(problem: Problem) -> None:
    """Check that fifty steps in float64 equal the reference's to 1e-10."""
    if problem.reference is None:
        return

    model = problem.network()
    optimizer = problem.optimizer(model)
    weights = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    momenta: Weights = {}
    memory: dict[str, Any] = {}
    calls = itertools.count()
    for t in range(50):

        def gradient(at: Weights, t: int = t) -> Weights:
            next(calls)
            tensors = {name: torch.tensor(value, requires_grad=True) for name, value in at.items()}
            images, labels = batch(t)
            logits = torch.func.functional_call(copy.deepcopy(model), tensors, (images,))
            gradients = torch.autograd.grad(F.cross_entropy(logits, labels), list(tensors.values()))
            return {name: g.numpy() for name, g in zip(tensors, gradients, strict=True)}

        # A step of SGD with momentum and weight decay along the reference's direction.
        direction = problem.reference(
            gradient, {name: value.copy() for name, value in weights.items()}, problem.rho, memory
        )
        for name in weights:
            decayed = direction[name] + BASE["weight_decay"] * weights[name]
            momenta[name] = BASE["momentum"] * momenta[name] + decayed if name in momenta else decayed
            weights[name] = weights[name] - BASE["lr"] * momenta[name]

        problem.train(model, optimizer, range(t, t + 1))
        for name, p in model.named_parameters():
            difference = np.abs(p.detach().numpy() - weights[name]).max()
            expect(difference <= 1e-10, f"after step {t + 1}, {name} differs from the reference's by {difference:.1e}")

    passes = next(calls)
    expect(
        abs(optimizer.passes - passes) < 1e-6, f"the optimizer counts {optimizer.passes} passes, the reference {passes}"
    )


@_register("restore")
def _check_restore(problem: Problem) -> None:
    """Check that steps with a learning rate of 0 change no bit of the weights and no storage, in every precision."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        model = problem.network(dtype=dtype)
        changes = {"rho": 0.5} if "rho" in problem.options else {}
        optimizer = problem.optimizer(model, lr=0.0, weight_decay=0.0, **changes)
        before = [(name, p.detach().clone(), p.data_ptr()) for name, p in model.named_parameters()]

        problem.train(model, optimizer, range(20))

        for (name, value, address), p in zip(before, model.parameters(), strict=True):
            expect(torch.equal(p, value), f"{name} has changed in steps with a learning rate of 0 ({dtype})")
            expect(p.data_ptr() == address, f"{name} has moved to other memory in a step")


@_register("resume")
def _check_resume(problem: Problem) -> None:
    """Check that training resumed from a saved state_dict equals uninterrupted training, bit for bit."""
    model, optimizer = problem.begun(5)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    losses = problem.train(model, optimizer, range(5, 10))

    # Other initial weights, so that whatever the state_dict does not hold shows.
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = problem.network(seed=9)
    resumed = problem.optimizer(other)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    problem.remember(other, resumed, 4)

    expect(problem.train(other, resumed, range(5, 10)) == losses, "losses differ after loading a state_dict")
    assert_same(state(other, resumed), state(model, optimizer), "after loading a state_dict")


@_register("deep copy")
def _check_deep_copy(problem: Problem) -> None:
    """Check that a deep copy trains on as the original does, and shares nothing with it."""
    model, optimizer = problem.begun()
    other, copied = copy.deepcopy((model, optimizer))
    losses = problem.train(other, copied, range(3, 6))
    expect(problem.train(model, optimizer, range(3, 6)) == losses, "a deep copy's losses differ")
    assert_same(state(other, copied), state(model, optimizer), "a deep copy")


@_register("statistics")
def _check_statistics(problem: Problem) -> None:
    """Check that running statistics change once per step, in the pass at the unperturbed weights."""
    if problem.cls.perturbs_first:
        return

    model = problem.network()
    once = copy.deepcopy(model)
    once(batch(0)[0])
    problem.train(model, problem.optimizer(model), range(1))
    count = model[1].num_batches_tracked.item()
    expect(count == 1, f"running statistics have changed {count} times in a step, instead of once")
    expect(torch.equal(model[1].running_mean, once[1].running_mean), "running statistics are of perturbed weights")


def _own_passes(problem: Problem) -> list[tuple[int, int]]:
    """Return (pass, step) for each kind of step and each of its passes on the step's own batch; passes count from 1."""
    own_passes = {count: 1 if problem.cls.repeats_batch else count for count in problem.kinds()}
    return [(number, step) for count, step in problem.kinds().items() for number in range(1, own_passes[count] + 1)]


@_register("failed passes")
def _check_failed_passes(problem: Problem) -> None:
    """Check that an exception in any pass leaves all state as it was before the step."""
    for failing, step in _own_passes(problem):
        model, optimizer = problem.begun(step)
        before = state(model, optimizer)
        count = itertools.count(1)

        def backward(loss: Tensor, count: Any = count, failing: int = failing) -> None:
            loss.backward()
            if next(count) == failing:
                raise MemoryError

        with contextlib.suppress(MemoryError):
            optimizer.step(problem.closure(model, optimizer, step, backward))
        assert_same(state(model, optimizer), before, f"after an exception in pass {failing}")


@_register("skipped steps")
def _check_skipped_steps(problem: Problem) -> None:
    """Check that a gradient that is not finite, in any pass, skips the step and leaves no trace in later steps."""
    for failing, step in _own_passes(problem):
        for value in (float("nan"), float("inf")):
            model, optimizer = problem.begun(step)
            other, untouched = problem.begun(step)
            before = state(model, optimizer)
            count = itertools.count(1)

            def backward(loss: Tensor, model: Any = model, count: Any = count, failing: int = failing, v: Any = value):
                loss.backward()
                if next(count) == failing:
                    model[4].weight.grad[0, 0] = v

            optimizer.step(problem.closure(model, optimizer, step, backward))
            expect(optimizer.skipped.item() == 1, f"a step with {value} in pass {failing} was not skipped")
            assert_same(state(model, optimizer), before, f"after {value} in pass {failing}")

            # Later steps must be as if the skipped one had never been, except that it counts as a step.
            untouched.steps += 1
            problem.remember(other, untouched, step)
            problem.train(model, optimizer, range(step + 1, step + 3))
            problem.train(other, untouched, range(step + 1, step + 3))
            assert_same(state(model, optimizer), state(other, untouched), f"two steps after {value} in pass {failing}")


@_register("zero gradients")
def _check_zero_gradients(problem: Problem) -> None:
    """Check that a step with gradients of 0 is finite, and that only weight decay moves the weights.

    A method whose direction depends on the weights may move them otherwise.
    """
    model = problem.network()
    optimizer = problem.optimizer(model, momentum=0.9)
    before = [(name, p.detach().clone()) for name, p in model.named_parameters()]
    optimizer.step(problem.closure(model, optimizer, 0, lambda loss: (0 * loss).backward()))
    expect(optimizer.skipped.item() == 0, "a step with gradients of 0 was skipped: something in it is not finite")
    for (name, value), p in () if problem.cls.needs_weights else zip(before, model.parameters(), strict=True):
        decayed = value * (1 - BASE["lr"] * BASE["weight_decay"])
        expect(torch.allclose(p, decayed, rtol=1e-9, atol=1e-12), f"{name} has moved with gradients of 0")


@_register("by hand")
def _check_by_hand(problem: Problem) -> None:
    """Check that `first_step` and `second_step` do the same as `step(closure)`."""
    if problem.cls.selects_examples or (problem.cls.perturbs_first and problem.cls.two_passes):
        return

    model, stepped = problem.network(), problem.network()
    optimizer, by_hand = problem.optimizer(model), problem.optimizer(stepped)
    for t in range(6):
        problem.train(model, optimizer, range(t, t + 1))

        closure = problem.closure(stepped, by_hand, t)
        if not by_hand.perturbs_first:
            closure()
        if by_hand.first_step(zero_grad=True):
            closure()
        by_hand.second_step(zero_grad=True)

        assert_same(state(stepped, by_hand), state(model, optimizer), f"step {t + 1} by hand")


@_register("loss scaling")
def _check_loss_scaling(problem: Problem) -> None:
    """Check that training with a GradScaler gives the same weights as without."""
    plain, scaled = problem.network(), problem.network()
    optimizer, other = problem.optimizer(plain), problem.optimizer(scaled)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=3)
    for t in range(6):
        optimizer.step(problem.closure(plain, optimizer, t))
        other.step(problem.closure(scaled, other, t, lambda loss: scaler.scale(loss).backward()), scaler=scaler)
        scaler.update()

    for name, value in plain.state_dict().items():
        expect(torch.allclose(scaled.state_dict()[name], value, rtol=1e-6, atol=1e-7), f"{name} depends on the scale")


@_register("groups")
def _check_groups(problem: Problem) -> None:
    """Check that parameter groups are respected, and that frozen or unused parameters are left alone."""
    one, two = problem.network(), problem.network()
    for model in (one, two):
        model[1].bias.requires_grad_(False)
        model.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    named = list(two.named_parameters())
    groups = [{"params": named[0::2]}, {"params": named[1::2]}]
    with_one, with_two = problem.optimizer(one), problem.optimizer(two, groups)
    for t in range(5):
        closures = [_without_unused(problem, model, opt, t) for model, opt in ((one, with_one), (two, with_two))]
        with_one.step(closures[0])
        with_two.step(closures[1])

    # A method with draws of its own makes them tensor by tensor, in the order of the groups.
    draws = "seed" in inspect.signature(problem.cls).parameters
    for name, value in ({} if draws else one.state_dict()).items():
        expect(torch.allclose(two.state_dict()[name], value, rtol=0, atol=1e-9), f"{name} differs with two groups")

    fresh = problem.network()
    expect(torch.equal(one[1].bias, fresh[1].bias), "a frozen parameter was changed")
    expect(torch.equal(one.unused, torch.ones(2).double()), "a parameter without a gradient was changed")

    model = problem.network()
    halves = [{"params": list(model.named_parameters())[:1], "lr": 0.0, "weight_decay": 0.0}]
    halves += [{"params": list(model.named_parameters())[1:]}]
    before = model[0].weight.detach().clone()
    problem.train(model, problem.optimizer(model, halves), range(3))
    expect(torch.equal(before, model[0].weight), "a group's learning rate of 0 was not respected")


def _without_unused(problem: Problem, model: nn.Module, optimizer: Any, t: int) -> Callable:
    """Return the closure of step `t` for the model's layers, without its parameter `unused`."""
    return problem.closure(nn.Sequential(*list(model.children())), optimizer, t)


@_register("wrappers")
def _check_wrappers(problem: Problem) -> None:
    """Check that steps through an object with a copy of the optimizer's attributes count, as frameworks take them."""
    model, plain = problem.network(), problem.network()
    optimizer, other = problem.optimizer(model), problem.optimizer(plain)
    wrapper = object.__new__(type("Wrapped", (type(optimizer),), {}))
    wrapper.__dict__ = dict(optimizer.__dict__)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    for t in range(4):
        wrapper.step(problem.closure(model, wrapper, t))
        with warnings.catch_warnings(action="ignore"):  # the scheduler warns, as it sees no step of the wrapper
            scheduler.step()
        problem.train(plain, other, range(t, t + 1))
        for group in other.param_groups:
            group["lr"] *= 0.5

    through_wrapper = copy.deepcopy(optimizer.state_dict())
    expected = other.state_dict()
    expect(through_wrapper["sharpness_aware"]["steps"] == 4, "steps taken through a wrapper were not counted")
    by_path = dict(_tensors(expected))
    for path, value in _tensors(through_wrapper):
        expect(torch.equal(value, by_path[path]), f"after steps through a wrapper, {path} differs")
    equal = all(torch.equal(p, q) for p, q in zip(model.parameters(), plain.parameters(), strict=True))
    expect(equal, "after steps through a wrapper, with a scheduler, the weights differ")


@_register("parts")
def _check_parts(problem: Problem) -> None:
    """Check that a step on several closures of the same batch equals a step on one of them."""
    parts_may_differ = problem.cls.perturbs_first and problem.cls.two_passes
    if problem.cls.gradient_decides or problem.cls.selects_examples or problem.cls.repeats_batch or parts_may_differ:
        return

    whole, parts = problem.network(), problem.network()
    optimizer, other = problem.optimizer(whole), problem.optimizer(parts)
    for t in range(4):
        optimizer.step(problem.closure(whole, optimizer, t))
        other.step([problem.closure(parts, other, t) for _ in range(3)])

    for name, p in whole.named_parameters():
        expect(
            torch.allclose(dict(parts.named_parameters())[name], p, rtol=0, atol=1e-9),
            f"{name} differs for a batch in parts",
        )


@_register("waiting")
def _check_waiting(problem: Problem) -> None:
    """Check that the host never waits for the device, except once per step of a method whose gradient decides.

    On the CPU a copy to the host, such as `.cpu()`, cannot be noticed.
    """
    for step in problem.kinds().values():
        model, optimizer = problem.begun(step)
        closure = problem.closure(model, optimizer, step)
        with Watching() as watching:
            optimizer.step(closure)
        allowed = 1 if problem.cls.gradient_decides else 0
        expect(len(watching.waits) <= allowed, f"a step waits for the device: {', '.join(watching.waits)}")


class Watching(TorchDispatchMode):
    """A context that records the operations for which the host would wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        #: Names of the recorded operations.
        self.waits: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = str(operation.overloadpacket)
        indices = arguments[1] if name in INDEXING else ()
        masked = any(isinstance(index, Tensor) and index.dtype is torch.bool for index in indices)
        if name in WAITS or masked:
            self.waits.append(name)
        return operation(*arguments, **(options or {}))


@_register("hooks")
def _check_hooks(problem: Problem) -> None:
    """Check that `direction`, `combine` and the other hooks change none of the tensors that they are given."""
    model, optimizer = problem.begun()

    def watched(name: str, hook: Callable) -> Callable:
        def call(*arguments: Any, **memory: Any) -> Any:
            lists = [each for each in (*arguments, *memory.values()) if isinstance(each, list | tuple)]
            tensors = [x for each in lists for x in each if isinstance(x, Tensor)]
            before = [x.clone() for x in tensors]
            result = hook(*arguments, **memory)
            expect(
                all(torch.equal(x, y) for x, y in zip(tensors, before, strict=True)), f"{name} changes its arguments"
            )
            return result

        return call

    for name in ("direction", "combine", "combine_single", "correction", "update_state"):
        setattr(optimizer, name, watched(name, getattr(optimizer, name)))
    problem.train(model, optimizer, range(3, 6))
