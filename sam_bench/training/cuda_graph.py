"""Work on a GPU that is recorded once and then done again with a single launch."""

import contextlib
import gc
from collections.abc import Callable, Iterator

import torch

CONSEQUENCE = "previous error during capture"
"""What CUDA says of every launch after the one that a capture could not hold, and of the capture's end."""


class CudaGraphs:
    """Captures work in CUDA graphs.

    A replay launches the very kernels that were captured, on the same addresses: it sees what tensors hold by then, and
    nothing that the host computes. All graphs share their memory, so what one of them allocates is lost in the next
    replay of another: work leaves its results in tensors that were there before.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

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
            Exception: something in it cannot be captured. Nothing was done on the device, but what the host noted of
                it is as if it had been done: tensors that the work allocated must not be used.
        """
        graph = torch.cuda.CUDAGraph()
        present = torch.cuda.current_stream(self.device)
        try:
            with _no_garbage_collection(), torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                work()
        except BaseException as error:
            torch.cuda.set_stream(present)  # before torch 2.15 a failed capture leaves its stream and pool behind
            with contextlib.suppress(RuntimeError, AttributeError):
                torch._C._cuda_endAllocateToPool(present.device_index, self.pool)
            # and its random numbers too: a state that is in a capture draws none outside of it, but its copy does
            generator = torch.cuda.default_generators[present.device_index]
            generator.graphsafe_set_state(generator.clone_state())
            raise _first_of_chain(error) from None
        graph.replay()
        return graph.replay


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect garbage now and not before the end: freeing memory, or another graph, would break a capture."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _first_of_chain(error: BaseException) -> BaseException:
    """What broke a capture, rather than an error that followed from it."""
    while CONSEQUENCE in str(error) and error.__context__ is not None:
        error = error.__context__
    return error
