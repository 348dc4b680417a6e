"""The measures of a network's sharpness that a configuration selects, by name."""

import logging
import math
from dataclasses import dataclass

from torch import Tensor, nn

from sam_bench.analysis.objective import Objective
from sam_bench.analysis.sharpness import average_case, m_sharpness, worst_case
from sam_bench.analysis.spectrum import NotConverged, top_eigenpairs, trace
from sam_bench.config.analysis import AnalysisConfig

MESSAGES = logging.getLogger("sam_bench")


@dataclass(frozen=True)
class FixedImages:
    """A fixed set of images on which networks are compared, on one device.

    Args:
        inputs: N × 3 × 32 × 32, normalised, not augmented.
        labels: int64, N; the labels used in training, including wrong ones.
        sha256: the digest of exactly these pixels and labels.
    """

    inputs: Tensor
    labels: Tensor
    sha256: str


def names(config: AnalysisConfig) -> list[str]:
    """Return the names of all measures, as in a run's history and in tables. Losses and their rises are in nats.

    m-sharpness is included only if batch normalisation uses the statistics of each batch. With stored statistics, the
    batch size only decides how much memory is used.
    """
    at_each_radius = [
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
            for measure in at_each_radius
        ),
        *(
            f"{kind}average_{sigma:g}{suffix}"
            for kind, sigmas in (("", config.sigmas), ("adaptive_", config.adaptive_sigmas))
            for sigma in sigmas
            for suffix in ("", "_se")
        ),
    ]  # fmt: skip


def measure(model: nn.Module, images: FixedImages, config: AnalysisConfig) -> dict[str, float]:
    """Return all measures that `names` lists, at the network's present weights; the network is not changed.

    If the loss is not finite, all measures are NaN.

    Raises:
        NotConverged: the eigenvalues were not found.
    """
    objective = Objective(model, images.inputs, images.labels, config.batch_size, config.batchnorm)
    w = objective.weights
    value = objective.value(w)
    if not math.isfinite(value.loss):
        return dict.fromkeys(names(config), math.nan)

    loss_and_gradient = objective.gradient(w)
    measures = {"loss": value.loss, "error": value.error, "weight_norm": float(w.norm())}
    measures["gradient_norm"] = float(loss_and_gradient[1].norm())
    measures |= _measure_spectrum(objective, w, config)

    for kind, radii in (("", config.radii), ("adaptive_", config.adaptive_radii)):
        for rho in radii:
            worst = worst_case(objective, w, rho, config.ascent_steps, bool(kind), loss_and_gradient)
            measures[f"{kind}one_step_{rho:g}"] = worst.one_step
            if config.ascent_steps:
                measures[f"{kind}ascent_{rho:g}"] = worst.ascent
            if config.batchnorm == "batch":
                measures[f"{kind}m_sharpness_{rho:g}"] = m_sharpness(objective, w, rho, bool(kind))

    for kind, sigmas in (("", config.sigmas), ("adaptive_", config.adaptive_sigmas)):
        for sigma in sigmas:
            average = average_case(objective, w, sigma, config.draws, bool(kind))
            measures[f"{kind}average_{sigma:g}"], measures[f"{kind}average_{sigma:g}_se"] = average

    return {name: measures[name] for name in names(config)}


def _measure_spectrum(objective: Objective, w: Tensor, config: AnalysisConfig) -> dict[str, float]:
    """Return the Hessian's greatest eigenvalues and its trace, by name."""

    def product(v: Tensor) -> Tensor:
        return objective.hessian_product(w, v.to(w)).double().cpu()

    measures = {}
    eigenpairs = None
    if config.eigenvalues:
        eigenpairs = top_eigenpairs(product, objective.size, config.eigenvalues, config.tolerance)
        measures = {f"eigenvalue_{i + 1}": value for i, value in enumerate(eigenpairs[0].tolist())}
    if config.trace_vectors:
        measures["trace"], measures["trace_se"] = trace(product, objective.size, config.trace_vectors, known=eigenpairs)
    return measures


class Probe:
    """A measurement that is repeated every few epochs while a run trains.

    Args:
        images: as many images as `config.images` says.
    """

    #: The prefix of the measures' names in a run's history.
    PREFIX = "analysis_"

    #: The name in a run's history of the seconds that a measurement took.
    SECONDS = f"{PREFIX}seconds"

    def __init__(self, config: AnalysisConfig, images: FixedImages):
        self.config = config
        self.images = images
        self.names = [*(f"{self.PREFIX}{name}" for name in names(config)), self.SECONDS]

    def is_due(self, epochs_done: int) -> bool:
        """Return True if the weights after this number of epochs are measured; the last ones are in any case."""
        return epochs_done % self.config.every == 0

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Measure the network; if eigenvalues are not found, they and the trace are NaN, with a warning."""
        try:
            measures = measure(model, self.images, self.config)
        except NotConverged as error:
            MESSAGES.warning(f"analysis: {error}")
            without_spectrum = self.config.model_copy(update={"eigenvalues": 0, "trace_vectors": 0})
            measures = dict.fromkeys(names(self.config), math.nan) | measure(model, self.images, without_spectrum)
        return {f"{self.PREFIX}{name}": value for name, value in measures.items()}
