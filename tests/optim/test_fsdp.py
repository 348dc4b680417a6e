"""Parameters that FSDP2 has sharded over two processes: the steps are those of one process with whole parameters."""

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
from tests.optim.problem import PERTURBING, TWICE, batch, flat, found_by_two, network, state, wrap

STEPS = 3
"""Before saving, and again after loading."""
SHARDED = [name for name in METHODS if not method(name).whole_tensors]
HALVES = [name for name in TWICE if name in SHARDED and name != "sampa"]
"""Methods with two passes that a hand-written loop can step."""
HALF = 6
BASES = {"sgd": {}, "adamw": {"base": torch.optim.AdamW, "lr": 1e-3}}


def sharded(seed: int = 0, layers: bool = True, model: nn.Module | None = None) -> nn.Module:
    """`network`, sharded as a whole or its layers one by one; their sizes are not multiples of two."""
    model = network(seed) if model is None else model
    mesh = init_device_mesh("cpu", (2,))
    for layer in model if layers else ():
        if list(layer.parameters()):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def evaluated(model: nn.Module) -> None:
    """A forward pass without a backward one, after which FSDP2 keeps the whole weights of the outermost module."""
    model.eval()
    with torch.no_grad():
        model(batch(99)[0])
    model.train()


def is_of_its_weights(model: nn.Module) -> bool:
    """Whether the model's output is that of the weights that its shards make up."""
    plain = network()
    with torch.no_grad():
        for p, shard in zip(plain.parameters(), model.parameters(), strict=True):
            p.copy_(shard.full_tensor())
        for buffer, own in zip(plain.buffers(), model.buffers(), strict=True):
            buffer.copy_(own)
        outputs = [each.eval()(batch()[0]) for each in (plain, model)]
    return torch.allclose(*outputs, rtol=0, atol=1e-12)


def interrupted(closure, failing: int):
    """A closure that fails in one of its calls, after the forward pass."""
    calls = []

    def wrapped() -> torch.Tensor:
        calls.append(None)
        loss = closure()
        if len(calls) == failing:
            raise InterruptedError
        return loss

    return wrapped


def closure_for(model: nn.Module, optimizer, t: int, ranks: tuple[int, ...], scale: float = 1.0):
    """The closure of step `t`, for these processes' halves of the batch; each half is normalised by itself."""
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


def remember(model: nn.Module, optimizer, t: int, ranks: tuple[int, ...]) -> None:
    if optimizer.repeats_batch:
        optimizer.remember(closure_for(model, optimizer, t, ranks))


def train(model: nn.Module, optimizer, first: int, ranks: tuple[int, ...], way: str = "closure") -> None:
    for t in range(first, first + STEPS):
        closure = closure_for(model, optimizer, t, ranks)
        if way == "evaluated":
            evaluated(model)
            if t == 1 and not optimizer.repeats_batch:
                with contextlib.suppress(InterruptedError):  # a step of one pass does not get there
                    optimizer.step(interrupted(closure, 2))
            evaluated(model)
        if way != "by hand":
            optimizer.step(closure)
        else:
            closure()
            if optimizer.first_step(zero_grad=True):
                closure()
            optimizer.second_step()


def whole(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.full_tensor().reshape(-1) for p in model.parameters()])


