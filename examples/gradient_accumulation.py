"""Gradient accumulation with one perturbation per batch, or one per part: python examples/gradient_accumulation.py"""

import torch
import torch.nn.functional as F

from sam_bench import SAM
from sam_bench.data import synthetic
from sam_bench.models.registry import model as build_model

EPOCHS, BATCH, PART = 3, 50, 25


def main(one_perturbation: bool) -> list[float]:
    torch.manual_seed(0)
    images, _ = synthetic.load()
    x, y = images.pixels[:1000].float() / 255, images.labels[:1000]
    model = build_model("resnet", classes=10, depth=8)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, model=model, lr=0.1, momentum=0.9)

    def closure_for(parts):
        """Return a closure that accumulates the gradient of the mean loss, part by part."""

        def closure():
            optimizer.zero_grad()
            total = 0.0
            for part in parts:
                loss = F.cross_entropy(model(x[part]), y[part]) / len(parts)
                loss.backward()
                total += loss.detach()
            return total

        return closure

    losses = []
    for epoch in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(x)).split(BATCH):
            parts = batch.split(PART)
            if one_perturbation:  # needs memory for PART examples only; the step equals that of the whole batch
                loss = optimizer.step(closure_for(parts))
            else:  # m-sharpness: each part has its own perturbation; the step is along the mean gradient
                loss = optimizer.step([closure_for([part]) for part in parts])
            total += loss.item() * len(batch)
        losses.append(total / len(x))
        print(f"epoch {epoch + 1}: loss {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main(one_perturbation=True)
    main(one_perturbation=False)
