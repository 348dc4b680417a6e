"""What every method here must show, for tests of methods of your own: `check_method`.

An author's test is three lines:

    from sam_bench.testing import check_method
    from mine import Mine, reference

    def test_mine():
        check_method(Mine, reference, share=0.3)

It runs on the CPU, in seconds.
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

from sam_bench.optim.engine import SharpnessAware

Weights = dict[str, np.ndarray]
"""By the parameter's name, in float64."""

Reference = Callable[[Callable[[Weights], Weights], Weights, float, dict[str, Any]], Weights]
"""A plain method: `reference(gradient, w, rho, memory)` returns the direction `v` of a step from the weights `w`.

`gradient(w)` is the loss's gradient at any weights, `rho` the radius, and `memory` a dictionary, empty at first, that
is the same one in every step.
"""

BASE = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
WAITS = {"aten._local_scalar_dense", "aten.equal", "aten.nonzero", "aten.masked_select", "aten._unique2"}
"""Operations for which the host waits for the device."""

INDEXING = {"aten.index", "aten.index_put", "aten.index_put_"}
"""Operations for which it waits where they index by a mask: it needs the number of elements."""

CHECKS: dict[str, Callable[["Problem"], None]] = {}
"""The checks by name, each of which raises an AssertionError."""


def check_method(cls: type[SharpnessAware], reference: Reference | None, rho: float = 0.05, **options: Any) -> None:
    """Hold a method to what sam_bench's own methods are held to.

    Args:
        cls: the method's class.
        reference: the same method once more, as plainly as it can be written; None leaves that comparison out. Of a
            class whose `selects_examples` it cannot be made.
        rho: the radius, where it has one.
        options: what else its constructor is given.

    Raises:
        AssertionError: one of the checks fails; all that do are named, each with what was found.

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
        except Exception as error:
            errors.append(error)
            kind = "" if type(error) is AssertionError else f"{type(error).__name__}: "
            failures.append(f"- {name}: {kind}{next(iter(str(error).strip().splitlines()), '')}")
    if failures:
        heading = f"{cls.__name__} fails {len(failures)} of {len(CHECKS)} checks of sam_bench.testing:"
        raise AssertionError("\n".join([heading, *failures])) from ExceptionGroup("what the checks found", errors)


class Problem:
    """A method, and the small network that it is tried on.

    Args:
        cls, reference, rho, options: as `check_method` takes them.
    """

    def __init__(self, cls: type[SharpnessAware], reference: Reference | None, rho: float, options: dict[str, Any]):
        self.cls = cls
        self.reference = reference
        self.rho = rho
        self.options = dict(options)
        if "rho" in inspect.signature(cls).parameters:
            self.options["rho"] = rho

    def network(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
        """A network with BatchNorm and a layer of every number of dimensions."""
        torch.manual_seed(seed)
        layers = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 36, 10)
        return nn.Sequential(*layers).to(dtype)

    def optimizer(self, model: nn.Module, params: Any = None, **changes: Any) -> SharpnessAware:
        """The method on SGD."""
        arguments = {"model": model, "fused": True} | BASE | self.options | changes
        return self.cls(model.named_parameters() if params is None else params, torch.optim.SGD, **arguments)

    def closure(self, model: nn.Module, optimizer: Any, t: int, backward: Callable = Tensor.backward) -> Callable:
        """The closure of step `t`; a copy of it with its model and optimizer is theirs."""
        return functools.partial(self._loss, model, optimizer, t, backward)

    def _loss(
        self, model: nn.Module, optimizer: Any, t: int, backward: Callable, examples: Any = slice(None)
    ) -> Tensor:
        images, labels = batch(t, next(model.parameters()).dtype)
        losses = F.cross_entropy(model(images[examples]), labels[examples], reduction="none")
        if losses.requires_grad:
            optimizer.zero_grad()
            backward(losses.mean())
        return losses.detach() if self.cls.selects_examples else losses.detach().mean()

    def remember(self, model: nn.Module, optimizer: Any, t: int) -> None:
        """Tell a method that repeats batches that step `t` was the one before."""
        if self.cls.repeats_batch:
            optimizer.remember(self.closure(model, optimizer, t))

    def train(self, model: nn.Module, optimizer: Any, steps: range) -> list[float]:
        """Take some steps; returns their losses."""
        return [optimizer.step(self.closure(model, optimizer, t)).mean().item() for t in steps]

    def begun(self, steps: int = 3, **changes: Any) -> tuple[nn.Module, SharpnessAware]:
        """Network and optimizer after some steps."""
        model = self.network()
        optimizer = self.optimizer(model, **changes)
        self.train(model, optimizer, range(steps))
        return model, optimizer

    def kinds(self) -> dict[int, int]:
        """A step of each kind that the method has, not the first one, by its passes with gradients.

        Raises:
            AssertionError: there is none with a second pass among twelve, of a method that has second passes.
        """
        model = self.network()
        optimizer = self.optimizer(model)
        calls: list[None] = []
        found: dict[int, int] = {}
        for t in range(12):
            before = len(calls)
            optimizer.step(self.closure(model, optimizer, t, lambda loss: (calls.append(None), loss.backward())))
            if t > 0:
                found.setdefault(len(calls) - before, t)
        most = 2 if self.cls.two_passes else 1
        expect(max(found) >= most, "no step but the first has a second pass: choose options with which one of 12 has")
        return found


def batch(t: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """The images and labels of a step."""
    generator = torch.Generator().manual_seed(1000 + t)
    return torch.randn(12, 3, 8, 8, generator=generator).to(dtype), torch.randint(0, 10, (12,), generator=generator)


def state(model: nn.Module, optimizer: SharpnessAware) -> dict[str, Tensor]:
    """All that a step may change, copied: weights, running statistics, what base and method remember."""
    found = {name: value.clone() for name, value in model.state_dict().items()}
    for place, value in _tensors(optimizer.state_dict()):
        found[f"optimizer {place}"] = value.clone()
    return found


def _tensors(value: Any, place: str = "") -> Any:
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in ("steps", "passes", "skipped"):
                yield from _tensors(item, f"{place}.{key}".lstrip("."))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> None:
    """Compare two states bit for bit."""
    expect(found.keys() == expected.keys(), f"{what}: {sorted(found.keys() ^ expected.keys())} are in one state only")
    for name, value in expected.items():
        expect(torch.equal(found[name], value), f"{what}: {name} differs")


def expect(holds: bool, message: str) -> None:
    """What `assert` does, also where Python is told to leave assertions out.

    Raises:
        AssertionError: it does not hold.
    """
    if not holds:
        raise AssertionError(message)


def _check(name: str) -> Callable:
    def add(check: Callable[[Problem], None]) -> Callable[[Problem], None]:
        CHECKS[name] = check
        return check

    return add


@_check("reference")
def _equals_the_reference(problem: Problem) -> None:
    """Fifty float64 steps equal the plain reference's to 1e-10."""
    if problem.reference is None:
        return
    model = problem.network()
    optimizer = problem.optimizer(model)
    w = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    buffers: Weights = {}
    memory: dict[str, Any] = {}
    calls = itertools.count()
    for t in range(50):

        def gradient(at: Weights, t: int = t) -> Weights:
            next(calls)
            tensors = {name: torch.tensor(value, requires_grad=True) for name, value in at.items()}
            images, labels = batch(t)
            logits = torch.func.functional_call(copy.deepcopy(model), tensors, (images,))
            found = torch.autograd.grad(F.cross_entropy(logits, labels), list(tensors.values()))
            return {name: g.numpy() for name, g in zip(tensors, found, strict=True)}

        v = problem.reference(gradient, {name: value.copy() for name, value in w.items()}, problem.rho, memory)
        for name in w:
            d = v[name] + BASE["weight_decay"] * w[name]
            buffers[name] = BASE["momentum"] * buffers[name] + d if name in buffers else d
            w[name] = w[name] - BASE["lr"] * buffers[name]
        problem.train(model, optimizer, range(t, t + 1))
        for name, p in model.named_parameters():
            difference = np.abs(p.detach().numpy() - w[name]).max()
            expect(difference <= 1e-10, f"after step {t + 1}, {name} differs from the reference's by {difference:.1e}")
    passes = next(calls)
    expect(abs(optimizer.passes - passes) < 1e-6, f"{optimizer.passes} passes are counted, the reference has {passes}")


