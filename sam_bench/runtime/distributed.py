"""The processes that work on one run: a single one, or all that torchrun starts."""

import atexit
import gc
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from sam_bench.errors import ConfigError, MainProcessFailed
from sam_bench.runtime.environment import check_processes, local_rank, rank, world_size

T = TypeVar("T")


class Processes:
    """The processes of a run, as one of them sees them. Each has its own device, and its own share of every batch.

    Args:
        device: "cpu" or "cuda"; the processes communicate by gloo or nccl, respectively.

    Raises:
        ConfigError: torchrun started more processes on this machine than it has CUDA devices.
    """

    def __init__(self, device: str):
        check_processes()
        self.rank = rank()
        self.world_size = world_size()
        self.local_rank = local_rank()
        if device == "cuda" and self.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"this machine has {torch.cuda.device_count()} CUDA devices, fewer than processes: lower "
                "--nproc_per_node"
            )

        if self.world_size > 1 and not dist.is_initialized():
            if device == "cuda":
                torch.cuda.set_device(self.local_rank)
            dist.init_process_group("nccl" if device == "cuda" else "gloo")
            atexit.register(_leave)

        #: The group in which the hosts communicate while their devices work; None for the default group. It waits for
        #: half an hour, longer than NCCL.
        self.hosts = dist.new_group(backend="gloo") if device == "cuda" and self.world_size > 1 else None

    @property
    def is_main_process(self) -> bool:
        """Return True on rank 0, the only process that writes files and prints."""
        return self.rank == 0

    def broadcast_object(self, value: Any) -> Any:
        """Return the main process's value in every process."""
        if self.world_size == 1:
            return value

        holder = [value]
        dist.broadcast_object_list(holder, group=self.hosts)
        dist.barrier(group=self.hosts)  # so that no process exits while another still receives from it
        return holder[0]

    def on_main_process(self, action: Callable[[], T]) -> T:
        """Run an action in the main process, and return its result in every process; if it fails, all fail.

        Raises:
            MainProcessFailed: the action failed; raised in the other processes, while the main one raises the error
                itself.
        """
        if self.world_size == 1:
            return action()

        # All processes must reach the broadcast, so the main one raises its error only after it.
        result = error = None
        if self.is_main_process:
            try:
                result = action()
            except Exception as caught:
                error = caught
        result, reason = self.broadcast_object((result, None if error is None else f"{type(error).__name__}: {error}"))
        if error is not None:
            raise error
        if reason is not None:
            raise MainProcessFailed(reason)
        return result

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank, in every process."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.hosts)
        return values

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set in any process, without waiting for the device."""
        if self.world_size == 1:
            return list(flags)

        combined = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(combined, dist.ReduceOp.MAX, group=self.hosts)
        return combined.bool().tolist()

    def add(self, *totals: Tensor) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.world_size > 1:
            for total in totals:
                dist.all_reduce(total)

    def average_statistics(self, model: torch.nn.Module) -> None:
        """Replace the running statistics in every process by their mean, in which each process counts equally."""
        statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self.add(*statistics)
        for buffer in statistics:
            buffer /= self.world_size

    def copy_buffers(self, model: torch.nn.Module) -> None:
        """Copy the main process's buffers, such as running statistics, to every process."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


def _leave() -> None:
    """Leave the process group before the program ends, so that the group's threads end first."""
    # The threads live as long as a model that refers to the group.
    gc.collect()
    dist.destroy_process_group()


def in_parallel(model: torch.nn.Module) -> DistributedDataParallel:
    """Wrap a model so that its gradients are averaged over processes; running statistics stay each process's own."""
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.15
    return DistributedDataParallel(model, **{name: False})
