"""Averages over the processes of a group, each process holding its own share of the batch."""

import torch
import torch.distributed as dist
from torch import Tensor

from sam_bench.optim.flat import FlatCopy


def average(tensors: list[Tensor], parameters: list[Tensor], group: dist.ProcessGroup) -> None:
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


def rank(group: dist.ProcessGroup) -> int:
    """The number of this process in its group, from 0."""
    return dist.get_rank(group)
