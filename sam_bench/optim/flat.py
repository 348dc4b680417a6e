"""Many tensors in few buffers: what is done with a buffer is one kernel, however many tensors it holds."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sam_bench.optim.gradients import Tensors


class FlatCopy:
    """Copies of tensors, side by side in one buffer for each dtype and device.

    Args:
        tensors: of any shapes and layouts.
        like: tensors of the same shapes that decide dtypes, devices and the order of a copy's elements in its buffer;
            by default the tensors themselves.
    """

    def __init__(self, tensors: Tensors, like: Tensors | None = None):
        like = tensors if like is None else like
        self.buffers: list[Tensor] = []
        self.views = list(like)
        """The copies: views of the buffers, in the order of the tensors and in their shapes and layouts."""
        kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for position, x in enumerate(like):
            kinds.setdefault((x.dtype, x.device), []).append(position)
        self._kinds = list(kinds.values())
        for same in self._kinds:
            sizes = [like[position].numel() for position in same]
            buffer = like[same[0]].new_empty(sum(sizes))
            for position, part in zip(same, torch.split(buffer, sizes), strict=True):
                self.views[position] = _view_like(part, like[position])
            self.buffers.append(buffer)
        self._copy(self.views, tensors)

    def zero_unless(self, condition: Tensor) -> None:
        """Make every copy 0, whatever it holds, where `condition` (a boolean scalar) is false."""
        for buffer in self.buffers:
            buffer.masked_fill_(~condition, 0.0)

    def write_to(self, tensors: Tensors) -> None:
        """Copy back, into the storage of tensors of the same shapes."""
        self._copy(tensors, self.views)

    def keep_if(self, condition: Tensor, tensors: Tensors) -> "FlatCopy":
        """Leave the tensors as they are where `condition` (a boolean scalar) holds, else write the copies to them.

        Args:
            tensors: of the same shapes, dtypes and devices as the copies.

        Returns:
            A copy of what the tensors are now.
        """
        present = FlatCopy(tensors, like=self.views)
        for now, then in zip(present.buffers, self.buffers, strict=True):
            now.copy_(torch.where(condition.to(now.device), now, then))
        present.write_to(tensors)
        return present

    def _copy(self, to: Sequence[Tensor], of: Sequence[Tensor]) -> None:
        """Copy tensors to tensors, one dtype at a time: of several in a list CUDA makes a launch for each tensor."""
        for same in self._kinds:
            torch._foreach_copy_([to[position] for position in same], [of[position] for position in same])


def _view_like(part: Tensor, x: Tensor) -> Tensor:
    """A stretch of a buffer in the shape of `x`; its strides too, if `x` lies densely in memory."""
    if x.is_contiguous():
        return part if x.dim() == 1 else part.view(x.shape)
    return part.as_strided(x.shape, torch.empty_like(x, device="meta").stride())
