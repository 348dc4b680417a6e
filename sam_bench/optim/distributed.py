"""Parameters that are sharded over processes: sums over the shards, and the shards that are refused."""

import torch.distributed as dist
from torch import Tensor, nn

from sam_bench.optim.gradients import Tensors, is_sharded


class Shards:
    """The processes over which parameters are sharded by FSDP2's `fully_shard`.

    Args:
        parameters: parameters that are all sharded in the same way, over one mesh.

    Raises:
        ValueError: some parameters are whole, or sharded in another way.
    """

    def __init__(self, parameters: Tensors):
        sharded = [p for p in parameters if is_sharded(p)]
        layouts = {(p.device_mesh, p.placements) for p in sharded}
        if len(sharded) < len(parameters) or len({mesh for mesh, _ in layouts}) > 1:
            raise ValueError(
                "some parameters are sharded over other processes than the rest, or not at all: fully_shard() the "
                "whole model on one mesh, before the optimizer is made"
            )

        # Replicated dimensions of the mesh hold the same shard, which must be summed only once.
        mesh, _ = next(iter(layouts))
        sharded_dimensions = {
            tuple(not placement.is_replicate() for placement in placements) for _, placements in layouts
        }
        if len(sharded_dimensions) > 1 or any(
            placement.is_partial() for _, placements in layouts for placement in placements
        ):
            raise ValueError("parameters are sharded in different ways: fully_shard() them all alike")
        (is_sharded_over,) = sharded_dimensions
        self.groups = [mesh.get_group(dimension) for dimension, over in enumerate(is_sharded_over) if over]

    @classmethod
    def of(cls, parameters: Tensors) -> "Shards | None":
        """Return the shards of the parameters, or None if all of them are whole.

        Raises:
            ValueError: only some are sharded, they are sharded in different ways, or a framework has sharded them
                into parts that look like whole tensors.
        """
        for parameter in parameters:
            refuse_hidden_shard(parameter)
        return cls(parameters) if any(map(is_sharded, parameters)) else None

    def sum(self, value: Tensor) -> Tensor:
        """Return a scalar's sum over all shards."""
        total = value.clone()
        for group in self.groups:
            dist.all_reduce(total, group=group)
        return total


def reshard(model: nn.Module) -> None:
    """Drop the whole weights that the FSDP2 modules of a model have gathered."""
    from torch.distributed.fsdp import FSDPModule  # takes a second to import, and only FSDP2 needs it

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def refuse_hidden_shard(parameter: Tensor) -> None:
    """Raise an error if a parameter is one process's shard, though its type does not say so.

    A norm of such tensors would cover this process's shard only. The frameworks mark them by an attribute.

    Raises:
        ValueError: it is a parameter of FSDP1, of DeepSpeed's ZeRO-3 or of Megatron's tensor parallelism.
    """
    for mark, framework in _HIDDEN_SHARDS.items():
        if getattr(parameter, mark, False):
            raise ValueError(
                f"a parameter is sharded by {framework}, whose shards look like whole tensors, so norms would cover "
                "one shard only. Shard the model with torch's fully_shard (FSDP2), or use DistributedDataParallel"
            )


#: Attributes that mark a parameter as a shard, and the framework that sets each.
_HIDDEN_SHARDS = {
    "_fsdp_flattened": "FullyShardedDataParallel (FSDP1)",
    "_is_flat_param": "FullyShardedDataParallel (FSDP1)",
    "ds_id": "DeepSpeed's ZeRO-3",
    "tensor_model_parallel": "Megatron's tensor parallelism",
}
