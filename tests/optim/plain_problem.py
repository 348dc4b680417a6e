"""The references on the tests' problem: gradients computed by torch, and the engine's random numbers."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from sam_bench.testing import Weights
from tests.optim.plain_training import SGD, AdamW, PlainTraining
from tests.optim.problem import ARGUMENTS, batch
from tests.optim.reference import REFERENCES, Radius


class Oracle:
    """Gradients of a batch at any weights, computed by torch but without the engine.

    Args:
        compute_losses: returns the losses of the examples with the given indices, from tensors by parameter name.
    """

    def __init__(self, compute_losses: Callable[[dict[str, Tensor], Any], Tensor]):
        self.compute_losses = compute_losses

        #: The number of examples and their mean loss, both from the first pass with gradients.
        self.size = 0
        self.loss = 0.0
        #: The number of passes; one on some of the examples counts as their share.
        self.passes = 0.0

    def __call__(self, w: Weights, examples: Any = slice(None)) -> Weights:
        """Return the gradient of the mean loss of some examples."""
        return self.with_losses(w, examples)[1]

    def with_losses(self, w: Weights, examples: Any = slice(None)) -> tuple[np.ndarray, Weights]:
        """Return the examples' losses, and the gradient of their mean."""
        tensors = {key: torch.tensor(value, requires_grad=True) for key, value in w.items()}
        losses = self.compute_losses(tensors, examples)
        gradients = torch.autograd.grad(losses.mean(), list(tensors.values()))

        if not self.size:
            self.size = len(losses)
            self.loss = losses.mean().item()
        self.passes += len(losses) / self.size
        return losses.detach().numpy(), {key: g.numpy() for key, g in zip(tensors, gradients, strict=True)}

    def losses(self, w: Weights) -> np.ndarray:
        """Return the losses of all examples, in a forward pass that counts as a third of a pass."""
        self.passes += 1 / 3
        return self.compute_losses({key: torch.tensor(value) for key, value in w.items()}, slice(None)).numpy()


class PartsOracle:
    """Gradients of a batch in parts, as the means over the parts; `parts` has the share and the oracle of each."""

    def __init__(self, parts: list[tuple[float, Oracle]]):
        self.parts = parts

    @property
    def loss(self) -> float:
        """Return the loss of the first pass."""
        return sum(share * part.loss for share, part in self.parts)

    @property
    def passes(self) -> float:
        """Return the number of passes, in which each part counts with its share."""
        return sum(share * part.passes for share, part in self.parts)

    def __call__(self, w: Weights) -> Weights:
        """Return the mean gradient."""
        gradients = [(share, part(w)) for share, part in self.parts]
        return {key: sum(share * g[key] for share, g in gradients) for key in w}


def make_oracle(model: nn.Module, t: int, parts: Sequence[slice] | None = None) -> Oracle | PartsOracle:
    """Return the oracle of step `t`, whose batch may be in parts; parameters that `w` does not have are the model's."""
    if parts is not None:
        return PartsOracle([((part.stop - part.start) / 12, _make_part_oracle(model, t, part)) for part in parts])
    return _make_part_oracle(model, t, slice(None))


def _make_part_oracle(model: nn.Module, t: int, part: slice) -> Oracle:
    images, labels = (x[part] for x in batch(t))

    def compute_losses(tensors: dict[str, Tensor], examples: Any) -> Tensor:
        buffers = {key: buffer.clone() for key, buffer in model.named_buffers()}
        logits = functional_call(model, tensors | buffers, (images[examples],))
        return F.cross_entropy(logits, labels[examples], reduction="none")

    return Oracle(compute_losses)


def make_plain_training(
    name: str, base: SGD | AdamW, w: Weights, rho: Radius, *, start: int = 0, **options: Any
) -> PlainTraining:
    """Return training with a method's reference, which is given the engine's random numbers.

    Args:
        w: the weights, in the order in which the engine draws numbers for them.
        options: the method's own, and `clip_norm`.
    """
    clip_norm = options.pop("clip_norm", None)
    if name == "sam_on":
        options["layers"] = ("1.", "norm.")
    elif name in ("msam", "sampa"):
        options["base"] = base
    elif name == "ae_sam":
        options |= ARGUMENTS[name] | {"first_step": start}
    elif name in DRAWS:
        options["draw"] = functools.partial(DRAWS[name], start)
    reference = functools.partial(REFERENCES[name], **options)
    return PlainTraining(reference, base, w, rho, start=start, clip_norm=clip_norm)


def _draw_esam_mask(start: int, t: int, w: Weights) -> Weights:
    """Draw as ESAM says it does: from the step alone, in the order of the parameters."""
    generator = torch.Generator().manual_seed(start + t)
    return {key: torch.rand(x.shape, generator=generator).numpy() for key, x in w.items()}


def _draw_ss_sam_coin(start: int, t: int) -> float:
    """Draw as SS-SAM says it does: from the seed and the number of its own steps."""
    return _hash(ARGUMENTS["ss_sam"]["seed"], t) / 2**64


def _draw_bsam_noise(start: int, t: int, part: int, w: Weights) -> Weights:
    """Draw as bSAM says it does: from seed, step and part, in the order of the parameters."""
    generator = torch.Generator().manual_seed(_hash(ARGUMENTS["bsam"]["seed"], start + t, part) % 2**32)
    sizes = [x.size for x in w.values()]
    noise = torch.randn(sum(sizes), generator=generator).double().split(sizes)
    return {key: chunk.reshape(x.shape).numpy() for (key, x), chunk in zip(w.items(), noise, strict=True)}


def _hash(*numbers: int) -> int:
    """Return a 64-bit hash of the numbers."""
    return int(hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=8).hexdigest(), 16)


DRAWS = {"esam": _draw_esam_mask, "ss_sam": _draw_ss_sam_coin, "bsam": _draw_bsam_noise}
