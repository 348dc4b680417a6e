"""A method for tests of plug-ins, as a class and as the content of a file."""

from sam_bench import SAM
from sam_bench.plugins import Option, plugin

#: A plug-in file with one method.
FILE = """
import torch
from sam_bench import SAM
from sam_bench.plugins import Option, plugin

SHARE = Option("share", float, "the part of h in the direction", ge=0, le=1)

class HalfSAM(SAM):
    keeps_gradient = True

    def __init__(self, params, base_optimizer, rho=0.07, *, share=0.5, **options):
        super().__init__(params, base_optimizer, rho, **options)
        self.share = share

    def combine(self, g, h):
        return torch._foreach_lerp(g, h, self.share)

METHOD = plugin(HalfSAM, "half_sam", title="HalfSAM", summary="the mean", paper="mine", options=(SHARE,))
"""


class HalfSAM(SAM):
    """SAM with an option that it does not use."""

    def __init__(self, params, base_optimizer, rho=0.07, *, share=0.5, **options):
        super().__init__(params, base_optimizer, rho, **options)


#: Its option.
SHARE = Option("share", float, "a share", ge=0, le=1)

#: Its description.
ABOUT = {"title": "HalfSAM", "summary": "the mean", "paper": "mine"}

ENTRY = plugin(HalfSAM, "half_sam", options=(SHARE,), **ABOUT)
