"""All measures of a network's sharpness that a configuration asks for, by name."""

import logging
import math
from dataclasses import dataclass

from torch import Tensor, nn

from sam_bench.analysis.objective import Objective
from sam_bench.analysis.sharpness import average_case, m_sharpness, worst_case
from sam_bench.analysis.spectrum import NotConverged, top_eigenpairs, trace
from sam_bench.config.schema import AnalysisConfig

MESSAGES = logging.getLogger("sam_bench")


@dataclass(frozen=True)
class FixedImages:
    """Images that networks are compared on, on one device.

    Args:
        inputs: N × 3 × 32 × 32, normalised, not augmented.
        labels: int64, N; those that were trained on, the wrong ones too.
        sha256: of exactly these pixels and labels.
    """

    inputs: Tensor
    labels: Tensor
    sha256: str


def names(config: AnalysisConfig) -> list[str]:
    """Return what is measured: names as a history and a table have them. Losses and their rises are in nats.

    With the statistics of each batch m-sharpness is among them: with stored ones there are no batches to speak of.
    """
    worst = [
        "one_step",
        *(["ascent"] if config.ascent_steps else []),
        *(["m_sharpness"] if config.batchnorm == "batch" else []),
    ]
    return [
        "loss", "error", "weight_norm", "gradient_norm",
        *(f"eigenvalue_{i + 1}" for i in range(config.eigenvalues)),
        *(["trace", "trace_se"] if config.trace_vectors else []),
        *(
            f"{kind}{measure}_{rho:g}"
            for kind, radii in (("", config.radii), ("adaptive_", config.adaptive_radii))
            for rho in radii
            for measure in worst
        ),
        *(
            f"{kind}average_{sigma:g}{of}"
            for kind, sigmas in (("", config.sigmas), ("adaptive_", config.adaptive_sigmas))
            for sigma in sigmas
            for of in ("", "_se")
        ),
    ]  # fmt: skip


def measure(model: nn.Module, images: FixedImages, config: AnalysisConfig) -> dict[str, float]:
    """Return what `names` lists, of the network's own weights; the network is left as it is.

    Everything is NaN where the loss itself is not finite.

    Raises:
        NotConverged: the eigenvalues were not found.
    """
    objective = Objective(model, images.inputs, images.labels, config.batch_size, config.batchnorm)
    w = objective.weights
    value = objective.value(w)
    if not math.isfinite(value.loss):
        return dict.fromkeys(names(config), math.nan)
    known = objective.gradient(w)
    found = {"loss": value.loss, "error": value.error, "weight_norm": float(w.norm())}
    found["gradient_norm"] = float(known[1].norm())
    found |= _spectrum(objective, w, config)
    for kind, radii in (("", config.radii), ("adaptive_", config.adaptive_radii)):
        for rho in radii:
            worst = worst_case(objective, w, rho, config.ascent_steps, bool(kind), known)
            found[f"{kind}one_step_{rho:g}"] = worst.one_step
            if config.ascent_steps:
                found[f"{kind}ascent_{rho:g}"] = worst.ascent
            if config.batchnorm == "batch":
                found[f"{kind}m_sharpness_{rho:g}"] = m_sharpness(objective, w, rho, bool(kind))
    for kind, sigmas in (("", config.sigmas), ("adaptive_", config.adaptive_sigmas)):
        for sigma in sigmas:
            average = average_case(objective, w, sigma, config.draws, bool(kind))
            found[f"{kind}average_{sigma:g}"], found[f"{kind}average_{sigma:g}_se"] = average
    return {name: found[name] for name in names(config)}


def _spectrum(objective: Objective, w: Tensor, config: AnalysisConfig) -> dict[str, float]:
    """The Hessian's greatest eigenvalues and its trace."""

    def product(v: Tensor) -> Tensor:
        return objective.hessian_product(w, v.to(w)).double().cpu()

    found = {}
    known = None
    if config.eigenvalues:
        known = top_eigenpairs(product, objective.size, config.eigenvalues, config.tolerance)
        found = {f"eigenvalue_{i + 1}": value for i, value in enumerate(known[0].tolist())}
    if config.trace_vectors:
        found["trace"], found["trace_se"] = trace(product, objective.size, config.trace_vectors, known=known)
    return found


class Probe:
    """What is measured every few epochs while a run trains.

    Args:
        images: those that `config.images` asks for.
    """

    PREFIX = "analysis_"
    """Of the names in a run's history."""

    SECONDS = f"{PREFIX}seconds"
    """What a measurement took, in a run's history."""

    def __init__(self, config: AnalysisConfig, images: FixedImages):
        self.config = config
        self.images = images
        self.names = [*(f"{self.PREFIX}{name}" for name in names(config)), self.SECONDS]

    def is_due(self, epochs_done: int) -> bool:
        """Whether the weights after so many epochs are measured, though they are not the last."""
        return epochs_done % self.config.every == 0

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Measure the network; where eigenvalues are not found, they and the trace are NaN, with a warning."""
        try:
            found = measure(model, self.images, self.config)
        except NotConverged as error:
            MESSAGES.warning(f"analysis: {error}")
            others = self.config.model_copy(update={"eigenvalues": 0, "trace_vectors": 0})
            found = dict.fromkeys(names(self.config), math.nan) | measure(model, self.images, others)
        return {f"{self.PREFIX}{name}": value for name, value in found.items()}
