"""Tests of models that FSDP1, other libraries or DistributedDataParallel with a static graph have changed."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

from sam_bench import SAM
from sam_bench.optim.registry import METHODS, method
from tests.optim.problem import closure_for, flat_weights, network, wrap


@pytest.fixture
def one_process(tmp_path):
    """Make this process a group of its own."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("use_orig_params", [True, False])
def test_fsdp1_is_refused_when_made(one_process, use_orig_params):
    model = FullyShardedDataParallel(network(), use_orig_params=use_orig_params, device_id=torch.device("cpu"))
    with pytest.raises(ValueError, match="fully_shard"):
        SAM(model.parameters(), torch.optim.SGD, model=model, lr=0.1)


@pytest.mark.parametrize("mark", ["_fsdp_flattened", "_is_flat_param", "ds_id", "tensor_model_parallel"])
def test_step_refuses_parameters_sharded_late(mark):
    model = network()
    optimizer = wrap(model, "sam")
    optimizer.step(closure_for(model, optimizer, 0))
    setattr(next(model.parameters()), mark, True)
    before = flat_weights(model)
    with pytest.raises(ValueError, match="sharded"):
        optimizer.step(closure_for(model, optimizer, 1))
    assert torch.equal(before, flat_weights(model))


@pytest.mark.parametrize("name", METHODS)
def test_static_graph_is_refused_for_two_passes(one_process, name):
    model = DistributedDataParallel(network(), static_graph=True)
    if method(name).two_passes:
        with pytest.raises(ValueError, match="sync_perturbation=True"):
            wrap(model, name)
    else:
        assert wrap(model, name).parallel is model


def test_static_graph_trains_with_one_perturbation(one_process):
    models = [DistributedDataParallel(network(), static_graph=is_static) for is_static in (True, False)]
    for model in models:
        optimizer = SAM(model.parameters(), torch.optim.SGD, model=model, lr=0.1, sync_perturbation=True)
        for t in range(3):
            optimizer.step(closure_for(model, optimizer, t))
    assert torch.equal(flat_weights(models[0]), flat_weights(models[1]))


def test_static_graph_declared_late_is_refused(one_process):
    model = DistributedDataParallel(network())
    optimizer = SAM(model.parameters(), torch.optim.SGD, model=model, lr=0.1)
    model.static_graph = True
    with pytest.raises(ValueError, match="static_graph"):
        optimizer.step(closure_for(model, optimizer, 0))