@_check("restore")
def _restores_the_weights(problem: Problem) -> None:
    """Steps of length 0 leave the weights as they are, bit for bit and in the same storage, in every precision."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        model = problem.network(dtype=dtype)
        changes = {"rho": 0.5} if "rho" in problem.options else {}
        optimizer = problem.optimizer(model, lr=0.0, weight_decay=0.0, **changes)
        before = [(name, p.detach().clone(), p.data_ptr()) for name, p in model.named_parameters()]
        problem.train(model, optimizer, range(20))
        for (name, value, address), p in zip(before, model.parameters(), strict=True):
            expect(torch.equal(p, value), f"{name} has changed in steps of length 0 ({dtype})")
            expect(p.data_ptr() == address, f"{name} has moved to other memory")


@_check("resume")
def _resumes_bit_for_bit(problem: Problem) -> None:
    """What a state_dict restores, in another process too, goes on bit for bit."""
    model, optimizer = problem.begun(5)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    losses = problem.train(model, optimizer, range(5, 10))
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = problem.network(seed=9)
    resumed = problem.optimizer(other)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    problem.remember(other, resumed, 4)
    expect(problem.train(other, resumed, range(5, 10)) == losses, "losses differ after loading a state_dict")
    assert_same(state(other, resumed), state(model, optimizer), "after loading a state_dict")


@_check("deep copy")
def _copies_go_on_alike_and_apart(problem: Problem) -> None:
    """A deep copy goes on alike, and shares nothing."""
    model, optimizer = problem.begun()
    other, copied = copy.deepcopy((model, optimizer))
    losses = problem.train(other, copied, range(3, 6))
    expect(problem.train(model, optimizer, range(3, 6)) == losses, "a deep copy's losses differ")
    assert_same(state(other, copied), state(model, optimizer), "a deep copy")


@_check("statistics")
def _leaves_running_statistics_to_the_clean_pass(problem: Problem) -> None:
    """Running statistics change once a step, in the pass at the unperturbed weights."""
    if problem.cls.perturbs_first:
        return
    model = problem.network()
    once = copy.deepcopy(model)
    once(batch(0)[0])
    problem.train(model, problem.optimizer(model), range(1))
    count = model[1].num_batches_tracked.item()
    expect(count == 1, f"running statistics have changed {count} times in a step")
    expect(torch.equal(model[1].running_mean, once[1].running_mean), "running statistics are of perturbed weights")


def _passes(problem: Problem) -> list[tuple[int, int]]:
    """Each pass of a step of each kind that is on the step's own batch, and that step."""
    own = {count: 1 if problem.cls.repeats_batch else count for count in problem.kinds()}
    return [(number, step) for count, step in problem.kinds().items() for number in range(1, own[count] + 1)]


