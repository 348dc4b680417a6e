"""Tests of two processes, each with half of every batch, against one process with the batch in as many parts."""

import gc

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sam_bench.optim.registry import METHODS
from tests.optim import plain_training as plain_bases
from tests.optim.plain_problem import make_oracle, make_plain_training
from tests.optim.problem import (
    CUT,
    OPTIONS,
    RADII,
    SGD,
    TWICE,
    UnnormalisedNetwork,
    closure_for,
    flat_weights,
    network,
    run_two_processes,
    weights,
    wrap,
)

STEPS = 6
HALVES = (slice(0, 6), slice(6, 12))
QUARTERS = (slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 12))
IN_PARTS = [name for name in TWICE if name in CUT]
BY_HAND = ["sam", "gsam", "wsam", "fsam", "looksam", "ss_sam", "ae_sam"]
COMPILED = ["sgd", "sam", "gsam", "msam"]
SYNCHRONISED = [name for name in TWICE if name not in ("esam", "sam_on")]

#: The layer of `TwoBranches` that each of four parts of a batch takes; each process has two of the parts.
BRANCHES = {"opposite": (0, 1, 1, 0), "apart": (0, 0, 1, 1)}

#: A run's weights after training, and its number of passes.
Result = tuple[torch.Tensor, float]


# What runs in each of two processes


def run_all_cases(rank: int, file: str, folder: str) -> None:
    """Run all cases in one of two processes, and save their results by case."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    half, quarters = HALVES[rank], list(QUARTERS[2 * rank : 2 * rank + 2])
    results = {}
    for name in METHODS:
        results[name, "local"] = train_parallel(network(), name, half)
    for name in SYNCHRONISED:
        results[name, "synchronised"] = train_parallel(UnnormalisedNetwork(), name, half, sync_perturbation=True)
    for name in IN_PARTS:
        results[name, "parts"] = train_parallel(network(), name, quarters)
    for name in BY_HAND:
        results[name, "by hand"] = train_by_hand(name, half)
    for name in COMPILED:
        results[name, "compiled"] = train_parallel(network(), name, half, compiled=True)

    # Each process may have as many parts as it likes, but all must call `step` with parts, even with a single one.
    results["uneven parts"] = train_parallel(network(), "gsam", [half] if rank == 0 else quarters)

    for view in (False, True):
        results["views", view] = train_parallel(
            UnnormalisedNetwork(), "gnp", half, views=view, b=0.5, sync_perturbation=True
        )
    for name in ("sam", "gsam"):
        for pattern in BRANCHES:
            results[name, pattern] = train_branches(rank, name, pattern)
    for failing_pass in (1, 2):
        results["overflow", failing_pass] = overflow(rank, failing_pass)
    results["compiled model is found"] = finds_compiled_model()

    torch.save(results, f"{folder}/{rank}.pt")
    gc.collect()  # the group's threads end with the last model that refers to it
    dist.destroy_process_group()


def train_parallel(
    network: nn.Module,
    name: str,
    share: slice | list[slice],
    *,
    compiled: bool = False,
    views: bool = False,
    **options,
) -> Result:
    """Train on this process's share of each batch, or on parts of it with a perturbation each."""
    model = DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=views)
    optimizer = wrap(model, name, **options)
    called = torch.compile(model, backend="aot_eager", dynamic=False) if compiled else model
    for t in range(STEPS):
        if isinstance(share, slice):
            optimizer.step(closure_for(called, optimizer, t, share))
        else:
            optimizer.step([closure_for(called, optimizer, t, part) for part in share])
    return flat_weights(model), optimizer.passes


def train_by_hand(name: str, half: slice) -> Result:
    """Train in a hand-written loop, which keeps the first gradients from being averaged."""
    model = DistributedDataParallel(network(), broadcast_buffers=False)
    optimizer = wrap(model, name)
    for t in range(STEPS):
        closure = closure_for(model, optimizer, t, half)
        with model.no_sync():
            closure()
        if optimizer.first_step(zero_grad=True):
            closure()
        optimizer.second_step()
    return flat_weights(model), optimizer.passes


def finds_compiled_model() -> bool:
    """Return True if an optimizer finds the parallel model inside a compiled one."""
    model = DistributedDataParallel(network(), broadcast_buffers=False)
    return wrap(torch.compile(model), "gsam").parallel is model


class TwoBranches(nn.Module):
    """Two layers of the same shape, of which an input takes one."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 3).double() for _ in range(2))

    def forward(self, x: torch.Tensor, branch: int) -> torch.Tensor:
        return self.layers[branch](x)


def train_branches(rank: int | None, name: str, pattern: str) -> torch.Tensor:
    """Train on the parts of one of two processes, or with rank None on all four; return the weights."""
    model = TwoBranches()
    if rank is not None:
        model = DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)
    optimizer = wrap(model, name, fused=None)
    for t in range(STEPS):
        x = torch.randn(4, 6, 4, generator=torch.Generator().manual_seed(t)).double()

        def make_closure(part: int, branch: int, x=x):
            def closure():
                optimizer.zero_grad()
                loss = model(x[part], branch).square().mean()
                loss.backward()
                return loss

            return closure

        closures = [make_closure(part, branch) for part, branch in enumerate(BRANCHES[pattern])]
        optimizer.step(closures if rank is None else closures[2 * rank : 2 * rank + 2])
    return flat_weights(model)


def overflow(rank: int, failing_pass: int) -> tuple[bool, int, float]:
    """Take a step with an infinite gradient in process 1 only.

    Returns:
        True if the weights are unchanged, the number of skipped steps, and the loss scale.
    """
    model = DistributedDataParallel(network(), broadcast_buffers=False)
    optimizer = wrap(model, "gsam")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before, calls = flat_weights(model), []

    def backward(loss: torch.Tensor) -> None:
        calls.append(None)
        scaler.scale(loss * (float("inf") if rank == 1 and len(calls) == failing_pass else 1)).backward()

    optimizer.step(closure_for(model, optimizer, 0, HALVES[rank], backward), scaler=scaler)
    scaler.update()
    return torch.equal(before, flat_weights(model)), optimizer.skipped.item(), scaler.get_scale()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return the results of both processes, each by case."""
    return run_two_processes(run_all_cases, tmp_path_factory.mktemp("processes"))


