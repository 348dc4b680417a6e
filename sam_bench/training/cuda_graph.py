"""Capture of GPU work in CUDA graphs, each of which a single launch then repeats."""

import contextlib
import gc
from collections.abc import Callable, Iterator

import torch

#: Part of CUDA's message for every launch after the one that broke a capture, and for the capture's end.
CONSEQUENCE = "previous error during capture"


class CudaGraphs:
    """A stream and a memory pool in which work is captured as CUDA graphs.

    A replay launches exactly the captured kernels, on the same addresses. It reads the tensors' current values, and
    nothing that the host computes. All graphs share one memory pool, so a replay overwrites what another graph
    allocated. Work must therefore leave its results in tensors that existed before the capture.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    @contextlib.contextmanager
    def warmup(self) -> Iterator[None]:
        """Return a context for work that will be captured later: on the same stream, in order with other work."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture some work and do it once; return a function that does it again.

        Raises:
            Exception: something in the work cannot be captured. Then nothing was done on the device, but the host's
                state is as if it had been done, and tensors that the work allocated must not be used.
        """
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self.device)
        try:
            with _no_garbage_collection(), torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                work()
        except BaseException as error:
            # Before torch 2.15 a failed capture leaves its stream and its memory pool in use.
            torch.cuda.set_stream(current)
            with contextlib.suppress(RuntimeError, AttributeError):
                torch._C._cuda_endAllocateToPool(current.device_index, self.pool)

            # It also leaves the generator's state in the capture, where it draws no numbers; a copy of the state does.
            generator = torch.cuda.default_generators[current.device_index]
            generator.graphsafe_set_state(generator.clone_state())
            raise _root_cause(error) from None

        # Capturing only records the work, so the first replay is what does it.
        graph.replay()
        return graph.replay


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect garbage now, and not in this context: freeing memory, or another graph, would break a capture."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _root_cause(error: BaseException) -> BaseException:
    """Return the error that broke a capture, instead of an error that followed from it."""
    while CONSEQUENCE in str(error) and error.__context__ is not None:
        error = error.__context__
    return error