@_check("failed passes")
def _an_exception_leaves_everything(problem: Problem) -> None:
    """An exception in any pass leaves everything as it was."""
    for failing, step in _passes(problem):
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


@_check("skipped steps")
def _skips_what_is_not_finite(problem: Problem) -> None:
    """A gradient that is not finite, in any pass, skips the step, and nothing remembers it."""
    for failing, step in _passes(problem):
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
            untouched.steps += 1  # a skipped step is one too
            problem.remember(other, untouched, step)
            problem.train(model, optimizer, range(step + 1, step + 3))
            problem.train(other, untouched, range(step + 1, step + 3))
            assert_same(state(model, optimizer), state(other, untouched), f"two steps after {value} in pass {failing}")


@_check("zero gradients")
def _survives_zero_gradients(problem: Problem) -> None:
    """A gradient of 0 gives a direction of 0, or of a method's own weight decay: only that moves the weights."""
    model = problem.network()
    optimizer = problem.optimizer(model, momentum=0.9)
    before = [(name, p.detach().clone()) for name, p in model.named_parameters()]
    optimizer.step(problem.closure(model, optimizer, 0, lambda loss: (0 * loss).backward()))
    expect(optimizer.skipped.item() == 0, "a step without a gradient was skipped: something is not finite")
    for (name, value), p in () if problem.cls.needs_weights else zip(before, model.parameters(), strict=True):
        decayed = value * (1 - BASE["lr"] * BASE["weight_decay"])
        expect(torch.allclose(p, decayed, rtol=1e-9, atol=1e-12), f"{name} has moved without a gradient")


