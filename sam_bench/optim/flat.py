"""Many tensors in few buffers: one kernel handles a whole buffer, however many tensors it holds."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sam_bench.optim.gradients import Tensors


class FlatCopy:
    """Copies of tensors, side by side in one buffer for each dtype and device.

    Args:
        tensors: tensors of any shapes and layouts.
        like: tensors of the same shapes that set the copies' dtypes, devices and order of elements in memory; by
            default the tensors themselves.
    """

    def __init__(self, tensors: Tensors, like: Tensors | None = None):
        like = tensors if like is None else like
        self.buffers: list[Tensor] = []
        #: The copies: views of the buffers, in the order of the tensors and in their shapes and layouts.
        self.views = list(like)

        positions: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for position, x in enumerate(like):
            positions.setdefault((x.dtype, x.device), []).append(position)
        #: Positions of the tensors in each buffer.
        self._positions = list(positions.values())

        for in_buffer in self._positions:
            sizes = [like[position].numel() for position in in_buffer]
            buffer = like[in_buffer[0]].new_empty(sum(sizes))
            for position, part in zip(in_buffer, torch.split(buffer, sizes), strict=True):
                self.views[position] = _view_like(part, like[position])
            self.buffers.append(buffer)
        self._copy(self.views, tensors)

    def zero_unless(self, condition: Tensor) -> None:
        """Set every copy to 0, even if it is not finite, if `condition` (a boolean scalar) is false."""
        for buffer in self.buffers:
            buffer.masked_fill_(~condition, 0.0)

    def write_to(self, tensors: Tensors) -> None:
        """Write the copies into the storage of tensors of the same shapes."""
        self._copy(tensors, self.views)

    def keep_if(self, condition: Tensor, tensors: Tensors) -> "FlatCopy":
        """Keep the tensors as they are if `condition` (a boolean scalar) is true, else write the copies to them.

        Args:
            tensors: tensors with the shapes, dtypes and devices of the copies.

        Returns:
            A copy of the tensors after that.
        """
        present = FlatCopy(tensors, like=self.views)
        for now, then in zip(present.buffers, self.buffers, strict=True):
            now.copy_(torch.where(condition.to(now.device), now, then))
        present.write_to(tensors)
        return present

    def _copy(self, to: Sequence[Tensor], of: Sequence[Tensor]) -> None:
        """Copy tensors to tensors, one dtype at a time: with mixed dtypes, CUDA launches a kernel for each tensor."""
        for in_buffer in self._positions:
            torch._foreach_copy_([to[position] for position in in_buffer], [of[position] for position in in_buffer])


def _view_like(part: Tensor, x: Tensor) -> Tensor:
    """Return a stretch of a buffer in the shape of `x`, and with its strides if `x` is dense in memory."""
    if x.is_contiguous():
        return part if x.dim() == 1 else part.view(x.shape)
    return part.as_strided(x.shape, torch.empty_like(x, device="meta").stride())
