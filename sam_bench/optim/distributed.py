"""What the processes of a group know together: averages over their shares of a batch, sums over their shards."""

import torch
import torch.distributed as dist
from torch import Tensor

from sam_bench.optim.flat import FlatCopy
from sam_bench.optim.gradients import Tensors, is_sharded


def average(tensors: Tensors, parameters: Tensors, group: dist.ProcessGroup) -> None:
    """Replace each tensor by its mean over the processes: one reduction for each dtype.

    Args:
        parameters: tensors of the same shapes whose layouts are the same in all processes.
    """
    flat = FlatCopy(tensors, like=parameters)
    for values in flat.buffers:
        dist.all_reduce(values, group=group)
        values /= dist.get_world_size(group)
    flat.write_to(tensors)


def everywhere(condition: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Whether a boolean scalar holds in every process."""
    agreed = condition.to(torch.int32)
    dist.all_reduce(agreed, op=dist.ReduceOp.MIN, group=group)
    return agreed.bool()


def mean(value: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The mean of a scalar over the processes."""
    total = value.clone()
    dist.all_reduce(total, group=group)
    return total / dist.get_world_size(group)


class Shards:
    """The processes over which parameters are sharded, as FSDP2's `fully_shard` does.

    Args:
        parameters: all sharded in the same way, over one mesh.

    Raises:
        ValueError: some are whole, or sharded in another way.
    """

    def __init__(self, parameters: Tensors):
        sharded = [p for p in parameters if is_sharded(p)]
        layouts = {(p.device_mesh, p.placements) for p in sharded}
        if len(sharded) < len(parameters) or len({mesh for mesh, _ in layouts}) > 1:
            raise ValueError(
                "some parameters are sharded over other processes than the rest, or not at all: fully_shard() the "
                "whole model on one mesh, before the optimizer is made"
            )
        mesh, _ = next(iter(layouts))
        kinds = {tuple(not placement.is_replicate() for placement in placements) for _, placements in layouts}
        if len(kinds) > 1 or any(placement.is_partial() for _, placements in layouts for placement in placements):
            raise ValueError("parameters are sharded in different ways: fully_shard() them all alike")
        (kind,) = kinds
        self.groups = [mesh.get_group(dimension) for dimension, over in enumerate(kind) if over]

    @classmethod
    def of(cls, parameters: Tensors) -> "Shards | None":
        """Return the shards of the parameters, or None if all of them are whole.

        Raises:
            ValueError: some are whole and others are not, or they are sharded by a framework whose shards look like
                whole tensors.
        """
        for parameter in parameters:
            refuse_hidden_shard(parameter)
        return cls(parameters) if any(map(is_sharded, parameters)) else None

    def sum(self, value: Tensor) -> Tensor:
        """A scalar's sum over all shards."""
        total = value.clone()
        for group in self.groups:
            dist.all_reduce(total, group=group)
        return total


def rank(group: dist.ProcessGroup) -> int:
    """The number of this process in its group, from 0."""
    return dist.get_rank(group)


def refuse_hidden_shard(parameter: Tensor) -> None:
    """Raise an error if a parameter is one process's shard, though its type does not say so.

    Norms over such tensors would be those of one shard. The frameworks mark them by an attribute.

    Raises:
        ValueError: it is a parameter of FSDP1, of DeepSpeed's ZeRO-3 or of Megatron's tensor parallelism.
    """
    for mark, framework in _HIDDEN_SHARDS.items():
        if getattr(parameter, mark, False):
            raise ValueError(
                f"a parameter is sharded by {framework}, whose shards cannot be told from whole tensors, so that "
                "norms would be those of one shard. Shard the model with torch's fully_shard (FSDP2), or use "
                "DistributedDataParallel"
            )


_HIDDEN_SHARDS = {
    "_fsdp_flattened": "FullyShardedDataParallel (FSDP1)",
    "_is_flat_param": "FullyShardedDataParallel (FSDP1)",
    "ds_id": "DeepSpeed's ZeRO-3",
    "tensor_model_parallel": "Megatron's tensor parallelism",
}