@_check("by hand")
def _halves_make_a_whole(problem: Problem) -> None:
    """`first_step` and `second_step` do what a closure does."""
    if problem.cls.selects_examples or (problem.cls.perturbs_first and problem.cls.two_passes):
        return
    a, b = problem.network(), problem.network()
    first, second = problem.optimizer(a), problem.optimizer(b)
    for t in range(6):
        problem.train(a, first, range(t, t + 1))
        closure = problem.closure(b, second, t)
        if not second.perturbs_first:
            closure()
        if second.first_step(zero_grad=True):
            closure()
        second.second_step(zero_grad=True)
        assert_same(state(b, second), state(a, first), f"step {t + 1} by hand")


@_check("loss scaling")
def _scaling_the_loss_changes_nothing(problem: Problem) -> None:
    """A GradScaler's scale changes nothing."""
    a, b = problem.network(), problem.network()
    first, second = problem.optimizer(a), problem.optimizer(b)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=3)
    for t in range(6):
        first.step(problem.closure(a, first, t))
        second.step(problem.closure(b, second, t, lambda loss: scaler.scale(loss).backward()), scaler=scaler)
        scaler.update()
    for name, value in a.state_dict().items():
        expect(torch.allclose(b.state_dict()[name], value, rtol=1e-6, atol=1e-7), f"{name} depends on the loss's scale")


@_check("groups")
def _groups_have_settings_of_their_own(problem: Problem) -> None:
    """Parameter groups are respected, and parameters that are frozen or have no gradient are left alone."""
    a, b = problem.network(), problem.network()
    for model in (a, b):
        model[1].bias.requires_grad_(False)
        model.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    named = list(b.named_parameters())
    parts = [{"params": named[0::2]}, {"params": named[1::2]}]
    first, second = problem.optimizer(a), problem.optimizer(b, parts)
    for t in range(5):
        closures = [_without_unused(problem, model, opt, t) for model, opt in ((a, first), (b, second))]
        first.step(closures[0])
        second.step(closures[1])
    draws = "seed" in inspect.signature(problem.cls).parameters  # for tensor after tensor, in the groups' order
    for name, value in ({} if draws else a.state_dict()).items():
        expect(torch.allclose(b.state_dict()[name], value, rtol=0, atol=1e-9), f"{name} differs where groups are two")
    fresh = problem.network()
    expect(torch.equal(a[1].bias, fresh[1].bias), "a frozen parameter was changed")
    expect(torch.equal(a.unused, torch.ones(2).double()), "a parameter without a gradient was changed")
    model = problem.network()
    halves = [{"params": list(model.named_parameters())[:1], "lr": 0.0, "weight_decay": 0.0}]
    halves += [{"params": list(model.named_parameters())[1:]}]
    before = model[0].weight.detach().clone()
    problem.train(model, problem.optimizer(model, halves), range(3))
    expect(torch.equal(before, model[0].weight), "a group's learning rate of 0 was not respected")


def _without_unused(problem: Problem, model: nn.Module, optimizer: Any, t: int) -> Callable:
    return problem.closure(nn.Sequential(*list(model.children())), optimizer, t)


