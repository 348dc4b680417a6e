"""Batch normalisation without a kernel that does nothing but count."""

import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d`, but training leaves its `num_batches_tracked` alone.

    That count has a use only where `momentum` is None, and there it is kept. Elsewhere it is one small kernel a layer
    in every forward pass. The buffer stays, so that a state_dict has the same keys.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.momentum is None or not self.track_running_stats:
            return super().forward(x)
        self._check_input_dim(x)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
