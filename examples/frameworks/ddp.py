"""DistributedDataParallel, accumulating under no_sync(): torchrun --nproc_per_node 2 examples/frameworks/ddp.py

Each process perturbs along the gradient of its own share of the batch, which the optimizer keeps from being averaged;
the gradients at the perturbed weights are averaged with the last part. In one process that is step() with a closure for
each share.
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
        for begun in range(task.EPOCHS):
            model = DistributedDataParallel(task.network())
            optimizer = task.optimizer_for(method, model)
            everything = model, optimizer, task.schedule_for(optimizer, BATCH)
            if begun:
                file.seek(0)
                for each, state in zip(everything, torch.load(file, weights_only=True), strict=True):
                    each.load_state_dict(state)
            epoch(*everything)
            torch.save([each.state_dict() for each in everything], file)
    return model.module


if __name__ == "__main__":
    dist.init_process_group("gloo")
    task.compare(trained, BATCH, SHARES)
    gc.collect()  # the group's threads end with the last model that refers to it, and must before the program does
    dist.destroy_process_group()
