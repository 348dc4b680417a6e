"""Train with a loop as many users write it: torchvision's transforms, a DataLoader and pytorch-optimizer's SAM.

python scripts/benchmark/users_loop.py --seed 0 --precision autocast

It follows the protocol of `experiment=quick optimizer=sam` and prints the test error. The benchmark compares its speed
with ours, also with --precision autocast (bfloat16).
"""

import sys
import time
from collections.abc import Iterator
from statistics import fmean

import torch
from PIL import Image
from pytorch_optimizer import SAM
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from sam_bench.cli.arguments import at_least, errors_as_messages, parser
from sam_bench.cli.compose import compose
from sam_bench.data.images import Images
from sam_bench.data.registry import DATASETS
from sam_bench.runtime.device import Hardware
from sam_bench.training.build import build_network, load_data
from sam_bench.training.loss import smoothing_for_torch
from sam_bench.training.schedules import learning_rate

CIFAR10 = DATASETS["cifar10"]


class Pictures(Dataset):
    """A data set that transforms images one by one, as torchvision's CIFAR10 does."""

    def __init__(self, images: Images, transform: transforms.Compose):
        self.pixels = images.pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[number])), self.labels[number]


class UsersLoop:
    """A training loop with its network, loader and optimizer.

    Args:
        precision: "fp32", or "autocast" for bfloat16.
        crop: True to pad and crop the images.
        epochs: length of the cosine schedule of the learning rate, with a warm-up of 0.4 epochs.

    Attributes:
        log: loss and accuracy of each step, in the first pass.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Images,
        device: torch.device,
        precision: str,
        batch_size: int,
        workers: int,
        crop: bool = True,
        epochs: int = 200,
        lr: float = 0.1,
        rho: float = 0.05,
    ):
        self.model = model.to(device)
        self.device = device
        self.precision = precision

        cropped = [transforms.RandomCrop(32, padding=4)] if crop else []
        transform = transforms.Compose([*cropped, transforms.RandomHorizontalFlip(), *_TO_TENSOR])
        self.loader = DataLoader(
            Pictures(train, transform),
            batch_size,
            shuffle=True,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
        )

        self.optimizer = SAM(model.parameters(), torch.optim.SGD, rho=rho, lr=lr, momentum=0.9, weight_decay=5e-4)
        eta = learning_rate("cosine", lr=1.0, steps_per_epoch=len(self.loader), epochs=epochs, warmup_epochs=0.4)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, eta)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=smoothing_for_torch(0.1, "others", CIFAR10.classes))
        self.log: list[tuple[float, float]] = []

    def epoch(self) -> Iterator[None]:
        """Train for an epoch, and yield after each step."""
        self.model.train()
        for images, labels in self.loader:
            images = images.to(self.device)
            labels = labels.to(self.device)
            correct = []

            def closure(images=images, labels=labels, correct=correct) -> Tensor:
                self.optimizer.zero_grad()
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "autocast"):
                    outputs = self.model(images)
                    loss = self.criterion(outputs, labels)
                loss.backward()
                correct.append((outputs.argmax(1) == labels).float().mean())
                return loss

            loss = closure()
            self.optimizer.step(closure)
            self.optimizer.zero_grad()
            self.scheduler.step()
            self.log.append((loss.item(), correct[0].item()))
            yield

    @torch.no_grad()
    def test_error(self, test: Images) -> float:
        """Return the test error in percent."""
        self.model.eval()
        wrong = 0
        for images, labels in DataLoader(Pictures(test, transforms.Compose(_TO_TENSOR)), 1000):
            outputs = self.model(images.to(self.device))
            wrong += (outputs.argmax(1).cpu() != labels).sum().item()
        return 100 * wrong / len(test)


_TO_TENSOR = [transforms.ToTensor(), transforms.Normalize(CIFAR10.mean, CIFAR10.std)]


@errors_as_messages()
def main(arguments: list[str]) -> None:
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--seed", default=0, type=int, help="seed of the weights and the order of the images")
    arguments_parser.add_argument("--epochs", default=2, type=at_least(1), help="number of epochs")
    arguments_parser.add_argument("--model", default="resnet8", help="network")
    arguments_parser.add_argument("--batch-size", default=128, type=at_least(1), help="images a step")
    arguments_parser.add_argument("--precision", default="fp32", choices=("fp32", "autocast"))
    arguments_parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    arguments_parser.add_argument("--workers", default=2, type=at_least(0), help="processes that load images")
    arguments_parser.add_argument("--root", default="data", help="folder of CIFAR-10")
    options = arguments_parser.parse_args(arguments)

    config = compose(["data=cifar10", f"data.root={options.root}", "data.timeout=60", f"model={options.model}"])
    dataset = load_data(config.data)
    torch.manual_seed(options.seed)
    model = build_network(config)
    device = Hardware.choose(options.device, "fp32").device

    loader_settings = options.batch_size, options.workers
    protocol = {"crop": False, "epochs": options.epochs, "lr": 0.3, "rho": 0.02}
    loop = UsersLoop(model, dataset.train, device, options.precision, *loader_settings, **protocol)
    seconds = sum(train_epoch(loop, epoch) for epoch in range(1, options.epochs + 1))
    print(f"test_error {loop.test_error(dataset.test):.2f}  train_seconds {seconds:.1f}")


def train_epoch(loop: UsersLoop, epoch: int) -> float:
    """Train for an epoch, print its mean loss, and return its seconds."""
    began = time.perf_counter()
    for _ in loop.epoch():
        pass
    seconds = time.perf_counter() - began
    loss = fmean(loss for loss, _ in loop.log[-len(loop.loader) :])
    print(f"epoch {epoch}  train_loss {loss:.4g}", flush=True)
    return seconds


if __name__ == "__main__":
    main(sys.argv[1:])
