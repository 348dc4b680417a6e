"""Stand-in on the CPU for `torch.cuda`'s graphs, which behaves as CUDA does during a capture."""

import contextlib
from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.training.tape import is_view, name_of

PREVIOUS = "CUDA error: operation failed due to a previous error during capture"


def written_by(operation, arguments, options) -> list[torch.Tensor]:
    """Return the tensors that an operation changes."""
    schema = operation._schema.arguments
    by_name = dict(zip((argument.name for argument in schema), arguments, strict=False)) | options
    changed = [argument.name for argument in schema if argument.alias_info is not None and argument.alias_info.is_write]
    if name_of(operation) == "aten.native_batch_norm":
        changed += ["running_mean", "running_var"]  # the schema does not mark them
    return [x for name in changed for x in tree_leaves(by_name.get(name)) if isinstance(x, torch.Tensor)]


class Capturing(TorchDispatchMode):
    """Mode that records operations and computes nothing.

    After a violation every further launch fails, and so does the end of the capture.

    Args:
        violates: called with an operation's name and the number of earlier ones of that name; True is a violation.
    """

    def __init__(self, graph, violates):
        super().__init__()
        self.graph = graph
        self.violates = violates
        self.counts: dict[str, int] = {}
        self.broken = False

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        if is_view(operation):
            return operation(*arguments, **options)

        name = name_of(operation)
        before = self.counts.get(name, 0)
        self.counts[name] = before + 1

        if self.broken:
            raise RuntimeError(PREVIOUS)
        if self.violates(name, before):
            self.broken = True
            raise RuntimeError(f"CUDA error: {name} is not permitted when a stream is capturing")

        # The operation runs for its result's shapes, and what it has written is taken back.
        written = written_by(operation, arguments, options)
        values = [x.clone() for x in written]
        result = operation(*arguments, **options)
        for x, value in zip(written, values, strict=True):
            x.copy_(value)

        # Memory that nothing has been written to holds no numbers.
        known = {x.data_ptr() for x in written}
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.data_ptr() not in known and x.is_floating_point():
                x.fill_(float("nan"))

        self.graph.recorded.append((operation, arguments, options, result))
        return result


class Graph:
    """Stand-in for `torch.cuda.CUDAGraph`."""

    def __init__(self):
        self.recorded = []

    @torch.no_grad()
    def replay(self) -> None:
        for operation, arguments, options, result in self.recorded:
            again = operation(*arguments, **options)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Generator:
    """Stand-in for a device's default generator in torch 2.10, which a failed capture leaves in capture mode."""

    def __init__(self):
        self.in_capture = False

    def clone_state(self) -> "Generator":
        return Generator()

    def graphsafe_set_state(self, state: "Generator") -> None:
        self.in_capture = state.in_capture


def install(monkeypatch, violates=lambda name, before: False) -> None:
    """Replace by the stand-in what `CudaGraphs` uses of `torch.cuda`."""
    stream = SimpleNamespace(wait_stream=lambda other: None, device_index=0)
    generator = Generator()

    @contextlib.contextmanager
    def capture(graph, pool, stream):
        mode = Capturing(graph, violates)
        generator.in_capture = True
        try:
            with mode:
                yield
        finally:
            if mode.broken:
                raise RuntimeError(PREVIOUS)
        generator.in_capture = False

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "stream", lambda *_: contextlib.nullcontext())
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: stream)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda *_: None)
