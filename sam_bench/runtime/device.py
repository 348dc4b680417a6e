"""The hardware of a run: device, precision, memory, and their names in a record."""

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

#: Parameters of glibc's `mallopt`: the sizes from which memory is taken from the system, and given back to it.
_MMAP_THRESHOLD = -3
_TRIM_THRESHOLD = -1


@dataclass(frozen=True)
class Hardware:
    """A device, and the precision of the forward pass on it."""

    device: torch.device
    precision: str
    #: Why `auto` resolved to this precision, for the user; else empty.
    reason: str = field(default="", compare=False)

    @classmethod
    def choose(cls, device: str, precision: str) -> "Hardware":
        """Return the hardware for these settings, with "auto" resolved.

        Raises:
            ConfigError: the device is "cuda", and there is no CUDA device.
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
        """Set torch's global settings of precision, determinism and memory for this hardware.

        fp32 then means fp32; by default torch computes convolutions in TF32 on hardware that has it. The CPU's
        allocator keeps freed memory, since every step needs it again. cuDNN times all of its convolutions once, and
        uses the fastest, unless the run is deterministic.

        Args:
            deterministic: True if equal inputs must give equal bits on CUDA; the CPU, with as many threads, always does
                so.
        """
        if self.device.type == "cpu":
            _keep_freed_memory()

        # Inductor reads the first two settings, and torch allows that only while they agree with the other three. They
        # come first because setting them resets the others.
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.conv.fp32_precision = "ieee"
        torch.backends.cudnn.rnn.fp32_precision = "ieee"
        torch.backends.cuda.matmul.fp32_precision = "ieee"

        # Without it cuBLAS sums in any order. It is read once, by the first matrix product of the process.
        on_cuda = self.device.type == "cuda"
        if on_cuda:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

        deterministic = deterministic and on_cuda
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cudnn.benchmark_limit = 0  # time all engines of a convolution, not only ten

    def synchronize(self) -> None:
        """Wait until the device has finished all work that was launched."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def name(self) -> str:
        """Return the device's name for a record, such as "NVIDIA H200" or "AMD EPYC (2 threads)"."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{_processor()} ({torch.get_num_threads()} threads)"

    def autocast(self) -> AbstractContextManager:
        """Return the autocast context for a forward pass."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def scaler(self) -> GradScaler | None:
        """Return a new scaler of the loss for fp16, whose small gradients would otherwise be 0; else None."""
        return GradScaler(self.device.type) if self.precision == "fp16" else None

    def forget_peak_memory(self) -> None:
        """Reset the peak memory, if the system can; else it counts from the start of the process."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError, AttributeError):  # only Linux can, and not in every container
                ctypes.CDLL("libc.so.6").malloc_trim(0)  # give back what earlier runs of this process have freed
                Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")

    def peak_memory(self) -> int:
        """Return the peak memory in bytes: on CUDA that of torch's tensors, on the CPU that of the whole process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("VmHWM:"):
                    return 1024 * int(line.split()[1])

        # Since the process began, in KiB except on macOS, which counts in bytes.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor from the host to a device, without waiting for the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _keep_freed_memory() -> None:
    """Let glibc keep freed memory; it otherwise returns large tensors' pages, and the system zeroes them each step."""
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such setting
        libc = ctypes.CDLL("libc.so.6")
        if libc.mallopt(_MMAP_THRESHOLD, 2**30) or libc.mallopt(_MMAP_THRESHOLD, 2**25):  # older versions' maximum
            libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error of torch says that a device, or the host, has not enough memory."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


@functools.cache
def _faster_precision() -> tuple[str, str]:
    """Return the precision in which this CPU trains faster, and the reason; it is measured once per command.

    A CPU with bf16 instructions may be slower with them: an Intel Xeon with AVX-512 BF16 but without AMX is. The
    processes that a command starts inherit its answer, since the precision is part of a run's ID.
    """
    if (known := os.environ.get(_MEASURED, "")) in ("bf16", "fp32"):
        return known, f"{known} measured faster by the process that started this one"
    if world_size() > 1:  # each process would measure by itself, and they must agree
        return "fp32", "several processes do not measure"
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return "fp32", "this CPU has no bf16 instructions"

    seconds = _seconds_of_a_step()
    speed = seconds["fp32"] / seconds["bf16"]
    precision = "bf16" if speed > _WORTHWHILE else "fp32"
    os.environ[_MEASURED] = precision
    return precision, f"a measured step in bf16 is {speed:.2f} times as fast as in fp32"


#: The environment variable that passes the measured precision on to the processes that a command starts.
_MEASURED = "SAM_BENCH_CPU_PRECISION"

#: The speed of bf16 relative to fp32 above which bf16 is chosen. Below it, repeated measurements may disagree.
_WORTHWHILE = 1.1


def _seconds_of_a_step() -> dict[str, float]:
    """Return the seconds of a forward-backward pass of a small block in each precision, the least of five."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        layers = [nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
        block = nn.Sequential(*layers, nn.Conv2d(32, 32, 3, padding=1, bias=False))
        block = block.to(memory_format=torch.channels_last)
        images = torch.randn(64, 32, 16, 16).to(memory_format=torch.channels_last)

        seconds = {"fp32": math.inf, "bf16": math.inf}
        for _ in range(5):
            for precision in seconds:  # in turns, so that other work on the machine slows both
                began = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                    loss = block(images).float().square().mean()
                loss.backward()
                seconds[precision] = min(seconds[precision], time.perf_counter() - began)
    return seconds


def _processor() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
