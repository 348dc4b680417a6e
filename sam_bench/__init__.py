"""A benchmark of sharpness-aware optimizers on CIFAR-10, under one protocol."""
