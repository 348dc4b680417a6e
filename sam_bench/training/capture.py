"""Work on a GPU that is recorded once and then done again with a single launch."""

import contextlib
from collections.abc import Callable, Iterator

import torch


class CudaGraphs:
    """Captures work in CUDA graphs, each with memory of its own.

    A replay launches the very kernels that were captured, on the same addresses: it sees what tensors hold by then, and
    nothing that the host computes.
    """

    def __init__(self, device: torch.device):
        self.stream = torch.cuda.Stream(device)

    @contextlib.contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Where work is done that will be captured later: on the same stream, between what comes before and after."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do the work, and return what does it again.

        Raises:
            RuntimeError: something in it cannot be captured; nothing was done on the device.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            work()
        graph.replay()
        return graph.replay
