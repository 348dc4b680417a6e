"""Two processes, each with half of every batch, equal one process with the matching m."""

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
    Plain,
    closure_for,
    flat,
    found_by_two,
    network,
    weights,
    wrap,
)

STEPS = 6
HALVES = (slice(0, 6), slice(6, 12))
QUARTERS = (slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 12))
PARTS = [name for name in TWICE if name in CUT]
BY_HAND = ["sam", "gsam", "wsam", "fsam", "looksam", "ss_sam", "ae_sam"]
COMPILED = ["sgd", "sam", "gsam", "msam"]
SYNCHRONISED = [name for name in TWICE if name not in ("esam", "sam_on")]


def by_hand(model, optimizer, t: int, half: slice) -> None:
    """A hand-written step, its first gradients kept from being averaged."""
    closure = closure_for(model, optimizer, t, half)
    with model.no_sync():
        closure()
    if optimizer.first_step(zero_grad=True):
        closure()
    optimizer.second_step()


def work(rank: int, file: str, folder: str) -> None:
    """What each of two processes does: every case, its weights afterwards saved."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    found = {}
    for name in METHODS:
        model = DistributedDataParallel(network(), broadcast_buffers=False)
        optimizer = wrap(model, name)
        for t in range(STEPS):
            optimizer.step(closure_for(model, optimizer, t, HALVES[rank]))
        found[name, "local"] = flat(model), optimizer.passes
    for name in SYNCHRONISED:
        model = DistributedDataParallel(Plain(), broadcast_buffers=False)
        optimizer = wrap(model, name, sync_perturbation=True)
        for t in range(STEPS):
            optimizer.step(closure_for(model, optimizer, t, HALVES[rank]))
        found[name, "synchronised"] = flat(model), optimizer.passes
    for name in PARTS:
        model = DistributedDataParallel(network(), broadcast_buffers=False)
        optimizer = wrap(model, name)
        for t in range(STEPS):
            mine = QUARTERS[2 * rank : 2 * rank + 2]
            optimizer.step([closure_for(model, optimizer, t, quarter) for quarter in mine])
        found[name, "parts"] = flat(model), optimizer.passes
    for name in BY_HAND:
        model = DistributedDataParallel(network(), broadcast_buffers=False)
        optimizer = wrap(model, name)
        for t in range(STEPS):
            by_hand(model, optimizer, t, HALVES[rank])
        found[name, "by hand"] = flat(model), optimizer.passes
    model = DistributedDataParallel(network(), broadcast_buffers=False)
    optimizer = wrap(model, "gsam")
    assert wrap(torch.compile(model), "gsam").parallel is model
    for t in range(STEPS):  # as many parts as each process likes
        mine = [HALVES[0]] if rank == 0 else [*QUARTERS[2:]]
        optimizer.step([closure_for(model, optimizer, t, part) for part in mine])
    found["uneven parts"] = flat(model), optimizer.passes
    for name in COMPILED:
        model = DistributedDataParallel(network(), broadcast_buffers=False)
        optimizer = wrap(model, name)
        compiled = torch.compile(model, backend="aot_eager", dynamic=False)
        for t in range(STEPS):
            optimizer.step(closure_for(compiled, optimizer, t, HALVES[rank]))
        found[name, "compiled"] = flat(model), optimizer.passes
    for view in (False, True):
        model = DistributedDataParallel(Plain(), broadcast_buffers=False, gradient_as_bucket_view=view)
        optimizer = wrap(model, "gnp", b=0.5, sync_perturbation=True)
        for t in range(STEPS):
            optimizer.step(closure_for(model, optimizer, t, HALVES[rank]))
        found["views", view] = flat(model), optimizer.passes
    for name in ("sam", "gsam"):
        for pattern in PATTERNS:
            found[name, pattern] = branches(rank, name, pattern)
    for failing_pass in (1, 2):
        found["overflow", failing_pass] = overflow(rank, failing_pass)
    torch.save(found, f"{folder}/{rank}.pt")
    del model, optimizer
    gc.collect()  # the group's threads end with the last model that refers to it
    dist.destroy_process_group()


class Branches(nn.Module):
    """Two layers of one shape, of which an input takes one."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 3).double() for _ in range(2))

    def forward(self, x: torch.Tensor, which: int) -> torch.Tensor:
        return self.layers[which](x)


PATTERNS = {"opposite": (0, 1, 1, 0), "apart": (0, 0, 1, 1)}
"""The branch that each of four parts of a batch takes; each process has two of them."""


def branches(rank: int | None, name: str, pattern: str) -> torch.Tensor:
    """Steps of two processes, each with its parts, or with rank None of one that has all."""
    model = Branches()
    if rank is not None:
        model = DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)
    optimizer = wrap(model, name, fused=None)
    for t in range(STEPS):
        generator = torch.Generator().manual_seed(t)
        x = torch.randn(4, 6, 4, generator=generator).double()

        def closure_of(part: int, which: int, x=x):
            def closure():
                optimizer.zero_grad()
                loss = model(x[part], which).square().mean()
                loss.backward()
                return loss

            return closure

        closures = [closure_of(part, which) for part, which in enumerate(PATTERNS[pattern])]
        optimizer.step(closures if rank is None else closures[2 * rank : 2 * rank + 2])
    return flat(model)


