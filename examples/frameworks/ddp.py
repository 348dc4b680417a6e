"""DistributedDataParallel with accumulation: torchrun --nproc_per_node 2 examples/frameworks/ddp.py

All parts but the last run under no_sync(). Each process perturbs along the gradient of its own share of the batch,
which the optimizer does not let DistributedDataParallel average. The gradients at the perturbed weights are averaged
with the last part. In one process, step() with a closure for each share does the same.
"""

import contextlib
import gc
import tempfile

import task
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

SHARES = 2
BATCH = SHARES * task.PARTS * task.PART


def epoch(model, optimizer, schedule) -> None:
    for parts in task.parts_of(dist.get_rank(), SHARES):

        def closure(parts=parts):
            optimizer.zero_grad()
            for number, (x, y) in enumerate(parts, start=1):
                with contextlib.nullcontext() if number == len(parts) else model.no_sync():
                    with torch.autocast("cpu", torch.bfloat16):
                        loss = task.loss_of(model, x, y) / len(parts)
                    loss.backward()
            return loss

        optimizer.step(closure)
        schedule.step()


def trained(method: str) -> torch.nn.Module:
    with tempfile.TemporaryFile() as file:
        for epochs_done in range(task.EPOCHS):
            model = DistributedDataParallel(task.network())
            optimizer = task.optimizer_for(method, model)
            objects = model, optimizer, task.schedule_for(optimizer, BATCH)
            if epochs_done:
                file.seek(0)
                for item, state in zip(objects, torch.load(file, weights_only=True), strict=True):
                    item.load_state_dict(state)
            epoch(*objects)
            torch.save([item.state_dict() for item in objects], file)
    return model.module


if __name__ == "__main__":
    dist.init_process_group("gloo")
    task.compare(trained, BATCH, SHARES)
    gc.collect()  # frees the models, so that the process group's threads end before the program does
    dist.destroy_process_group()
