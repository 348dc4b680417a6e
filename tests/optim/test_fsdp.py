"""Tests of parameters that FSDP2 shards over two processes, against one process with whole parameters."""

import contextlib
import gc

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoint
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor, init_device_mesh

from sam_bench import SAM
from sam_bench.optim.registry import METHODS, method
from tests.optim import problem
from tests.optim.problem import PERTURBING, TWICE, batch, flat_weights, network, run_two_processes, state, wrap

#: Steps before saving, and again after loading.
STEPS = 3

#: Examples of each process in a batch.
HALF = 6

SHARDED = [name for name in METHODS if not method(name).whole_tensors]

#: Methods with two passes that a hand-written loop can step.
BY_HAND = [name for name in TWICE if name in SHARDED and name != "sampa"]

BASES = {"sgd": {}, "adamw": {"base": torch.optim.AdamW, "lr": 1e-3}}
CASES = [*((name, "sgd") for name in SHARDED), ("sam", "adamw"), ("gsam", "adamw")]


def closure_for(model: nn.Module, optimizer, t: int, ranks: tuple[int, ...], scale: float = 1.0):
    """Return the closure of step `t` on these processes' halves of the batch, each normalised by itself."""
    images, labels = batch(t)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        total = 0.0
        for rank in ranks:
            half = slice(rank * HALF, (rank + 1) * HALF)
            loss = F.cross_entropy(model(images[half]), labels[half]) * scale / len(ranks)
            loss.backward()
            total += loss.detach()
        return total

    return closure


def train(model: nn.Module, optimizer, first: int, ranks: tuple[int, ...], way: str = "closure") -> None:
    """Take some steps.

    Args:
        way: "closure", "by hand", or "evaluated" for forward passes without gradients between the steps, after one of
            which a step is interrupted in its second pass.
    """
    for t in range(first, first + STEPS):
        closure = closure_for(model, optimizer, t, ranks)
        if way == "evaluated":
            evaluate(model)
            if t == 1 and not optimizer.repeats_batch:
                with contextlib.suppress(InterruptedError):  # a step of one pass is not interrupted
                    optimizer.step(interrupted(closure, 2))
            evaluate(model)

        if way != "by hand":
            optimizer.step(closure)
        else:
            closure()
            if optimizer.first_step(zero_grad=True):
                closure()
            optimizer.second_step()


def evaluate(model: nn.Module) -> None:
    """Take a forward pass without a backward one, after which FSDP2 keeps the outermost module's whole weights."""
    model.eval()
    with torch.no_grad():
        model(batch(99)[0])
    model.train()


def interrupted(closure, failing: int):
    """Return a closure that raises InterruptedError in one of its calls, after the backward pass."""
    calls = []

    def wrapped() -> torch.Tensor:
        calls.append(None)
        loss = closure()
        if len(calls) == failing:
            raise InterruptedError
        return loss

    return wrapped


# What runs in each of two processes


