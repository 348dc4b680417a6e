"""A training loop without a closure, and without model= for the optimizer: python examples/two_half_steps.py"""

import torch
import torch.nn.functional as F

from sam_bench import ASAM, frozen_statistics
from sam_bench.data import synthetic
from sam_bench.models.registry import model as build_model

EPOCHS, BATCH = 3, 50


def main() -> list[float]:
    torch.manual_seed(0)
    images, _ = synthetic.load()
    x, y = images.pixels[:1000].float() / 255, images.labels[:1000]
    model = build_model("resnet", classes=10, depth=8)
    optimizer = ASAM(model.parameters(), torch.optim.AdamW, rho=0.5, lr=3e-3)

    losses = []
    for epoch in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(x)).split(BATCH):
            loss = F.cross_entropy(model(x[batch]), y[batch])
            loss.backward()
            if optimizer.first_step(zero_grad=True):  # False if this step has one pass, as some steps of LookSAM do
                with frozen_statistics(model):  # not needed if the optimizer has model=
                    F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.second_step(zero_grad=True)
            total += loss.item() * len(batch)
        losses.append(total / len(x))
        print(f"epoch {epoch + 1}: loss {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
