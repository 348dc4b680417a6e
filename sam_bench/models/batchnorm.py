"""Batch normalisation without the kernel that counts batches."""

import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """Torch's `nn.BatchNorm2d`, except that training does not update `num_batches_tracked`.

    That count is used only if `momentum` is None, and then it is updated. Otherwise the update would be one small
    kernel per layer in every forward pass. The buffer stays, so that a state_dict has the same keys.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.momentum is None or not self.track_running_stats:
            return super().forward(x)

        self._check_input_dim(x)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
