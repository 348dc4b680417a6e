"""The base optimizer alone: one pass, no perturbation."""

from torch import Tensor

from sam_bench.optim.methods.base import Method


class SGD(Method):
    """`v = g`: the baseline of every comparison, on the same engine as the others."""

    def direction(self, w: list[Tensor], g: list[Tensor]) -> None:
        return None