def work(rank: int, file: str, folder: str) -> None:
    """What each of two processes does: every case, its weights afterwards saved."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    found = {}
    for name in SHARDED:
        for base, settings in BASES.items():
            if base == "adamw" and name not in ("sam", "gsam"):
                continue
            model = sharded()
            optimizer = wrap(model, name, fused=False, **settings)
            train(model, optimizer, 0, (rank,))
            place = f"{folder}/{name}-{base}"
            checkpoint.save({"model": model, "optimizer": optimizer}, checkpoint_id=place)
            model = sharded(seed=9)
            optimizer = wrap(model, name, fused=False, **settings)
            before = whole(model)
            optimizer.create_state()
            assert torch.equal(before, whole(model))
            checkpoint.load({"model": model, "optimizer": optimizer}, checkpoint_id=place)
            remember(model, optimizer, STEPS - 1, (rank,))
            train(model, optimizer, STEPS, (rank,))
            found[name, base] = whole(model), optimizer.steps, optimizer.passes
    for name in HALVES:
        model = sharded()
        optimizer = wrap(model, name, fused=False)
        train(model, optimizer, 0, (rank,), "by hand")
        found[name, "by hand"] = whole(model), optimizer.steps, optimizer.passes
    for name in SHARDED:
        model = sharded(layers=False)
        optimizer = wrap(model, name, fused=False)
        train(model, optimizer, 0, (rank,), "evaluated")
        found[name, "evaluated"] = whole(model), optimizer.steps, optimizer.passes
    model = network()
    optimizer = wrap(model, "gsam", fused=False)
    before = {p: name for name, p in model.named_parameters()}
    sharded(model=model)
    after = dict(model.named_parameters())
    for group in optimizer.param_groups:  # as Accelerate does
        group["params"] = [after[before[p]] for p in group["params"]]
    train(model, optimizer, 0, (rank,))
    found["gsam", "sharded late"] = whole(model), optimizer.steps, optimizer.passes
    model = sharded(layers=False)
    optimizer = wrap(model, "wasam", fused=False)
    train(model, optimizer, 0, (rank,))
    optimizer.update_swa()
    train(model, optimizer, STEPS, (rank,))
    optimizer.update_swa()
    evaluated(model)
    optimizer.swap_swa_sgd()
    found["wasam", "average"] = whole(model), optimizer.steps, optimizer.passes
    found["output of the average"] = is_of_its_weights(model)
    model = sharded()
    optimizer = wrap(model, "gsam", fused=False)
    before = whole(model)
    optimizer.step(closure_for(model, optimizer, 0, (rank,), float("inf") if rank else 1.0))
    found["overflow"] = torch.equal(before, whole(model)), optimizer.skipped.item()
    torch.save(found, f"{folder}/{rank}.pt")
    del model, optimizer
    gc.collect()  # the group's threads end with the last model that refers to it
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return found_by_two(work, tmp_path_factory.mktemp("processes"))


def assert_same(found, key, expected: nn.Module, optimizer) -> None:
    for of_rank in found:
        weights, steps, passes = of_rank[key]
        torch.testing.assert_close(weights, flat(expected), rtol=0, atol=1e-12)
        assert (steps, passes) == (optimizer.steps, pytest.approx(optimizer.passes))


@pytest.mark.parametrize(("name", "base"), [*((name, "sgd") for name in SHARDED), ("sam", "adamw"), ("gsam", "adamw")])
def test_shards_take_the_steps_of_whole_tensors_also_from_a_distributed_checkpoint(found, name, base):
    model = network()
    optimizer = wrap(model, name, fused=False, **BASES[base])
    for first in (0, STEPS):
        train(model, optimizer, first, (0, 1))
    assert_same(found, (name, base), model, optimizer)


@pytest.mark.parametrize("name", HALVES)
def test_shards_take_half_steps(found, name):
    model = network()
    optimizer = wrap(model, name, fused=False)
    train(model, optimizer, 0, (0, 1))
    assert_same(found, (name, "by hand"), model, optimizer)


@pytest.mark.parametrize("name", SHARDED)
def test_what_a_forward_pass_has_gathered_is_dropped_when_the_weights_change(found, name):
    model = network()
    optimizer = wrap(model, name, fused=False)
    train(model, optimizer, 0, (0, 1), "evaluated")
    assert_same(found, (name, "evaluated"), model, optimizer)


def test_a_model_may_be_sharded_after_its_optimizer_was_made(found):
    model = network()
    optimizer = wrap(model, "gsam", fused=False)
    train(model, optimizer, 0, (0, 1))
    assert_same(found, ("gsam", "sharded late"), model, optimizer)


def test_shards_are_averaged_over_training_and_swapped(found):
    model = network()
    optimizer = wrap(model, "wasam", fused=False)
    for first in (0, STEPS):
        train(model, optimizer, first, (0, 1))
        optimizer.update_swa()
    optimizer.swap_swa_sgd()
    assert_same(found, ("wasam", "average"), model, optimizer)
    assert all(of_rank["output of the average"] for of_rank in found)


def test_a_loss_that_is_not_finite_in_one_process_is_skipped_by_both(found):
    assert [of_rank["overflow"] for of_rank in found] == [(True, 1)] * 2


@pytest.fixture
def mesh():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("name", [name for name in PERTURBING if name not in SHARDED])
def test_methods_of_whole_tensors_refuse_shards(mesh, name):
    with pytest.raises(ValueError, match=r"whole tensors, .* sharded .* use DistributedDataParallel"):
        wrap(fully_shard(network(), mesh=mesh), name)


def test_shards_need_the_model(mesh):
    with pytest.raises(ValueError, match=r"give model="):
        SAM(fully_shard(network(), mesh=mesh).parameters(), torch.optim.SGD, lr=0.1)


def test_a_model_that_is_sharded_late_is_refused_by_what_chose_parameters_before(mesh):
    model = network()
    optimizer = wrap(model, "sam_on", fused=False)
    fully_shard(model, mesh=mesh)
    optimizer.param_groups[0]["params"] = list(model.parameters())
    with pytest.raises(ValueError, match=r"SAMON was made with other parameters"):
        optimizer.step(closure_for(model, optimizer, 0, (0, 1)))


def test_parameters_of_which_some_are_sharded_are_refused(mesh):
    parameters = [nn.Parameter(distribute_tensor(torch.ones(4), mesh)), nn.Parameter(torch.ones(4))]
    with pytest.raises(ValueError, match=r"fully_shard\(\) the whole model"):
        SAM(parameters, torch.optim.SGD, lr=0.1)


@pytest.mark.parametrize("name", METHODS)
def test_state_that_is_created_is_what_a_step_would_create(name):
    model, other = network(), network()
    optimizer, stepped = wrap(model, name), wrap(other, name)
    before = state(model, optimizer)
    optimizer.create_state()
    problem.train(other, stepped, STEPS)
    assert state(model, optimizer).keys() == state(other, stepped).keys()
    assert all(torch.equal(value, state(model, optimizer)[key]) for key, value in before.items())
    with pytest.raises(RuntimeError, match="after 3 steps"):
        stepped.create_state()
