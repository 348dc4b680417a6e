"""What a run is computed on: device, precision, memory, and how they are called in a record."""

import contextlib
import ctypes
import functools
import math
import os
import platform
import resource
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.amp import GradScaler

from sam_bench.errors import ConfigError
from sam_bench.runtime.environment import world_size

_MMAP_THRESHOLD = -3
_TRIM_THRESHOLD = -1
"""The names of glibc's `mallopt` for the sizes from which memory is taken from, and given back to, the system."""


@dataclass(frozen=True)
class Hardware:
    """A device, and the precision of the forward pass on it."""

    device: torch.device
    precision: str
    #: Why `auto` became this precision, for the user; else empty.
    reason: str = field(default="", compare=False)

    @classmethod
    def choose(cls, device: str, precision: str) -> "Hardware":
        """Resolve "auto".

        Raises:
            ConfigError: a CUDA device is asked for and there is none.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                "trainer.device=cuda, but torch finds no CUDA device here; use trainer.device=cpu or auto"
            )
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if precision != "auto":
            return cls(torch.device(device), precision)

        if device == "cpu":
            return cls(torch.device(device), *_faster_precision())
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return cls(torch.device(device), "bf16" if has_bf16 else "fp32")

    def configure(self, deterministic: bool) -> None:
        """Let fp32 mean fp32: torch would otherwise compute convolutions in TF32 where the hardware has it.

        The CPU's allocator is told to keep what is freed, since every step needs the same memory again; CUDA's
        convolutions are chosen by timing each of cuDNN's engines once.

        Args:
            deterministic: whether the same input must give the same bits; the CPU, with as many threads, always does.
        """
        if self.device.type == "cpu":
            _keep_freed_memory()
        torch.set_float32_matmul_precision("highest")  # Inductor reads this and the next: torch lets it only where they
        torch.backends.cudnn.allow_tf32 = False  # agree with those below, and come first, since they reset those
        torch.backends.cudnn.conv.fp32_precision = "ieee"
        torch.backends.cudnn.rnn.fp32_precision = "ieee"
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        on_cuda = self.device.type == "cuda"
        if on_cuda:  # without it cuBLAS sums in any order; it is read once, by the first product of the process
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        deterministic = deterministic and on_cuda
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cudnn.benchmark_limit = 0  # time all engines of a convolution, not the first ten

    def synchronize(self) -> None:
        """Wait until the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def name(self) -> str:
        """As a record has it, such as "NVIDIA H200" or "AMD EPYC (2 threads)"."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{_processor()} ({torch.get_num_threads()} threads)"

    def autocast(self) -> AbstractContextManager:
        """The context for a forward pass."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def scaler(self) -> GradScaler | None:
        """What scales the loss, where gradients would otherwise vanish in half precision."""
        return GradScaler(self.device.type) if self.precision == "fp16" else None

    def forget_peak_memory(self) -> None:
        """Let the peak be counted from now on, where the system can."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError, AttributeError):  # only Linux can, and not in every container
                ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier runs of this process have left
                Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")

    def peak_memory(self) -> int:
        """Bytes: on CUDA of torch's tensors, on the CPU of the whole process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("VmHWM:"):
                    return 1024 * int(line.split()[1])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # since the process began; in KiB but on macOS
        return peak if sys.platform == "darwin" else 1024 * peak


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy from the host that the host does not wait for."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _keep_freed_memory() -> None:
    """glibc otherwise gives large tensors back to the system, and zeroes their pages anew in every step."""
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to be told
        libc = ctypes.CDLL("libc.so.6")
        if libc.mallopt(_MMAP_THRESHOLD, 2**30) or libc.mallopt(_MMAP_THRESHOLD, 2**25):  # the most of older ones
            libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch found no memory, on whatever device."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


@functools.cache
def _faster_precision() -> tuple[str, str]:
    """Return the precision in which this CPU trains faster, and why, as measured once for a command.

    Processors with bf16 instructions may be slower with them: an Intel Xeon with AVX-512 BF16 but without AMX is. The
    processes that a command starts inherit its answer, since the precision is part of a run's id.
    """
    if (known := os.environ.get(_MEASURED, "")) in ("bf16", "fp32"):
        return known, f"{known} measured faster by the process that started this one"
    if world_size() > 1:  # each of them would measure by itself, and they must agree
        return "fp32", "several processes do not measure"
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return "fp32", "this CPU has no bf16 instructions"

    seconds = _seconds_of_a_step()
    speed = seconds["fp32"] / seconds["bf16"]
    precision = "bf16" if speed > _WORTHWHILE else "fp32"
    os.environ[_MEASURED] = precision
    return precision, f"a measured step in bf16 is {speed:.2f} times as fast as in fp32"


#: The environment variable by which a command tells the processes that it starts what it has measured.
_MEASURED = "SAM_BENCH_CPU_PRECISION"

#: The speed of bf16 relative to fp32 above which it is chosen: below, one measurement may differ from the next.
_WORTHWHILE = 1.1


def _seconds_of_a_step() -> dict[str, float]:
    """Return the least seconds of five forward-backward passes of a small residual block's layers, by precision."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        layers = [nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
        block = nn.Sequential(*layers, nn.Conv2d(32, 32, 3, padding=1, bias=False))
        block = block.to(memory_format=torch.channels_last)
        images = torch.randn(64, 32, 16, 16).to(memory_format=torch.channels_last)

        seconds = {"fp32": math.inf, "bf16": math.inf}
        for _ in range(5):
            for precision in seconds:  # in turns, so that what else the machine does slows both
                began = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                    loss = block(images).float().square().mean()
                loss.backward()
                seconds[precision] = min(seconds[precision], time.perf_counter() - began)
    return seconds


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
