"""A benchmark of sharpness-aware optimizers on CIFAR, under one protocol. Its optimizers work in any training loop.

    from sam_bench import SAM, ASAM, GSAM, WSAM

Each name is loaded on first use, so `import sam_bench` is quick, and never imports Hydra, W&B or pandas.
"""

from typing import TYPE_CHECKING, Any

from sam_bench.lookup import load
from sam_bench.optim.registry import METHODS

if TYPE_CHECKING:
    from sam_bench.optim.averaging import WeightAverage as WeightAverage
    from sam_bench.optim.base import evaluated_weights as evaluated_weights
    from sam_bench.optim.methods.ae_sam import AESAM as AESAM
    from sam_bench.optim.methods.asam import ASAM as ASAM
    from sam_bench.optim.methods.asam import OfficialASAM as OfficialASAM
    from sam_bench.optim.methods.bsam import BSAM as BSAM
    from sam_bench.optim.methods.esam import ESAM as ESAM
    from sam_bench.optim.methods.gsam import GSAM as GSAM
    from sam_bench.optim.methods.looksam import LookSAM as LookSAM
    from sam_bench.optim.methods.looksam import SAMEveryK as SAMEveryK
    from sam_bench.optim.methods.msam import MSAM as MSAM
    from sam_bench.optim.methods.sam import SAM as SAM
    from sam_bench.optim.methods.sam import SAMON as SAMON
    from sam_bench.optim.methods.sam import USAM as USAM
    from sam_bench.optim.methods.sampa import SAMPa as SAMPa
    from sam_bench.optim.methods.saner import SANER as SANER
    from sam_bench.optim.methods.smoothed import FSAM as FSAM
    from sam_bench.optim.methods.smoothed import VaSSO as VaSSO
    from sam_bench.optim.methods.ss_sam import SSSAM as SSSAM
    from sam_bench.optim.methods.stable_sam import StableSAM as StableSAM
    from sam_bench.optim.methods.unified_sam import UnifiedSAM as UnifiedSAM
    from sam_bench.optim.methods.wasam import WASAM as WASAM
    from sam_bench.optim.methods.wsam import GNP as GNP
    from sam_bench.optim.methods.wsam import WSAM as WSAM
    from sam_bench.optim.methods.zsharp import ZSharp as ZSharp
    from sam_bench.optim.muon import Muon as Muon
    from sam_bench.optim.running_stats import frozen_statistics as frozen_statistics
    from sam_bench.optim.running_stats import reestimate_statistics as reestimate_statistics
    from sam_bench.optim.sharpness_aware import SharpnessAware as SharpnessAware

__version__ = "0.1.0"

#: The public names of the package, each with its location "module:name".
_PUBLIC = {entry.class_name: entry.location for entry in METHODS.values() if entry.perturbs} | {
    "Muon": "sam_bench.optim.muon:Muon",
    "SharpnessAware": "sam_bench.optim.sharpness_aware:SharpnessAware",
    "WeightAverage": "sam_bench.optim.averaging:WeightAverage",
    "evaluated_weights": "sam_bench.optim.base:evaluated_weights",
    "frozen_statistics": "sam_bench.optim.running_stats:frozen_statistics",
    "reestimate_statistics": "sam_bench.optim.running_stats:reestimate_statistics",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load(_PUBLIC[name])


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