@_check("wrappers")
def _frameworks_may_wrap_it(problem: Problem) -> None:
    """Frameworks and schedulers wrap an optimizer in objects that share its attributes: steps through them count."""
    model, plain = problem.network(), problem.network()
    optimizer, other = problem.optimizer(model), problem.optimizer(plain)
    wrapper = object.__new__(type("Wrapped", (type(optimizer),), {}))
    wrapper.__dict__ = dict(optimizer.__dict__)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    for t in range(4):
        wrapper.step(problem.closure(model, wrapper, t))
        with warnings.catch_warnings(action="ignore"):  # the scheduler looks for steps that it has seen
            scheduler.step()
        problem.train(plain, other, range(t, t + 1))
        for group in other.param_groups:
            group["lr"] *= 0.5
    found = copy.deepcopy(optimizer.state_dict())
    expected = other.state_dict()
    expect(found["sharpness_aware"]["steps"] == 4, "steps taken through a wrapper were not counted")
    places = dict(_tensors(expected))
    for place, value in _tensors(found):
        expect(torch.equal(value, places[place]), f"through a wrapper {place} differs")
    equal = all(torch.equal(p, q) for p, q in zip(model.parameters(), plain.parameters(), strict=True))
    expect(equal, "through a wrapper and a scheduler the weights differ")


@_check("parts")
def _parts_that_are_alike_are_the_whole(problem: Problem) -> None:
    """A batch given as parts that are all the same is that batch."""
    each_differs = problem.cls.perturbs_first and problem.cls.two_passes  # the part's number may count
    if problem.cls.gradient_decides or problem.cls.selects_examples or problem.cls.repeats_batch or each_differs:
        return
    a, b = problem.network(), problem.network()
    first, second = problem.optimizer(a), problem.optimizer(b)
    for t in range(4):
        first.step(problem.closure(a, first, t))
        second.step([problem.closure(b, second, t) for _ in range(3)])
    for name, p in a.named_parameters():
        expect(torch.allclose(dict(b.named_parameters())[name], p, rtol=0, atol=1e-9), f"{name} differs in parts")


@_check("waiting")
def _nothing_waits_for_the_device(problem: Problem) -> None:
    """The host waits for no value on the device, but for a decision by the gradient, once a step.

    On the CPU a copy to the host, as `.cpu()` makes one, cannot be seen.
    """
    for step in problem.kinds().values():
        model, optimizer = problem.begun(step)
        closure = problem.closure(model, optimizer, step)
        with Watching() as watching:
            optimizer.step(closure)
        allowed = 1 if problem.cls.gradient_decides else 0
        expect(len(watching.waits) <= allowed, f"a step waits for the device: {', '.join(watching.waits)}")


class Watching(TorchDispatchMode):
    """Notes the operations for which the host would wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = str(operation.overloadpacket)
        chosen = arguments[1] if name in INDEXING else ()
        masked = any(isinstance(index, Tensor) and index.dtype is torch.bool for index in chosen)
        if name in WAITS or masked:
            self.waits.append(name)
        return operation(*arguments, **(options or {}))


@_check("hooks")
def _hooks_change_none_of_their_arguments(problem: Problem) -> None:
    """`direction`, `combine` and the other hooks change none of the tensors that they are given."""
    model, optimizer = problem.begun()

    def watched(name: str, hook: Callable) -> Callable:
        def call(*arguments: Any, **memory: Any) -> Any:
            lists = [each for each in (*arguments, *memory.values()) if isinstance(each, list | tuple)]
            given = [x for each in lists for x in each if isinstance(x, Tensor)]
            before = [x.clone() for x in given]
            result = hook(*arguments, **memory)
            expect(all(torch.equal(x, y) for x, y in zip(given, before, strict=True)), f"{name} changes its arguments")
            return result

        return call

    for name in ("direction", "combine", "combine_single", "correction", "update_state"):
        setattr(optimizer, name, watched(name, getattr(optimizer, name)))
    problem.train(model, optimizer, range(3, 6))
