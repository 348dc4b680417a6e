"""Half precision with loss scaling in both passes: python examples/mixed_precision.py

On a GPU it uses float16, on a CPU bfloat16, which is faster there. With bfloat16 the scaler could be left out.
"""

import torch
import torch.nn.functional as F

from sam_bench import GSAM
from sam_bench.data import synthetic
from sam_bench.models.registry import model as build_model

EPOCHS, BATCH = 3, 50
DEVICE, DTYPE = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.bfloat16)


def main() -> list[float]:
    torch.manual_seed(0)
    images, _ = synthetic.load()
    x, y = images.pixels[:1000].float().to(DEVICE) / 255, images.labels[:1000].to(DEVICE)
    model = build_model("resnet", classes=10, depth=8).to(DEVICE)
    optimizer = GSAM(model.parameters(), torch.optim.SGD, rho=0.05, model=model, lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler(DEVICE)

    losses = []
    for epoch in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(x)).split(BATCH):

            def closure(batch=batch):
                optimizer.zero_grad()
                with torch.autocast(DEVICE, DTYPE):
                    loss = F.cross_entropy(model(x[batch]), y[batch])
                scaler.scale(loss).backward()
                return loss

            # Replaces scaler.step(optimizer). An overflow in either pass skips the step and reduces the scale once.
            total += optimizer.step(closure, scaler=scaler).item() * len(batch)
            scaler.update()
        losses.append(total / len(x))
        print(f"epoch {epoch + 1}: loss {losses[-1]:.3f}, scale {scaler.get_scale():g}, skipped {optimizer.skipped}")
    return losses


if __name__ == "__main__":
    main()