def run_all_cases(rank: int, file: str, folder: str) -> None:
    """Run all cases in one of two processes, and save their results by case."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    results = {}
    for name, base in CASES:
        results[name, base] = train_and_resume(rank, name, base, f"{folder}/{name}-{base}")
    for name in BY_HAND:
        results[name, "by hand"] = train_sharded(rank, name, "by hand")
    for name in SHARDED:
        results[name, "evaluated"] = train_sharded(rank, name, "evaluated", layers=False)
    results["gsam", "sharded late"] = train_sharded_late(rank)
    results["wasam", "average"], results["output is of average"] = average(rank)
    results["overflow"] = overflow(rank)

    torch.save(results, f"{folder}/{rank}.pt")
    gc.collect()  # the group's threads end with the last model that refers to it
    dist.destroy_process_group()


def shard(model: nn.Module, layers: bool = True) -> nn.Module:
    """Shard the model, whose sizes are not multiples of two, layer by layer or as a whole."""
    mesh = init_device_mesh("cpu", (2,))
    for layer in model if layers else ():
        if list(layer.parameters()):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def whole_weights(model: nn.Module) -> torch.Tensor:
    """Return all weights in one tensor, gathered from both processes."""
    return torch.cat([p.full_tensor().reshape(-1) for p in model.parameters()])


def result(model: nn.Module, optimizer) -> tuple[torch.Tensor, int, float]:
    """Return the whole weights, and the numbers of steps and passes."""
    return whole_weights(model), optimizer.steps, optimizer.passes


def train_and_resume(rank: int, name: str, base: str, folder: str):
    """Train, save a distributed checkpoint, load it into a new optimizer, and train on."""
    model = shard(network())
    optimizer = wrap(model, name, fused=False, **BASES[base])
    train(model, optimizer, 0, (rank,))
    checkpoint.save({"model": model, "optimizer": optimizer}, checkpoint_id=folder)

    model = shard(network(seed=9))
    optimizer = wrap(model, name, fused=False, **BASES[base])
    before = whole_weights(model)
    optimizer.create_state()
    assert torch.equal(before, whole_weights(model))
    checkpoint.load({"model": model, "optimizer": optimizer}, checkpoint_id=folder)
    if optimizer.repeats_batch:
        optimizer.remember(closure_for(model, optimizer, STEPS - 1, (rank,)))
    train(model, optimizer, STEPS, (rank,))
    return result(model, optimizer)


def train_sharded(rank: int, name: str, way: str, layers: bool = True):
    """Train in one of the ways of `train`."""
    model = shard(network(), layers)
    optimizer = wrap(model, name, fused=False)
    train(model, optimizer, 0, (rank,), way)
    return result(model, optimizer)


def train_sharded_late(rank: int):
    """Train a model that was sharded after its optimizer was made."""
    model = network()
    optimizer = wrap(model, "gsam", fused=False)
    name_by_parameter = {p: name for name, p in model.named_parameters()}
    shard(model)
    shards = dict(model.named_parameters())
    for group in optimizer.param_groups:  # as Accelerate does
        group["params"] = [shards[name_by_parameter[p]] for p in group["params"]]
    train(model, optimizer, 0, (rank,))
    return result(model, optimizer)


def average(rank: int):
    """Train with weight averaging, and swap the weights with their mean.

    Returns:
        The result, and True if the model's output is that of the mean.
    """
    model = shard(network(), layers=False)
    optimizer = wrap(model, "wasam", fused=False)
    for first in (0, STEPS):
        train(model, optimizer, first, (rank,))
        optimizer.update_swa()
    evaluate(model)
    optimizer.swap_swa_sgd()
    averaged = result(model, optimizer)

    plain = network()
    with torch.no_grad():
        for p, p_shard in zip(plain.parameters(), model.parameters(), strict=True):
            p.copy_(p_shard.full_tensor())
        for buffer, own in zip(plain.buffers(), model.buffers(), strict=True):
            buffer.copy_(own)
        outputs = [each.eval()(batch()[0]) for each in (plain, model)]
    return averaged, torch.allclose(*outputs, rtol=0, atol=1e-12)


def overflow(rank: int) -> tuple[bool, int]:
    """Take a step with an infinite loss in process 1 only; return if the weights are unchanged, and skipped steps."""
    model = shard(network())
    optimizer = wrap(model, "gsam", fused=False)
    before = whole_weights(model)
    optimizer.step(closure_for(model, optimizer, 0, (rank,), float("inf") if rank else 1.0))
    return torch.equal(before, whole_weights(model)), optimizer.skipped.item()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return the results of both processes, each by case."""
    return run_two_processes(run_all_cases, tmp_path_factory.mktemp("processes"))


def assert_same(results, case, model: nn.Module, optimizer) -> None:
    """Check that both processes have the weights, steps and passes of one process."""
    for of_rank in results:
        w, steps, passes = of_rank[case]
        torch.testing.assert_close(w, flat_weights(model), rtol=0, atol=1e-12)
        assert (steps, passes) == (optimizer.steps, pytest.approx(optimizer.passes))


