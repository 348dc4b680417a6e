"""The processes that work on one run: one, or as many as torchrun starts."""

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
    """This process's place among those of a run. Each of them has its own device and its own share of every batch.

    Args:
        device: "cpu" or "cuda", which decides how they talk (gloo or nccl).

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
                f"there are {torch.cuda.device_count()} CUDA devices here and more processes: lower --nproc_per_node"
            )
        if self.world_size > 1 and not dist.is_initialized():
            if device == "cuda":
                torch.cuda.set_device(self.local_rank)
            dist.init_process_group("nccl" if device == "cuda" else "gloo")
            atexit.register(_leave)
        self.hosts = dist.new_group(backend="gloo") if device == "cuda" and self.world_size > 1 else None
        """Through which the programs talk while their devices work, with more patience (half an hour) than NCCL has;
        None for the usual group."""

    @property
    def is_main_process(self) -> bool:
        """Whether this is the one process that writes files and speaks to the user."""
        return self.rank == 0

    def broadcast_object(self, value: Any) -> Any:
        """Return the main process's value, everywhere."""
        if self.world_size == 1:
            return value
        holder = [value]
        dist.broadcast_object_list(holder, group=self.hosts)
        dist.barrier(group=self.hosts)  # so that none leaves the program while another still listens to it
        return holder[0]

    def on_main_process(self, action: Callable[[], T]) -> T:
        """Return what an action of the main process returns, everywhere; where it fails, all fail.

        Raises:
            MainProcessFailed: in the others; in the main process it is the error itself.
        """
        if self.world_size == 1:
            return action()
        result = error = None
        if self.is_main_process:
            try:
                result = action()
            except Exception as failed:
                error = failed
        result, reason = self.broadcast_object((result, None if error is None else f"{type(error).__name__}: {error}"))
        if error is not None:
            raise error
        if reason is not None:
            raise MainProcessFailed(reason)
        return result

    def gather(self, value: Any) -> list[Any]:
        """Everybody's values, everywhere, by rank."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.hosts)
        return values

    def any(self, *flags: bool) -> list[bool]:
        """Return whether each flag is set in any process; does not wait for the device."""
        if self.world_size == 1:
            return list(flags)
        found = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self.hosts)
        return found.bool().tolist()

    def add(self, *totals: Tensor) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.world_size > 1:
            for total in totals:
                dist.all_reduce(total)

    def average_statistics(self, model: torch.nn.Module) -> None:
        """Give everybody the mean of all running statistics, each of an equal share of the images."""
        statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self.add(*statistics)
        for buffer in statistics:
            buffer /= self.world_size

    def copy_buffers(self, model: torch.nn.Module) -> None:
        """Give everybody the main process's running statistics."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


def _leave() -> None:
    """The group's threads must end before the program does, and end with the last model that refers to the group."""
    gc.collect()
    dist.destroy_process_group()


def in_parallel(model: torch.nn.Module) -> DistributedDataParallel:
    """The model, its gradients averaged over the processes; each keeps running statistics of its own."""
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.15
    return DistributedDataParallel(model, **{name: False})