def overflow(rank: int, failing_pass: int) -> tuple[bool, int, float]:
    """A gradient that is infinite in one process only: whether the weights stayed, steps skipped, loss scale."""
    model = DistributedDataParallel(network(), broadcast_buffers=False)
    optimizer = wrap(model, "gsam")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before, calls = flat(model), []

    def backward(loss: torch.Tensor) -> None:
        calls.append(None)
        scaler.scale(loss * (float("inf") if rank == 1 and len(calls) == failing_pass else 1)).backward()

    optimizer.step(closure_for(model, optimizer, 0, HALVES[rank], backward), scaler=scaler)
    scaler.update()
    return torch.equal(before, flat(model)), optimizer.skipped.item(), scaler.get_scale()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return found_by_two(work, tmp_path_factory.mktemp("processes"))


def one_process(name: str, model: nn.Module, parts, **options) -> tuple[torch.Tensor, float]:
    if name not in CUT and len(parts) > 1:
        return plainly(name, model, parts)
    optimizer = wrap(model, name, **options)
    for t in range(STEPS):
        closures = [closure_for(model, optimizer, t, part) for part in parts]
        optimizer.step(closures if len(parts) > 1 else closures[0])
    return flat(model), optimizer.passes


def plainly(name: str, model: nn.Module, parts) -> tuple[torch.Tensor, float]:
    """Take the steps with the method's reference, which takes parts of every method."""
    base = plain_bases.SGD(**SGD)
    plain = make_plain_training(name, base, weights(model), RADII.get(name, 0.05), **OPTIONS.get(name, {}))
    oracles = [make_oracle(model, t, parts) for t in range(STEPS)]
    for each in oracles:
        plain.step(each)
    flat_weights = torch.cat([torch.as_tensor(x).reshape(-1) for x in plain.w.values()])
    return flat_weights, sum(each.passes for each in oracles)


def assert_same(found, key, expected) -> None:
    for of_rank in found:
        weights, passes = of_rank[key]
        torch.testing.assert_close(weights, expected[0], rtol=0, atol=1e-12)
        assert passes == pytest.approx(expected[1])


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_equal_one_with_half_the_batch_as_m(found, name):
    assert_same(found, (name, "local"), one_process(name, network(), HALVES))


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_network_is_synchronised_as_one_that_is_not(found, name):
    for of_rank in found:
        weights, passes = of_rank[name, "compiled"]
        expected = of_rank[name, "local"]
        torch.testing.assert_close(weights, expected[0], rtol=0, atol=1e-12)
        assert passes == expected[1]


@pytest.mark.parametrize("name", SYNCHRONISED)
def test_a_synchronised_perturbation_is_that_of_the_whole_batch(found, name):
    assert_same(found, (name, "synchronised"), one_process(name, Plain(), [slice(0, 12)]))
    if name != "sampa":  # whose perturbation is along an average in any case
        assert not torch.allclose(found[0][name, "synchronised"][0], one_process(name, Plain(), HALVES)[0], atol=1e-9)


@pytest.mark.parametrize("name", PARTS)
def test_parts_within_each_process_equal_as_many_parts_in_one(found, name):
    assert_same(found, (name, "parts"), one_process(name, network(), QUARTERS))


@pytest.mark.parametrize("name", BY_HAND)
def test_a_hand_written_loop_equals_closures(found, name):
    assert_same(found, (name, "by hand"), one_process(name, network(), HALVES))


@pytest.mark.parametrize("failing_pass", [1, 2])
def test_an_overflow_in_one_process_is_skipped_by_all(found, failing_pass):
    for of_rank in found:
        stayed, skipped, scale = of_rank["overflow", failing_pass]
        assert (stayed, skipped, scale) == (True, 1, 512.0)


def test_several_closures_do_not_go_with_a_synchronised_perturbation():
    model = network()
    optimizer = wrap(model, "sam", sync_perturbation=True)
    with pytest.raises(ValueError, match="sync_perturbation"):
        optimizer.step([closure_for(model, optimizer, 0, half) for half in HALVES])


def test_the_loss_of_parts_is_their_mean():
    model = network()
    optimizer = wrap(model, "sam")
    expected = [closure_for(model, optimizer, 0, part)().item() for part in (slice(0, 9), slice(9, 12))]
    optimizer.zero_grad()
    parts = [closure_for(model, optimizer, 0, part) for part in (slice(0, 9), slice(9, 12))]
    loss = optimizer.step(parts, [0.75, 0.25])
    assert loss.item() == pytest.approx(0.75 * expected[0] + 0.25 * expected[1])


def test_processes_may_cut_their_shares_differently(found):
    model = network()
    optimizer = wrap(model, "gsam")
    for t in range(STEPS):
        parts = [closure_for(model, optimizer, t, part) for part in (HALVES[0], *QUARTERS[2:])]
        optimizer.step(parts, [0.5, 0.25, 0.25])
    assert_same(found, "uneven parts", (flat(model), optimizer.passes))


def test_gradients_that_are_views_of_buckets_are_kept(found):
    for of_rank in found:
        assert torch.equal(of_rank["views", True][0], of_rank["views", False][0])


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", ["sam", "gsam"])
def test_parts_that_use_different_parameters_are_averaged_parameter_by_parameter(found, name, pattern):
    for of_rank in found:
        torch.testing.assert_close(of_rank[name, pattern], branches(None, name, pattern), rtol=0, atol=1e-12)