@pytest.mark.parametrize(("name", "base"), CASES)
def test_sharded_steps_and_resume_equal_whole_tensors(results, name, base):
    model = network()
    optimizer = wrap(model, name, fused=False, **BASES[base])
    for first in (0, STEPS):
        train(model, optimizer, first, (0, 1))
    assert_same(results, (name, base), model, optimizer)


@pytest.mark.parametrize("name", BY_HAND)
def test_sharded_steps_by_hand_equal_whole_tensors(results, name):
    model = network()
    optimizer = wrap(model, name, fused=False)
    train(model, optimizer, 0, (0, 1))
    assert_same(results, (name, "by hand"), model, optimizer)


@pytest.mark.parametrize("name", SHARDED)
def test_gathered_weights_are_dropped_after_change(results, name):
    model = network()
    optimizer = wrap(model, name, fused=False)
    train(model, optimizer, 0, (0, 1), "evaluated")
    assert_same(results, (name, "evaluated"), model, optimizer)


def test_model_may_be_sharded_after_optimizer_is_made(results):
    model = network()
    optimizer = wrap(model, "gsam", fused=False)
    train(model, optimizer, 0, (0, 1))
    assert_same(results, ("gsam", "sharded late"), model, optimizer)


def test_sharded_weights_are_averaged_and_swapped(results):
    model = network()
    optimizer = wrap(model, "wasam", fused=False)
    for first in (0, STEPS):
        train(model, optimizer, first, (0, 1))
        optimizer.update_swa()
    optimizer.swap_swa_sgd()
    assert_same(results, ("wasam", "average"), model, optimizer)
    assert all(of_rank["output is of average"] for of_rank in results)


def test_infinite_loss_in_one_process_skips_both(results):
    assert [of_rank["overflow"] for of_rank in results] == [(True, 1)] * 2


# Refusals, in one process


@pytest.fixture
def mesh():
    """Return a mesh of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("name", [name for name in PERTURBING if name not in SHARDED])
def test_methods_of_whole_tensors_refuse_shards(mesh, name):
    with pytest.raises(ValueError, match=r"sharded .* DistributedDataParallel"):
        wrap(fully_shard(network(), mesh=mesh), name)


def test_shards_without_model_are_refused(mesh):
    with pytest.raises(ValueError, match="model="):
        SAM(fully_shard(network(), mesh=mesh).parameters(), torch.optim.SGD, lr=0.1)


def test_sam_on_refuses_model_sharded_late(mesh):
    model = network()
    optimizer = wrap(model, "sam_on", fused=False)
    fully_shard(model, mesh=mesh)
    optimizer.param_groups[0]["params"] = list(model.parameters())
    with pytest.raises(ValueError, match="SAMON was made with other parameters"):
        optimizer.step(closure_for(model, optimizer, 0, (0, 1)))


def test_partly_sharded_parameters_are_refused(mesh):
    parameters = [nn.Parameter(distribute_tensor(torch.ones(4), mesh)), nn.Parameter(torch.ones(4))]
    with pytest.raises(ValueError, match="fully_shard"):
        SAM(parameters, torch.optim.SGD, lr=0.1)


# State for a distributed checkpoint


@pytest.mark.parametrize("name", METHODS)
def test_create_state_creates_what_steps_create(name):
    model, other = network(), network()
    optimizer, stepped = wrap(model, name), wrap(other, name)
    before = state(model, optimizer)
    optimizer.create_state()
    problem.train(other, stepped, STEPS)

    created = state(model, optimizer)
    assert created.keys() == state(other, stepped).keys()
    assert all(torch.equal(created[key], value) for key, value in before.items())
    with pytest.raises(RuntimeError, match="after 3 steps"):
        stepped.create_state()
