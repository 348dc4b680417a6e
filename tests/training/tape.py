"""CPU version of a CUDA graph, which records operations and repeats them on the same memory."""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sam_bench.testing import WAITS


def name_of(operation) -> str:
    """Return an operation's name without its overload."""
    return str(operation.overloadpacket)


def is_view(operation) -> bool:
    """Return True if an operation computes nothing and returns an alias of its argument."""
    aliases = [returned.alias_info for returned in operation._schema.returns]
    return bool(aliases) and aliases[0] is not None and not aliases[0].is_write


class Tape:
    """Capturer that takes the place of `CudaGraphs`.

    A replay repeats the operations on the tensors of the capture. Numbers that the host had computed, such as a
    learning rate or a count of steps, keep the values of the capture.
    """

    warmup = contextlib.nullcontext

    def capture(self, work):
        """Do the work; return a function that does it again."""
        tape = _Recorder()
        with tape:
            work()
        return tape.replay


class _Recorder(TorchDispatchMode):
    """Mode that records operations while they are computed."""

    def __init__(self):
        super().__init__()
        self.recorded = []

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        if name_of(operation) in WAITS:
            raise RuntimeError(f"{operation} waits for the device, which cannot be captured")
        result = operation(*arguments, **(options or {}))
        self.recorded.append((operation, arguments, options or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        for operation, arguments, options, result in self.recorded:
            if is_view(operation):
                continue  # it is still an alias
            again = operation(*arguments, **options)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
