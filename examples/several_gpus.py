"""Training in several processes that share each batch: torchrun --nproc_per_node 2 examples/several_gpus.py

Each process perturbs along the gradient of its own share, as in the papers (m-sharpness, m = batch / processes). The
gradients at the perturbed weights are averaged. With sync_perturbation=True, all processes perturb along the averaged
gradient instead. BatchNorm normalises the share of each process;
torch.nn.SyncBatchNorm.convert_sync_batchnorm(model) makes it normalise the whole batch.
"""

import gc
import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from sam_bench import SAM
from sam_bench.data import synthetic
from sam_bench.models.registry import model as build_model

EPOCHS, BATCH = 3, 40  # BATCH must be a multiple of the number of processes


def train(device: torch.device) -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    images, _ = synthetic.load()
    x, y = images.pixels[:1000].float().to(device) / 255, images.labels[:1000].to(device)
    # With model=, the optimizer turns off DistributedDataParallel's averaging in the first pass of each step.
    model = DistributedDataParallel(build_model("resnet", classes=10, depth=8).to(device))
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, model=model, lr=0.1, momentum=0.9)

    for epoch in range(EPOCHS):
        total = torch.zeros((), device=device)
        for batch in torch.randperm(len(x)).split(BATCH):
            own = batch[rank::size]

            def closure(own=own):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x[own]), y[own])
                loss.backward()
                return loss

            total += optimizer.step(closure) * len(own)
        dist.all_reduce(total)
        if rank == 0:
            print(f"epoch {epoch + 1}: loss {total.item() / len(x):.3f}")


if __name__ == "__main__":
    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    train(torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu"))
    gc.collect()  # frees the model, so that the process group's threads end before the program does
    dist.destroy_process_group()
