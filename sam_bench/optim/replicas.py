"""The processes that train copies of one model, each on its share of a batch, and what they agree on in a step."""

import contextlib

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sam_bench.optim.flat import FlatCopy
from sam_bench.optim.gradients import Gradients, fill_missing, real


class Replicas:
    """The processes of a `DistributedDataParallel` model; for any other model, this process alone.

    Args:
        model: the model that is trained, or None.
    """

    def __init__(self, model: nn.Module | None):
        inner = getattr(model, "_orig_mod", model)  # a compiled model holds the original
        #: The model, if it is a `DistributedDataParallel`.
        self.parallel = inner if isinstance(inner, DistributedDataParallel) else None

    @property
    def rank(self) -> int:
        """Return the rank of this process."""
        return 0 if self.parallel is None else dist.get_rank(self.parallel.process_group)

    def sync_if(self, wanted: bool) -> contextlib.AbstractContextManager[None]:
        """Return a context in which backward passes average gradients over processes only if wanted.

        Raises:
            ValueError: averaging is not wanted, and the model averages the gradients of every pass.
        """
        if wanted or self.parallel is None:
            return contextlib.nullcontext()
        self.refuse_static_graph()
        return self.parallel.no_sync()

    def refuse_static_graph(self) -> None:
        """Check that gradients can be computed without being averaged, which a static graph does not allow.

        Raises:
            ValueError: the model's graph was declared static.
        """
        if self.parallel is not None and self.parallel.static_graph:
            raise ValueError(
                "DistributedDataParallel(static_graph=True) averages the gradients of every pass, and each process "
                "needs its own for its perturbation. Give sync_perturbation=True for one perturbation along the "
                "averaged gradient, or leave static_graph out"
            )

    def average(self, gradients: Gradients, parameters: list[Tensor]) -> Gradients:
        """Return the means over all processes, for every parameter that can have a gradient: one reduction per dtype.

        One process returns its gradients as they are.

        Args:
            parameters: all of them; with several processes, one without a gradient counts as one whose gradient is 0.
        """
        if self.parallel is None:
            return gradients
        trainable = [p for p in parameters if p.requires_grad]
        means = fill_missing(trainable, gradients)

        # In the layout of the parameters, which is the same in all processes.
        flat = FlatCopy(means, like=[real(p) for p in trainable])
        for values in flat.buffers:
            dist.all_reduce(values, group=self.parallel.process_group)
            values /= dist.get_world_size(self.parallel.process_group)
        flat.write_to(means)
        return dict(zip(trainable, means, strict=True))

    def everywhere(self, condition: Tensor) -> Tensor:
        """Return a boolean scalar, true if the condition is true in every process."""
        if self.parallel is None:
            return condition
        agreed = condition.to(torch.int32)
        dist.all_reduce(agreed, op=dist.ReduceOp.MIN, group=self.parallel.process_group)
        return agreed.bool()

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a scalar over all processes, the same in each of them."""
        if self.parallel is None:
            return value
        total = value.clone()
        dist.all_reduce(total, group=self.parallel.process_group)
        return total / dist.get_world_size(self.parallel.process_group)
