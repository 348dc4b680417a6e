"""A plain training loop with SAM and a learning-rate scheduler of torch: python examples/plain_loop.py"""

import torch
import torch.nn.functional as F

from sam_bench import SAM
from sam_bench.data import synthetic
from sam_bench.models.registry import model as build_model

EPOCHS, BATCH = 3, 50


def main() -> list[float]:
    torch.manual_seed(0)
    images, _ = synthetic.load()
    x, y = images.pixels[:1000].float() / 255, images.labels[:1000]
    model = build_model("resnet", classes=10, depth=8)
    # With model=, BatchNorm's running statistics are updated in the first pass of each step only.
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, model=model, lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)

    losses = []
    for epoch in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(x)).split(BATCH):

            def closure(batch=batch):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                return loss

            total += optimizer.step(closure).item() * len(batch)  # calls the closure twice, returns the first loss
        scheduler.step()
        losses.append(total / len(x))
        print(f"epoch {epoch + 1}: loss {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
