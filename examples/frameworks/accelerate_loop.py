"""A loop with Accelerate: python examples/frameworks/accelerate_loop.py

The closure accumulates gradients itself, without accelerator.accumulate(), and averages over processes with its last
part only. With several processes Accelerate wraps the network itself, so both gradients are averaged, as with
sync_perturbation=True. mixed_precision="fp16" is refused, because its scaler calls step() itself. clip_norm= clips the
direction of the step.
"""

import contextlib
import tempfile

import accelerate
import task
import torch
from torch.utils.data import DataLoader


def epoch(accelerator, model, optimizer, schedule) -> None:
    for x, y in accelerator.prepare(DataLoader(task.dataset(), task.PARTS * task.PART)):

        def closure(x=x, y=y):
            optimizer.zero_grad()
            parts = list(zip(x.split(task.PART), y.split(task.PART), strict=True))
            for part, labels in parts:
                with contextlib.nullcontext() if part is parts[-1][0] else accelerator.no_sync(model):
                    loss = task.loss_of(model, part, labels) / len(parts)
                    accelerator.backward(loss)
            return loss

        optimizer.step(closure)
        schedule.step()


def prepared(method: str):
    accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
    model = task.network()
    optimizer = task.optimizer_for(method, model)
    return accelerator, accelerator.prepare(model, optimizer, task.schedule_for(optimizer))


def trained(method: str) -> torch.nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        for epochs_done in range(task.EPOCHS):
            accelerator, (model, optimizer, schedule) = prepared(method)
            if epochs_done:
                accelerator.load_state(folder)
            epoch(accelerator, model, optimizer, schedule)
            accelerator.save_state(folder)
    return accelerator.unwrap_model(model)


if __name__ == "__main__":
    task.compare(trained)
