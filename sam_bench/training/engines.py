"""Choice of the engine: whether steps run eagerly, compiled, or captured in CUDA graphs."""

import importlib.util
import os
import shutil

from sam_bench.config.schema import Config
from sam_bench.errors import ConfigError
from sam_bench.optim.registry import BASES, METHODS
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import world_size


def choose_engine(config: Config, hardware: Hardware) -> tuple[str, str]:
    """Return the engine that `trainer.engine` resolves to, and why "auto" is not "graph" on CUDA; else "".

    On CUDA "auto" is the first that is possible of "graph", "compile" and "eager". On the CPU it is "eager", because
    compiling takes half a minute there and gains nothing.

    Raises:
        ConfigError: the device, the method or the base optimizer does not allow the requested engine.
    """
    request = config.trainer.engine
    if hardware.device.type != "cuda":
        if request == "graph":
            raise ConfigError(
                "trainer.engine=graph needs CUDA, and the device is the CPU: use trainer.engine=eager or auto"
            )
        return ("eager", "") if request == "auto" else (request, "")

    why_no_graph = _why_not_captured(config)
    why_no_compiler = _why_not_compiled(config)
    if request == "graph" and why_no_graph:
        raise ConfigError(f"trainer.engine=graph: {why_no_graph}; use trainer.engine=compile or auto")
    if request in ("graph", "compile") and why_no_compiler:
        raise ConfigError(f"trainer.engine={request}: {why_no_compiler}; use trainer.engine=eager or auto")
    if request != "auto":
        return request, ""

    if why_no_compiler:
        return "eager", why_no_compiler
    return ("compile", why_no_graph) if why_no_graph else ("graph", "")


def _why_not_captured(config: Config) -> str:
    """Return why a step cannot be captured in a CUDA graph; empty if it can."""
    method = METHODS[config.optimizer.name]
    base = config.optimizer.base.name
    if method.why_not_captured:
        return f"{method.title}'s step cannot be captured, because {method.why_not_captured}"
    if not BASES[base].captured:
        return f"a step of optimizer.base={base} cannot be captured, because {BASES[base].why_not_captured}"
    return "steps of several processes are not captured" if world_size() > 1 else ""


def _why_not_compiled(config: Config) -> str:
    """Return why a run on CUDA cannot be compiled; empty if it can."""
    if config.trainer.deterministic:
        return "trainer.deterministic=true: compiled kernels are chosen by timing them, and each rounds in its own way"
    if not importlib.util.find_spec("triton"):
        return "torch.compile needs Triton, which is not installed"
    if not ("CC" in os.environ or any(map(shutil.which, ("cc", "gcc", "clang")))):
        return "torch.compile needs a C compiler for its launchers, and there is none (neither CC, cc, gcc nor clang)"
    return ""