# What one process must get


def train_in_parts(name: str, model: nn.Module, parts) -> Result:
    """Train in one process; where the method takes no parts, with its reference, which does."""
    if name not in CUT and len(parts) > 1:
        return train_reference(name, model, parts)
    optimizer = wrap(model, name)
    for t in range(STEPS):
        closures = [closure_for(model, optimizer, t, part) for part in parts]
        optimizer.step(closures if len(parts) > 1 else closures[0])
    return flat_weights(model), optimizer.passes


def train_reference(name: str, model: nn.Module, parts) -> Result:
    """Train with the method's reference."""
    base = plain_bases.SGD(**SGD)
    plain = make_plain_training(name, base, weights(model), RADII.get(name, 0.05), **OPTIONS.get(name, {}))
    oracles = [make_oracle(model, t, parts) for t in range(STEPS)]
    for oracle in oracles:
        plain.step(oracle)
    w = torch.cat([torch.as_tensor(x).reshape(-1) for x in plain.w.values()])
    return w, sum(oracle.passes for oracle in oracles)


def assert_same(results, case, expected: Result) -> None:
    """Check that both processes have the expected weights and number of passes."""
    for of_rank in results:
        w, passes = of_rank[case]
        torch.testing.assert_close(w, expected[0], rtol=0, atol=1e-12)
        assert passes == pytest.approx(expected[1])


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_equal_batch_in_halves(results, name):
    assert_same(results, (name, "local"), train_in_parts(name, network(), HALVES))


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_network_is_synchronised(results, name):
    assert_same(results, (name, "compiled"), results[0][name, "local"])
    assert all(of_rank["compiled model is found"] for of_rank in results)


@pytest.mark.parametrize("name", SYNCHRONISED)
def test_sync_perturbation_is_that_of_whole_batch(results, name):
    assert_same(results, (name, "synchronised"), train_in_parts(name, UnnormalisedNetwork(), [slice(0, 12)]))
    if name != "sampa":  # it perturbs along an average over the processes in any case
        in_halves, _ = train_in_parts(name, UnnormalisedNetwork(), HALVES)
        assert not torch.allclose(results[0][name, "synchronised"][0], in_halves, atol=1e-9)


@pytest.mark.parametrize("name", IN_PARTS)
def test_parts_in_each_process_equal_as_many_in_one(results, name):
    assert_same(results, (name, "parts"), train_in_parts(name, network(), QUARTERS))


@pytest.mark.parametrize("name", BY_HAND)
def test_steps_by_hand_equal_closures(results, name):
    assert_same(results, (name, "by hand"), train_in_parts(name, network(), HALVES))


@pytest.mark.parametrize("failing_pass", [1, 2])
def test_overflow_in_one_process_is_skipped_by_both(results, failing_pass):
    assert [of_rank["overflow", failing_pass] for of_rank in results] == [(True, 1, 512.0)] * 2


def test_processes_may_differ_in_number_of_parts(results):
    model = network()
    optimizer = wrap(model, "gsam")
    for t in range(STEPS):
        closures = [closure_for(model, optimizer, t, part) for part in (HALVES[0], *QUARTERS[2:])]
        optimizer.step(closures, [0.5, 0.25, 0.25])
    assert_same(results, "uneven parts", (flat_weights(model), optimizer.passes))


def test_gradients_that_are_bucket_views_are_kept(results):
    for of_rank in results:
        assert torch.equal(of_rank["views", True][0], of_rank["views", False][0])


@pytest.mark.parametrize("pattern", BRANCHES)
@pytest.mark.parametrize("name", ["sam", "gsam"])
def test_parts_may_use_different_parameters(results, name, pattern):
    expected = train_branches(None, name, pattern)
    for of_rank in results:
        torch.testing.assert_close(of_rank[name, pattern], expected, rtol=0, atol=1e-12)


# Parts in one process


def test_parts_with_sync_perturbation_are_refused():
    model = network()
    optimizer = wrap(model, "sam", sync_perturbation=True)
    with pytest.raises(ValueError, match="sync_perturbation"):
        optimizer.step([closure_for(model, optimizer, 0, half) for half in HALVES])


def test_loss_of_parts_is_weighted_mean():
    model = network()
    optimizer = wrap(model, "sam")
    parts = (slice(0, 9), slice(9, 12))
    losses = [closure_for(model, optimizer, 0, part)().item() for part in parts]
    optimizer.zero_grad()
    loss = optimizer.step([closure_for(model, optimizer, 0, part) for part in parts], [0.75, 0.25])
    assert loss.item() == pytest.approx(0.75 * losses[0] + 0.25 * losses[1])
