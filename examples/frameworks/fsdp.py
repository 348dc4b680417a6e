"""FSDP2 with a distributed checkpoint: torchrun --nproc_per_node 2 examples/frameworks/fsdp.py

Norms are taken over all shards. Both gradients are averaged over the processes, so the perturbation is that of the
whole batch. Methods that need whole tensors (ZSharp, bSAM, ESAM) are refused.
"""

import tempfile

import task
import torch
import torch.distributed as dist
from torch.distributed import checkpoint
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import init_device_mesh

SHARES = 2
BATCH = SHARES * task.PARTS * task.PART


def epoch(model, optimizer, schedule) -> None:
    for parts in task.parts_of(dist.get_rank(), SHARES):

        def closure(parts=parts):
            optimizer.zero_grad()
            for number, (x, y) in enumerate(parts, start=1):
                model.set_requires_gradient_sync(number == len(parts))
                with torch.autocast("cpu", torch.bfloat16):
                    loss = task.loss_of(model, x, y) / len(parts)
                loss.backward()
            return loss

        optimizer.step(closure)
        schedule.step()


def trained(method: str) -> torch.nn.Module:
    folder = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folder)

    for epochs_done in range(task.EPOCHS):
        model = fully_shard(task.network(), mesh=init_device_mesh("cpu", (SHARES,)))
        optimizer = task.optimizer_for(method, model)
        schedule = task.schedule_for(optimizer, BATCH)
        objects = {"model": model, "optimizer": optimizer, "schedule": schedule}
        if epochs_done:
            optimizer.create_state()  # the checkpoint is loaded into this state
            checkpoint.load(objects, checkpoint_id=folder[0])
        epoch(model, optimizer, schedule)
        checkpoint.save(objects, checkpoint_id=folder[0])

    model.unshard()
    return model


if __name__ == "__main__":
    dist.init_process_group("gloo")
    task.compare(trained, BATCH)
    dist.destroy_process_group()
