"""The settings of measurements of the loss around the weights."""

from typing import Annotated, Any, Literal

from pydantic import Field

from sam_bench.config.fields import Items, Settings, check_applicable
from sam_bench.errors import ConfigError

Lengths = Items[Annotated[float, Field(gt=0)]]


class AnalysisConfig(Settings):
    """Measurements of the loss around the weights, on some of the training images (`analysis=`).

    The loss is the plain cross-entropy, whatever the run trains on. An analysis does not change the run's result. Its
    time is not part of the training and evaluation time, but its memory is part of the run's memory.
    """

    name: Literal["none", "sharpness"]
    #: Epochs between measurements. The weights of the last epoch are always measured.
    every: int | None = Field(default=None, ge=1)
    #: Number of training images: equally many of each class, the same for every run, not augmented.
    images: int | None = Field(default=None, ge=1)
    #: Images in a pass. With batchnorm="batch" it is also the m of m-sharpness.
    batch_size: int | None = Field(default=None, ge=1)
    #: Statistics that batch normalisation uses: the running ones ("stored"), or those of each batch.
    batchnorm: Literal["stored", "batch"] | None = None
    #: Number of the Hessian's largest eigenvalues.
    eigenvalues: int | None = Field(default=None, ge=0, le=100)
    #: Tolerance of an eigenpair: the norm of `H v − λ v`, relative to |λ|.
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    #: Number of random vectors that estimate the Hessian's trace.
    trace_vectors: int | None = Field(default=None, ge=0)
    #: The ρ of worst-case sharpness.
    radii: Lengths | None = None
    #: The ρ of adaptive worst-case sharpness.
    adaptive_radii: Lengths | None = None
    #: Steps of ascent for worst-case sharpness, beyond the one-step estimate.
    ascent_steps: int | None = Field(default=None, ge=0)
    #: The σ of average-case sharpness.
    sigmas: Lengths | None = None
    #: The σ of adaptive average-case sharpness.
    adaptive_sigmas: Lengths | None = None
    #: Pairs of random perturbations for each σ.
    draws: int | None = Field(default=None, ge=1)

    def model_post_init(self, context: Any) -> None:
        optional = {name: getattr(self, name) for name in type(self).model_fields if name != "name"}
        check_applicable("analysis", optional, () if self.name == "none" else tuple(optional), self.name)

        for name in ("radii", "adaptive_radii", "sigmas", "adaptive_sigmas"):
            values = getattr(self, name) or ()
            if len({f"{value:g}" for value in values}) < len(values):
                raise ConfigError(f"analysis.{name}={list(values)} must hold each value once")

    def check_images(self, classes: int, available: int) -> None:
        """Check that `images` can be equally many of each class, and are not more than the training images.

        Args:
            available: the number of training images.

        Raises:
            ConfigError: `images` is not a multiple of `classes`, or more than `available`.
        """
        if self.images % classes or self.images > available:
            raise ConfigError(
                f"analysis.images={self.images} must be a multiple of the {classes} classes, and at most the "
                f"{available} training images"
            )

    @property
    def is_off(self) -> bool:
        """Return True if nothing is measured."""
        return self.name == "none"
