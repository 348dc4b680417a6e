"""Work on a GPU that is recorded once and then done again with a single launch."""

import contextlib
from collections.abc import Callable, Iterator

import torch


class CudaGraphs:
    """Captures work in CUDA graphs.

    A replay launches the very kernels that were captured, on the same addresses: it sees what tensors hold by then, and
    nothing that the host computes. All graphs share their memory, so what one of them allocates is lost in the next
    replay of another: work leaves its results in tensors that were there before.
    """

    def __init__(self, device: torch.device):
        self.device, self.stream, self.pool = device, torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    @contextlib.contextmanager
    def warmup(self) -> Iterator[None]:
        """Where work is done that will be captured later: on the same stream, between what comes before and after."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do the work, and return what does it again.

        Raises:
            Exception: something in it cannot be captured; nothing was done on the device.
        """
        graph, present = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                work()
        except BaseException as error:
            torch.cuda.set_stream(present)  # before torch 2.15 a failed capture leaves its stream and pool behind
            with contextlib.suppress(RuntimeError, AttributeError):
                torch._C._cuda_endAllocateToPool(present.device_index, self.pool)
            torch.cuda.empty_cache()
            raise error.__context__ or error from None
        graph.replay()
        return graph.replay
